package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	library "blitiri.com.ar/go/spf"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"postern/checks/dnscache"
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

// records is a zone by name, as the published suites write it.
type records map[string][]any

func (r records) add(name, rrtype string, value any) {
	r[name] = append(r[name], map[string]any{rrtype: value})
}

func (r records) load() (*dnstest.Zone, error) {
	var n yaml.Node
	if err := n.Encode(r); err != nil {
		return nil, err
	}
	return dnstest.LoadYAML(&n)
}

// drawn is a client and a few domains that publish records, made up at random.
type drawn struct {
	client netip.Addr
	zone   records
	texts  string // of all records
}

// oddities are terms over which the library and the RFC part.
var oddities = []string{
	"moo", "a:museum", "a:x.-y", "ip4:1.2.3.4/032", "a:\u0080.example", "exp=", "redirect=x", "foo=%", "exists:%{r}.example",
	"a:foo/bar.example", "exists:%{p}.p.example", "mx:%{p}",
}

func draw(t *rapid.T, odd bool) drawn {
	domains := []string{"a.example", "b.example", "c.example", "d.example"}
	hosts := []string{"192.0.2.1", "192.0.2.77", "198.51.100.7", "2001:db8::1", "2001:db8:1::2"}
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	d := drawn{client: netip.MustParseAddr(pick("client", hosts...)), zone: records{}}
	for _, name := range domains {
		var rec strings.Builder
		rec.WriteString("v=spf1")
		for range rapid.IntRange(0, 4).Draw(t, "terms") {
			if odd && rapid.IntRange(0, 7).Draw(t, "odd") == 0 {
				rec.WriteString(" " + pick("oddity", oddities...))
				continue
			}
			rec.WriteString(" " + pick("qualifier", "", "+", "-", "~", "?"))
			target := pick("target", append(slices.Clone(domains), "%{d}", "%{o}", "x.%{d}", "missing.example", "broken.example")...)
			switch pick("mechanism", "ip4", "ip6", "a", "a:", "mx", "include", "exists", "ptr", "all") {
			case "ip4":
				rec.WriteString("ip4:" + pick("ip4", "192.0.2.1", "192.0.2.0/25", "198.51.100.0/24", "0.0.0.0/0", "10.0.0.1"))
			case "ip6":
				rec.WriteString("ip6:" + pick("ip6", "2001:db8::1", "2001:db8::/48", "::/0", "2001:db8:1::/64"))
			case "a":
				rec.WriteString("a" + pick("cidr", "", "/24", "//64", "/0//0"))
			case "a:":
				rec.WriteString("a:" + target + pick("cidr", "", "/24", "//64", "/30//126"))
			case "mx":
				rec.WriteString("mx:" + target + pick("cidr", "", "/24"))
			case "include":
				rec.WriteString("include:" + target)
			case "exists":
				rec.WriteString("exists:%{i}." + target)
			case "ptr":
				rec.WriteString("ptr:" + target)
			case "all":
				rec.WriteString("all")
			}
		}
		if rapid.Bool().Draw(t, "redirect") {
			rec.WriteString(" redirect=" + pick("to", domains...))
		}
		if rapid.IntRange(0, 5).Draw(t, "published") > 0 {
			d.zone.add(name, "TXT", rec.String())
			d.texts += rec.String() + "\n"
		}
		for _, h := range hosts {
			if rapid.Bool().Draw(t, "has "+h) {
				rrtype := "A"
				if strings.Contains(h, ":") {
					rrtype = "AAAA"
				}
				d.zone.add(name, rrtype, h)
			}
		}
		for _, m := range domains {
			if rapid.IntRange(0, 3).Draw(t, "mx") == 0 {
				d.zone.add(name, "MX", []any{10, m})
			}
		}
	}
	d.zone.add("broken.example", "rcode", "SERVFAIL")
	if rapid.Bool().Draw(t, "reverse") {
		d.zone.add(dnstest.ReverseName(d.client), "PTR", pick("name", domains...))
	}
	return d
}

// request asks for MAIL FROM:<user@a.example>.
func (d drawn) request(r Resolver) Request {
	return Request{Resolver: r, IP: d.client, Local: "user", Domain: "a.example", Helo: "client.example"}
}

// judge says what we and the library make of it.
func (d drawn) judge(t *rapid.T) (ours Outcome, theirs string) {
	z, err := d.zone.load()
	if err != nil {
		t.Fatal(err)
	}
	res, _ := library.CheckHostWithSender(d.client.AsSlice(), "client.example", "user@a.example",
		library.WithContext(t.Context()), library.WithResolver(familyOf{z, dnscache.Network(d.client)}))
	ours = Evaluate(t.Context(), d.request(z))
	// The reason is told from memory; it must be of the same result.
	if q, ok := map[policy.Result]byte{policy.Pass: '+', policy.Fail: '-', policy.SoftFail: '~'}[ours.Result]; ok {
		if term, _ := ours.of.root.winner(d.client); term == nil || term.qualifier != q {
			t.Fatalf("%s: %s, because of %v", d.client, ours.Result, term)
		}
	}
	return ours, string(res)
}

// Records that the library reads as the RFC does: our result is the library's,
// whoever asks.
func TestValidRecordsComeToWhatTheLibrarySays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t, false)
		if ours, theirs := d.judge(t); string(ours.Result) != theirs {
			t.Fatalf("%s: ours %s (%s), the library %s\n%v", d.client, ours.Result, ours.Reason, theirs, d.zone)
		}
	})
}

// Where records are odd, the two part in three ways and no other. The RFC is on
// our side in each.
func TestTheDifferencesFromTheLibraryAreKnown(t *testing.T) {
	met := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t, true)
		ours, theirs := d.judge(t)
		switch {
		case string(ours.Result) == theirs:
			met["none"]++
		case ours.Result == policy.PermError && strings.HasPrefix(ours.Reason, "record of "):
			met["a syntax error behind the first match, or one that the library lets pass (RFC 7208 §4.6, §7.1)"]++
		case strings.Contains(d.texts, "foo/bar"):
			met["a slash in a domain-spec, which the library takes for an error (RFC 7208 §7.1)"]++
		case strings.Contains(d.texts, "%{p}"):
			met["%{p}, which the library always takes for unknown (RFC 7208 §7.3)"]++
		default:
			t.Fatalf("%s: ours %s (%s), the library %s\n%v", d.client, ours.Result, ours.Reason, theirs, d.zone)
		}
	})
	for class, n := range met {
		t.Logf("%4d: %s", n, class)
	}
}

// familyOf asks as we do: for one family, and for A where the name is one of an
// exists:, which begins with an address here.
type familyOf struct {
	*dnstest.Zone
	network string
}

func (r familyOf) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	network := r.network
	if isDigit(host[0]) {
		network = "ip4"
	}
	addrs, err := r.LookupNetIP(ctx, network, host)
	var out []net.IPAddr
	for _, a := range addrs {
		out = append(out, net.IPAddr{IP: a.AsSlice()})
	}
	return out, err
}

// Whatever a record says, reading it neither fails in an odd way nor lets
// anything but printable ASCII through, and what it accepts evaluates.
func FuzzSPFRecord(f *testing.F) {
	for _, s := range []string{
		"ip4:192.0.2.0/24 ip6:2001:db8::/32 a:x.example/24//64 mx include:b.example ~all", "redirect=_spf.%{d2r} exp=why.%{o}",
		"exists:%{ir}.%{v}.%{l1r-}._spf.%{D} ptr:example.com ?all", "a:1.2.3.4 moo %{", "exp=x exp=y redirect=x.example -all",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rec, err := parseRecord(text)
		if err != nil {
			var syntax *syntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if strings.TrimFunc(text, func(r rune) bool { return r >= ' ' && r <= '~' }) != "" {
			t.Fatalf("%q was accepted", text)
		}
		for _, term := range rec.terms {
			if term.text == "" || term.cidr4 > 32 || term.cidr6 > 128 || (term.mech == mechIP4 || term.mech == mechIP6) != term.prefix.IsValid() {
				t.Fatalf("%q: %+v", text, term)
			}
		}
		zone := records{}
		zone.add("a.example", "A", "192.0.2.9")
		z, err := zone.load()
		if err != nil {
			t.Fatal(err)
		}
		d := drawn{client: netip.MustParseAddr("192.0.2.1")}
		o := Evaluate(t.Context(), d.request(only1{z, "v=spf1 " + text}))
		if q, ok := map[policy.Result]byte{policy.Pass: '+', policy.Fail: '-', policy.SoftFail: '~'}[o.Result]; ok {
			if term, _ := o.of.root.winner(d.client); term == nil || term.qualifier != q {
				t.Fatalf("%q: %+v, because of %+v", text, o, term)
			}
		}
		if z.Queries() > 200 {
			t.Fatalf("%q: %d queries", text, z.Queries())
		}
		_ = o.Explanation(t.Context())
	})
}

// only1 publishes one record at a.example.
type only1 struct {
	*dnstest.Zone
	record string
}

func (r only1) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if strings.EqualFold(name, "a.example") {
		return []string{r.record}, nil
	}
	return r.Zone.LookupTXT(ctx, name)
}
