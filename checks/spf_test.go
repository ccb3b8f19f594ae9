package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/dnstest"
	"postern/policy"
)

func parseZone(t testing.TB, text string) *dnstest.Zone {
	t.Helper()
	z, err := dnstest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// runSPF is one MAIL command.
func runSPF(t testing.TB, r Resolver, host, helo, from string) policy.SPF {
	t.Helper()
	f := transaction(host, helo, from)
	only(Deps{Resolver: r, Hostname: "mx.receiver.example"}, "spf").Run(t.Context(), policy.Mail, f, Message{}, nil)
	return f.SPF
}

func TestTheReasonNamesTheMechanismThatMatched(t *testing.T) {
	z := parseZone(t, `
plain.example    TXT "v=spf1 ip4:192.0.2.0/24 -all"
outer.example    TXT "v=spf1 include:no.example include:inner.example ~all"
no.example       TXT "v=spf1 -all"
inner.example    TXT "v=spf1 ?ip4:198.51.100.1 a:host.example -all"
host.example     A   192.0.2.1
neutral.example  TXT "v=spf1 ip4:203.0.113.1"
moved.example    TXT "v=spf1 redirect=plain.example"
mx.example       TXT "v=spf1 -mx ~all"
mx.example       MX  10 other.example.
mx.example       MX  20 host.example.
other.example    A   203.0.113.9
two.example      TXT "v=spf1 -all"
two.example      TXT "v=spf1 +all"
lost.example     TXT "v=spf1 include:nowhere.example -all"
odd.example      TXT "v=spf1 ipv4:192.0.2.1 -all"
; SERVFAIL broken.example
`)
	for from, want := range map[string]string{
		"u@plain.example":   `pass: "ip4:192.0.2.0/24" of plain.example`,
		"u@outer.example":   `pass: "include:inner.example" of outer.example, by "a:host.example" of inner.example`,
		"u@neutral.example": `neutral: no mechanism of neutral.example matches`,
		"u@moved.example":   `pass: "ip4:192.0.2.0/24" of plain.example`,
		"u@mx.example":      `fail: "-mx" of mx.example`,
		"u@two.example":     `permerror: record of two.example: more than one record`,
		"u@lost.example":    `permerror: include or redirect leads to a domain without a record`,
		"u@odd.example":     `permerror: record of odd.example: "ipv4:192.0.2.1": no such mechanism`,
		"u@broken.example":  `temperror: look-up failed: TXT broken.example`,
		"u@none.example":    `none: no such domain: none.example`,
		"u@host.example":    `none: no record at host.example`,
		"u@localhost":       `none: Malformed Domain`,
		"u@[192.0.2.1]":     `none: Malformed Domain`,
		"u@192.0.2.1":       `none: Malformed Domain`,
	} {
		got := runSPF(t, z, "192.0.2.1", "client.example", from)
		if s := string(got.Result) + ": " + got.Reason; s != want {
			t.Errorf("%s\n got %s\nwant %s", from, s, want)
		}
	}
}

// Half of the queries of an a or mx term would be for the wrong family.
func TestOnlyTheClientsFamilyIsAskedFor(t *testing.T) {
	const text = `
a.example  TXT "v=spf1 exists:e.example a:h.example mx ptr -all"
a.example  MX  10 m.example.
h.example  A 203.0.113.1
h.example  AAAA 2001:db8::1
m.example  A 203.0.113.1
m.example  AAAA 2001:db8::1
p.example  A 203.0.113.1
p.example  AAAA 2001:db8::1
1.2.0.192.in-addr.arpa PTR p.example.
5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR p.example.
`
	for host, family := range map[string]string{"192.0.2.1": "A", "::ffff:192.0.2.1": "A", "2001:db8::25": "AAAA"} {
		z := parseZone(t, text)
		if got := runSPF(t, z, host, "client.example", "u@a.example"); got.Result != policy.Fail {
			t.Errorf("%s: %+v", host, got)
		}
		for _, name := range []string{"h.example", "m.example", "p.example"} {
			for _, rrtype := range []string{"A", "AAAA"} {
				want := 0
				if rrtype == family {
					want = 1
				}
				if n := z.Asked(name, rrtype); n != want {
					t.Errorf("%s: %s %s was asked for %d times", host, rrtype, name, n)
				}
			}
		}
		if z.Asked("e.example", "A") != 1 || z.Asked("e.example", "AAAA") != 0 {
			t.Errorf("%s: exists: asks for A alone", host)
		}
	}
}

// Trouble of the DNS anywhere on the way is a temperror: the domain published
// nothing wrong. But for ptr, whose zone is the client's (RFC 7208 §5.5).
func TestTroubleNeverBecomesAPermerror(t *testing.T) {
	z := parseZone(t, `
include.example  TXT "v=spf1 include:broken.example -all"
redirect.example TXT "v=spf1 redirect=slow.example"
a.example        TXT "v=spf1 a:closed.example -all"
mx.example       TXT "v=spf1 mx:broken.example -all"
host.example     TXT "v=spf1 mx -all"
host.example     MX  10 slow.example.
exists.example   TXT "v=spf1 exists:broken.example -all"
deep.example     TXT "v=spf1 include:include.example -all"
ptr.example      TXT "v=spf1 ptr -all"
; SERVFAIL broken.example
; REFUSED  closed.example
; TIMEOUT  slow.example
; SERVFAIL 1.2.0.192.in-addr.arpa
`)
	for _, domain := range []string{"include", "redirect", "a", "mx", "host", "exists", "deep"} {
		if got := runSPF(t, z, "192.0.2.1", "c.example", "u@"+domain+".example"); got.Result != policy.TempError {
			t.Errorf("%s: %+v", domain, got)
		}
	}
	if got := runSPF(t, z, "192.0.2.1", "c.example", "u@ptr.example"); got.Result != policy.Fail {
		t.Errorf("ptr: %+v", got)
	}
}

// rude is a resolver whose errors are not what the spf package understands.
type rude struct {
	*dnstest.Zone
	err error
}

func (r rude) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) { return nil, r.err }

func TestErrorsOfAnyShapeAreTrouble(t *testing.T) {
	z := parseZone(t, `a.example TXT "v=spf1 a -all"`)
	for _, err := range []error{
		context.DeadlineExceeded, context.Canceled, errors.New("strange"),
		fmt.Errorf("wrapped: %w", &net.DNSError{Err: "no such host", IsNotFound: true}),
		&net.DNSError{Err: "without a flag"},
	} {
		if got := runSPF(t, rude{z, err}, "192.0.2.1", "c.example", "u@a.example"); got.Result != policy.TempError {
			t.Errorf("%v: %+v", err, got)
		}
	}
}

// slowPTR answers all but PTR, for which it waits until it is told to give up.
type slowPTR struct{ *dnstest.Zone }

func (r slowPTR) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	<-ctx.Done()
	return nil, &net.DNSError{Err: "no answer in time", Name: addr, IsTimeout: true, IsTemporary: true}
}

func TestAReverseLookUpThatWeCutShortIsNoMismatch(t *testing.T) {
	z := parseZone(t, `a.example TXT "v=spf1 ptr -all"`)
	synctest.Test(t, func(t *testing.T) {
		f := transaction("192.0.2.1", "c.example", "u@a.example")
		only(Deps{Resolver: slowPTR{z}}, "spf").Run(t.Context(), policy.Mail, f, Message{}, nil)
		if f.SPF.Result != policy.TempError || f.SPF.Explanation != "" {
			t.Errorf("%+v", f.SPF)
		}
	})
}

func TestTheLimitsOfRFC7208(t *testing.T) {
	var text strings.Builder
	terms := func(n int, of string) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, of+" ", i)
		}
		return s.String()
	}
	fmt.Fprintf(&text, "ten.example TXT \"v=spf1 %s-all\"\n", terms(10, "exists:e%d.example"))
	fmt.Fprintf(&text, "eleven.example TXT \"v=spf1 %s-all\"\n", terms(11, "exists:e%d.example"))
	fmt.Fprintf(&text, "nested.example TXT \"v=spf1 include:six.example %s-all\"\n", terms(5, "exists:e%d.example"))
	fmt.Fprintf(&text, "six.example TXT \"v=spf1 %s-all\"\n", terms(6, "exists:e%d.example"))
	fmt.Fprintf(&text, "void.example TXT \"v=spf1 %s-all\"\n", terms(3, "a:void%d.example"))
	fmt.Fprintf(&text, "void2.example TXT \"v=spf1 %s-all\"\n", terms(2, "a:void%d.example"))
	fmt.Fprintf(&text, "ptrs.example TXT \"v=spf1 %s-all\"\n", terms(9, "ptr:p%d.example"))
	fmt.Fprintf(&text, "loop.example TXT \"v=spf1 include:loop.example -all\"\n")
	fmt.Fprintf(&text, "rloop.example TXT \"v=spf1 redirect=rloop.example\"\n")
	fmt.Fprintf(&text, "mx.example TXT \"v=spf1 mx -all\"\n")
	fmt.Fprintf(&text, "mxs.example TXT \"v=spf1 %s+all\"\n", terms(10, "mx:m%d.example"))
	fmt.Fprintf(&text, "old.example TXT \"v=spf1 mx:m0.example mx:m0.example -all\"\n")
	for i := range 10 {
		for j := range 5 {
			fmt.Fprintf(&text, "m%d.example MX 10 v%d-%d.victim.example.\n", i, i, j)
		}
	}
	for i := range 11 {
		fmt.Fprintf(&text, "e%d.example AAAA 2001:db8::1\nmx.example MX %d h%d.example.\nh%d.example A 203.0.113.%d\n", i, i, i, i, i)
	}
	z := parseZone(t, text.String())
	for domain, want := range map[string]policy.Result{
		"ten":    policy.PermError, // ten NODATA answers: void look-ups end it first
		"eleven": policy.PermError, "nested": policy.PermError,
		"void": policy.PermError, "void2": policy.Fail,
		"loop": policy.PermError, "rloop": policy.PermError,
		"mx":   policy.PermError,
		"mxs":  policy.PermError, // of 50 hosts that are not there, 11 are asked for
		"old":  policy.Fail,      // ten may be missing
		"ptrs": policy.Fail,      // one reverse look-up for all, hence one void
	} {
		before := z.Queries()
		if got := runSPF(t, z, "192.0.2.1", "c.example", "u@"+domain+".example"); got.Result != want {
			t.Errorf("%s: %+v, want %s", domain, got, want)
		}
		if n := z.Queries() - before; n > 15 {
			t.Errorf("%s: %d queries", domain, n)
		}
	}
}

func TestTheExplanationIsTheDomainsOwnWordsMadeHarmless(t *testing.T) {
	z := parseZone(t, `
fail.example  TXT "v=spf1 -all exp=why.%{d}"
why.fail.example TXT "%{i} may not send as %{l} for %{o}, says %{r}; see http://%{d}/?%{S}"
long.example  TXT "v=spf1 -all exp=why.long.example"
why.long.example TXT "`+strings.Repeat("%{s}", 60)+`"
`)
	got := runSPF(t, z, "192.0.2.1", "c.example", "joe@fail.example")
	if want := "192.0.2.1 may not send as joe for fail.example, says mx.receiver.example; see http://fail.example/?joe%40fail.example"; got.Explanation != want {
		t.Errorf("got %q", got.Explanation)
	}
	got = runSPF(t, z, "192.0.2.1", "c.example", "jö\te@fail.example")
	if want := "192.0.2.1 may not send as j???e"; !strings.HasPrefix(got.Explanation, want) {
		t.Errorf("got %q", got.Explanation)
	}
	if got := runSPF(t, z, "192.0.2.1", "c.example", "someone@long.example"); len(got.Explanation) != maxExplanation {
		t.Errorf("%d octets", len(got.Explanation))
	}
}

// A record can be made of 64 KiB of macros. What they expand to stays small, and
// is no name that anybody is asked for.
func TestMacrosDoNotGrowWithoutBound(t *testing.T) {
	many := func(n int, term string) string { return strings.Repeat("\""+strings.Repeat(term, 50)+"\" ", n/50) }
	z := parseZone(t, `
grow.example     TXT "v=spf1 exists:" `+many(15000, "%{s}")+`".example -all exp=why.example"
spaces.example   TXT "v=spf1" `+many(60000, " ")+`"-all"
why.example      TXT `+many(15000, "%{s}")+`
`)
	local := strings.Repeat("l", 200)
	allocated := func(domain, explanation string) uint64 {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := runSPF(t, z, "192.0.2.1", "c.example", local+"@"+domain)
		runtime.ReadMemStats(&after)
		if got.Result != policy.Fail || got.Explanation != explanation {
			t.Errorf("%+v", got)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	if n := allocated("grow.example", strings.Repeat(local+"@grow.example", 2)[:maxExplanation]); n > 1<<20 {
		t.Errorf("%d octets were allocated for macros", n)
	}
	if n := allocated("spaces.example", ""); n > 1<<20 {
		t.Errorf("%d octets were allocated for spaces", n)
	}
}

// slowTXT has all but one name at once; that one it keeps back.
type slowTXT struct {
	*dnstest.Zone
	slow string
}

func (r slowTXT) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if name == r.slow {
		<-ctx.Done()
		return nil, &net.DNSError{Err: "no answer in time", Name: name, IsTimeout: true, IsTemporary: true}
	}
	return r.Zone.LookupTXT(ctx, name)
}

func TestAFailWaitsForItsExplanationOnlySoLong(t *testing.T) {
	z := parseZone(t, `fail.example TXT "v=spf1 -all exp=why.example"`)
	synctest.Test(t, func(t *testing.T) {
		f := transaction("192.0.2.1", "c.example", "u@fail.example")
		start := time.Now()
		only(Deps{Resolver: slowTXT{z, "why.example"}}, "spf").Run(t.Context(), policy.Mail, f, Message{}, nil)
		if f.SPF.Result != policy.Fail || time.Since(start) != maxExplanationWait {
			t.Errorf("%+v after %v", f.SPF, time.Since(start))
		}
	})
}

func TestTheHeloIdentityIsCheckedByItself(t *testing.T) {
	z := parseZone(t, `
mx.example   TXT "v=spf1 exists:%{l}.%{h} -all"
postmaster.mx.example A 127.0.0.2
from.example TXT "v=spf1 -all"
`)
	f := transaction("192.0.2.1", "MX.example", "u@from.example")
	set := only(Deps{Resolver: z}, "spf", "spf_helo")
	set.Run(t.Context(), policy.Mail, f, Message{}, nil)
	if f.SPFHelo.Result != policy.Pass || f.SPFHelo.Domain != "mx.example" || f.SPF.Result != policy.Fail || f.SPF.Identity != "mailfrom" {
		t.Errorf("%+v %+v", f.SPF, f.SPFHelo)
	}
	f = transaction("192.0.2.1", "MX.example", "")
	set.Run(t.Context(), policy.Mail, f, Message{}, nil)
	if f.SPF.Result != policy.Pass || f.SPF.Identity != "helo" || f.SPF.Domain != "mx.example" {
		t.Errorf("%+v", f.SPF)
	}
}

func TestAClientWithoutAnAddressIsNotJudged(t *testing.T) {
	f := transaction("192.0.2.1", "client.example", "u@a.example")
	f.Client.IP = ""
	only(Deps{}, "spf", "spf_helo").Run(t.Context(), policy.Mail, f, Message{}, nil)
	if f.SPF.Result != policy.None || f.SPFHelo.Result != policy.None {
		t.Errorf("%+v %+v", f.SPF, f.SPFHelo)
	}
}
