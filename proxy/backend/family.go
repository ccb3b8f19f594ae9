package backend

import (
	"context"
	"errors"
	"net/netip"
)

// The addresses for documentation (RFC 5737, RFC 3849) stand for any client of
// their family.
var (
	someIPv4 = netip.MustParseAddrPort("192.0.2.1:25")
	someIPv6 = netip.MustParseAddrPort("[2001:db8::1]:25")
)

// noIPv6 says whether the address serves clients of IPv4 and cannot be told of one of
// IPv6, as a Postfix with inet_protocols = ipv4: to XCLIENT it says that the address
// is none, and at a PROXY header it hangs up. err is why.
func (a *address) noIPv6(ctx context.Context) (no bool, err error) {
	if a.pool.identity == identityNone {
		return false, nil
	}
	as := func(ap netip.AddrPort) error {
		t := &Told{}
		t.try(ctx, a, Client{Addr: ap, Local: netip.AddrPortFrom(ap.Addr(), 25), Helo: a.pool.o.Hostname, ESMTP: true})
		var e *Error
		if errors.As(t.Err, &e) && e.TurnsAway {
			return nil // the MTA knows very well who that is
		}
		return t.Err
	}
	if err = as(someIPv6); err == nil || ctx.Err() != nil {
		return false, nil
	}
	return as(someIPv4) == nil, err
}

// learnFamily asks the address whether it takes clients of IPv6, where nobody knows,
// where one was refused, and from time to time where it did not.
func (a *address) learnFamily(ctx context.Context) {
	p := a.pool
	p.mu.Lock()
	due, was := a.familyDue || a.only4, a.only4
	p.mu.Unlock()
	if !due {
		return
	}
	no, err := a.noIPv6(ctx)
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	a.only4, a.familyDue = no, false
	p.mu.Unlock()
	switch {
	case no && !was:
		p.o.Log.Error("the backend cannot be told of IPv6 clients; they are refused at the connection (Postfix: inet_protocols = all)",
			"backend", p.name, "address", a.name, "error", err)
	case was && !no:
		p.o.Log.Info("the backend takes IPv6 clients again", "backend", p.name, "address", a.name)
	}
}

// suspect has the address asked whether it takes clients of IPv6, since one of them
// failed there for who it is.
func (a *address) suspect(c *Client, err error) {
	var e *Error
	if !c.Addr.Addr().Unmap().Is6() || !errors.As(err, &e) || !e.personal || e.TurnsAway {
		return
	}
	p := a.pool
	p.mu.Lock()
	first := !a.only4 && !a.familyDue
	a.familyDue = a.familyDue || first
	p.mu.Unlock()
	if first {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// TakesIPv6 says whether a client of IPv6 may be served: at least one address of one
// backend that recipients are routed to can be told of it, as far as is known. Where
// none can, each of its recipients would be refused.
func (s *Set) TakesIPv6() bool {
	for _, p := range s.routed {
		p.mu.Lock()
		for _, a := range p.addrs {
			if !a.only4 {
				p.mu.Unlock()
				return true
			}
		}
		p.mu.Unlock()
	}
	return false
}
