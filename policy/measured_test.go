package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"postern/configs"
)

func TestMeasured(t *testing.T) {
	f := Facts{}.Transaction("x")
	names := func(reached Stage) []string { return Measured(&f, reached).Names() }
	if got := names(Mail); slices.Contains(got, "spf.result") || slices.Contains(got, "rcpt.address") || slices.Contains(got, "client.name") ||
		!slices.Contains(got, "mail.from") || !slices.Contains(got, "submitter.address") || slices.Contains(got, "submitter.result") || slices.Contains(got, "identity.level") {
		t.Errorf("at mail, no check ran: %q", got)
	}
	f.SPF.Result, f.Iprev.Result = Pass, Fail
	if got := names(Rcpt); !slices.Contains(got, "spf.reason") || !slices.Contains(got, "client.name") || !slices.Contains(got, "rcpt.address") || slices.Contains(got, "header.count") {
		t.Errorf("at rcpt, with SPF and iprev: %q", got)
	}
	f.DKIM.Result, f.DMARC.Result, f.PRA.Result, f.Submitter.Result, f.DNSBL.Result, f.SPFHelo.Result, f.MX.Result = Pass, Pass, Pass, None, None, None, Pass
	f.Past.Result, f.Rate.Result, f.Hold.Result, f.Network.Result = None, None, None, None
	if got := names(Message); !slices.Equal(got, words.Names()) {
		t.Errorf("everything was measured, and only %q is known", got)
	}
	if got := Measured(&f, Message).Without("mail.from", "no.such").Names(); slices.Contains(got, "mail.from") || len(got) != len(words.Names())-1 {
		t.Errorf("without mail.from: %q", got)
	}
}

// TestJudgeNeverGuesses: whatever the facts that were not measured turn out to
// be, the verdict is that of Judge, where it gives one; and with all facts known
// it is that of Decide.
func TestJudgeNeverGuesses(t *testing.T) {
	lists := propertyLists(t)
	determined, undetermined := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		chain, p := genPolicy(t, lists)
		f := genFacts(t)
		all := knownBy[Message]
		if j := chain.Judge(f, factSet(all, words)); !j.Determined() || !reflect.DeepEqual(j.Verdict, chain.Decide(Message, f)) {
			t.Fatalf("all is known: judged %+v, decided %+v", j, chain.Decide(Message, f))
		}
		known := Measured(f, Stage(rapid.IntRange(int(Connect), int(Message)).Draw(t, "reached")))
		j := chain.Judge(f, known)
		if e := chain.ExplainMeasured(f, known); (e.Undetermined != nil) == j.Determined() || e.Rule != j.Rule {
			t.Fatalf("judged %+v, explained %+v", j, e)
		}
		if !j.Determined() {
			undetermined++
			return
		}
		determined++
		for range 20 {
			// The facts not known become something else altogether.
			other := *genFacts(t)
			from, to := reflect.ValueOf(f).Elem(), reflect.ValueOf(&other).Elem()
			for _, fact := range vocabulary {
				if known.set.Has(fact.Fact) {
					fact.In(to).Set(fact.In(from))
				}
			}
			v := chain.Decide(Message, &other)
			if v.Refuses() != j.Refuses() || v.Refuses() && v.Rule != j.Rule {
				t.Fatalf("judged %+v, decided %+v\n%+v", j, v, p.Rules)
			}
			if j.MissingTags == (FactSet{}) && (v.Rule != j.Rule || v.Disposition != j.Disposition) {
				t.Fatalf("judged %+v, decided %+v\n%+v", j, v, p.Rules)
			}
		}
	})
	if determined == 0 || undetermined == 0 {
		t.Errorf("%d were determined, %d were not: the generator is one-sided", determined, undetermined)
	}
}

func TestJudgeSaysWhatIsMissing(t *testing.T) {
	chain := compile(t,
		`partner: dkim.result == "pass" and "example.net" in dkim.domains -> pass`,
		`spf-fail: spf.result == "fail" -> reject`)
	f := Facts{}.Transaction("x")
	f.SPF.Result = Fail
	j := chain.Judge(&f, Measured(&f, Rcpt))
	if j.Determined() || !slices.Equal(j.Missing.Names(), []string{"dkim.domains", "dkim.result"}) {
		t.Errorf("the pass above hangs on DKIM, which did not run: %+v, missing %q", j, j.Missing.Names())
	}
	e := chain.ExplainMeasured(&f, Measured(&f, Rcpt))
	if e.Rules[0].Outcome != "unknown" || !e.Rules[0].Parts[0].Unknown || e.Rules[1].Outcome != "matched" || e.Changes != nil {
		t.Errorf("%+v", e)
	}

	// Where the other side of an and is false, nobody needs to know.
	chain = compile(t,
		`partner: dkim.result == "pass" and client.ip == "192.0.2.1" -> pass`,
		`spf-fail: spf.result == "fail" -> reject`)
	f.Client.IP = "198.51.100.1"
	if j := chain.Judge(&f, Measured(&f, Rcpt)); !j.Determined() || j.Rule != "spf-fail" {
		t.Errorf("%+v", j)
	}
}

// A pass that hangs on what is not known makes no difference to mail that is
// accepted anyhow; a refusal does.
func TestJudgeKnowsWhatIsAcceptedAnyhow(t *testing.T) {
	f := Facts{}.Transaction("x")
	f.SPF.Result = SoftFail
	known := Measured(&f, Rcpt)
	j := compile(t,
		`signed: dkim.result == "pass" -> pass`,
		`fail: spf.result == "fail" -> reject`,
		`soft: spf.result == "softfail" -> tag X-Tag: soft`).Judge(&f, known)
	if !j.Determined() || j.Refuses() || !slices.Equal(j.MissingTags.Names(), []string{"dkim.result"}) {
		t.Errorf("%+v", j)
	}
	j = compile(t,
		`signed: dkim.result == "pass" -> pass`,
		`large: message.size > 1000 -> defer`,
		`fail: spf.result == "fail" -> reject`).Judge(&f, known)
	if j.Determined() || !slices.Equal(j.Missing.Names(), []string{"dkim.result", "message.size"}) {
		t.Errorf("%+v", j)
	}
}

// TestChangesGuessNothing: what was refused at RCPT has no header, so nobody says that
// it would have been accepted.
func TestChangesGuessNothing(t *testing.T) {
	c := compile(t,
		`postmaster: rcpt.address == "postmaster@example.org" -> pass`,
		`trouble: spf.result == "temperror" -> defer`,
		`dmarc: dmarc.result == "fail" -> reject`,
		`nobody: pra.address == "" -> tag X-Postern-Tag: no-pra`,
	)
	f := known(func(f *Facts) { f.SPF.Result, f.PRA, f.DMARC = TempError, PRA{}, DMARC{} })
	f.Rcpt.Address = "ann@example.org"
	want := []Change{
		{Facts: []FactChange{{"rcpt.address", `"ann@example.org"`, []string{`"postmaster@example.org"`}}}, Becomes: DispositionPass},
		{
			Facts:        []FactChange{{"spf.result", `"temperror"`, []string{`"none"`, `"neutral"`, `"pass"`, `"fail"`, `"softfail"`, `"permerror"`}}},
			Undetermined: []string{"dmarc.result"},
		},
	}
	e := c.ExplainMeasured(f, Measured(f, Rcpt))
	if !reflect.DeepEqual(e.Changes, want) {
		t.Errorf("got %+v", e.Changes)
	}

	// What is accepted whatever the others are is not called in question by them.
	f.Rcpt.Address = "postmaster@example.org"
	if got := c.ExplainMeasured(f, Measured(f, Rcpt)).Changes; len(got) != 1 || got[0].Becomes != DispositionDefer || got[0].Undetermined != nil {
		t.Errorf("accepted: got %+v", got)
	}
}

func TestFingerprint(t *testing.T) {
	of := func(p configs.Policy) string {
		chain, err := Compile(p, nil)
		if err != nil {
			t.Fatal(err)
		}
		return chain.Fingerprint()
	}
	p := configs.Policy{Rules: []configs.Rule{{Name: "a", When: `spf.result == "fail"`, Do: "reject"}}}
	first := of(p)
	if len(first) != 12 || strings.Trim(first, "0123456789abcdef") != "" {
		t.Errorf("fingerprint %q", first)
	}
	moved := p
	moved.Mode = "observe"
	moved.Rules = slices.Clone(p.Rules)
	moved.Rules[0].Position = configs.Position{File: "x", Line: 7, Column: 1}
	if of(moved) != first {
		t.Error("another place makes another fingerprint")
	}
	moved.Rules[0].When = `spf.result == "softfail"`
	if of(moved) == first {
		t.Error("another condition has the same fingerprint")
	}
}

func BenchmarkJudge(b *testing.B) {
	chain, f := fiftyRules(b)
	f.SPF.Result = Pass
	b.ReportAllocs()
	for b.Loop() {
		chain.Judge(f, Measured(f, Message))
	}
}
