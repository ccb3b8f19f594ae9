package dnstest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Zone is a resolver as the checks want it, and as *net.Resolver is one.
// Errors are bare *net.DNSError: IsNotFound for NXDOMAIN and NODATA, whose texts
// are those of dnscache, IsTemporary for the marks, IsTimeout for TIMEOUT, which
// comes at once.

// LookupTXT returns the TXT records of a name, the strings of each joined.
func (z *Zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	rrs, err := z.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	texts := make([]string, 0, len(rrs))
	for _, rr := range rrs {
		text, err := unescape(strings.Join(rr.(*dns.TXT).Txt, ""))
		if err != nil {
			return nil, &net.DNSError{Err: err.Error(), Name: name, IsTemporary: true}
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// LookupMX returns the mail exchangers of a name by preference; hosts end with
// a dot.
func (z *Zone) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	rrs, err := z.lookup(ctx, name, dns.TypeMX)
	if err != nil {
		return nil, err
	}
	mxs := make([]*net.MX, 0, len(rrs))
	for _, rr := range rrs {
		mx := rr.(*dns.MX)
		mxs = append(mxs, &net.MX{Host: mx.Mx, Pref: mx.Preference})
	}
	slices.SortStableFunc(mxs, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	return mxs, nil
}

// LookupAddr returns the names of an address, with a dot at the end.
func (z *Zone) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	name := addr
	if ip, err := netip.ParseAddr(addr); err == nil {
		name, _ = dns.ReverseAddr(ip.Unmap().WithZone("").String())
	}
	rrs, err := z.lookup(ctx, name, dns.TypePTR)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(rrs))
	for _, rr := range rrs {
		names = append(names, rr.(*dns.PTR).Ptr)
	}
	return names, nil
}

// LookupIPAddr returns the addresses of a host, IPv4 first. If either type got
// no answer, it fails.
func (z *Zone) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	addrs, err := z.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	ips := make([]net.IPAddr, 0, len(addrs))
	for _, a := range addrs {
		ips = append(ips, net.IPAddr{IP: a.AsSlice()})
	}
	return ips, nil
}

// LookupNetIP returns the addresses of a host: network is "ip4" for A, "ip6" for
// AAAA, "ip" for both.
func (z *Zone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	types := map[string][]uint16{"ip": {dns.TypeA, dns.TypeAAAA}, "ip4": {dns.TypeA}, "ip6": {dns.TypeAAAA}}[network]
	if types == nil {
		return nil, &net.DNSError{Err: "unknown network " + network, Name: host, IsTemporary: true}
	}
	var addrs []netip.Addr
	var missing error
	for _, t := range types {
		rrs, err := z.lookup(ctx, host, t)
		var de *net.DNSError
		if errors.As(err, &de) {
			if !de.IsNotFound {
				return nil, err
			}
			missing = err
		}
		for _, rr := range rrs {
			var ip net.IP
			switch rr := rr.(type) {
			case *dns.A:
				ip = rr.A.To4()
			case *dns.AAAA:
				ip = rr.AAAA
			}
			if a, ok := netip.AddrFromSlice(ip); ok {
				addrs = append(addrs, a)
			}
		}
	}
	if len(addrs) == 0 {
		return nil, missing
	}
	return addrs, nil
}

// lookup answers with the records of the type, without the CNAMEs before them.
func (z *Zone) lookup(ctx context.Context, name string, t uint16) ([]dns.RR, error) {
	if err := z.wait(ctx); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: name, IsTimeout: true, IsTemporary: true}
	}
	k := key(name)
	if !askable(k) {
		return nil, &net.DNSError{Err: textNXDomain, Name: name, IsNotFound: true}
	}
	r := z.resolve(k, t)
	switch r.mark {
	case markServFail:
		return nil, &net.DNSError{Err: "server answered SERVFAIL", Name: name, IsTemporary: true}
	case markRefused:
		return nil, &net.DNSError{Err: "server answered REFUSED", Name: name, IsTemporary: true}
	case markTimeout:
		return nil, &net.DNSError{Err: "no answer in time", Name: name, IsTimeout: true, IsTemporary: true}
	}
	if r.rcode == dns.RcodeNameError {
		return nil, &net.DNSError{Err: textNXDomain, Name: name, IsNotFound: true}
	}
	found := slices.DeleteFunc(r.answer, func(rr dns.RR) bool { return rr.Header().Rrtype != t })
	if len(found) == 0 {
		return nil, &net.DNSError{Err: textNoData, Name: name, IsNotFound: true}
	}
	return found, nil
}

// The texts that dnscache.IsNXDomain tells apart.
const (
	textNXDomain = "no such domain"
	textNoData   = "no such record"
)

// wait is the delay of SetDelay.
func (z *Zone) wait(ctx context.Context) error {
	z.mu.RLock()
	d := z.delay
	z.mu.RUnlock()
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}
