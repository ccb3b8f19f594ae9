package policy

import (
	"fmt"
	"testing"
	"time"

	"postern/configs"
)

// fiftyRules is a chain as a large site may have grown it; none of its rules
// matches the facts that come with it, so that all are read.
func fiftyRules(tb testing.TB) (*Chain, *Facts) { return manyRules(tb, 50) }

// manyRules is fiftyRules of any size.
func manyRules(tb testing.TB, rules int) (*Chain, *Facts) {
	lists, err := NewLists([]configs.List{
		{Name: "forwarders", Entries: []string{"203.0.113.0/24", "2001:db8:1::/48", "*.forwarder.example"}},
	}, nil, time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	var p configs.Policy
	for i := range rules / 5 {
		for j, when := range []string{
			fmt.Sprintf(`spf.result == "fail" and mail.domain == "sender%d.example"`, i),
			fmt.Sprintf(`submitter.result in ["fail", "permerror"] and rcpt.domain != "example%d.org"`, i),
			`in_list("forwarders", client.ip) and not (spf.result == "pass")`,
			fmt.Sprintf(`tls.peer.verified and "mx%d.partner.example" in tls.peer.names`, i),
			fmt.Sprintf(`(iprev.result != "pass" or helo.domain endsWith ".dyn%d.example") and dnsbl.score >= %d`, i, 5+i),
		} {
			p.Rules = append(p.Rules, configs.Rule{Name: fmt.Sprintf("rule-%d-%d", i, j), When: when, Do: []string{"reject", "defer"}[j%2]})
		}
	}
	chain, err := Compile(p, lists)
	if err != nil {
		tb.Fatal(err)
	}
	f := Facts{}.Transaction("bench")
	f.Client = Client{IP: "192.0.2.7", Name: "mail.example.com"}
	f.Helo = HeloName{Name: "mail.example.com", Domain: "mail.example.com"}
	f.Mail = MailFrom{From: "alice@example.com", Domain: "example.com"}
	f.SPF.Result, f.Submitter.Result, f.Iprev.Result = Pass, None, Pass
	f.Rcpt = RcptTo{Address: "bob@example.org", Domain: "example.org"}
	f.TLS.Peer = TLSPeer{Verified: true, Names: []string{"mail.example.com", "example.com"}}
	return chain, &f
}

// A decision costs as much for each rule in a thousand rules as in ten, and those of a later
// stage cost nothing: the whole way of a message is one decision a stage.
func BenchmarkDecideByRules(b *testing.B) {
	for _, rules := range []int{10, 100, 1000} {
		chain, f := manyRules(b, rules)
		for st := Mail; st <= Message; st++ {
			b.Run(fmt.Sprintf("%d/%s", rules, st), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					chain.Decide(st, f)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rules), "ns/rule")
			})
		}
	}
}

func BenchmarkDecide50Rules(b *testing.B) {
	chain, f := fiftyRules(b)
	b.ReportAllocs()
	for b.Loop() {
		if v := chain.Decide(Message, f); v.Disposition != DispositionPass {
			b.Fatal(v)
		}
	}
}

// BenchmarkDecideFor is the same for a recipient who stands beside the facts.
func BenchmarkDecideFor(b *testing.B) {
	chain, f := fiftyRules(b)
	to := f.Recipient
	f.Recipient = Recipient{}
	b.ReportAllocs()
	for b.Loop() {
		if v := chain.DecideFor(Message, f, &to); v.Disposition != DispositionPass {
			b.Fatal(v)
		}
	}
}

func BenchmarkDecideBuiltIn(b *testing.B) {
	chain, err := Compile(BuiltIn(), nil)
	if err != nil {
		b.Fatal(err)
	}
	_, f := fiftyRules(b)
	f.PRA = PRA{Result: Pass, Address: "alice@example.com"}
	b.ReportAllocs()
	for b.Loop() {
		if v := chain.Decide(Message, f); v.Disposition != DispositionPass {
			b.Fatal(v)
		}
	}
}

// BenchmarkDecideRejects is a refusal with a fact in its reply: the one path
// that allocates.
func BenchmarkDecideRejects(b *testing.B) {
	chain, err := Compile(configs.Policy{Rules: []configs.Rule{
		{Name: "spf", When: `spf.result == "fail"`, Do: "reject", Reply: "550 5.7.23 SPF fails for ${spf.domain}"},
	}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	_, f := fiftyRules(b)
	f.SPF = SPF{Result: Fail, Domain: "example.com"}
	b.ReportAllocs()
	for b.Loop() {
		if v := chain.Decide(Message, f); !v.Refuses() {
			b.Fatal(v)
		}
	}
}

func BenchmarkCompile50Rules(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		fiftyRules(b)
	}
}

func BenchmarkInList(b *testing.B) {
	var entries []string
	for i := range 10000 {
		entries = append(entries, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), fmt.Sprintf("host%d.example", i))
	}
	lists, err := NewLists([]configs.List{{Name: "big", Entries: entries}}, nil, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	for _, value := range []string{"192.0.2.7", "10.1.2.3", "mail.host77.example", "bob@host99.example"} {
		b.Run(value, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				lists.Contains("big", value)
			}
		})
	}
}
