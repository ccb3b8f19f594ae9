package policy

import (
	"fmt"
	"slices"
	"strings"

	"postern/configs"
)

// Step is one rule of the chain as `policy show` tells of it.
type Step struct {
	Rule  string `json:"rule"`
	Do    string `json:"do"`
	When  string `json:"when"`
	Own   Stage  `json:"own_stage"` // at which the facts of its condition are known
	Stage Stage  `json:"stage"`     // at which it is decided
	Why   string `json:"why"`       // it is decided then and not earlier, in words
	// What the rule costs: the message is held until the end before the backend
	// hears of it; a transaction may have recipients of one domain only.
	HoldsMessage bool `json:"holds_message"`
	OneDomain    bool `json:"one_domain"`
	// Asks are the filters of other people's that it has to have asked.
	Asks     []string `json:"asks,omitempty"`
	Position string   `json:"position"` // file:line:column
	BuiltIn  bool     `json:"built_in"` // it is one of ours, and Position is in builtin.yaml
}

// Plan returns the rules in their order, with the stage of each and why.
func (c *Chain) Plan() []Step {
	steps := make([]Step, 0, len(c.rules))
	for _, r := range c.rules {
		steps = append(steps, Step{
			Rule: r.Name, Do: r.do.String(), When: r.When, Own: r.own, Stage: r.stage, Why: r.why(),
			HoldsMessage: r.stage == Message, OneDomain: r.oneDomain(), Asks: r.asks(), Position: r.Position.String(), BuiltIn: r.BuiltIn,
		})
	}
	return steps
}

// asks returns the filters that the rule reads, sorted.
func (r *rule) asks() (names []string) {
	for _, facts := range []map[string]configs.Position{r.when.Facts, r.written} {
		for name := range facts {
			if parts := strings.Split(name, "."); (parts[0] == services || parts[0] == milters) && !slices.Contains(names, parts[1]) {
				names = append(names, parts[1])
			}
		}
	}
	slices.Sort(names)
	return names
}

// Lets returns the named expressions that the rules may read, those of overrides
// included.
func (c *Chain) Lets() []configs.Let { return slices.Clone(c.lets) }

// why says in words what makes the rule's stage.
func (r *rule) why() string {
	why := "reads nothing that is known later than the connection"
	if names := r.latest(); len(names) > 0 {
		why = "reads " + strings.Join(names, ", ")
	}
	switch {
	case r.after != nil && r.after.stage > r.after.own:
		why += fmt.Sprintf("; waits for rule %q above, which its at moves to %s", r.after.Name, r.after.stage)
	case r.after != nil:
		why += fmt.Sprintf("; waits for rule %q above, which reads %s", r.after.Name, strings.Join(r.after.latest(), ", "))
	case r.stage > r.own:
		why += "; moved here by its at"
	}
	return why
}

// Needs says whether a rule, or what it writes, uses a fact ("pra.result"), or
// any fact that a check measures ("spf", "dkim"), itself or through another
// check: a rule on dmarc needs dkim.
func (c *Chain) Needs(name string) bool {
	return slices.ContainsFunc(c.rules, func(r *rule) bool { return r.needs(name) })
}

func (r *rule) needs(name string) bool {
	check := name
	if f := factOf(name); f != nil {
		check = f.Group
	}
	for _, facts := range []map[string]configs.Position{r.when.Facts, r.written} {
		for fact := range facts {
			f := factOf(fact)
			switch {
			case checkOf[name] == nil && (fact == name || strings.HasPrefix(fact, name+".")),
				f.by == check && (name == check || f.Group != check),
				slices.Contains(f.needs, check):
				return true
			}
		}
	}
	return false
}

// SiteReadsSender says whether a rule that the site wrote itself, or what such a rule writes, uses the
// PRA or SUBMITTER. Overrides are the site's, the built-in rules are not.
func (c *Chain) SiteReadsSender() bool { return c.siteSender }

// Reader returns the first rule whose condition reads a fact, and where it stands;
// an override before others, since those read it for the override's sake.
func (c *Chain) Reader(fact string) (name string, at configs.Position, ok bool) {
	for _, r := range c.rules {
		if _, reads := r.when.Facts[fact]; !reads {
			continue
		}
		override := strings.HasPrefix(r.Name, configs.OverrideMark)
		if !ok || override {
			name, at, ok = r.Name, r.Position, true
		}
		if override {
			break
		}
	}
	return name, at, ok
}
