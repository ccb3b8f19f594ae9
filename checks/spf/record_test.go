package spf

import (
	"net/netip"
	"strings"
	"testing"
)

// The examples of RFC 7208 §7.4, and what else macros may be told to do.
func TestMacros(t *testing.T) {
	const domain = "email.example.com"
	z := parseZone(t, `
3.2.0.192.in-addr.arpa PTR mx.email.example.com.
3.2.0.192.in-addr.arpa PTR email.example.com.
mx.email.example.com   A 192.0.2.3
4.2.0.192.in-addr.arpa PTR elsewhere.example.
elsewhere.example      A 192.0.2.4
`)
	for _, tc := range []struct{ ip, macro, want string }{
		{"192.0.2.3", "%{s}", "strong-bad@email.example.com"},
		{"192.0.2.3", "%{o}", "email.example.com"},
		{"192.0.2.3", "%{d}", "email.example.com"},
		{"192.0.2.3", "%{d4}", "email.example.com"},
		{"192.0.2.3", "%{d3}", "email.example.com"},
		{"192.0.2.3", "%{d2}", "example.com"},
		{"192.0.2.3", "%{d1}", "com"},
		{"192.0.2.3", "%{dr}", "com.example.email"},
		{"192.0.2.3", "%{d2r}", "example.email"},
		{"192.0.2.3", "%{l}", "strong-bad"},
		{"192.0.2.3", "%{l-}", "strong.bad"},
		{"192.0.2.3", "%{lr}", "strong-bad"},
		{"192.0.2.3", "%{lr-}", "bad.strong"},
		{"192.0.2.3", "%{l1r-}", "strong"},
		{"192.0.2.3", "%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"},
		{"192.0.2.3", "%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"},
		{"192.0.2.3", "%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"},
		{"192.0.2.3", "%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"},
		{"2001:db8::cb01", "%{ir}.%{v}._spf.%{d2}", "1.0.B.C.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6._spf.example.com"},
		{"192.0.2.3", "%{S}", "strong-bad%40email.example.com"},
		{"192.0.2.3", "%{D}%%%_%-", "email.example.com% %20"},
		{"192.0.2.3", "%{L1R-}", "strong"},
		{"192.0.2.3", "%{d99}", "email.example.com"},
		{"192.0.2.3", "%{s-@}", "?"}, // "@" is no delimiter
		{"192.0.2.3", "%{h}", "client.example"},
		{"192.0.2.3", "%{c} %{r}", "192.0.2.3 mx.receiver.example"},
		{"192.0.2.3", "%{p}", "mx.email.example.com"}, // below the domain; the domain's own name leads elsewhere
		{"192.0.2.4", "%{p}", "elsewhere.example"},
		{"192.0.2.5", "%{p}", "unknown"},
	} {
		e := newEvaluation(Request{
			Resolver: z, IP: netip.MustParseAddr(tc.ip), Local: "strong-bad", Domain: domain, Helo: "client.example", Hostname: "mx.receiver.example",
		})
		if _, err := checkMacroString("", tc.macro, true); err != nil {
			if tc.want != "?" {
				t.Errorf("%s: %v", tc.macro, err)
			}
			continue
		}
		if got := string(e.expandTo(t.Context(), nil, tc.macro, domain)); got != tc.want {
			t.Errorf("%s for %s: %q, want %q", tc.macro, tc.ip, got, tc.want)
		}
	}
	e := newEvaluation(Request{Resolver: z, IP: netip.MustParseAddr("192.0.2.3")})
	if got := string(e.expandTo(t.Context(), nil, "%{r}", domain)); got != "unknown" {
		t.Errorf("without a host name %%{r} is %q", got)
	}
	if got := string(e.expandTo(t.Context(), nil, "%{t}", domain)); len(got) != 10 || strings.Trim(got, "0123456789") != "" {
		t.Errorf("%%{t} is %q", got)
	}
}

func TestWhatIsNoSPFRecord(t *testing.T) {
	for _, terms := range []string{
		"foo", "+", "-all.", "all:x", "all/8", "!all", "-redirect=x.example",
		"include", "include:", "include:x", "include:x.example/24", "include/24",
		"a:", "a:x", "a:x.", "a:1.2.3.4", "a:x.-y", "a:x.y-", "a:x.example/33", "a:x.example/", "a:x.example//", "a/24/64", "a//129", "a/024", "a/1234", "a24",
		"a:%{d}x", "a:%{d}/x", "a:x..", "a:%", "a:%{", "a:%{}", "a:%{d", "a:%{0}", "a:%{d0}", "a:%{d1x}", "a:%{z}", "a:%{d99999999999999999999}", "a:%(d)", "a:x.%{c}", "a:%{t}", "a:%{r}",
		"mx:", "mx/33", "ptr:", "ptr/0", "exists", "exists:", "exists/24",
		"ip4", "ip4:", "ip4:1.2.3", "ip4:1.2.3.4/33", "ip4:1.2.3.4/", "ip4:1.2.3.04", "ip4:1.2.3.4//32", "ip4:::1", "ip4:1.2.3.4:25",
		"ip6:", "ip6:1.2.3.4", "ip6:::1/129", "ip6:::1%eth0", "ip6:1::2::3",
		"redirect=", "redirect=x", "redirect=x.example redirect=x.example", "exp=", "exp=x", "exp=%{r}.example exp=x.example", "exp=x.example EXP=y.example",
		"=x", "1up=x", "x=%", "x=%{", "x=%{x}", "a\tb", "all\r\n", "\x00",
	} {
		if rec, err := parseRecord(terms); err == nil {
			t.Errorf("%q was read as %+v", terms, rec)
		}
	}
	for _, terms := range []string{
		"", "   ", "ALL", "?aLL", "A", "a/0", "a//0", "a/32//128", "a:x.example", "a:x.example.", "a:_x.example/24//64", "a:foo:bar/baz.example.com", "A:%{d}", "a:%{d}/24", "a:%{D2r.-+,/_=}.example", "a:%%.example", "a:%_", "a:x.xn--zckzah",
		"mx:%{o}//64", "ptr", "PTR:x.example", "exists:%{i}.x.example", "ip4:0.0.0.0/0", "ip6:::/0", "IP6:2001:DB8::/32", "ip6:::ffff:1.2.3.4",
		"redirect=_spf.%{d}", "REDIRECT=x.example exp=y.example", "x=", "x.y-z_1=%{c}%{r}%{t}:/=", "moo.cow-far_out=man:dog/cat",
	} {
		if _, err := parseRecord(terms); err != nil {
			t.Errorf("%q: %v", terms, err)
		}
	}
}

// RFC 4406 §4.4.
func TestTheRecordOfAScope(t *testing.T) {
	const v1 = "v=spf1 ip4:192.0.2.1 -all"
	for _, tc := range []struct {
		txts  []string
		scope Scope
		terms string
		n     int
	}{
		{[]string{v1}, PRA, "ip4:192.0.2.1 -all", 1},
		{[]string{v1, "spf2.0/pra ?all"}, PRA, "?all", 1},
		{[]string{v1, "spf2.0/pra ?all"}, MailFrom, "ip4:192.0.2.1 -all", 1},
		{[]string{"spf2.0/mfrom -all"}, PRA, "", 0},
		{[]string{v1, "spf2.0/mfrom -all"}, PRA, "ip4:192.0.2.1 -all", 1},
		{[]string{"spf2.0/mfrom,prattle,fubar -all"}, PRA, "", 0},
		{[]string{"spf2.0/mfrom,pra,fubar -all"}, PRA, "-all", 1},
		{[]string{"spf2.0/pra -all", "spf2.0/mfrom,pra +mx -all"}, PRA, "", 2},
		{[]string{"spf2.0/mfrom +all", "spf2.0/pra ~all"}, PRA, "~all", 1},
		{[]string{v1, "v=spf1 -all"}, PRA, "", 2},
		{[]string{v1, "v=spf1 -all"}, MailFrom, "", 2},
		{[]string{"spf2.0 -all", "v=spf2.0/pra -all", "spf2.x/pra -all", "spf2./pra -all", "spf2.0/ -all", "spf2.0/pra, -all", "spf2.0/pra,1x -all", "spf2.0/p/ra -all", "spf2", "spf2.0/pra,,mfrom"}, PRA, "", 0},
		{[]string{"spf2.7/pra -all"}, PRA, "-all", 1},
		{[]string{"SPF2.0/PRA,x-y_z.1 -all"}, PRA, "-all", 1},
		{[]string{"v=spf10 -all", "v=spf1\t-all", "hello"}, PRA, "", 0},
		{[]string{"V=SPF1"}, MailFrom, "", 1},
		{[]string{v1, "v=spf1 -all", "spf2.0/pra ?all"}, PRA, "", 3}, // three remain, to the letter
	} {
		if terms, n := selectRecord(tc.txts, tc.scope); terms != tc.terms || n != tc.n {
			t.Errorf("%q: %q, %d; want %q, %d", tc.txts, terms, n, tc.terms, tc.n)
		}
	}
}

func TestAddressesOfTheOtherFamilyNeverMatch(t *testing.T) {
	of := term{cidr4: 0, cidr6: 0}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if of.holds(v4, v6) || of.holds(v6, v4) || !of.holds(v4, netip.MustParseAddr("::ffff:203.0.113.1")) {
		t.Error("a/0//0 matches across families")
	}
}

func BenchmarkParseRecord(b *testing.B) {
	const record = "ip4:203.0.113.0/24 ip4:198.51.100.0/24 ip6:2001:db8::/32 mx include:_spf.example.net exists:%{i}._spf.%{d} -all"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseRecord(record); err != nil {
			b.Fatal(err)
		}
	}
}
