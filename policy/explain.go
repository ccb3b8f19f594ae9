package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"postern/policy/expr"
)

// Explanation says how the chain came to its verdict.
type Explanation struct {
	Disposition Disposition `json:"disposition"`
	Rule        string      `json:"rule"`               // that decided, or the last tag rule; empty if none matched
	Position    string      `json:"position,omitempty"` // of that rule: file:line:column
	Stage       Stage       `json:"stage"`
	Reply       string      `json:"reply,omitempty"`
	// Undetermined are the facts that were never measured and that the verdict
	// hangs on: then there is none. Of ExplainMeasured only.
	Undetermined []string `json:"undetermined,omitempty"`
	// Rules are all rules in their order.
	Rules []RuleExplanation `json:"rules"`
	// Changes are the smallest changes of facts that would have turned an
	// accepted message into a refused one or the other way round: each stands
	// for itself. Facts are varied alone, and in pairs if that is not enough;
	// empty if that is not enough either.
	Changes []Change `json:"changes,omitempty"`
}

// RuleExplanation says what one rule made of the facts.
type RuleExplanation struct {
	Rule     string `json:"rule"`
	Do       string `json:"do"`
	When     string `json:"when"`
	Position string `json:"position"` // file:line:column
	Stage    Stage  `json:"stage"`
	// Outcome is "decided", "matched" (a tag rule), "no match", "not reached"
	// below the rule that decided, or "unknown" where it hangs on facts that were
	// never measured.
	Outcome string `json:"outcome"`
	// Parts are the comparisons and calls of the condition, those of its lets
	// included; none where the rule was not reached.
	Parts []PartExplanation `json:"parts,omitempty"`
}

// PartExplanation is one comparison or call with its value.
type PartExplanation struct {
	Text     string    `json:"text"`
	Position string    `json:"position"` // file:line:column
	Value    bool      `json:"value"`
	Unknown  bool      `json:"unknown,omitempty"`  // the value hangs on facts that were never measured
	Operands []Operand `json:"operands,omitempty"` // those that are not written values
	Note     string    `json:"note,omitempty"`     // the entry of the list that matched
}

// Operand is what a part was given.
type Operand struct {
	Text  string `json:"text"`
	Value string `json:"value"` // as a rule would write it
}

// Change is a change of one fact or two, and what the verdict would be.
type Change struct {
	Facts   []FactChange `json:"facts"`
	Becomes Disposition  `json:"becomes"` // nothing where Undetermined has names
	// Undetermined are the facts that were never measured and that the verdict
	// would hang on: what was refused at RCPT has no header. Of ExplainMeasured only.
	Undetermined []string `json:"undetermined,omitempty"`
}

// Outcome is what the change makes of the verdict, in a word.
func (c Change) Outcome() string {
	if c.Undetermined != nil {
		return "undetermined"
	}
	return c.Becomes.String()
}

// Wanting ends a sentence about the change; empty where all is known.
func (c Change) Wanting() string {
	if c.Undetermined == nil {
		return ""
	}
	return ", for want of " + strings.Join(c.Undetermined, ", ")
}

// FactChange is a change of one fact, or of the value of a condition.
type FactChange struct {
	Fact string   `json:"fact"`
	From string   `json:"from"`
	To   []string `json:"to"` // any one of them would do
}

// The bounds of the search for changes.
const (
	maxSteps   = 256 // values of facts that are tried
	maxChanges = 12  // that are reported
)

// Explain says how the chain judges f when everything is known.
func (c *Chain) Explain(f *Facts) Explanation {
	e := c.explain(f)
	e.Changes = c.changes(f, c.Decide(Message, f), knownBy[Message].With(c.factsOf(services)).With(c.factsOf(milters)))
	return e
}

// explain is Explain without changes.
func (c *Chain) explain(f *Facts) Explanation {
	s := expr.On(f)
	v := c.decide(Message, s)
	e := Explanation{Disposition: v.Disposition, Rule: v.Rule, Stage: v.Stage, Reply: v.Reply.String()}
	decided := false
	for _, r := range c.rules {
		x := RuleExplanation{Rule: r.Name, Do: r.do.String(), When: r.When, Position: r.Position.String(), Stage: r.stage}
		switch {
		case decided:
			x.Outcome = "not reached"
		case !r.when.Holds(s):
			x.Outcome = "no match"
		case r.decides():
			x.Outcome, decided = "decided", true
		default:
			x.Outcome = "matched"
		}
		if x.Outcome != "not reached" {
			for _, p := range r.when.Parts {
				x.Parts = append(x.Parts, explainPart(p, s, c.lists))
			}
		}
		if r.Name == v.Rule {
			e.Position = x.Position
		}
		e.Rules = append(e.Rules, x)
	}
	return e
}

func explainPart(p *expr.Part, s expr.Scope, lists *Lists) PartExplanation {
	x := PartExplanation{Text: p.Text, Position: p.Position.String(), Value: p.Holds(s)}
	for _, operand := range p.Operands() {
		x.Operands = append(x.Operands, Operand{Text: operand.Text, Value: operand.Show(s)})
	}
	if p.List != "" {
		if e, ok := lists.Find(p.List, p.Sought(s)); ok {
			x.Note = strings.TrimSuffix(fmt.Sprintf("%s: %s  # %s", e.Position, e.Value, e.Comment), "  # ")
		}
	}
	return x
}

// step is one variable with one of its values.
type step struct {
	variable *expr.Variable
	from     string
	value    int
}

// changes searches for what would have turned the verdict v, where the facts in known were
// measured.
func (c *Chain) changes(f *Facts, v Verdict, known expr.Set) []Change {
	steps := c.steps(f)
	outcome := func(tried ...step) (becomes Change, turned bool) {
		s := imagine(*f)
		for _, t := range tried {
			t.variable.Set(s, t.value)
		}
		j := c.judge(s, known)
		if !j.Determined() {
			// What was refused would have gone on. NOT: for what was accepted, which
			// this says nothing against.
			return Change{Undetermined: j.Missing.Names()}, v.Refuses()
		}
		return Change{Becomes: j.Disposition}, j.Refuses() != v.Refuses()
	}
	var found []Change
	for _, one := range steps {
		becomes, turned := outcome(one)
		if !turned {
			continue
		}
		to := one.variable.Show(one.value)
		i := slices.IndexFunc(found, func(c Change) bool {
			return c.Becomes == becomes.Becomes && slices.Equal(c.Undetermined, becomes.Undetermined) && c.Facts[0].Fact == one.variable.Name
		})
		if i >= 0 {
			found[i].Facts[0].To = append(found[i].Facts[0].To, to)
		} else if len(found) < maxChanges {
			becomes.Facts = []FactChange{{one.variable.Name, one.from, []string{to}}}
			found = append(found, becomes)
		}
	}
	if found != nil {
		return found
	}
	shown := map[[2]*expr.Variable]bool{}
	for i, one := range steps {
		for _, two := range steps[i+1:] {
			pair := [2]*expr.Variable{one.variable, two.variable}
			if one.variable == two.variable || shown[pair] {
				continue
			}
			if becomes, turned := outcome(one, two); turned {
				shown[pair] = true
				becomes.Facts = []FactChange{
					{one.variable.Name, one.from, []string{one.variable.Show(one.value)}},
					{two.variable.Name, two.from, []string{two.variable.Show(two.value)}},
				}
				found = append(found, becomes)
				if len(found) == maxChanges {
					return found
				}
			}
		}
	}
	return found
}

// steps returns the changes of single variables that make sense: away from
// what it is, and never to skipped, which no sender can bring about.
func (c *Chain) steps(f *Facts) []step {
	s := expr.On(f)
	now := map[string]string{}
	for _, r := range c.rules {
		for _, p := range r.when.Parts {
			if p.Free {
				now[p.Text] = strconv.FormatBool(p.Holds(s))
			}
		}
	}
	var steps []step
	for _, v := range variables(c.rules...) {
		from := now[v.Name]
		if v.Fact != nil {
			from = v.Fact.Show(s)
			if v.Fact.Result {
				v.Texts = v.Fact.Words
			}
		}
		compared := v.Fact == nil || v.Fact.Kind != expr.Text || slices.Contains(v.Texts, v.Fact.Plain(s))
		for i := range v.Count() {
			to := v.Show(i)
			switch {
			case to == from, v.Fact != nil && v.Fact.Result && v.Texts[i] == string(Skipped):
			case v.Fact != nil && v.Fact.Kind == expr.Text && v.Texts[i] == expr.Other && !compared:
				// It is something else already.
			default:
				steps = append(steps, step{v, from, i})
			}
		}
	}
	return steps[:min(len(steps), maxSteps)]
}
