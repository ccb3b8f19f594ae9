package checks

import (
	"context"
	"net"
	"net/netip"

	"postern/checks/dnscache"
	"postern/configs"
)

// DNSBLExamination is what a DNS list says of its test points (RFC 5782 §5, §7).
type DNSBLExamination struct {
	Zone string
	// Listed is what was asked for that every list has, and Unlisted what none may
	// have: 127.0.0.2 and 127.0.0.1 for addresses, TEST and INVALID for names.
	Listed, Unlisted DNSBLAnswer
	// Counts says that the answer for Listed is among the codes that are configured.
	Counts bool
}

// DNSBLAnswer is what a list says of one name.
type DNSBLAnswer struct {
	Name  string       // as it was asked for, less the list's key
	Codes []netip.Addr // none: it is not listed, or Err
	Err   error        // the list could not be read
	// Refused says that a code tells of an error: 127.255.255.0/24, or 127.0.0.1 where
	// it is not configured, by which lists say that they do not answer us.
	Refused bool
}

// ExamineDNSBL asks a configured list for its test points. The error is that of the
// configuration (CheckDNSBLZone).
func ExamineDNSBL(ctx context.Context, r Resolver, z configs.DNSBLZone) (DNSBLExamination, error) {
	l, _, err := newDNSList(z)
	if err != nil {
		return DNSBLExamination{}, err
	}
	listed, unlisted := "2.0.0.127", "1.0.0.127"
	if l.of != "client" {
		listed, unlisted = "test", "invalid"
	}
	x := DNSBLExamination{Zone: l.zone, Listed: l.examine(ctx, r, listed), Unlisted: l.examine(ctx, r, unlisted)}
	for _, code := range x.Listed.Codes {
		x.Counts = x.Counts || l.judge(code) == listingYes
	}
	return x, nil
}

func (l *dnsList) examine(ctx context.Context, r Resolver, subject string) DNSBLAnswer {
	a := DNSBLAnswer{Name: subject + "." + l.zone}
	addrs, err := l.lookup(ctx, r, l.name(subject))
	if err != nil && !dnscache.IsNotFound(err) {
		a.Err = err
		if de, ok := err.(*net.DNSError); ok {
			shown := *de
			shown.Name = a.Name
			a.Err = &shown
		}
	}
	for _, addr := range addrs {
		addr = addr.Unmap()
		a.Codes = append(a.Codes, addr)
		a.Refused = a.Refused || l.judge(addr) == listingTrouble
	}
	return a
}
