package policy

import (
	"fmt"
	"testing"
	"time"

	"postern/configs"
)

// fiftyRules is a chain as a large site may have grown it; none of its rules
// matches the facts that come with it, so that all are read.
func fiftyRules(tb testing.TB) (*Chain, *Facts) {
	lists, err := NewLists([]configs.List{
		{Name: "forwarders", Entries: []string{"203.0.113.0/24", "2001:db8:1::/48", "*.forwarder.example"}},
	}, nil, time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	var p configs.Policy
	for i := range 10 {
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
