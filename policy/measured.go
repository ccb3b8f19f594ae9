package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"

	"postern/configs"
)

// FactSet is a set of facts. The zero FactSet is empty.
type FactSet [2]uint64

func (s *FactSet) add(f *fact) { s[f.bit/64] |= 1 << (f.bit % 64) }

func (s FactSet) has(f *fact) bool { return s[f.bit/64]&(1<<(f.bit%64)) != 0 }

func (s FactSet) with(t FactSet) FactSet { return FactSet{s[0] | t[0], s[1] | t[1]} }

func (s FactSet) within(t FactSet) bool { return s[0]&^t[0] == 0 && s[1]&^t[1] == 0 }

// Without returns the set without the facts of those names; names of no fact
// are ignored.
func (s FactSet) Without(names ...string) FactSet {
	for _, name := range names {
		if f := vocabulary[name]; f != nil {
			s[f.bit/64] &^= 1 << (f.bit % 64)
		}
	}
	return s
}

// Names returns the facts of the set by name, sorted.
func (s FactSet) Names() []string {
	var names []string
	for _, name := range factNames {
		if s.has(vocabulary[name]) {
			names = append(names, name)
		}
	}
	return names
}

// knownBy holds, for each stage, the facts that a transaction has that came so
// far.
var knownBy = factsByStage()

func factsByStage() (sets [Message + 1]FactSet) {
	if len(vocabulary) > 64*len(FactSet{}) {
		panic("policy: FactSet is too small for the facts there are")
	}
	for st := range sets {
		for _, f := range vocabulary {
			if f.stage <= Stage(st) {
				sets[st].add(f)
			}
		}
	}
	return sets
}

// Measured returns the facts of f that mean something: those of a transaction
// that was judged at the stage reached and at none later, less those of checks
// that did not run. What is not in the set is empty for want of a look, and
// says nothing about the sender.
func Measured(f *Facts, reached Stage) FactSet {
	known := knownBy[min(max(reached, Connect), Message)]
	v := reflect.ValueOf(f).Elem()
	for _, c := range checksKnown {
		if word := c.result.read(v).String(); word == string(Skipped) || word == "" {
			known[0] &^= c.facts[0]
			known[1] &^= c.facts[1]
		}
	}
	return known
}

// Judgement is a verdict on facts of which some were perhaps never measured.
type Judgement struct {
	Verdict
	// Missing are the facts that the verdict hangs on and that are not known:
	// then the verdict is none. Empty: the verdict is that of any facts that
	// agree with those known.
	Missing FactSet
	// MissingTags are the facts that rules above the end wanted and that are not
	// known, where these only tag, or pass what is accepted anyhow: so that Tags
	// and, where the message is accepted, Rule and whether it is tag or pass may
	// be otherwise.
	MissingTags FactSet
}

// Determined says whether the facts known make the verdict.
func (j Judgement) Determined() bool { return j.Missing == FactSet{} }

// Judge reads the whole chain with all facts, of which only those in known were
// measured. Nothing is guessed: where the disposition hangs on another fact,
// there is no verdict, and Missing says on which. For known facts, and with
// nothing unknown, it is Decide at the message stage.
func (c *Chain) Judge(f *Facts, known FactSet) Judgement {
	return c.judge(scope{facts: reflect.ValueOf(f).Elem()}, known)
}

func (c *Chain) judge(s scope, known FactSet) (j Judgement) {
	defer func() {
		if recover() != nil { // as in decide, which says what becomes of it
			j = Judgement{Verdict: c.decide(Message, s)}
		}
	}()
	var open FactSet // on which rules hang that might have passed the message
	for _, r := range c.rules {
		t := r.when.ternary(s, known)
		switch {
		case t == no:
			continue
		case t == unknown && r.do == DispositionTag:
			j.MissingTags = j.MissingTags.with(r.when.reads.minus(known))
			continue
		case t == unknown && r.do == DispositionPass:
			open = open.with(r.when.reads.minus(known))
			continue
		case t == unknown, r.do >= DispositionDefer && open != FactSet{}:
			// Refused or accepted: nobody knows.
			if t == unknown {
				open = open.with(r.when.reads.minus(known))
			}
			return Judgement{Missing: open}
		}
		j.Rule, j.Stage, j.Disposition = r.Name, r.stage, r.do
		switch r.do {
		case DispositionTag:
			j.Tags = append(j.Tags, r.header.expand(s))
			continue
		case DispositionDefer, DispositionReject:
			j.Reply = r.reply.expand(s)
		}
		j.Decided = true
		j.MissingTags = j.MissingTags.with(open)
		return j
	}
	j.Decided = true
	j.MissingTags = j.MissingTags.with(open)
	if j.Rule == "" {
		j.Stage = c.last
	}
	return j
}

func (s FactSet) minus(t FactSet) FactSet { return FactSet{s[0] &^ t[0], s[1] &^ t[1]} }

// ternary is a truth that may not be known (Kleene's logic).
type ternary int8

const (
	no ternary = iota
	yes
	unknown
)

func ternaryOf(b bool) ternary {
	if b {
		return yes
	}
	return no
}

// ternary evaluates a condition where only the facts in known are.
func (v *value) ternary(s scope, known FactSet) ternary {
	if v.reads.within(known) {
		return ternaryOf(v.truth(s))
	}
	switch v.connective {
	case "not":
		switch v.left.ternary(s, known) {
		case no:
			return yes
		case yes:
			return no
		}
	case "and":
		a := v.left.ternary(s, known)
		if a == no {
			return no
		}
		if b := v.right.ternary(s, known); a == yes || b == no {
			return b
		}
	case "or":
		a := v.left.ternary(s, known)
		if a == yes {
			return yes
		}
		if b := v.right.ternary(s, known); a == no || b == yes {
			return b
		}
	}
	return unknown
}

// ExplainMeasured is Explain where only the facts in known were measured. A
// rule or a part whose value hangs on others says so; where they stand in the
// way of the verdict there is none, Undetermined names them, and no changes
// are proposed. Where they stand in the way of what a change would make of it,
// the change says so in the same manner.
func (c *Chain) ExplainMeasured(f *Facts, known FactSet) Explanation {
	e := c.explain(f)
	s := scope{facts: reflect.ValueOf(f).Elem()}
	j := c.judge(s, known)
	e.Disposition, e.Rule, e.Stage, e.Reply, e.Position = j.Disposition, j.Rule, j.Stage, j.Reply.String(), ""
	if j.Determined() {
		e.Changes = c.changes(f, j.Verdict, known)
	} else {
		e.Undetermined = j.Missing.Names()
	}
	over := false
	for i, r := range c.rules {
		x := &e.Rules[i]
		if r.Name == j.Rule {
			e.Position = x.Position
		}
		x.Parts = nil
		if over {
			x.Outcome = "not reached"
			continue
		}
		for _, p := range r.parts {
			px := p.explain(s, c.lists)
			if p.value.ternary(s, known) == unknown {
				px.Unknown, px.Value, px.Note = true, false, ""
			}
			for k := range px.Operands {
				// Operands are listed in the order of those that are not constant.
				if !nonConstant(p.operands)[k].reads.within(known) {
					px.Operands[k].Value = "not measured"
				}
			}
			x.Parts = append(x.Parts, px)
		}
		switch r.when.ternary(s, known) {
		case no:
			x.Outcome = "no match"
		case unknown:
			x.Outcome = "unknown"
		case yes:
			x.Outcome = "matched"
			if r.decides() {
				x.Outcome = "decided"
				if !j.Determined() {
					x.Outcome = "matched" // what is above it was not decided
				}
				over = true
			}
		}
	}
	return e
}

func nonConstant(operands []*value) []*value {
	return slices.DeleteFunc(slices.Clone(operands), func(v *value) bool { return v.constant })
}

// Fingerprint tells policies apart: records bear it, so that it can be said
// whether the policy that judged then is the one in force now. It covers the
// rules and lets, in order, as they are written; neither where, nor the content of lists.
func (c *Chain) Fingerprint() string { return c.fingerprint }

func fingerprint(p configs.Policy) string {
	h := sha256.New()
	for _, l := range p.Let {
		fmt.Fprintf(h, "let %q %q\n", l.Name, l.Is)
	}
	for _, r := range p.Rules {
		fmt.Fprintf(h, "rule %q %q %q %q %q %q\n", r.Name, whole(r), r.Do, r.Reply, r.Header, r.At)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}
