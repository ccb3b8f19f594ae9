package expr

import (
	"iter"
	"math"
	"slices"
	"strconv"
)

// Variable is something a verdict can turn on: a fact with the values that
// make a difference to the rules, or a condition that may be either way. It is
// what one varies to ask "what if".
type Variable struct {
	Name  string
	Fact  *Fact    // nil: a condition, taken to be false or true
	Texts []string // the values of a text

	numbers []int64
}

// Other stands in Texts for every text that nothing compares with.
const Other = "\x00other"

// Variables returns those that some parts turn on, by first use.
func Variables(parts iter.Seq[*Part]) []*Variable {
	var all []*Variable
	known := map[string]*Variable{}
	for p := range parts {
		name := p.Text
		if !p.Free {
			name = p.fact.Name
		}
		v := known[name]
		if v == nil {
			v = &Variable{Name: name, Fact: p.fact}
			known[name] = v
			all = append(all, v)
		}
		for _, text := range p.texts {
			if !slices.Contains(v.Texts, text) {
				v.Texts = append(v.Texts, text)
			}
		}
		v.addNumbers(p.numbers)
	}
	for _, v := range all {
		if v.Fact != nil && v.Fact.Kind == Text {
			v.Texts = append(v.Texts, v.Fact.otherThan(v.Texts)...)
		}
	}
	return all
}

// addNumbers adds the numbers at which comparisons with these can turn.
func (v *Variable) addNumbers(numbers []int64) {
	for _, n := range numbers {
		around := []int64{n}
		if n > math.MinInt64 {
			around = append(around, n-1)
		}
		if n < math.MaxInt64 {
			around = append(around, n+1)
		}
		for _, m := range around {
			if !slices.Contains(v.numbers, m) {
				v.numbers = append(v.numbers, m)
			}
		}
	}
}

// otherThan returns a value of t that is none of texts, if there is one.
func (t *Fact) otherThan(texts []string) []string {
	if t.Words == nil {
		return []string{Other}
	}
	for _, word := range t.Words {
		if !slices.Contains(texts, word) {
			return []string{word}
		}
	}
	return nil
}

// Count returns how many values the variable has.
func (v *Variable) Count() int {
	switch {
	case v.Fact == nil || v.Fact.Kind == Bool:
		return 2
	case v.Fact.Kind == Number:
		return len(v.numbers)
	default:
		return len(v.Texts)
	}
}

// Set gives the variable its i-th value in s, a scope of Suppose.
func (v *Variable) Set(s Scope, i int) {
	switch {
	case v.Fact == nil:
		s.assume[v.Name] = i == 1
	case v.Fact.Kind == Bool:
		v.Fact.settable(s).SetBool(i == 1)
	case v.Fact.Kind == Number:
		v.Fact.settable(s).SetInt(v.numbers[i])
	default:
		v.Fact.settable(s).SetString(v.Texts[i])
	}
}

// Show renders the i-th value.
func (v *Variable) Show(i int) string {
	switch {
	case v.Fact == nil || v.Fact.Kind == Bool:
		return strconv.FormatBool(i == 1)
	case v.Fact.Kind == Number:
		return strconv.FormatInt(v.numbers[i], 10)
	case v.Texts[i] == Other:
		return "anything else"
	default:
		return strconv.Quote(v.Texts[i])
	}
}

// Combinations counts the combinations of values of all, up to a little above most.
func Combinations(all []*Variable, most int) int {
	n := 1
	for _, v := range all {
		if n *= v.Count(); n > most {
			break
		}
	}
	return n
}

// Possible says whether some combination of values of all makes the condition true. The
// scope is one of Suppose.
func Possible(s Scope, all []*Variable, condition func(Scope) bool) bool {
	if len(all) == 0 {
		return condition(s)
	}
	for value := range all[0].Count() {
		all[0].Set(s, value)
		if Possible(s, all[1:], condition) {
			return true
		}
	}
	return false
}
