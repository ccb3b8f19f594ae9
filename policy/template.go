package policy

import (
	"strconv"
	"strings"
)

// template is a text with facts in it, as in "spf-${spf.result}".
type template struct {
	pieces []piece
}

// piece is a written text, or a fact where fact is set.
type piece struct {
	text string
	fact *fact
}

// templateFault is a fault at an octet of a template's text.
type templateFault struct {
	offset int
	text   string
}

// parseTemplate reads text. Only ${ is special; a $ alone is a dollar.
func parseTemplate(text string) (template, []templateFault) {
	var t template
	var faults []templateFault
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
			return t, append(faults, templateFault{at, "${ without its }"})
		}
		offset = at + len("${") + len(name) + len("}")
		f, known := vocabulary[strings.TrimSpace(name)]
		switch {
		case known:
			t.pieces = append(t.pieces, piece{fact: f})
		case groups[name]:
			faults = append(faults, templateFault{at, "${" + name + "} is a group of facts: write one of " + alternatives(members(name))})
		default:
			faults = append(faults, templateFault{at, "unknown fact " + strconv.Quote(name) + didYouMean(name, factNames)})
		}
	}
}

// written returns the text with each fact left out.
func (t template) written() string {
	var b strings.Builder
	for _, p := range t.pieces {
		b.WriteString(p.text)
	}
	return b.String()
}

// expand returns the text with the facts in s, as printable ASCII of at most
// limit octets: facts hold what the client and the DNS said, and a line break
// among it would let them write replies and header fields of their own.
func (t template) expand(s scope, limit int) string {
	if len(t.pieces) == 1 && t.pieces[0].fact == nil {
		return t.pieces[0].text // checked when it was compiled
	}
	b := make([]byte, 0, 64)
	for _, p := range t.pieces {
		text := p.text
		if p.fact != nil {
			text = p.fact.plain(s)
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

// plain renders a fact without quotes, a list with commas.
func (t *fact) plain(s scope) string {
	v := t.read(s.facts)
	switch t.kind {
	case kindBool:
		return strconv.FormatBool(v.Bool())
	case kindNumber:
		return strconv.FormatInt(v.Int(), 10)
	case kindTexts:
		return strings.Join(*v.Addr().Interface().(*[]string), ",")
	default:
		return v.String()
	}
}
