package dnstest_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
)

// resolver is what both are: checks.Resolver, and addresses of one type alone.
type resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const zoneText = `
$TTL 60
good.example.      TXT  "v=spf1 ip4:192.0.2.1 " "-all"
good.example       MX   20 mx2.good.example.
                   MX   10 mx1.good.example.
mx1.good.example.  A    192.0.2.1
                   AAAA 2001:db8::1
odd.example.       TXT  "a \"quoted\" \\ \233"
www.good.example.  CNAME mx1.good.example.
loop.example.      CNAME loop.example.
*.wild.example.    A    127.0.0.2
1.2.0.192.in-addr.arpa. PTR mx1.good.example.
; SERVFAIL broken.example
; REFUSED  closed.example
; TIMEOUT  slow.example TXT
slow.example.      A    192.0.2.3
; an ordinary comment on SERVFAIL
`

// The same questions, asked of the zone itself and, by way of its server, of the
// real resolver, have the same answers.
func TestZoneAndServerAgree(t *testing.T) {
	z, err := dnstest.Parse(zoneText)
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := z.Serve()
	defer stop()
	t.Run("zone", func(t *testing.T) { ask(t, z, z) })
	t.Run("server", func(t *testing.T) { ask(t, asks(t, addr, patient), asks(t, addr, hasty)) })
}

// ask asks r for everything, but gives names that are never answered to another
// resolver, which does not wait for long.
func ask(t *testing.T, r, hurried resolver) {
	ctx := context.Background()
	txt := func(name string, want ...string) {
		t.Helper()
		if got, err := r.LookupTXT(ctx, name); err != nil || !slices.Equal(got, want) {
			t.Errorf("TXT %s = %q, %v, want %q", name, got, err, want)
		}
	}
	txt("good.example", "v=spf1 ip4:192.0.2.1 -all")
	txt("GOOD.example.", "v=spf1 ip4:192.0.2.1 -all")
	txt("odd.example", "a \"quoted\" \\ \xe9")
	mx, err := r.LookupMX(ctx, "good.example")
	if err != nil || len(mx) != 2 || *mx[0] != (net.MX{Host: "mx1.good.example.", Pref: 10}) {
		t.Errorf("MX = %v, %v", mx, err)
	}
	for host, want := range map[string][]string{
		"mx1.good.example": {"192.0.2.1", "2001:db8::1"}, "www.good.example": {"192.0.2.1", "2001:db8::1"},
		"a.b.wild.example": {"127.0.0.2"}, "slow.example": {"192.0.2.3"},
	} {
		ips, err := r.LookupIPAddr(ctx, host)
		var got []string
		for _, ip := range ips {
			got = append(got, ip.String())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("addresses of %s = %v, %v, want %v", host, got, err, want)
		}
	}
	for network, want := range map[string]string{"ip4": "192.0.2.1", "ip6": "2001:db8::1"} {
		got, err := r.LookupNetIP(ctx, network, "mx1.good.example")
		if err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%s = %v, %v", network, got, err)
		}
	}
	if names, err := r.LookupAddr(ctx, "192.0.2.1"); err != nil || !slices.Equal(names, []string{"mx1.good.example."}) {
		t.Errorf("PTR = %q, %v", names, err)
	}
	for name, want := range map[string]string{
		"broken.example": "temporary", "closed.example": "temporary", "slow.example": "timeout", "loop.example": "temporary",
		"none.example": "nxdomain", "mx1.good.example": "nodata", "wild.example": "nodata",
		"192.0.2.1": "nxdomain", strings.Repeat("a", 64) + ".example": "nxdomain", "": "nxdomain", "a..example": "nxdomain",
	} {
		who := r
		if want == "timeout" {
			who = hurried
		}
		_, err := who.LookupTXT(ctx, name)
		if got := class(err); got != want {
			t.Errorf("TXT %s: %s (%v), want %s", name, got, err, want)
		}
	}
}

// class names the kind of a bare *net.DNSError.
func class(err error) string {
	de, ok := err.(*net.DNSError) // bare is what is asked for
	switch {
	case !ok:
		return "not a bare DNSError: " + errorText(err)
	case dnscache.IsNXDomain(err):
		return "nxdomain"
	case de.IsNotFound:
		return "nodata"
	case de.IsTimeout && de.IsTemporary:
		return "timeout"
	case de.IsTemporary:
		return "temporary"
	}
	return "no flag"
}

func errorText(err error) string {
	if err == nil {
		err = errors.New("none")
	}
	return err.Error()
}
