package dnscache

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// The look-ups below return what the cache has, and not a copy of it: all who ask the same
// share it, so nobody may change it, NOT even by sorting. To append to it is to copy it, since its
// capacity is its length. Every error is a bare *net.DNSError with IsNotFound, or with IsTemporary (and
// IsTimeout, where time ran out): the spf package tells them by a type
// assertion.

// LookupTXT returns the TXT records of a name, the strings of each joined
// without a space (RFC 7208 §3.3), octets as they stand in the message.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	q, err := newQuestion(name, typeTXT)
	if err != nil {
		return nil, err
	}
	e := r.lookup(ctx, q)
	if e.err != nil {
		return nil, e.err
	}
	return e.text, nil
}

// LookupMX returns the mail exchangers of a name, sorted by preference; hosts
// end with a dot. A null MX (RFC 7505) is the one host ".".
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	q, err := newQuestion(name, typeMX)
	if err != nil {
		return nil, err
	}
	e := r.lookup(ctx, q)
	if e.err != nil {
		return nil, e.err
	}
	return e.mx, nil
}

// LookupAddr returns the names of an address by its PTR records, with a dot at
// the end. Names that do not have the form of a host name are left out.
func (r *Resolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, errNotFound(addr, textNXDomain)
	}
	e := r.lookup(ctx, question{reverseName(ip), typePTR})
	if e.err != nil {
		return nil, e.err
	}
	return e.text, nil
}

// LookupIPAddr returns the addresses of a host, IPv4 first. If either of the
// two questions got no answer, it fails: half of the addresses would make an
// SPF fail of a slow name server.
func (r *Resolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	a, b, err := r.addresses(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]net.IPAddr, 0, len(a)+len(b))
	for _, list := range [2][]netip.Addr{a, b} {
		for _, ip := range list {
			addrs = append(addrs, net.IPAddr{IP: ip.AsSlice()})
		}
	}
	return addrs, nil
}

// LookupNetIP is like LookupIPAddr for the network "ip"; for "ip4" and "ip6" it
// asks for A or AAAA alone. IPv4 addresses come as such, not mapped.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	a, b, err := r.addresses(ctx, network, host)
	if err != nil {
		return nil, err
	}
	switch {
	case len(b) == 0:
		return a, nil
	case len(a) == 0:
		return b, nil
	}
	return slices.Concat(a, b), nil
}

// Network is the network for LookupNetIP that asks for addresses like ip and no
// others: half the questions, and RFC 7208 §5 wants exactly this.
func Network(ip netip.Addr) string {
	if ip.Unmap().Is4() {
		return "ip4"
	}
	return "ip6"
}

// addresses returns the cache's own slices.
func (r *Resolver) addresses(ctx context.Context, network, host string) (a, b []netip.Addr, err error) {
	var first, second *entry
	switch network {
	case "ip4", "ip6":
		t := typeA
		if network == "ip6" {
			t = typeAAAA
		}
		q, err := newQuestion(host, t)
		if err != nil {
			return nil, nil, err
		}
		if first = r.lookup(ctx, q); first.err != nil {
			return nil, nil, first.err
		}
		return first.ips, nil, nil
	case "ip":
	default:
		return nil, nil, errTemporary(host, "", "unknown network "+network)
	}
	q4, err := newQuestion(host, typeA)
	if err != nil {
		return nil, nil, err
	}
	// Both questions are out before the answer to one is waited for.
	p4, p6 := r.begin(ctx, q4), r.begin(ctx, question{q4.name, typeAAAA})
	first, second = r.finish(ctx, p4), r.finish(ctx, p6)
	if err := worse(first.err, second.err); err != nil {
		return nil, nil, err
	}
	return first.ips, second.ips, nil
}

// worse returns the error of a look-up of two halves: that of the half that
// got no answer; else, if both found nothing, that of a name which does not
// exist rather than that of one without records.
func worse(a, b *net.DNSError) error {
	for _, e := range [2]*net.DNSError{a, b} {
		if e != nil && !e.IsNotFound {
			return e
		}
	}
	if a == nil || b == nil {
		return nil
	}
	if IsNXDomain(b) {
		return b
	}
	return a
}

func newQuestion(name string, t rrtype) (question, error) {
	n, ok := canonical(name)
	if !ok {
		return question{}, errNotFound(name, textNXDomain)
	}
	return question{n, t}, nil
}

// AheadTXT asks for the TXT records of a name that will be wanted soon, on behalf of ctx, unless the
// cache has them; it waits for nothing. While much else is under way it does nothing.
func (r *Resolver) AheadTXT(ctx context.Context, name string) {
	if q, err := newQuestion(name, typeTXT); err == nil {
		r.ahead(q, askerOf(ctx).transaction)
	}
}

// AheadAddr asks likewise for the names of an address, and says whether it did: then the answer
// may be one that ctx's transaction alone keeps.
func (r *Resolver) AheadAddr(ctx context.Context, addr string) (asked bool) {
	ip, err := netip.ParseAddr(addr)
	return err == nil && r.ahead(question{reverseName(ip), typePTR}, askerOf(ctx).transaction)
}

func (r *Resolver) ahead(q question, t *Transaction) (asked bool) {
	s := r.cache.of(q.name)
	now := r.now().UnixNano()
	if known, _ := r.cache.get(s, q, now); known != nil || t.kept(s, q, now) != nil || r.retired.Load() {
		return false
	}
	c, _ := r.start(s, q, t, r.maxInFlight/2, true, false)
	return c != nil
}
