package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"postern/configs"
)

// compile compiles rules written as "name: when -> do [reply or header]".
func compile(t testing.TB, lines ...string) *Chain {
	t.Helper()
	chain, err := Compile(rules(lines...), propertyLists(t))
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func rules(lines ...string) configs.Policy {
	var p configs.Policy
	for i, line := range lines {
		name, rest, _ := strings.Cut(line, ": ")
		when, action, _ := strings.Cut(rest, " -> ")
		do, text, _ := strings.Cut(action, " ")
		r := configs.Rule{
			Name: name, When: when,
			Position:     configs.Position{File: "p.yaml", Line: 10 * (i + 1), Column: 5},
			WhenPosition: configs.Position{File: "p.yaml", Line: 10*(i+1) + 1, Column: 13},
		}
		do, r.At, _ = strings.Cut(do, "@")
		r.Do = do
		if do == "tag" {
			r.Header = text
		} else {
			r.Reply = text
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// known returns facts of an ordinary message, changed.
func known(change func(*Facts)) *Facts {
	f := Facts{}.Transaction("t1")
	f.Client = Client{IP: "198.51.100.7", Name: "mail.example.com"}
	f.Mail = MailFrom{From: "alice@example.com", Domain: "example.com"}
	f.SPF = SPF{Result: Pass, Domain: "example.com", Identity: "mailfrom"}
	f.Rcpt = RcptTo{Address: "bob@example.org", Domain: "example.org"}
	f.DKIM.Result = None
	if change != nil {
		change(&f)
	}
	return &f
}

// TestPassOnDKIMDelaysSPF is the example of the documentation: what is above
// decides, so what is below must wait.
func TestPassOnDKIMDelaysSPF(t *testing.T) {
	chain := compile(t,
		`signed: dkim.result == "pass" -> pass`,
		`spf: spf.result == "fail" -> reject`,
	)
	forged := known(func(f *Facts) { f.SPF.Result = Fail })
	for st := Connect; st < Message; st++ {
		if v := chain.Decide(st, forged); v.Decided || v.Refuses() {
			t.Errorf("%s: %+v", st, v)
		}
	}
	if v := chain.Decide(Message, forged); v.Rule != "spf" || v.Stage != Message || v.Reply.String() != "550 5.7.23 SPF validation failed." {
		t.Errorf("unsigned: %+v", v)
	}
	forged.DKIM.Result = Pass
	if v := chain.Decide(Message, forged); v.Rule != "signed" || v.Disposition != DispositionPass {
		t.Errorf("signed: %+v", v)
	}
	if !chain.HoldsMessage() || chain.Last() != Message {
		t.Error("the message must be held")
	}
	want := []Step{
		{Rule: "signed", Do: "pass", When: `dkim.result == "pass"`, Own: Message, Stage: Message, Why: "reads dkim.result", HoldsMessage: true, Position: "p.yaml:10:5"},
		{
			Rule: "spf", Do: "reject", When: `spf.result == "fail"`, Own: Mail, Stage: Message,
			Why: `reads spf.result; waits for rule "signed" above, which reads dkim.result`, HoldsMessage: true, Position: "p.yaml:20:5",
		},
	}
	if got := chain.Plan(); !reflect.DeepEqual(got, want) {
		t.Errorf("plan:\n got  %+v\n want %+v", got, want)
	}
}

// TestTagsDelayNobody: a tag rule on the message does not keep the SPF rule
// below it waiting, but is itself not decided before the rules above it.
func TestTagsDelayNobody(t *testing.T) {
	chain := compile(t,
		`unsigned: dkim.result == "none" -> tag X-Postern-Tag: unsigned`,
		`spf: spf.result == "fail" -> reject`,
		`pra: pra.result == "fail" -> reject`,
		`here: client.ip == "198.51.100.7" -> tag X-Postern-Tag: from ${client.ip}`,
	)
	if v := chain.Decide(Mail, known(func(f *Facts) { f.SPF.Result = Fail })); v.Rule != "spf" || !v.Decided || v.Tags != nil {
		t.Errorf("refused at mail: %+v", v)
	}
	v := chain.Decide(Mail, known(nil))
	if v.Decided || v.Tags != nil {
		t.Errorf("at mail: %+v", v)
	}
	v = chain.Decide(Header, known(nil))
	if !v.Decided || v.Disposition != DispositionTag || len(v.Tags) != 1 || v.Tags[0].Value != " from 198.51.100.7" || v.Rule != "here" || v.Stage != Header {
		t.Errorf("at header, no refusal is left: %+v", v)
	}
	v = chain.Decide(Message, known(nil))
	if len(v.Tags) != 2 || v.Tags[0].Value != " unsigned" || v.Tags[1].Value != " from 198.51.100.7" {
		t.Errorf("at the end: %+v", v)
	}
	if chain.Plan()[3].Why != `reads nothing that is known later than the connection; waits for rule "pra" above, which reads pra.result` {
		t.Errorf("why: %s", chain.Plan()[3].Why)
	}
}

// TestAt moves a rule, and those below it.
func TestAt(t *testing.T) {
	chain := compile(t,
		`spf: spf.result == "fail" -> reject@rcpt`,
		`ip: client.ip == "198.51.100.7" -> defer`,
	)
	refused := known(func(f *Facts) { f.SPF.Result = Fail })
	if v := chain.Decide(Mail, refused); v.Decided {
		t.Errorf("at mail: %+v", v)
	}
	if v := chain.Decide(Rcpt, refused); v.Rule != "spf" || v.Stage != Rcpt {
		t.Errorf("at rcpt: %+v", v)
	}
	plan := chain.Plan()
	if plan[0].Own != Mail || plan[0].Stage != Rcpt || plan[0].Why != "reads spf.result; moved here by its at" {
		t.Errorf("%+v", plan[0])
	}
	if plan[1].Stage != Rcpt || plan[1].Why != `reads nothing that is known later than the connection; waits for rule "spf" above, which its at moves to rcpt` {
		t.Errorf("%+v", plan[1])
	}
}

// TestOneDomain: whoever reads rcpt.domain at the end may have recipients of
// one domain only.
func TestOneDomain(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  bool
	}{
		{[]string{`a: rcpt.domain == "example.org" and spf.result == "fail" -> reject`}, false},
		{[]string{`a: rcpt.domain == "example.org" and pra.result == "fail" -> reject`}, true},
		{[]string{`a: pra.result == "fail" -> reject`, `b: rcpt.domain == "example.org" -> reject`}, true},
		{[]string{`a: pra.result == "fail" -> reject`, `b: spf.result == "fail" -> reject 550 5.7.1 Not for ${rcpt.domain}`}, true},
		{[]string{`a: rcpt.domain == "example.org" -> pass`, `b: pra.result == "fail" -> reject`}, false},
	} {
		if got := compile(t, c.lines...).OneDomain(); got != c.want {
			t.Errorf("%q: got %t", c.lines, got)
		}
	}
}

// TestHoldsUnsigned: a message that nobody signed is held for its size alone.
func TestHoldsUnsigned(t *testing.T) {
	for line, want := range map[string]bool{
		`a: message.size > 1000 -> tag X-Postern-Tag: big`:                       true,
		`a: dkim.result == "fail" -> reject 550 5.7.20 At ${message.size}`:       true,
		`a: dkim.result == "fail" and mail.size > 0 -> reject 550 5.7.20 Signed`: false,
	} {
		if got := compile(t, line).HoldsUnsigned(); got != want {
			t.Errorf("%q: got %t", line, got)
		}
	}
}

// TestNeeds: no check runs for nothing, and none is forgotten.
func TestNeeds(t *testing.T) {
	chain := compile(t,
		`a: dmarc.result == "fail" -> reject 550 5.7.26 No ${dkim.domains}`,
		`b: client.name == "" -> tag X-Postern-Tag: ${spf_helo.result}`,
		`c: submitter.address != "" -> pass`,
	)
	for name, want := range map[string]bool{
		"dmarc": true, "dmarc.result": true, "spf": true, "spf.result": true, "dkim": true, "iprev": true, "spf_helo": true,
		"client.name": true, "submitter": false, "submitter.address": true, "pra": false, "dnsbl": false, "mx": false, "dmarc.policy": false,
	} {
		if got := chain.Needs(name); got != want {
			t.Errorf("Needs(%q) = %t", name, got)
		}
	}
	if compile(t, `a: spf_helo.result == "fail" -> reject`).Needs("spf") {
		t.Error("spf_helo is not spf")
	}
	if !compile(t, `a: submitter.result == "fail" -> reject`).Needs("submitter") {
		t.Error("submitter.result needs submitter")
	}
}

// TestLets: a name stands for its expression, with all that it reads.
func TestLets(t *testing.T) {
	p := rules(`a: partner and spf.result != "pass" -> pass`, `b: spf.result == "fail" -> reject`)
	p.Let = []configs.Let{
		{Name: "sender", Is: "lower(mail.from)"},
		{Name: "partner", Is: `sender == "alice@example.com" and dkim.result == "pass"`},
	}
	chain, err := Compile(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := known(func(f *Facts) { f.Mail.From, f.SPF.Result, f.DKIM.Result = "Alice@example.com", Fail, Pass })
	if v := chain.Decide(Mail, f); v.Decided {
		t.Errorf("what the let reads was forgotten: %+v", v)
	}
	if v := chain.Decide(Message, f); v.Rule != "a" {
		t.Errorf("got %+v", v)
	}
	f.DKIM.Result = Fail
	if v := chain.Decide(Message, f); v.Rule != "b" {
		t.Errorf("got %+v", v)
	}
	if !chain.Needs("dkim") {
		t.Error("the let needs dkim")
	}
}

// TestReplies: what a rule that says little answers, and what facts become in
// a reply.
func TestReplies(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{`a: submitter.result == "fail" -> reject`, "550 5.7.1 Submitter not allowed."},
		{`a: spf.result == "fail" -> reject`, "550 5.7.23 SPF validation failed."},
		{`a: spf_helo.result == "fail" -> reject`, "550 5.7.23 SPF validation failed."},
		{`a: spf.result in ["fail", "permerror"] -> reject`, "550 5.7.23 SPF validation failed."},
		{`a: spf_helo.result == "permerror" -> reject`, "550 5.7.24 SPF validation error."},
		{`a: pra.result == "fail" -> reject`, "550 5.7.1 Sender ID (PRA) Not Permitted."},
		{`a: pra.address == "" -> reject`, "550 5.7.1 Purported responsible address not allowed."},
		{`a: not pra.matches_submitter -> reject`, "550 5.7.1 Submitter does not match header."},
		{`a: dmarc.result == "fail" -> reject`, "550 5.7.26 DMARC evaluation failed."},
		{`a: dkim.result == "fail" -> reject`, "550 5.7.20 No passing DKIM signature found."},
		{`a: iprev.result == "fail" -> reject`, "550 5.7.25 Reverse DNS validation failed."},
		{`a: mx.result in ["fail", "permerror"] -> reject`, "550 5.1.8 Sender domain takes no mail."},
		{`a: mx.result in ["fail", "temperror"] -> defer`, "451 4.4.3 Temporary failure of the DNS, please try again later."},
		{`a: dnsbl.listed -> reject`, "550 5.7.1 Client address is listed."},
		{`a: client.ip == "192.0.2.1" -> reject`, "550 5.7.1 Not accepted."},
		{`a: spf.result in ["fail", "temperror"] -> defer`, "451 4.4.3 Temporary failure of the DNS, please try again later."},
		{`a: state.healthy or true -> defer`, "451 4.3.0 Temporary failure in processing, please try again later."},
		{`a: past.result != "temperror" -> defer`, "451 4.3.0 Temporary failure in processing, please try again later."},
		{`a: rate.unknown < 20 -> reject`, "550 5.7.1 Too much from this sender within the hour."},
		{`a: past.days < 2 -> reject`, "550 5.7.1 Sender is not well known here."},
		{`a: not dns.healthy -> defer`, "451 4.4.3 Temporary failure of the DNS, please try again later."},
		{`a: client.ip == "192.0.2.1" -> defer`, "451 4.7.1 Not accepted now, please try again later."},
		{`a: spf.result == "fail" -> reject 554`, "554 5.7.23 SPF validation failed."},
		{`a: spf.result == "fail" -> reject 554 Go away.`, "554 5.7.23 Go away."},
		{`a: spf.result == "fail" -> reject 554 5.1.8`, "554 5.1.8 SPF validation failed."},
		{`a: spf.result == "fail" -> defer 450 4.7.1 Costs $5, ${client.port} ${dns.healthy} ${tls.peer.names} ${ spf.result }.`, "450 4.7.1 Costs $5, 25 true a.example,b.example fail."},
		{`a: spf.result == "fail" -> reject 550 5.7.1 ${helo.name}`, "550 5.7.1 mx??250 2.0.0 OK?"},
		{`a: spf.result == "fail" -> reject 550 5.7.1 ${spf.explanation}.`, "550 5.7.1 " + strings.Repeat("x", maxReplyText)},
	} {
		f := known(func(f *Facts) {
			f.SPF.Result, f.SPF.Explanation = Fail, strings.Repeat("x", 5000)
			f.Client.Port, f.TLS.Peer.Names, f.Helo.Name = 25, []string{"a.example", "b.example"}, "mx\r\n250 2.0.0 OK\xff"
			f.Client.IP, f.SPFHelo.Result, f.Submitter.Result, f.PRA.Result, f.DMARC.Result = "192.0.2.1", Fail, Fail, Fail, Fail
			f.DKIM.Result, f.Iprev.Result, f.MX.Result, f.DNSBL.Listed = Fail, Fail, Fail, true
			if strings.Contains(c.rule, `== "permerror"`) {
				f.SPFHelo.Result = PermError
			}
		})
		if strings.Contains(c.rule, "not dns.healthy") {
			f.DNS.Healthy = false
		}
		if got := compile(t, c.rule).Decide(Message, f).Reply.String(); got != c.want {
			t.Errorf("%s\n got  %s\n want %s", c.rule, got, c.want)
		}
	}
}

// TestHeaderIsOneLine: nobody writes header fields of their own through ours.
func TestHeaderIsOneLine(t *testing.T) {
	chain := compile(t, `a: true -> tag@mail X-Postern-Tag: helo=${helo.name} ${mail.from}`)
	v := chain.Decide(Message, known(func(f *Facts) {
		f.Helo.Name = "mx\r\nFrom: boss@example.org"
		f.Mail.From = strings.Repeat("ü", 5000)
	}))
	if got := v.Tags[0]; !strings.HasPrefix(got.Value, " helo=mx??From: boss@example.org ??") || len(got.Value) != 1+maxHeaderValue {
		t.Errorf("got %q", got)
	}
}

// TestOurTroubleIsNoRefusal: a mistake in the evaluation defers.
func TestOurTroubleIsNoRefusal(t *testing.T) {
	chain := compile(t, `spf: spf.result == "fail" -> reject`)
	chain.turns[0].holds = nil // as if it had never been compiled
	v := chain.Decide(Mail, known(nil))
	if v.Disposition != DispositionDefer || !v.Decided || v.Rule != "spf" || v.Reply.String() != "451 4.3.0 Local error in processing, please try again later." {
		t.Errorf("got %+v", v)
	}
}

// TestTagNames: what somebody else wrote under our names is removed.
func TestTagNames(t *testing.T) {
	chain := compile(t, `a: true -> tag X-One: 1`, `b: true -> tag X-Two: 2`, `c: true -> tag X-One: 3`, `d: true -> pass`)
	if got := chain.TagNames(); !slices.Equal(got, []string{"X-One", "X-Two"}) {
		t.Errorf("got %q", got)
	}
}

func TestEmptyPolicy(t *testing.T) {
	v := compile(t).Decide(Connect, known(nil))
	if v.Disposition != DispositionPass || !v.Decided || v.Rule != "" {
		t.Errorf("got %+v", v)
	}
}

// TestDecideAllocatesNothing unless a rule matches.
func TestDecideAllocatesNothing(t *testing.T) {
	chain, f := fiftyRules(t)
	if n := testing.AllocsPerRun(100, func() { chain.Decide(Message, f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestConditions are the operators and functions, on their own terms where
// expr-lang has none.
func TestConditions(t *testing.T) {
	f := known(func(f *Facts) {
		f.TLS.Peer = TLSPeer{Verified: true, Names: []string{"mx.partner.example"}}
		f.DNSBL.Score = -3
	})
	for when, want := range map[string]bool{
		`client.ip == "198.51.100.7"`:                                  true,
		`client.ip == "::ffff:198.51.100.7"`:                           true, // facts have it as IPv4
		`client.ip in ["198.51.100.0/24"]`:                             true,
		`client.ip in ["198.51.100.99/24", "192.0.2.1"]`:               true, // bits behind the prefix do no harm
		`client.ip in ["192.0.2.0/24", "198.51.100.7"]`:                true,
		`client.ip not in ["192.0.2.0/24", "2001:db8::/32"]`:           true,
		`client.ip in ["192.0.2.1", "192.0.2.2"]`:                      false,
		`client.ip in ["::ffff:198.51.0.0/112"]`:                       true,
		`client.ip != ""`:                                              true,
		`tls.peer.verified and "mx.partner.example" in tls.peer.names`: true,
		`none(tls.peer.names, # == "mx.partner.example")`:              false,
		`all(dkim.domains, # == "x")`:                                  true, // of none
		`any(dkim.domains, true)`:                                      false,
		`dnsbl.score < -2`:                                             true,
		`-5 < dnsbl.score < 0`:                                         true,
		`dnsbl.score in [-3, 7]`:                                       true,
		`spf["result"] == "pass"`:                                      true,
		`!(spf.result == "pass") || spf.result == 'pass' && true`:      true,
		`mail.from matches "(?i)^ALICE@"`:                              true,
		`len(mail.from) == 17 and len(tls.peer.names) == 1`:            true,
		`upper(mail.domain) == "EXAMPLE.COM"`:                          true,
		`/* a comment */ mail.domain endsWith ".com" // another`:       true,
		`mail.domain in ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example", "h.example", "example.com"]`: true,
	} {
		chain := compile(t, fmt.Sprintf("a: %s -> reject", when))
		if got := chain.Decide(Message, f).Refuses(); got != want {
			t.Errorf("%s: got %t", when, got)
		}
	}
}

// TestSettled: a verdict that is decided may still gain tags, from rules above
// the deciding one that wait for more facts.
func TestSettled(t *testing.T) {
	chain, err := Compile(configs.Policy{Rules: []configs.Rule{
		{Name: "early", When: "mail.size > 1000", Do: "pass"},
		{Name: "big", When: "message.size > 100", Do: "tag", Header: "X-Big: yes"},
		{Name: "list", When: "spf.result == 'pass'", Do: "pass"},
		{Name: "signed", When: "dkim.result == 'fail'", Do: "reject"},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, story := range []struct {
		name string
		size int64
		spf  Result
		want bool
	}{
		{"nothing above the deciding rule waits", 2000, Pass, true},
		{"a tag above it waits for the message", 10, Pass, false},
		{"a rule that may refuse waits for the message", 10, None, false},
	} {
		t.Run(story.name, func(t *testing.T) {
			f := Facts{}.Transaction("t")
			f.Mail.Size, f.SPF.Result = story.size, story.spf
			if got := chain.Settled(Header, chain.Decide(Header, &f)); got != story.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
