package configs

import (
	"fmt"
	"strings"
	"time"
)

// maxOverride is how far ahead the last day of an override may lie: who made it
// should look at it again while they remember.
const maxOverride = 2 * 366 * day

// OverrideMark stands before the name of an override in the names of its rules and
// lists. No name that is written in a file can have it.
const OverrideMark = "override:"

// End returns the moment from which the override no longer counts.
func (o *Override) End() time.Time {
	last, _ := time.Parse(time.DateOnly, o.Until) // the date was checked
	return last.AddDate(0, 0, 1)
}

// Proven says whether the override names anything that proves it.
func (o *Override) Proven() bool {
	p := o.Proof
	return len(p.Address)+len(p.Name)+len(p.DKIM)+len(p.Certificate) > 0
}

// overrides notes what is missing in the overrides. Their entries are judged by who
// makes lists of them, the checks that they excuse by the policy, which knows them.
func (l *loader) overrides(c *Config, now time.Time) {
	names := map[string]string{}
	for i := range c.Overrides {
		o := &c.Overrides[i]
		p := fmt.Sprintf("overrides[%d]", i)
		// It becomes part of a let's name, which knows no - and no dot.
		l.name(p+".name", strings.NewReplacer("-", "_", ".", "_").Replace(o.Name), names)
		l.required(p+".owner", o.Owner)
		l.required(p+".reason", o.Reason)
		for _, f := range []struct{ key, text string }{{"owner", o.Owner}, {"reason", o.Reason}} {
			if strings.ContainsAny(f.text, "\r\n") {
				l.fault(p+"."+f.key, "%s.%s: must be one line", p, f.key)
			}
		}
		switch last, err := time.Parse(time.DateOnly, o.Until); {
		case o.Until == "":
			l.fault(p+".until", "%s.until: missing: every override has a last day: write it as 2027-03-01", p)
		case err != nil:
			l.fault(p+".until", "%s.until: %q is no date: write it as 2027-03-01", p, o.Until)
		case last.After(now.Add(maxOverride)):
			l.fault(p+".until", "%s.until: %s is more than two years ahead: choose a day on which somebody looks at it again", p, o.Until)
		}
		l.effect(p, o)
		switch {
		case !o.Proven() && !o.Unsafe:
			l.fault(p, "%s: override %s has no proof: anybody may claim to be them. Say proof: address, name, dkim or certificate; or unsafe: true to have it nevertheless", p, o.Name)
		case o.Proven() && o.Unsafe:
			l.fault(p+".unsafe", "%s.unsafe: override %s has a proof: leave unsafe out", p, o.Name)
		case !o.Proven() && len(o.Match.Addresses)+len(o.Match.Domains) == 0:
			l.fault(p, "%s: override %s matches everything: say match or proof", p, o.Name)
		}
	}
}

// notOfOverrides notes rules and lists that bear the mark of an override: they
// would be counted as its hits, or stand in for its proof.
func (l *loader) notOfOverrides(c *Config) {
	for i := range c.Policy.Rules {
		if name := c.Policy.Rules[i].Name; strings.HasPrefix(name, OverrideMark) {
			p := fmt.Sprintf("policy.rules[%d].name", i)
			l.fault(p, "%s: %q: names that begin with %s are those of overrides", p, name, OverrideMark)
		}
	}
	for i := range c.Lists {
		if name := c.Lists[i].Name; strings.HasPrefix(name, OverrideMark) {
			p := fmt.Sprintf("lists[%d].name", i)
			l.fault(p, "%s: %q: names that begin with %s are those of overrides", p, name, OverrideMark)
		}
	}
}

// effect notes an effect that is none.
func (l *loader) effect(p string, o *Override) {
	switch {
	case o.Do != "" && o.Do != "pass":
		l.fault(p+".do", "%s.do: %q: an override can only pass; a refusal is a rule", p, o.Do)
	case o.Do != "" && len(o.Excuse) > 0:
		l.fault(p+".do", "%s: say excuse or do: pass, not both: pass excuses everything", p)
	case o.Do == "" && len(o.Excuse) == 0:
		l.fault(p, "%s: override %s has no effect: say which results it excuses, excuse: [spf], or do: pass for everything", p, o.Name)
	}
}
