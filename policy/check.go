package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"postern/policy/expr"
	"postern/proxy/smtp"
)

// check is what the tags of Facts say of one check.
type check struct {
	name    string
	field   string   // of Facts
	result  *fact    // its result word
	facts   expr.Set // all that it finds: without it, they say nothing
	told    expr.Set // of those, its result
	needs   []string // the checks that it builds on
	memory  bool     // it asks what lasts between sessions
	untold  bool     // its facts are not measured where its result is temperror
	reasons []reason

	trouble  string       // the condition that its trouble is; empty: it may not be excused
	identity string       // the fact that names the domain in question
	also     []alsoFact   // trouble of this check that another one finds
	speaks   int          // the least speaks where a rule without a reply reads several
	replies  []factsReply // of a reject rule that gives none
}

// alsoFact is a condition that is trouble of a check where the rule in question
// reads what another check finds.
type alsoFact struct {
	by        string // the other check
	condition string
}

// factsReply is the default reply of a rule that reads a fact, or any of a group.
type factsReply struct {
	name   string
	reply  smtp.Reply
	failed smtp.Reply // where the rule compares with fail; no code: reply is for that too
	broken smtp.Reply // where it compares with permerror and not with fail; no code: as failed
}

// checksKnown are the checks in the order of Facts, checkOf each by its name.
var (
	checksKnown = describeChecks()
	checkOf     = checksByName(checksKnown)
	// replyOrder is the checks in the order in which they speak.
	replyOrder = slices.SortedStableFunc(slices.Values(checksKnown), func(a, b *check) int { return cmp.Compare(a.speaks, b.speaks) })
)

func describeChecks() []*check {
	var all []*check
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Facts]()) {
		if c := describeCheck(field); c != nil {
			all = append(all, c)
		}
	}
	return all
}

// describeCheck returns nil where the field is no check's.
func describeCheck(field reflect.StructField) *check {
	_, memory := field.Tag.Lookup("memory")
	_, untold := field.Tag.Lookup("untold")
	c := &check{memory: memory, untold: untold || memory, name: field.Tag.Get("expr"), field: field.Name, identity: field.Tag.Get("identity"), needs: strings.Fields(field.Tag.Get("needs")), speaks: last}
	var own, result []factsReply // those of other facts than the result speak first: they say more
	for _, name := range words.Names() {
		f := vocabulary[name]
		if f.by == c.name {
			c.facts.Add(f.Fact)
		}
		if f.Group == c.name && f.Result {
			c.result = f
		}
		if f.of == c.name {
			switch t := f.troubled(); {
			case t == "":
			case f.Group == c.name:
				c.trouble = t
			default:
				c.also = append(c.also, alsoFact{by: f.Group, condition: t})
			}
		}
		if f.Group != c.name {
			continue
		}
		if r := repliesOf(f.Tag(), name); r != nil && f.Result {
			result = append(result, *r)
		} else if r != nil {
			own = append(own, *r)
		}
	}
	if c.result == nil {
		return nil
	}
	c.told.Add(c.result.Fact)
	c.replies = slices.Concat(own, result)
	if r := repliesOf(field.Tag, c.name); r != nil {
		c.replies = append(c.replies, *r)
	}
	if n := field.Tag.Get("speaks"); n != "" {
		var err error
		if c.speaks, err = strconv.Atoi(n); err != nil {
			panic("policy: speaks of " + c.name + ": " + err.Error())
		}
	}
	if c.trouble != "" && vocabulary[c.identity] == nil {
		panic("policy: " + c.name + " has trouble that may be excused, and no identity")
	}
	c.reasons = reasonsIn(field.Type, field.Index)
	return c
}

// last is the turn of a check that does not say when it speaks.
const last = 1 << 10

func checksByName(all []*check) map[string]*check {
	by := map[string]*check{}
	for _, c := range all {
		by[c.name] = c
	}
	return by
}

// CheckField is the place of one check in Facts.
type CheckField struct {
	Name  string // as rules write it: "spf_helo"
	Field string // as Go does: "SPFHelo"
	Stage Stage
	Needs []string // the checks whose findings it reads, itself not counted
	// Memory says that it asks what lasts between sessions, which is done for rules alone.
	Memory bool
	// Result points at what it found, in a word: in the facts, or in what is known of a
	// recipient where the check is of stage rcpt.
	Result func(f *Facts, r *Recipient) *Result
}

// Checks returns the checks that the facts have a place for, in the order of Facts.
func Checks() []CheckField {
	all := make([]CheckField, len(checksKnown))
	for i, c := range checksKnown {
		all[i] = CheckField{Name: c.name, Field: c.field, Stage: c.result.stage, Needs: c.needs, Memory: c.memory, Result: c.resultIn}
	}
	return all
}

func (c *check) resultIn(f *Facts, r *Recipient) *Result {
	return c.result.Under(expr.On(f).With(r)).Addr().Interface().(*Result)
}

// excusable returns the checks that an override may excuse.
func excusable() []string {
	var names []string
	for _, c := range checksKnown {
		if c.trouble != "" {
			names = append(names, c.name)
		}
	}
	return names
}

// troubled returns the condition that something is wrong with the fact, empty
// where nothing ever is.
func (t *fact) troubled() string {
	words := strings.Fields(t.Tag().Get("trouble"))
	if len(words) == 0 {
		return ""
	}
	var condition string
	switch {
	case t.Kind == expr.Bool && words[0] == "true":
		condition = t.Name
	case t.Kind == expr.Bool:
		condition = "not " + t.Name
	default:
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = strconv.Quote(w)
		}
		condition = t.Name + " in [" + strings.Join(quoted, ", ") + "]"
	}
	if given := t.Tag().Get("given"); given != "" {
		condition = fmt.Sprintf(`%s != "" and %s`, given, condition)
	}
	return condition
}

// repliesOf reads the tags refusal, refusal_fail and refusal_permerror, each
// "7.23 SPF validation failed."; nil where there is none.
func repliesOf(tag reflect.StructTag, name string) *factsReply {
	read := func(key string) (r smtp.Reply) {
		if text, ok := tag.Lookup(key); ok {
			r.Code = 550
			r.Enhanced, r.Text, _ = strings.Cut(text, " ")
		}
		return r
	}
	r := factsReply{name: name, reply: read("refusal"), failed: read("refusal_fail"), broken: read("refusal_permerror")}
	if r.reply.Code == 0 && r.failed.Code == 0 && r.broken.Code == 0 {
		return nil
	}
	return &r
}

// of returns the reply for the result words that a rule compares with; no code:
// there is none for these.
func (r *factsReply) of(results map[string]bool) smtp.Reply {
	switch {
	case results[string(Fail)] && r.failed.Code != 0:
		return r.failed
	case results[string(PermError)] && !results[string(Fail)] && r.broken.Code != 0:
		return r.broken
	}
	return r.reply
}

// reason is a text that says why a check found what it found.
type reason struct {
	path   []int
	before string
	inner  []reason // of each element, where the field is a list of structs
}

// reasonsIn collects the fields with a reason tag.
func reasonsIn(t reflect.Type, path []int) []reason {
	var all []reason
	for i := range t.NumField() {
		field := t.Field(i)
		before, ok := field.Tag.Lookup("reason")
		if !ok {
			continue
		}
		r := reason{path: append(slices.Clone(path), i), before: before}
		if field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct {
			r.inner = reasonsIn(field.Type.Elem(), nil)
		}
		all = append(all, r)
	}
	return all
}

// Reason returns in words why a check found what it found, as far as the facts
// say, empty where they do not.
func (f *Facts) Reason(name string) string {
	if service, ok := strings.CutPrefix(name, services+"."); ok {
		if a := find((*[]Service)(&f.Service), service); a != nil {
			return cmp.Or(a.Reason, a.Text)
		}
	}
	if milter, ok := strings.CutPrefix(name, milters+"."); ok {
		if a := find((*[]Milter)(&f.Milter), milter); a != nil {
			return strings.TrimSpace(a.Reply + " " + a.Reason)
		}
	}
	c := checkOf[name]
	if c == nil {
		return ""
	}
	return reasonText(c.reasons, reflect.ValueOf(f).Elem())
}

func reasonText(reasons []reason, v reflect.Value) string {
	var b strings.Builder
	for _, r := range reasons {
		var text string
		switch field := v.FieldByIndex(r.path); {
		case r.inner != nil:
			each := make([]string, field.Len())
			for i := range each {
				each[i] = reasonText(r.inner, field.Index(i))
			}
			text = strings.Join(each, "; ")
		case field.Kind() == reflect.Slice:
			each := make([]string, field.Len())
			for i := range each {
				each[i] = field.Index(i).String()
			}
			text = strings.Join(each, " ")
		default:
			text = field.String()
		}
		if text != "" {
			b.WriteString(r.before + text)
		}
	}
	return strings.TrimSpace(b.String())
}
