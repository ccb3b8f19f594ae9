package dnscache

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/proxy/share"
)

const (
	resolvConf = "/etc/resolv.conf"
	maxServers = 8

	// notAgain is how long a server is asked without what it did not understand.
	notAgain = 10 * time.Minute
)

// server is a name server, and what we learnt about it.
type server struct {
	address string      // host:port
	tls     *tls.Config // nil: UDP, and TCP where that does not do
	pool    pool        // of TCP or TLS connections

	plain    atomic.Int64 // until then (Unix nanoseconds) no EDNS
	oneCase  atomic.Int64 // until then names are not in random case, since it does not keep it
	failures atomic.Int32 // exchanges without an answer since the last one with
	behind   atomic.Int64 // until then it is asked after the others
	rtt      atomic.Int64 // smoothed, nanoseconds
}

// serverNames lists the name servers for a line of the log.
func (r *Resolver) serverNames() string {
	var all []string
	for _, s := range *r.servers.Load() {
		all = append(all, s.address)
	}
	return strings.Join(all, " ")
}

// parseServer reads a server as the configuration writes it.
func parseServer(text string, base *tls.Config) (*server, error) {
	fail := func(what string) (*server, error) {
		return nil, fmt.Errorf("dns server %q: %s; write 192.0.2.1, 192.0.2.1:53, [2001:db8::1]:53 or tls://192.0.2.1:853#dns.example", text, what)
	}
	rest, secure := strings.CutPrefix(text, "tls://")
	if scheme, _, found := strings.Cut(text, "://"); found && !secure {
		return fail("unknown scheme " + scheme)
	}
	rest, name, named := strings.Cut(rest, "#")
	switch {
	case named && !secure:
		return fail("only a tls:// server has a #name to be verified")
	case named && (name != strings.TrimSpace(name) || !hostName(name)):
		return fail("the name after # is no host name")
	}
	port := "53"
	if secure {
		port = "853"
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]"))
	if err != nil {
		host, p, splitErr := net.SplitHostPort(rest)
		if splitErr != nil {
			return fail("no IP address (a name would itself need DNS)")
		}
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fail("the port is no number from 1 to 65535")
		}
		if ip, err = netip.ParseAddr(host); err != nil {
			return fail("no IP address (a name would itself need DNS)")
		}
		port = p
	}
	switch {
	case ip.IsUnspecified() || ip.IsMulticast():
		return fail("not the address of a host")
	case strings.ContainsAny(ip.Zone(), "[]:"): // it would end the address, or begin a port
		return fail("no network interface is named " + ip.Zone())
	}
	s := &server{address: net.JoinHostPort(ip.String(), port), pool: pool{turnstile: share.NewTurnstile(connections)}}
	if secure {
		s.tls = base.Clone()
		s.tls.ServerName = name
		if name == "" {
			s.tls.ServerName = ip.WithZone("").String() // the certificate must name the address
		}
	}
	return s, nil
}

// resolvConfPause is how often resolv.conf is looked at, at the most.
const resolvConfPause = 5 * time.Second

// systemFile is resolv.conf.
type systemFile struct {
	name string

	mu       sync.Mutex
	checked  time.Time
	modified time.Time
	size     int64
}

// read returns the name servers in the file; where there are none, the one on
// this machine, as resolver(5) has it.
func (f *systemFile) read() ([]string, error) {
	if info, err := os.Stat(f.name); err == nil {
		f.modified, f.size = info.ModTime(), info.Size()
	}
	text, err := os.ReadFile(f.name)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("dns servers: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if _, err := netip.ParseAddr(words[1]); err == nil && len(found) < maxServers {
			found = append(found, words[1])
		}
	}
	if found == nil {
		found = []string{"127.0.0.1"}
	}
	return found, nil
}

// changed reads the file again if it changed. A file that is gone or cannot be
// read is one that somebody is just writing: what was read last stays.
func (f *systemFile) changed(now time.Time) []string {
	if !f.mu.TryLock() {
		return nil // somebody else is at it
	}
	defer f.mu.Unlock()
	if now.Sub(f.checked) < resolvConfPause {
		return nil
	}
	f.checked = now
	info, err := os.Stat(f.name)
	if err != nil || info.ModTime().Equal(f.modified) && info.Size() == f.size {
		return nil
	}
	found, err := f.read()
	if err != nil {
		return nil
	}
	return found
}

// refreshServers takes the servers of resolv.conf anew if it changed.
func (r *Resolver) refreshServers() {
	if r.system == nil {
		return
	}
	texts := r.system.changed(r.now())
	var servers []*server
	for _, text := range texts {
		if s, err := parseServer(text, nil); err == nil { // no TLS there
			s.pool.closed = r.retired.Load()
			servers = append(servers, s)
		}
	}
	if servers == nil {
		return
	}
	r.log.Info("dns: resolv.conf changed", "file", r.system.name, "servers", texts)
	for _, s := range *r.servers.Swap(&servers) {
		s.pool.close() // what is in use is closed when it is given back
	}
}

// answered keeps the server's record after an answer.
func (s *server) answered(took time.Duration) {
	s.failures.Store(0)
	s.behind.Store(0)
	old := s.rtt.Load()
	if old == 0 {
		s.rtt.Store(int64(took))
		return
	}
	s.rtt.Store(old + (int64(took)-old)/8) // RFC 6298's gain; a lost update does no harm
}

// maxBehind is how long a server that keeps silent stays behind the others
// before it gets another chance.
const maxBehind = 64 * time.Second

// silent puts the server behind the others, for 2 seconds and twice as long
// each further time.
func (s *server) silent(now time.Time) {
	n := min(s.failures.Add(1), 6)
	s.behind.Store(now.Add(min(time.Second<<n, maxBehind)).UnixNano())
}

// hedge is how long to wait for this server before the next one is asked too.
func (s *server) hedge(timeout time.Duration) time.Duration {
	wait := 250 * time.Millisecond // nothing known yet
	if rtt := time.Duration(s.rtt.Load()); rtt > 0 {
		wait = max(3*rtt, 50*time.Millisecond)
	}
	return min(wait, timeout/2)
}
