package policy

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"postern/configs"
	"postern/policy/expr"
)

// A rule that hangs on what the store did not tell does not match, whichever way it is
// written: it neither lets in nor refuses. What else a rule says counts as ever.
func TestRulesWithoutTheStore(t *testing.T) {
	for when, want := range map[string]bool{
		`past.delivered == 0`:                          false,
		`past.delivered > 0`:                           false,
		`not (past.delivered > 0)`:                     false,
		`past.days < 1 and dnsbl.score > 3`:            false,
		`past.days < 1 or dnsbl.score > 3`:             true,
		`not (past.days < 1 and dnsbl.score < 3)`:      true,
		`rate.unknown <= 20`:                           true, // the rate was told
		`past.result == "temperror"`:                   true,
		`not state.healthy`:                            true,
		`past.result != "temperror" or past.days == 0`: false,
	} {
		chain := compile(t, "a: "+when+" -> reject")
		f := Facts{}.Transaction("x")
		f.Past.Result, f.Rate.Result, f.State.Healthy = TempError, None, false
		f.DNSBL.Result, f.DNSBL.Score = Fail, 4
		known := Measured(&f, Message)
		decided, judged, explained := chain.Decide(Message, &f), chain.Judge(&f, known), chain.ExplainMeasured(&f, known)
		if decided.Refuses() != want {
			t.Errorf("%s: %s", when, decided.Disposition)
		}
		if judged.Disposition != decided.Disposition || !judged.Determined() {
			t.Errorf("%s: decided %s, and judged %s, which misses %q", when, decided.Disposition, judged.Disposition, judged.Missing.Names())
		}
		if outcome := explained.Rules[0].Outcome; (outcome == "decided") != want || outcome == "unknown" {
			t.Errorf("%s: explained as %s", when, outcome)
		}
	}
}

// Whatever the store would have told, the verdict is the same; and a rule that matched
// would have matched with any of it.
func TestWhatTheStoreDidNotTell(t *testing.T) {
	lists := propertyLists(t)
	matched := 0
	rapid.Check(t, func(t *rapid.T) {
		chain, p := genPolicy(t, lists)
		f := genFacts(t)
		f.Past.Result, f.Rate.Result = TempError, TempError
		v := chain.Decide(Message, f)
		for range 10 {
			other, told := *f, genFacts(t)
			other.Past, other.Rate = told.Past, told.Rate
			other.Past.Result, other.Rate.Result = TempError, TempError
			if w := chain.Decide(Message, &other); !sameButText(v, w) {
				t.Fatalf("%+v: %+v, and with other figures %+v", p.Rules, v, w)
			}
			if i := indexOf(p.Rules, v.Rule); i >= 0 && !chain.rules[i].when.Holds(expr.On(&other)) {
				t.Fatalf("%+v: %s matched, and would not have with %+v %+v", p.Rules, v.Rule, other.Past, other.Rate)
			} else if i >= 0 {
				matched++
			}
		}
	})
	if matched == 0 {
		t.Error("nothing ever matched: the test is about nothing")
	}
}

// sameButText says whether two verdicts are the same, but for the figures that their
// texts may show.
func sameButText(a, b Verdict) bool {
	return a.Disposition == b.Disposition && a.Rule == b.Rule && a.Stage == b.Stage && a.Decided == b.Decided && len(a.Tags) == len(b.Tags)
}

func indexOf(rules []configs.Rule, name string) int {
	for i := range rules {
		if rules[i].Name == name {
			return i
		}
	}
	return -1
}

// What a chain wants measured hangs on what it reads: the memory is not asked for
// nothing, and for an identity the proofs are looked for.
func TestNeedsOfTheMemory(t *testing.T) {
	for when, want := range map[string][]string{
		`true`:                     nil,
		`spf.result == "fail"`:     {"spf"},
		`identity.level == "none"`: {"submitter", "spf", "iprev", "identity"},
		`past.days > 3`:            {"submitter", "spf", "iprev", "past"},
		`rate.unknown > 3`:         {"submitter", "spf", "iprev", "rate", "rate.unknown"},
		`rate.domain > 3`:          {"submitter", "spf", "iprev", "rate", "rate.domain"},
		`state.healthy`:            {"state"},
	} {
		chain := compile(t, "a: "+when+" -> reject")
		var got []string
		for _, name := range []string{"submitter", "spf", "iprev", "identity", "past", "rate", "rate.unknown", "rate.domain", "state"} {
			if chain.Needs(name) {
				got = append(got, name)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s needs %q, want %q", when, got, want)
		}
	}
	for _, c := range Checks() {
		if memory := c.Name == "past" || c.Name == "rate" || c.Name == "hold"; c.Memory != memory {
			t.Errorf("%s asks the memory: %v", c.Name, c.Memory)
		}
	}
	if levels := vocabulary["identity.level"].Words; !reflect.DeepEqual(levels[:len(levels)-1], Levels) {
		t.Errorf("the levels are %q, and rules may read %q", Levels, levels)
	}
}
