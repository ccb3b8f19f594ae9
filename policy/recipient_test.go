package policy

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestDecideForIsDecide: a recipient beside the facts is judged as the same one in them,
// whoever stands in them meanwhile, and is left as it was.
func TestDecideForIsDecide(t *testing.T) {
	chain := compile(t,
		`bob: rcpt.address == "Bob@example.org" and hold.result == "pass" and hold.age >= 2 -> reject 550 5.7.1 ${rcpt.address}`,
		`released: hold.released or hold.result == "temperror" and rcpt.domain == "example.com" -> tag X-Held: ${hold.tries}`,
		`names: any(tls.peer.names, # == rcpt.domain) and in_list("forwarders", client.ip) -> defer`,
		`own: mail.domain == rcpt.domain -> pass`,
	)
	rapid.Check(t, func(t *rapid.T) {
		facts, other := genFacts(t), genFacts(t)
		inside, to := *facts, other.Recipient
		inside.Recipient = to
		for st := Connect; st <= Message; st++ {
			apart, whole := chain.DecideFor(st, facts, &to), chain.Decide(st, &inside)
			if !reflect.DeepEqual(apart, whole) {
				t.Fatalf("at %s: %+v beside the facts, %+v in them", st, apart, whole)
			}
		}
		if !reflect.DeepEqual(to, other.Recipient) {
			t.Fatal("judging has changed the recipient")
		}
	})
}

// What a reply or a tag shows of the recipient is of the one in question.
func TestWhatIsShownOfTheRecipient(t *testing.T) {
	chain := compile(t, `a: true -> tag@rcpt X-To: ${rcpt.domain}`, `b: true -> reject@rcpt 550 5.7.1 ${rcpt.address}, ${hold.tries}`)
	f := Facts{}.Transaction("t")
	f.Rcpt = RcptTo{Address: "carol@example.net", Domain: "example.net"}
	v := chain.DecideFor(Rcpt, &f, &Recipient{Rcpt: RcptTo{Address: "bob@example.org", Domain: "example.org"}, Hold: Hold{Result: None, Tries: 3}})
	if v.Reply.Text != "bob@example.org, 3" || len(v.Tags) != 1 || v.Tags[0].Value != " example.org" {
		t.Errorf("%+v", v)
	}
}

func TestDecideForAllocatesNothing(t *testing.T) {
	chain, f := fiftyRules(t)
	to := f.Recipient
	if n := testing.AllocsPerRun(100, func() { chain.DecideFor(Message, f, &to) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
