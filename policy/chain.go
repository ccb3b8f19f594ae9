package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"postern/configs"
	"postern/policy/expr"
	"postern/proxy/smtp"
)

// Chain is a compiled policy. It is immutable, except that its Lists may be
// given new content, and safe for concurrent use.
type Chain struct {
	rules []*rule
	turns []turn // what a decision wants of the rules, in their order
	last  Stage
	lists *Lists
	words *expr.Vocabulary // that the rules may use
	// services and milters are those that the rules may name.
	services, milters []string

	fingerprint string
	tagNames    []string
	tagsSize    int
	oneDomain   bool
	readsWhole  bool
	siteSender  bool             // a rule of the site reads who the header says has sent it
	untold      []*check         // those that it reads and whose facts are not measured where they are in trouble
	notes       []configs.Fault  // warnings about overrides
	place       configs.Position // of what says whether the built-in rules count
	lets        []configs.Let
}

// turn is what a decision wants of a rule that does not match: of a thousand rules all but a few. It
// stands beside that of the next rule, in an eighth of the memory of the rules themselves.
type turn struct {
	stage   Stage
	decides bool
	holds   func(expr.Scope) bool
}

// Recalls says whether the rule of that name reads what is remembered of senders.
func (c *Chain) Recalls(rule string) bool {
	for _, r := range c.rules {
		if r.Name == rule {
			return slices.ContainsFunc(c.untold, func(of *check) bool { return of.memory && r.reads(of.name) })
		}
	}
	return false
}

// rule is one compiled rule.
type rule struct {
	configs.Rule
	do   Disposition
	when *expr.Expression
	// own is the stage at which the facts of the condition are known, stage the
	// one at which the rule is decided.
	own, stage Stage
	after      *rule // the deciding rule above that makes stage later than own; nil where none does
	reply      replyTemplate
	header     headerTemplate
	written    map[string]configs.Position // the facts that the reply or header shows
}

// decides says that the rule ends the chain where it matches.
func (r *rule) decides() bool { return r.do != DispositionTag }

// reads says whether the condition or what the rule writes uses a fact: one by
// its name, or any of a check's.
func (r *rule) reads(name string) bool {
	for _, facts := range []map[string]configs.Position{r.when.Facts, r.written} {
		for fact := range facts {
			if fact == name || strings.HasPrefix(fact, name+".") {
				return true
			}
		}
	}
	return false
}

// compilation collects the faults of a policy.
type compilation struct {
	faults []error
	words  *expr.Vocabulary // with what the configuration names
}

func (c *compilation) faultAt(at configs.Position, format string, args ...any) {
	c.faults = append(c.faults, &configs.Fault{Position: at, Text: fmt.Sprintf(format, args...)})
}

// Compile checks a policy and makes it a Chain. Every fault of every rule is in
// the error, each a *configs.Fault that points into the rule's text, joined in
// the order of the rules. Lists may be nil where there are none. The built-in rules
// are part of it where the policy says so, see Whole.
func Compile(p configs.Policy, lists *Lists) (*Chain, error) {
	c := &compilation{words: words.With(services, p.Services...).With(milters, p.Milters...)}
	p, lists, notes := c.overrides(Whole(p), lists)
	p = c.holds(p)
	lets := c.lets(p.Let, lists)
	chain := &Chain{words: c.words, services: p.Services, milters: p.Milters, lists: lists, fingerprint: fingerprint(p), notes: notes, lets: p.Let, place: p.BuiltInPosition}
	names := map[string]bool{}
	for i := range p.Rules {
		r := c.rule(p.Rules[i], i, lets, lists)
		switch {
		case r.Name == "":
		case names[r.Name]:
			c.faultAt(r.Position, "there is already a rule %q: the name stands in logs and metrics, so it must tell which rule it was", r.Name)
		}
		names[r.Name] = true
		chain.rules = append(chain.rules, r)
	}
	c.stages(chain)
	if c.faults != nil {
		return nil, errors.Join(c.faults...)
	}
	chain.sum()
	return chain, nil
}

// sum works out what is asked of the chain for each message.
func (c *Chain) sum() {
	for _, r := range c.rules {
		c.turns = append(c.turns, turn{stage: r.stage, decides: r.decides(), holds: r.when.Holder()})
		if name := r.header.name; name != "" && !slices.Contains(c.tagNames, name) {
			c.tagNames = append(c.tagNames, name)
		}
		c.tagsSize += r.header.most()
		c.oneDomain = c.oneDomain || r.oneDomain()
		c.readsWhole = c.readsWhole || r.reads("message.size") || r.reads(milters)
		c.siteSender = c.siteSender || !r.BuiltIn && (r.reads("pra") || r.reads("submitter"))
	}
	for _, of := range checksKnown {
		if of.untold && slices.ContainsFunc(c.rules, func(r *rule) bool { return r.needs(of.name) }) {
			c.untold = append(c.untold, of)
		}
	}
}

// lets compiles the named expressions. Each sees those above it, so that no two
// can need each other.
func (c *compilation) lets(lets []configs.Let, lists *Lists) map[string]*expr.Expression {
	all := map[string]*expr.Expression{}
	for _, let := range lets {
		switch {
		case !expr.IsName(let.Name):
			c.faultAt(let.Position, "%q is no name for a let: letters, digits and _, not starting with a digit", let.Name)
		case c.words.Has(let.Name):
			c.faultAt(let.Position, "let %s: this is the name of a fact", let.Name)
		case expr.IsWord(let.Name):
			c.faultAt(let.Position, "let %s: this is a word of the language", let.Name)
		case all[let.Name] != nil:
			c.faultAt(let.Position, "there is already a let %s", let.Name)
		}
		language := expr.Language{Facts: c.words, Lists: lists, Lets: all}
		x, faults := language.Let(expr.Source{Text: let.Is, Position: textPosition(let.IsPosition, let.Position, "let "+let.Name)})
		c.add(faults)
		if all[let.Name] == nil {
			all[let.Name] = x
		}
	}
	return all
}

// whole is the condition of a rule with what excuses from it.
func whole(r configs.Rule) string { return expr.Guarded(r.When, r.Unless) }

// textPosition returns the best position known for an expression's text.
func textPosition(text, around configs.Position, what string) configs.Position {
	switch {
	case text.Line != 0:
		return text
	case around.Line != 0:
		return around
	default: // made in Go, not read from a file
		return configs.Position{File: what, Line: 1, Column: 1}
	}
}

func (c *compilation) add(faults []*configs.Fault) {
	for _, f := range faults {
		c.faults = append(c.faults, f)
	}
}

// maxName bounds the name of a rule, in octets.
const maxName = 64

// rule compiles one rule, all but its stage.
func (c *compilation) rule(cr configs.Rule, i int, lets map[string]*expr.Expression, lists *Lists) *rule {
	r := &rule{Rule: cr, written: map[string]configs.Position{}}
	what := fmt.Sprintf("rule %q", cr.Name)
	if cr.Name == "" {
		what = fmt.Sprintf("rule %d", i+1)
	}
	r.Position = textPosition(r.Position, r.WhenPosition, what)
	switch {
	case r.Name == "":
		c.faultAt(r.Position, "the rule has no name: logs, metrics and explain speak of it by its name")
	case len(r.Name) > maxName || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c > '~' || c == '"' }):
		c.faultAt(r.Position, "%s: a name is at most %d characters of ASCII, without quotes", what, maxName)
	}
	language := expr.Language{Facts: c.words, Lists: lists, Lets: lets}
	var faults []*configs.Fault
	r.when, faults = language.Condition(expr.Source{Text: r.When, Position: textPosition(r.WhenPosition, r.Position, what), Unless: r.Unless})
	c.add(faults)
	r.When = whole(cr)

	do, ok := ParseDisposition(r.Do)
	if !ok {
		words := []string{"reject", "defer", "hold", "tag", "pass"}
		missing := ""
		if r.Do == "" {
			missing = "the rule has no do"
		} else {
			missing = fmt.Sprintf("do: %s is unknown%s", r.Do, configs.DidYouMean(r.Do, words))
		}
		c.faultAt(r.Position, "%s: it is %s", missing, configs.Alternatives(words))
		return r
	}
	r.do = do
	switch {
	case do.Refuses():
		fallback := defaultReply(do, r.reads, r.when.Results)
		r.compileReply(c, r.Reply, textPosition(r.ReplyPosition, r.Position, what), fallback)
	case r.Reply != "":
		c.faultAt(textPosition(r.ReplyPosition, r.Position, what), "do: %s gives no reply: only reject, defer and hold do", r.Do)
	}
	switch {
	case do == DispositionTag && r.Header == "":
		c.faultAt(r.Position, `do: tag adds a header field, and the rule has none: header: "X-Postern-Tag: %s"`, r.Name)
	case do == DispositionTag:
		r.compileHeader(c, r.Header, textPosition(r.HeaderPosition, r.Position, what))
	case r.Header != "":
		c.faultAt(textPosition(r.HeaderPosition, r.Position, what), "do: %s adds no header field: only tag does", r.Do)
	}
	return r
}

// ParseDisposition returns the disposition of that word.
func ParseDisposition(word string) (Disposition, bool) {
	for i, name := range dispositionNames {
		if name == word {
			return Disposition(i), true
		}
	}
	return 0, false
}

// stages works out when each rule is decided.
func (c *compilation) stages(chain *Chain) {
	floor := Connect // no rule from here on is decided earlier
	var deciding *rule
	for _, r := range chain.rules {
		for name := range r.when.Facts {
			r.own = max(r.own, factOf(name).stage)
		}
		r.stage = r.own
		if floor > r.own {
			r.stage, r.after = floor, deciding
		}
		c.moved(r)
		c.knownInTime(r)
		c.heldInTime(r)
		if r.decides() && r.stage > floor {
			floor, deciding = r.stage, r
		}
		chain.last = max(chain.last, r.stage)
	}
}

// moved moves a rule to its at.
func (c *compilation) moved(r *rule) {
	if r.At == "" {
		return
	}
	at, ok := ParseStage(r.At)
	switch {
	case !ok:
		c.faultAt(r.Position, "at: %s is no stage%s: it is %s", r.At, configs.DidYouMean(r.At, stageNames[:]), configs.Alternatives(stageNames[:]))
	case at < r.stage:
		c.faultAt(r.Position, "at: %s is too early: the rule is decided at %s, %s; at may move it later, never earlier", at, r.stage, r.whyNotEarlier())
	case at > r.stage:
		r.stage, r.after = at, nil
	}
}

// whyNotEarlier says what keeps the rule from an earlier stage, to follow "decided at x, ".
func (r *rule) whyNotEarlier() string {
	switch {
	case r.after != nil:
		return fmt.Sprintf("after rule %q above", r.after.Name)
	case r.stage > r.own:
		return "as its at says"
	default:
		return "since it reads " + strings.Join(r.latest(), ", ")
	}
}

// latest returns the facts that are known last, which make the rule's own stage.
func (r *rule) latest() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.when.Facts)) {
		if f := factOf(name); f.stage == r.own && f.stage > Connect {
			names = append(names, name)
		}
	}
	return names
}

// ofOneRecipient returns the first of the facts that are of one recipient, and not of
// all that a transaction can have.
func ofOneRecipient(facts map[string]configs.Position) (name string, at configs.Position, ok bool) {
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		if f := factOf(name); name == "rcpt.address" || f.by == "hold" || f.Group == services {
			return name, facts[name], true
		}
	}
	return "", configs.Position{}, false
}

// knownInTime checks what a rule reads and writes against its stage.
func (c *compilation) knownInTime(r *rule) {
	for _, facts := range []map[string]configs.Position{r.when.Facts, r.written} {
		name, at, reads := ofOneRecipient(facts)
		if !reads || r.stage <= Rcpt || r.do == DispositionHold { // of which heldInTime speaks
			continue
		}
		instead := ""
		if name == "rcpt.address" {
			instead = ", or read rcpt.domain instead"
		}
		cure := strings.TrimPrefix(instead, ", or ") + ", or leave the other fact to a rule of its own"
		if r.after != nil {
			cure = fmt.Sprintf("move it above rule %q", r.after.Name) + instead
		}
		if r.after != nil && strings.HasPrefix(r.after.Name, configs.OverrideMark) {
			// Who wrote the override looks there, and may not have written the rule.
			c.faultAt(r.after.Position, "%s passes at %s, since it reads %s, and so would delay rule %q (%s) that reads %s, which is known at rcpt alone: write excuse: [...] in place of do: pass",
				r.after.Name, r.stage, strings.Join(r.after.latest(), ", "), r.Name, r.Position, name)
			continue
		}
		c.faultAt(at, "%s cannot be read at %s, where one reply answers for all recipients: the rule is decided there %s; %s",
			name, r.stage, r.whyNotEarlier(), strings.TrimPrefix(cure, ", or "))
	}
	for _, name := range c.words.Names() {
		f := factOf(name)
		if at, shows := r.written[name]; shows && f.stage > r.stage {
			c.faultAt(at, "${%s} is known at %s, but the rule is decided at %s: leave it out, or add at: %s", name, f.stage, r.stage, f.stage)
		}
	}
}

// Decide reads the chain from the top with the facts known at st. A rule counts
// only once its stage has come; the first reject, defer, hold or pass that matches
// decides, and one whose stage has not come yet keeps those below it waiting.
// So a verdict that is Decided is that of the whole chain with all facts; only
// tags of rules above the deciding one may still be added by a later call, up to
// the stage Last.
//
// At Rcpt, f.Recipient is the one in question. After it, it is any of the
// transaction's, provided that those had equal verdicts at Rcpt: all
// decided, or all undecided. A recipient whose verdict at Rcpt is otherwise than
// the first one's belongs into a transaction of its own (452 4.5.3), for the one
// reply at the end could not be right for both.
//
// Pure: the same facts (and content of lists) give the same verdict. Nothing is
// allocated unless a rule matches. A fault of ours is a defer (451 4.3.0).
func (c *Chain) Decide(st Stage, f *Facts) Verdict {
	return c.decide(st, expr.On(f))
}

// DecideFor is Decide for the recipient r in place of f.Recipient.
func (c *Chain) DecideFor(st Stage, f *Facts, r *Recipient) Verdict {
	return c.decide(st, expr.On(f).With(r))
}

func (c *Chain) decide(st Stage, s expr.Scope) (v Verdict) {
	at := 0
	defer func() {
		// A mistake in this package must not cost the sender a message.
		if recover() != nil {
			current := c.rules[at]
			v = Verdict{
				Disposition: DispositionDefer, Decided: true, Rule: current.Name, Stage: current.stage,
				Reply: smtp.Reply{Code: 451, Enhanced: "3.0", Text: "Local error in processing, please try again later."},
			}
		}
	}()
	silent := c.silent(s)
	for i := range c.turns {
		turn := &c.turns[i]
		if turn.stage > st {
			if turn.decides {
				return v
			}
			continue
		}
		if at = i; !c.holds(i, s, silent) {
			continue
		}
		r := c.rules[i]
		v.Rule, v.Stage = r.Name, r.stage
		switch r.do {
		case DispositionTag:
			v.Disposition = DispositionTag
			// Once is enough, where an own rule and a built-in one say the same.
			if t := r.header.expand(s); !slices.Contains(v.Tags, t) {
				v.Tags = append(v.Tags, t)
			}
		case DispositionPass:
			v.Disposition, v.Decided = DispositionPass, true
			return v
		default:
			v.Disposition, v.Decided = r.do, true
			v.Reply = r.reply.expand(s)
			return v
		}
	}
	v.Decided = true
	if v.Rule == "" {
		v.Stage = min(st, c.last) // no rule matched: that is known once the last one was read
	}
	return v
}

// holds says whether the condition of the i-th rule holds, see rule.holds.
func (c *Chain) holds(i int, s expr.Scope, silent expr.Set) bool {
	if silent == (expr.Set{}) {
		return c.turns[i].holds(s)
	}
	return c.rules[i].holds(s, silent)
}

// Last returns the stage after which no rule is left to be decided.
func (c *Chain) Last() Stage { return c.last }

// HoldsMessage says whether a rule is decided at the message stage only, so
// that the message must be held until then.
func (c *Chain) HoldsMessage() bool { return c.last == Message }

// HoldsUnsigned says whether such a rule wants more of the message than its
// signatures: its size, which is known at the end, or what milters say of it.
func (c *Chain) HoldsUnsigned() bool { return c.readsWhole }

// Settled says whether v, a verdict of Decide, is final in all it says: nothing
// that is still to be learned can change the disposition, or add a tag of a
// rule above the deciding one.
func (c *Chain) Settled(st Stage, v Verdict) bool {
	if !v.Decided {
		return false
	}
	for _, r := range c.rules {
		switch {
		case r.Name == v.Rule && r.decides():
			return true
		case r.stage > st:
			return false
		}
	}
	return true
}

// TagNames returns the names of the header fields that tag rules write, each
// once. Incoming fields of these names were written by somebody else and are
// removed from every message, whichever rules match it. The caller must not
// change them.
func (c *Chain) TagNames() []string { return c.tagNames }

// TagsSize returns how many octets the tags of one verdict can come to as header
// fields, each with its name and its CRLF: those of every tag rule, with facts as
// long as they may get.
func (c *Chain) TagsSize() int { return c.tagsSize }

// OneDomain says whether a rule reads rcpt.domain after the recipients were
// answered, so that a transaction must hold recipients of one domain only.
func (c *Chain) OneDomain() bool { return c.oneDomain }

func (r *rule) oneDomain() bool { return r.stage > Rcpt && r.reads("rcpt.domain") }
