package policy

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// kind is the type of a value in a rule.
type kind int

const (
	kindBool kind = iota
	kindNumber
	kindText
	kindTexts
	kindNumbers
)

var kindNames = [...]string{"yes or no", "a number", "a text", "a list of texts", "a list of numbers"}

func (k kind) String() string { return kindNames[k] }

// scope is what an expression is evaluated in. It is passed by value, so that
// a decision allocates nothing.
type scope struct {
	facts  reflect.Value // a Facts, addressable
	item   string        // #, inside any, all and none
	assume assumption    // nil on live mail
}

// assumption says for some conditions, by their text, what they are taken to
// be, whatever the facts are. Explain and Warnings ask "what if" with it.
type assumption map[string]bool

// value is a compiled expression. The function for its kind is set, and no other.
type value struct {
	kind    kind
	truth   func(scope) bool
	number  func(scope) int64
	text    func(scope) string
	texts   func(scope) []string
	numbers []int64 // always constant

	node     ast.Node // that it was compiled from
	offset   int      // where that starts in its text, in runes
	constant bool
	fact     *fact // where the expression is the name of a fact and no more

	reads       FactSet // the facts in it, those of its lets included
	connective  string  // "and", "or" or "not", where it is one of left and right (not: of left)
	left, right *value
}

// source returns the expression in a canonical spelling, cut short for a fault.
func (v *value) source() string {
	text := v.node.String()
	if len(text) > 80 {
		return strings.ToValidUTF8(text[:77], "") + "..."
	}
	return text
}

// show renders the value under s as a rule would write it. Lists of numbers are
// written in rules and never asked for.
func (v *value) show(s scope) string {
	switch v.kind {
	case kindBool:
		return strconv.FormatBool(v.truth(s))
	case kindNumber:
		return strconv.FormatInt(v.number(s), 10)
	case kindText:
		return strconv.Quote(v.text(s))
	default:
		return showTexts(v.texts(s))
	}
}

func showTexts(texts []string) string {
	shown := make([]string, len(texts))
	for i, t := range texts {
		shown[i] = strconv.Quote(t)
	}
	return "[" + strings.Join(shown, ", ") + "]"
}

// value returns the fact as an expression.
func (t *fact) value() *value {
	v := &value{kind: t.kind, fact: t}
	switch t.kind {
	case kindBool:
		v.truth = func(s scope) bool { return t.read(s.facts).Bool() }
	case kindNumber:
		v.number = func(s scope) int64 { return t.read(s.facts).Int() }
	case kindTexts:
		// Through the address: Interface of the slice itself would allocate.
		v.texts = func(s scope) []string { return *t.read(s.facts).Addr().Interface().(*[]string) }
	default:
		v.text = func(s scope) string { return t.read(s.facts).String() }
	}
	return v
}

func constantTruth(b bool) *value {
	return &value{kind: kindBool, constant: true, truth: func(scope) bool { return b }}
}

func constantNumber(n int64) *value {
	return &value{kind: kindNumber, constant: true, number: func(scope) int64 { return n }}
}

func constantText(t string) *value {
	return &value{kind: kindText, constant: true, text: func(scope) string { return t }}
}
