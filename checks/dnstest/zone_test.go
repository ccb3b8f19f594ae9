package dnstest_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/checks/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// asks makes a resolver that asks the server at addr, with timeout for a try.
func asks(t *testing.T, addr string, timeout time.Duration) *dnscache.Resolver {
	t.Helper()
	r, err := dnscache.New(dnscache.Options{Servers: []string{addr}, Timeout: timeout, Total: 2 * patient})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

const (
	patient = time.Minute           // for what is answered, however busy the machine
	hasty   = 50 * time.Millisecond // for what is waited for in vain
)

func parse(t testing.TB, text string) *dnstest.Zone {
	t.Helper()
	z, err := dnstest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestFaultsOfAZone(t *testing.T) {
	for text, want := range map[string]string{
		"a.example. A not-an-address":            "line: 1",
		"a.example. A 192.0.2.1\n; SERVFAIL":     "line 2: SERVFAIL wants a name",
		"; TIMEOUT a.example TXT please":         "line 1: TIMEOUT wants a name",
		"; REFUSED a.example XYZ":                `"XYZ" is no record type`,
		"; REFUSED " + strings.Repeat("a.", 600): "at most 1024",
		"$INCLUDE /etc/passwd":                   "$INCLUDE",
		"$GENERATE 1-65535 a$.example. A 192.0.2.1\n" +
			"$GENERATE 1-65535 b$.example. A 192.0.2.1": "more than 100000 records",
		strings.Repeat(";\n", 3<<20): "at most",
	} {
		if _, err := dnstest.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50q: %v, want %q", text, err, want)
		}
	}
}

func TestNamesBelowAndAbove(t *testing.T) {
	z := parse(t, `
a.b.example.      A 192.0.2.1
*.w.example.      TXT "wild"
x.w.example.      A 192.0.2.2
; SERVFAIL *.bad.example
apex.example. 600 SOA ns.example. hostmaster.example. 1 3600 600 86400 30
n.apex.example.   A 192.0.2.3
`)
	ctx := context.Background()
	for name, want := range map[string]string{
		"b.example":      "nodata", // an empty non-terminal
		"c.b.example":    "nxdomain",
		"any.w.example":  "found",
		"a.b.w.example":  "found",
		"x.w.example":    "nodata",   // the name exists, so the wildcard is not for it
		"y.x.w.example":  "nxdomain", // and it is the closest encloser
		"w.example":      "nodata",
		"n.bad.example":  "temporary",
		"bad.example":    "nodata",
		"q.apex.example": "nxdomain",
	} {
		got := "found"
		if _, err := z.LookupTXT(ctx, name); err != nil {
			got = class(err)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// The SOA of the zone goes with negative answers: its minimum is how long they
// are kept.
func TestNegativeAnswersCarryTheSOA(t *testing.T) {
	z := parse(t, "apex.example. 600 SOA ns.example. hostmaster.example. 1 3600 600 86400 30\n")
	addr, stop := z.Serve()
	defer stop()
	r := asks(t, addr, patient)
	for name, want := range map[string]int{"q.apex.example": 30, "elsewhere.example": 60} {
		var tr dnscache.Trace
		_, _ = r.LookupTXT(dnscache.WithTransaction(context.Background(), &dnscache.Transaction{Trace: &tr}), name)
		if got := tr.Answers()[0].TTL; got != want {
			t.Errorf("%s: TTL %d, want %d", name, got, want)
		}
	}
}

func TestQueriesAreCounted(t *testing.T) {
	z := parse(t, "www.example. CNAME host.example.\nhost.example. A 192.0.2.1\n")
	ctx := context.Background()
	_, _ = z.LookupIPAddr(ctx, "WWW.example.")
	_, _ = z.LookupTXT(ctx, "www.example")
	if n, a, txt := z.Queries(), z.Asked("www.example.", "a"), z.Asked("www.example", "TXT"); n != 3 || a != 1 || txt != 1 {
		t.Errorf("%d queries, %d for A, %d for TXT", n, a, txt)
	}
	z.Replace(parse(t, "www.example. A 192.0.2.2\n"))
	ips, err := z.LookupNetIP(ctx, "ip", "www.example")
	if err != nil || !slices.Equal(ips, []netip.Addr{netip.MustParseAddr("192.0.2.2")}) || z.Queries() != 5 {
		t.Errorf("%v, %v, %d queries", ips, err, z.Queries())
	}
}

func TestAnswersCanWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := parse(t, `a.example. TXT "x"`)
		z.SetDelay(3 * time.Second)
		start := time.Now()
		if _, err := z.LookupTXT(context.Background(), "a.example"); err != nil || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := z.LookupTXT(ctx, "a.example"); class(err) != "timeout" || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A large answer does not fit into a datagram: TC, then TCP.
func TestLargeAnswers(t *testing.T) {
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "many.example. TXT \"record %d %s\"\n", i, strings.Repeat("x", 100))
	}
	z := parse(t, text.String())
	addr, stop := z.Serve()
	defer stop()
	m := new(dns.Msg).SetQuestion("many.example.", dns.TypeTXT)
	resp, _, err := (&dns.Client{Timeout: patient}).Exchange(m, addr)
	if err != nil || !resp.Truncated || resp.Len() > dns.MinMsgSize {
		t.Fatalf("without EDNS: %v, %v", resp, err)
	}
	r := asks(t, addr, patient)
	if got, err := r.LookupTXT(context.Background(), "many.example"); err != nil || len(got) != 200 {
		t.Errorf("%d records, %v", len(got), err)
	}
}

func TestServerStopsTwice(t *testing.T) {
	z := parse(t, "")
	z.SetDelay(time.Hour)
	addr, stop := z.Serve()
	r := asks(t, addr, hasty)
	if _, err := r.LookupTXT(context.Background(), "a.example"); class(err) != "timeout" {
		t.Error(err)
	}
	stop() // does not wait the hour
	stop()
	if _, _, err := z.Listen("192.0.2.1:53"); err == nil {
		t.Error("listens on an address that is not ours")
	}
}

// Whatever a zone says: what is read is answered, by the zone and by its server
// alike, without a panic.
func FuzzParse(f *testing.F) {
	f.Add(zoneText)
	f.Add("*.example. TXT \\\"a\\255\n; TIMEOUT * TXT\n")
	f.Add("$ORIGIN example.\n@ SOA a b 1 2 3 4 5\n")
	f.Fuzz(func(t *testing.T, text string) {
		z, err := dnstest.Parse(text)
		if err != nil {
			return
		}
		ctx := context.Background()
		for field := range strings.FieldsSeq(text) {
			_, _ = z.LookupTXT(ctx, field)
			_, _ = z.LookupMX(ctx, field)
			_, _ = z.LookupIPAddr(ctx, field)
			_, _ = z.LookupAddr(ctx, field)
		}
	})
}
