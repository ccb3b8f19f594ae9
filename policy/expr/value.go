package expr

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// Kind is the type of a value.
type Kind int

// The kinds.
const (
	Bool Kind = iota
	Number
	Text
	Texts
	Numbers
)

var kindNames = [...]string{"yes or no", "a number", "a text", "a list of texts", "a list of numbers"}

// String returns the kind as faults write it.
func (k Kind) String() string { return kindNames[k] }

// Scope is what an expression is evaluated in. It is passed by value, so that
// a decision allocates nothing.
type Scope struct {
	facts  reflect.Value // the struct, addressable
	part   any           // a pointer to what stands in place of the struct embedded in facts; nil: nothing does
	item   *string       // #, inside any, all and none
	assume assumption    // nil on live mail
}

// assumption says for some conditions, by their text, what they are taken to
// be, whatever the facts are.
type assumption map[string]bool

// On returns the scope of the facts that a pointer points to, a struct that the
// vocabulary describes.
func On(facts any) Scope { return Scope{facts: reflect.ValueOf(facts).Elem()} }

// With returns the scope of the same facts with another part, which a pointer to a struct
// of the embedded one's type points to; nil: their own.
func (s Scope) With(part any) Scope {
	s.part = part
	return s
}

// Suppose is On where variables can be set (see Variable): in the facts themselves,
// which are to be the caller's own.
func Suppose(facts any) Scope {
	s := On(facts)
	s.assume = assumption{}
	return s
}

// value is a compiled expression. The function for its kind is set, and no other.
type value struct {
	kind    Kind
	truth   func(Scope) bool
	number  func(Scope) int64
	text    func(Scope) string
	texts   func(Scope) []string
	numbers []int64 // always constant

	node     ast.Node // that it was compiled from
	offset   int      // where that starts in its text, in runes
	constant bool
	fact     *Fact // where the expression is the name of a fact and no more

	reads       Set    // the facts in it, those of its lets included
	connective  string // "and", "or" or "not", where it is one of left and right (not: of left)
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

// Show renders the fact's value as a rule would write it.
func (t *Fact) Show(s Scope) string { return t.value().show(s) }

// show renders the value under s as a rule would write it. Lists of numbers are
// written in rules and never asked for.
func (v *value) show(s Scope) string {
	switch v.kind {
	case Bool:
		return strconv.FormatBool(v.truth(s))
	case Number:
		return strconv.FormatInt(v.number(s), 10)
	case Text:
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
func (t *Fact) value() *value {
	v := &value{kind: t.Kind, fact: t}
	switch {
	case t.inner != nil:
		t.readPart(v)
	case t.Kind == Bool:
		v.truth = func(s Scope) bool { return t.In(s.facts).Bool() }
	case t.Kind == Number:
		v.number = func(s Scope) int64 { return t.In(s.facts).Int() }
	case t.Kind == Texts:
		// Through the address: Interface of the slice itself would allocate.
		v.texts = func(s Scope) []string { return *t.In(s.facts).Addr().Interface().(*[]string) }
	default:
		v.text = func(s Scope) string { return t.In(s.facts).String() }
	}
	return v
}

// readPart makes v read a fact of the part. NOT: so for all facts, since each reading
// would then ask where the fact stands, which costs a tenth of a decision.
func (t *Fact) readPart(v *value) {
	switch t.Kind {
	case Bool:
		v.truth = func(s Scope) bool { return t.Under(s).Bool() }
	case Number:
		v.number = func(s Scope) int64 { return t.Under(s).Int() }
	case Texts:
		v.texts = func(s Scope) []string { return *t.Under(s).Addr().Interface().(*[]string) }
	default:
		v.text = func(s Scope) string { return t.Under(s).String() }
	}
}

func constantTruth(b bool) *value {
	return &value{kind: Bool, constant: true, truth: func(Scope) bool { return b }}
}

func constantNumber(n int64) *value {
	return &value{kind: Number, constant: true, number: func(Scope) int64 { return n }}
}

func constantText(t string) *value {
	return &value{kind: Text, constant: true, text: func(Scope) string { return t }}
}
