package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"

	"postern/configs"
	"postern/policy/expr"
)

// FactSet is a set of facts. The zero FactSet is empty.
type FactSet struct {
	set   expr.Set
	words *expr.Vocabulary // that the facts are of; nil: the set is empty
}

// factSet is a set of facts of a vocabulary.
func factSet(set expr.Set, words *expr.Vocabulary) FactSet {
	if set == (expr.Set{}) {
		return FactSet{}
	}
	return FactSet{set, words}
}

// Without returns the set without the facts of those names; names of no fact
// are ignored.
func (s FactSet) Without(names ...string) FactSet {
	if s.words == nil {
		return s
	}
	var without expr.Set
	for _, name := range names {
		if f := s.words.Fact(name); f != nil {
			without.Add(f)
		}
	}
	return factSet(s.set.Minus(without), s.words)
}

// Names returns the facts of the set by name, sorted.
func (s FactSet) Names() []string {
	if s.words == nil {
		return nil
	}
	var names []string
	for _, name := range s.words.Names() {
		if s.set.Has(s.words.Fact(name)) {
			names = append(names, name)
		}
	}
	return names
}

// knownBy holds, for each stage, the facts that a transaction has that came so
// far.
var knownBy = factsByStage()

func factsByStage() (sets [Message + 1]expr.Set) {
	for st := range sets {
		for _, f := range vocabulary {
			if f.stage <= Stage(st) {
				sets[st].Add(f.Fact)
			}
		}
	}
	return sets
}

// madeOf holds, for each check, the facts that are no check's and are made of what it
// finds.
var madeOf = factsMadeOf()

func factsMadeOf() map[string]expr.Set {
	sets := map[string]expr.Set{}
	for _, f := range vocabulary {
		if f.by != "" {
			continue
		}
		for _, name := range f.needs {
			set := sets[name]
			set.Add(f.Fact)
			sets[name] = set
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
		if word := c.result.In(v).String(); word == string(Skipped) || word == "" {
			known = known.Minus(c.facts)
			known = known.Minus(madeOf[c.name])
		}
	}
	return factSet(known, words)
}

// answered returns those facts of lists that f has an answer for. They are not in what
// Measured returns: whoever judges knows which names they have.
func (c *Chain) answered(f *Facts) (all expr.Set) {
	for _, name := range c.services {
		if a := find((*[]Service)(&f.Service), name); a != nil && a.Action != Skipped && a.Action != "" {
			all = all.With(c.factsOf(services + "." + name))
		}
	}
	for _, name := range c.milters {
		if a := find((*[]Milter)(&f.Milter), name); a != nil && a.Action != "" {
			all = all.With(c.factsOf(milters + "." + name)) // skipped is its answer to a large message
		}
	}
	return all
}

// factsOf returns the facts in a group of the chain's own words.
func (c *Chain) factsOf(group string) (all expr.Set) {
	for _, name := range c.words.Names() {
		if strings.HasPrefix(name, group+".") {
			all.Add(c.words.Fact(name))
		}
	}
	return all
}

// silent returns the facts that were asked for and not told: by the store of what lasts
// between sessions, by the files of networks.
func (c *Chain) silent(s expr.Scope) (all expr.Set) {
	for _, of := range c.untold {
		if of.result.Text(s) == string(TempError) {
			all = all.With(of.facts.Minus(of.told))
		}
	}
	return all
}

// holds says whether the condition holds. One that hangs on facts that were not told
// does not, whichever way it is written: such an answer lets nobody in, and
// refuses nobody.
func (r *rule) holds(s expr.Scope, silent expr.Set) bool {
	if silent == (expr.Set{}) || r.when.Reads().Minus(silent) == r.when.Reads() {
		return r.when.Holds(s)
	}
	return r.when.Judge(s, silent.Others()) == expr.Yes
}

// judge is holds where only some facts were measured; those that were not told are
// among them, for that is what was found.
func (r *rule) judge(s expr.Scope, known, silent expr.Set) expr.Truth {
	t := r.when.Judge(s, known.Minus(silent))
	if t == expr.Unknown && r.when.Reads().Within(known) {
		return expr.No
	}
	return t
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
	return c.judge(expr.On(f), known.set.With(c.answered(f)))
}

func (c *Chain) judge(s expr.Scope, known expr.Set) (j Judgement) {
	defer func() {
		if recover() != nil { // as in decide, which says what becomes of it
			j = Judgement{Verdict: c.decide(Message, s)}
		}
	}()
	silent := c.silent(s)
	var open expr.Set // on which rules hang that might have passed the message
	var tags expr.Set // on which rules hang that might have tagged it
	for _, r := range c.rules {
		t := r.judge(s, known, silent)
		switch {
		case t == expr.No:
			continue
		case t == expr.Unknown && r.do == DispositionTag:
			tags = tags.With(r.when.Reads().Minus(known))
			continue
		case t == expr.Unknown && r.do == DispositionPass:
			open = open.With(r.when.Reads().Minus(known))
			continue
		case t == expr.Unknown, r.do.Refuses() && open != expr.Set{}:
			// Refused or accepted: nobody knows.
			if t == expr.Unknown {
				open = open.With(r.when.Reads().Minus(known))
			}
			return Judgement{Missing: factSet(open, c.words)}
		}
		j.Rule, j.Stage, j.Disposition = r.Name, r.stage, r.do
		switch r.do {
		case DispositionTag:
			j.Tags = append(j.Tags, r.header.expand(s))
			continue
		case DispositionHold, DispositionDefer, DispositionReject:
			j.Reply = r.reply.expand(s)
		}
		j.Decided = true
		j.MissingTags = factSet(tags.With(open), c.words)
		return j
	}
	j.Decided = true
	j.MissingTags = factSet(tags.With(open), c.words)
	if j.Rule == "" {
		j.Stage = c.last
	}
	return j
}

// ExplainMeasured is Explain where only some facts were measured. A
// rule or a part whose value hangs on others says so; where they stand in the
// way of the verdict there is none, Undetermined names them, and no changes
// are proposed. Where they stand in the way of what a change would make of it,
// the change says so in the same manner.
func (c *Chain) ExplainMeasured(f *Facts, measured FactSet) Explanation {
	e := c.explain(f)
	s, known := expr.On(f), measured.set.With(c.answered(f))
	silent := c.silent(s)
	told := known.Minus(silent)
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
		for _, p := range r.when.Parts {
			px := explainPart(p, s, c.lists)
			if p.Judge(s, told) == expr.Unknown {
				px.Unknown, px.Value, px.Note = true, false, ""
			}
			for k, operand := range p.Operands() {
				if !operand.Reads().Within(told) {
					px.Operands[k].Value = "not measured"
				}
			}
			x.Parts = append(x.Parts, px)
		}
		switch r.judge(s, known, silent) {
		case expr.No:
			x.Outcome = "no match"
		case expr.Unknown:
			x.Outcome = "unknown"
		case expr.Yes:
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
		fmt.Fprintf(h, "rule %q %q %q %q %q %q\n", r.Name, whole(r), r.Do, r.Reply, r.Header, r.At) // for: see holds
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}
