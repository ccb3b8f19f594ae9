package expr

import (
	"strconv"
	"strings"

	"postern/configs"
)

// Template is a text with facts in it, as in "spf-${spf.result}".
type Template struct {
	pieces []piece
}

// piece is a written text, or a fact where fact is set.
type piece struct {
	text string
	fact *Fact
}

// TemplateFault is a fault at an octet of a template's text.
type TemplateFault struct {
	Offset int
	Text   string
}

// Template reads a text with facts in it. Only ${ is special; a $ alone is a dollar.
func (v *Vocabulary) Template(text string) (Template, []TemplateFault) {
	var t Template
	var faults []TemplateFault
	offset := 0
	for {
		before, after, found := strings.Cut(text[offset:], "${")
		if before != "" {
			t.pieces = append(t.pieces, piece{text: before})
		}
		if !found {
			return t, faults
		}
		at := offset + len(before)
		name, _, closed := strings.Cut(after, "}")
		if !closed {
			return t, append(faults, TemplateFault{at, "${ without its }"})
		}
		offset = at + len("${") + len(name) + len("}")
		f := v.facts[strings.TrimSpace(name)]
		switch {
		case f != nil:
			t.pieces = append(t.pieces, piece{fact: f})
		case v.groups[name]:
			faults = append(faults, TemplateFault{at, "${" + name + "} is a group of facts: write one of " + configs.Alternatives(v.members(name))})
		default:
			faults = append(faults, TemplateFault{at, "unknown fact " + strconv.Quote(name) + configs.DidYouMean(name, v.names)})
		}
	}
}

// Facts returns the facts that the template writes.
func (t Template) Facts() []*Fact {
	var facts []*Fact
	for _, p := range t.pieces {
		if p.fact != nil {
			facts = append(facts, p.fact)
		}
	}
	return facts
}

// Longest is how many octets Expand can return under that limit.
func (t Template) Longest(limit int) int {
	if t.fixed() {
		return len(t.pieces[0].text)
	}
	return limit
}

// fixed says that the template has no facts, and was checked when it was compiled.
func (t Template) fixed() bool { return len(t.pieces) == 1 && t.pieces[0].fact == nil }

// Written returns the text with each fact left out.
func (t Template) Written() string {
	var b strings.Builder
	for _, p := range t.pieces {
		b.WriteString(p.text)
	}
	return b.String()
}

// Expand returns the text with the facts in s, as printable ASCII of at most
// limit octets: facts hold what the client and the DNS said, and a line break
// among it would let them write replies and header fields of their own.
func (t Template) Expand(s Scope, limit int) string {
	if t.fixed() {
		return t.pieces[0].text
	}
	b := make([]byte, 0, 64)
	for _, p := range t.pieces {
		text := p.text
		if p.fact != nil {
			text = p.fact.Plain(s)
		}
		b = append(b, text[:min(len(text), limit-len(b))]...)
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// Plain renders a fact without quotes, a list with commas.
func (t *Fact) Plain(s Scope) string {
	v := t.Under(s)
	switch t.Kind {
	case Bool:
		return strconv.FormatBool(v.Bool())
	case Number:
		return strconv.FormatInt(v.Int(), 10)
	case Texts:
		return strings.Join(*v.Addr().Interface().(*[]string), ",")
	default:
		return v.String()
	}
}
