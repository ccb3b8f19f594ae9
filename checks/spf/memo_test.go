package spf

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"postern/checks/memo"
	"postern/policy"
)

// questions is a resolver that notes what it is asked.
type questions struct {
	Resolver
	asked []string
}

func (q *questions) LookupTXT(ctx context.Context, name string) ([]string, error) {
	q.asked = append(q.asked, "TXT "+name)
	return q.Resolver.LookupTXT(ctx, name)
}

func (q *questions) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	q.asked = append(q.asked, "MX "+name)
	return q.Resolver.LookupMX(ctx, name)
}

func (q *questions) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	q.asked = append(q.asked, "PTR "+addr)
	return q.Resolver.LookupAddr(ctx, addr)
}

func (q *questions) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	q.asked = append(q.asked, network+" "+host)
	return q.Resolver.LookupNetIP(ctx, network, host)
}

// Whatever was judged before, of whomever, with whatever the DNS said then: a Memo says
// what an evaluation says, with the same reason and explanation, and asks the same.
func TestMemoSaysWhatAnEvaluationSays(t *testing.T) {
	known := 0
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemo()
		zones := []drawn{draw(t, true), draw(t, false)}
		for range rapid.IntRange(2, 8).Draw(t, "evaluations") {
			d := rapid.SampledFrom(zones).Draw(t, "zone")
			zone, err := d.zone.load()
			if err != nil {
				t.Fatal(err)
			}
			var fresh, again questions
			r := d.request(nil)
			r.IP = rapid.SampledFrom([]netip.Addr{zones[0].client, zones[1].client}).Draw(t, "client")
			r.Scope = rapid.SampledFrom([]Scope{MailFrom, PRA}).Draw(t, "scope")
			r.Local = rapid.SampledFrom([]string{"user", "other"}).Draw(t, "local")
			r.Domain = rapid.SampledFrom([]string{"a.example", "b.example", "missing.example", "broken.example"}).Draw(t, "domain")
			r.Helo = rapid.SampledFrom([]string{"client.example", "c.example"}).Draw(t, "helo")
			fresh.Resolver, again.Resolver = zone, zone
			r.Resolver = &fresh
			want := Evaluate(t.Context(), r)
			wantWhy := want.Explanation(t.Context())
			r.Resolver = &again
			got := m.Evaluate(t.Context(), r)
			if why := got.Explanation(t.Context()); why != wantWhy {
				t.Fatalf("explained by %q, want %q", why, wantWhy)
			}
			isKnown := got.of == nil
			got.of, want.of = nil, nil
			if got != want {
				t.Fatalf("%+v, want %+v", got, want)
			}
			// Where the DNS says something else than it did, what was asked until then is asked
			// once more.
			if isKnown && !slices.Equal(again.asked, fresh.asked) || len(again.asked) > 2*len(fresh.asked) && len(again.asked) > len(fresh.asked)+memo.MaxQuestions {
				t.Fatalf("asked %q, want %q", again.asked, fresh.asked)
			}
			if isKnown {
				known++
			}
		}
	})
	if known == 0 {
		t.Error("nothing was ever known")
	}
}

func TestWhatAMemoKeeps(t *testing.T) {
	hosts := ""
	for i := range 9 {
		hosts += "a.example. MX 10 " + strings.Repeat(strings.Repeat("x", 60)+".", 3) + "h" + strconv.Itoa(i) + ".example.\n"
	}
	for name, x := range map[string]struct {
		zone   string
		result policy.Result
		kept   bool
	}{
		"a pass":                 {"a.example. TXT \"v=spf1 ip4:192.0.2.1 -all\"\n", policy.Pass, true},
		"softfail":               {"a.example. TXT \"v=spf1 ~all\"\n", policy.SoftFail, true},
		"no record":              {"a.example. TXT nothing\n", policy.None, true},
		"no domain":              {"b.example. TXT nothing\n", policy.None, true},
		"permerror":              {"a.example. TXT \"v=spf1 moo\"\n", policy.PermError, true},
		"by a host":              {"a.example. TXT \"v=spf1 mx -all\"\na.example. MX 10 h.example.\nh.example. A 192.0.2.1\n", policy.Pass, true},
		"a fail, with reasons":   {"a.example. TXT \"v=spf1 -all\"\n", policy.Fail, false},
		"a name server is away":  {"; TIMEOUT a.example\n", policy.TempError, false},
		"by what the sender is":  {"a.example. TXT \"v=spf1 exists:%{l}.b.example ~all\"\nuser.b.example. A 127.0.0.2\n", policy.Pass, false},
		"by a macro elsewhere":   {"a.example. TXT \"v=spf1 include:b.example ~all\"\nb.example. TXT \"v=spf1 exists:%{s}.c.example ?all\"\n", policy.SoftFail, false},
		"a reverse zone is away": {"a.example. TXT \"v=spf1 ptr ?all\"\n; TIMEOUT 1.2.0.192.in-addr.arpa\n", policy.Neutral, false},
		"more than it can hold":  {"a.example. TXT \"v=spf1 ip4:192.0.2.1 -all\"\na.example. TXT" + strings.Repeat(" "+strings.Repeat("x", 250), memo.MaxOctets/250+1) + "\n", policy.Pass, false},
		"of many long names":     {"a.example. TXT \"v=spf1 mx ?all\"\n" + hosts, policy.Neutral, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMemo()
			r := Request{Resolver: parseZone(t, x.zone), IP: netip.MustParseAddr("192.0.2.1"), Local: "user", Domain: "a.example"}
			for i := range 2 {
				o := m.Evaluate(t.Context(), r)
				if o.Result != x.result || (o.of == nil) != (x.kept && i == 1) {
					t.Errorf("evaluation %d: %s (%s), known: %v", i, o.Result, o.Reason, o.of == nil)
				}
			}
		})
	}
}

// A record that changes counts at once, and so does a name server that is away.
func TestMemoHeedsWhatChanges(t *testing.T) {
	m := NewMemo()
	for _, x := range []struct {
		zone   string
		result policy.Result
	}{
		{"a.example. TXT \"v=spf1 include:b.example ~all\"\nb.example. TXT \"v=spf1 ip4:192.0.2.1 ?all\"\n", policy.Pass},
		{"a.example. TXT \"v=spf1 include:b.example ~all\"\nb.example. TXT \"v=spf1 ip4:192.0.2.2 ?all\"\n", policy.SoftFail},
		{"a.example. TXT \"v=spf1 include:b.example ~all\"\n; TIMEOUT b.example\n", policy.TempError},
		{"; TIMEOUT a.example\n", policy.TempError},
		{"a.example. TXT \"v=spf1 include:b.example ~all\"\n", policy.PermError},
		{"a.example. TXT \"v=spf1 include:b.example ~all\"\nb.example. TXT \"v=spf1 ip4:192.0.2.2 ?all\"\n", policy.SoftFail},
	} {
		r := Request{Resolver: parseZone(t, x.zone), IP: netip.MustParseAddr("192.0.2.1"), Local: "user", Domain: "a.example"}
		for range 2 {
			if o := m.Evaluate(t.Context(), r); o.Result != x.result {
				t.Errorf("%s: %s (%s)", x.zone, o.Result, o.Reason)
			}
		}
	}
}

// BenchmarkEvaluate compares an evaluation with one that was made before.
func BenchmarkEvaluate(b *testing.B) {
	r := Request{Resolver: parseZone(b, "a.example. TXT \"v=spf1 ip4:198.51.100.0/24 include:b.example ~all\"\nb.example. TXT \"v=spf1 ip4:192.0.2.0/24 ?all\"\n"), IP: netip.MustParseAddr("192.0.2.1"), Local: "user", Domain: "a.example"}
	for name, m := range map[string]*Memo{"anew": nil, "known": NewMemo()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if o := m.Evaluate(b.Context(), r); o.Result != policy.Pass {
					b.Fatal(o)
				}
			}
		})
	}
}
