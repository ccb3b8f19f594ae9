package policy

import (
	"fmt"
	"testing"
	"time"

	"postern/configs"
	"postern/policy/expr"
)

// FuzzGuard: a rule that compiles still does when an override guards it, says the
// same of everybody whom the override is not for, and refuses nobody else.
func FuzzGuard(f *testing.F) {
	f.Add(`spf.result == "fail"`)
	f.Add(`spf.result == "fail" or submitter.result == "fail"`)
	f.Add(`not (spf.result in ["fail", "softfail"]) && dmarc.result != "pass" || dnsbl.listed`)
	f.Add("spf.result == `fail` and helo.name != \"a or b\"")
	f.Add("dkim.result == 'fail' and\n  not forged")
	f.Add(`any(dkim.domains, # == "spf.example") or spf_helo.result == "fail"`)
	f.Add(`spf.result == "fail" ? dnsbl.listed : iprev.result == "fail"`)
	f.Add(`client.name == "" /* spf.result */ or true // dnsbl.`)
	f.Fuzz(func(t *testing.T, when string) {
		p := configs.Policy{
			Let: []configs.Let{{Name: "forged", Is: `spf.result == "fail"`}},
			Rules: []configs.Rule{
				{Name: "r", When: when, Do: "reject"},
			},
		}
		plain, err := Compile(p, nil)
		if err != nil || len(when) > expr.MaxLength/2 {
			return
		}
		p.Overrides = []configs.Override{{
			Name: "o", Proof: configs.Proof{Address: []string{"192.0.2.0/24"}}, Excuse: excusable(),
			Owner: "a", Reason: "b", Until: "2027-01-01",
		}}
		lists, _ := NewLists(nil, nil, func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) })
		guarded, err := Compile(p, lists)
		if err != nil {
			t.Fatalf("%q: %v", when, err)
		}
		for _, step := range guarded.Plan() { // what is shown can be written
			if expr.NamesIn(when) != nil && expr.NamesIn(step.When) == nil {
				t.Errorf("%q is shown as %q, which does not parse", when, step.When)
			}
		}
		for _, result := range []Result{None, Pass, Fail, TempError} {
			for _, ip := range []string{"198.51.100.1", "192.0.2.1"} {
				facts := Facts{}.Transaction("id")
				facts.Client.IP, facts.SPF.Result, facts.SPFHelo.Result, facts.DMARC.Result, facts.DKIM.Result = ip, result, result, result, result
				facts.Submitter.Result, facts.PRA.Result, facts.Iprev.Result, facts.DNSBL.Listed = result, result, result, result == Fail
				before, after := plain.Decide(Message, &facts), guarded.Decide(Message, &facts)
				said := fmt.Sprintf("%q: %s from %s: %s, then %s by %s", when, result, ip, before.Disposition, after.Disposition, after.Rule)
				switch {
				case ip == "198.51.100.1" && (before.Disposition != after.Disposition || before.Rule != after.Rule):
					t.Error("for a stranger, " + said)
				case after.Refuses() && !before.Refuses():
					t.Error("newly refused, " + said)
				case ip == "192.0.2.1" && after.Refuses() && factsIn(when, nil)["spf.result"]:
					t.Error("not excused, " + said)
				}
			}
		}
	})
}
