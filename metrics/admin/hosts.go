package admin

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// guarded answers requests that name a host which is known, and no others. The page of a
// stranger can make the browser of a postmaster ask any address, under a name of the
// stranger's that leads there (DNS rebinding): then the browser takes what we answer for the
// stranger's own, and hands it out. Such a request has the stranger's name in its Host.
//
// Known are addresses, which cannot be made to lead elsewhere; localhost and what is below
// it (RFC 6761 §6.3); and the names that Hosts returns. A request that names none is of no
// browser.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := hostOf(r.Host)
		if r.Host == "" || isAddress(name) || name == "localhost" || strings.HasSuffix(name, ".localhost") ||
			name != "" && s.opt.Hosts != nil && slices.ContainsFunc(s.opt.Hosts(), func(known string) bool { return hostOf(known) == name }) {
			next.ServeHTTP(w, r)
			return
		}
		// RFC 9110 §15.5.20. Whoever set up a scraper by a name of his own sees what to do.
		plain(w, http.StatusMisdirectedRequest, strconv.QuoteToASCII(name)+" is no name of this address. Ask by its IP address, or list the name in admin.hosts.\n")
	})
}

// hostOf returns the name in a Host field, or an address, without port, brackets
// and the dot at the end, in lower case.
func hostOf(field string) string {
	name := field
	if host, _, err := net.SplitHostPort(field); err == nil {
		name = host
	} else if strings.HasPrefix(field, "[") && strings.HasSuffix(field, "]") {
		name = field[1 : len(field)-1]
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}
