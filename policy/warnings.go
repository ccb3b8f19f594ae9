package policy

import (
	"fmt"
	"slices"
	"strings"

	"postern/configs"
	"postern/policy/expr"
)

// maxCases bounds how many combinations of values are tried for one rule. A
// rule that has more is not judged.
const maxCases = 1 << 12

// fewCases bounds how many are tried for a first look at a rule above.
const fewCases = 1 << 6

// maxTogether bounds how many rules are looked at together.
const maxTogether = 100

// Warnings returns what is legal and hardly meant: a rule that can never match,
// one that always does though its condition looks as if it did not, one that
// never gets its turn because those above take everything it would match, forwarders
// that are trusted and far too many.
//
// It tries every combination of the values that the rules compare with, where
// those are not too many; conditions on lists and parts of texts count as true
// or false independently. So there is no false alarm, but there may be silence.
func (c *Chain) Warnings() []configs.Fault {
	warnings := slices.Concat(c.notes, c.lists.wideForwarders())
	w := c.imagineWorld()
	for i, r := range c.rules {
		above := c.rules[:i]
		if r.BuiltIn {
			// That an own rule does the work of a built-in one is no fault of either.
			above = slices.DeleteFunc(slices.Clone(above), func(a *rule) bool { return !a.BuiltIn })
		}
		if text := w.warning(r, above); text != "" {
			warnings = append(warnings, configs.Warning(textPosition(r.WhenPosition, r.Position, r.Name), "rule %q %s", r.Name, text))
		}
	}
	return warnings
}

// world is a message that none of the chain's rules was made for: its facts are none of those that they compare with.
type world struct {
	expr.Scope
	all   map[string]*expr.Variable  // what the rules turn on, by name
	own   map[*rule][]*expr.Variable // what each of them turns on
	aside expr.Scope                 // another such message, for what is asked while the first one is varied
}

func (c *Chain) imagineWorld() world {
	w := world{imagine(Facts{}), map[string]*expr.Variable{}, make(map[*rule][]*expr.Variable, len(c.rules)), imagine(Facts{})}
	for _, v := range variables(c.rules...) {
		w.all[v.Name] = v
		w.restore(v)
	}
	for _, r := range c.rules {
		w.own[r] = variables(r)
	}
	return w
}

// restore makes of a variable what no rule compares it with, if there is such a value; a condition is false.
func (w world) restore(v *expr.Variable) {
	v = w.all[v.Name]
	switch {
	case v.Count() == 0:
	case v.Fact == nil || v.Fact.Kind == expr.Bool:
		v.Set(w.Scope, 0)
	default:
		v.Set(w.Scope, v.Count()-1)
	}
}

// possible says whether a condition that turns on these variables can be true. The condition may ask possible itself, of other
// variables.
func (w world) possible(own []*expr.Variable, condition func(expr.Scope) bool) bool {
	found := expr.Possible(w.Scope, own, condition)
	for _, v := range own {
		w.restore(v)
	}
	return found
}

// beside returns what a rule turns on beside those variables.
func (w world) beside(known []*expr.Variable, r *rule) []*expr.Variable {
	return slices.DeleteFunc(slices.Clone(w.own[r]), func(v *expr.Variable) bool {
		return slices.ContainsFunc(known, func(k *expr.Variable) bool { return k.Name == v.Name })
	})
}

func (w world) warning(r *rule, above []*rule) string {
	own := w.own[r]
	if expr.Combinations(own, maxCases) > maxCases {
		return ""
	}
	// The rules above are looked at in the one world that is found first. Where none that decides matches in it, r has its turn.
	// NOT: to try each with r in every combination of their values, which takes minutes where there are some hundreds.
	rivals := false
	var taker *rule // one that takes all is the better explanation than several
	if !w.possible(own, func(s expr.Scope) bool {
		if !r.when.Holds(s) {
			return false
		}
		for _, a := range above {
			if !a.decides() || !a.when.Holds(s) {
				continue
			}
			rivals = true
			if w.takesAll(a, r) {
				taker = a
				break
			}
		}
		return true
	}) {
		return "can never match: its condition is false whatever the facts are"
	}
	if !r.when.Constant() && !w.possible(own, func(s expr.Scope) bool { return !r.when.Holds(s) }) {
		return "always matches: its condition is true whatever the facts are; if that is meant, write true"
	}
	switch {
	case !rivals:
		return ""
	case taker != nil:
		return fmt.Sprintf("never gets its turn: rule %q above (%s) matches whatever it would match", taker.Name, taker.Position)
	}
	together, all := []*rule{r}, own
	for _, a := range above {
		if len(together) > maxTogether {
			break
		}
		if !a.decides() || expr.Combinations(all, maxCases)*expr.Combinations(w.beside(all, a), maxCases) > maxCases {
			continue // to put the variables of many rules together takes longer
		}
		with := append(together[:len(together):len(together)], a)
		if more := variables(with...); expr.Combinations(more, maxCases) <= maxCases {
			together, all = with, more
		}
	}
	if len(together) > 2 && !w.possible(all, func(s expr.Scope) bool {
		if !r.when.Holds(s) {
			return false
		}
		for _, a := range together[1:] {
			if a.when.Holds(s) {
				return false
			}
		}
		return true
	}) {
		names := make([]string, 0, len(together)-1)
		for _, a := range together[1:] {
			names = append(names, fmt.Sprintf("%q", a.Name))
		}
		return "never gets its turn: the rules above match whatever it would match (" + strings.Join(names, ", ") + ")"
	}
	return ""
}

// takesAll says whether a matches whatever r does. Both match in the world as it is, in which the variables of r have values
// and all others are as restore left them.
func (w world) takesAll(a, r *rule) bool {
	own := w.own[r]
	more := w.beside(own, a)
	n := expr.Combinations(more, maxCases)
	if n*expr.Combinations(own, maxCases) > maxCases {
		return false // too many to try: a warning would be a guess
	}
	// Most rules can be made not to match by what r does not turn on, which is quickly found out.
	if n <= fewCases && w.possible(more, func(s expr.Scope) bool { return !a.when.Holds(s) }) {
		return false
	}
	both := variables(r, a)
	return expr.Combinations(both, maxCases) <= maxCases && !expr.Possible(w.aside, both, func(s expr.Scope) bool { return r.when.Holds(s) && !a.when.Holds(s) })
}

// Gaps returns what the policy as a whole leaves open though one would think that
// it does not: no rule that gets its turn refuses or tags a message for that SPF
// failed.
func (c *Chain) Gaps() []configs.Fault {
	w := c.imagineWorld()
	for i, r := range c.rules {
		if r.do != DispositionPass && r.catchesSPF() && w.warning(r, c.rules[:i]) == "" {
			return nil
		}
	}
	return []configs.Fault{configs.Warning(c.place, "no rule refuses or tags by spf.result: a message whose sender's domain says that this client may not send for it passes untouched; policy.builtin: after adds the built-in rules, which refuse it")}
}

// catchesSPF says whether the rule reads spf.result and may match where that is fail.
func (r *rule) catchesSPF() bool {
	result := words.Fact("spf.result")
	if _, reads := r.when.Facts[result.Name]; !reads {
		return false
	}
	own := variables(r)
	if expr.Combinations(own, maxCases) > maxCases {
		return true
	}
	others := slices.DeleteFunc(own, func(v *expr.Variable) bool { return v.Fact == result })
	return expr.Possible(imagine(Facts{SPF: SPF{Result: Fail}}), others, r.when.Holds)
}

// variables returns what some rules turn on.
func variables(rules ...*rule) []*expr.Variable {
	return expr.Variables(func(yield func(*expr.Part) bool) {
		for _, r := range rules {
			for _, p := range r.when.Parts {
				if !yield(p) {
					return
				}
			}
		}
	})
}

// imagine returns a scope over a copy of f, in which variables can be set.
func imagine(f Facts) expr.Scope {
	f.Service, f.Milter = slices.Clone(f.Service), slices.Clone(f.Milter)
	return expr.Suppose(&f)
}
