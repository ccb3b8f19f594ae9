package policy

import (
	"math"
	"reflect"
	"slices"
	"strconv"
)

// variable is something a verdict can turn on: a fact with the values that
// make a difference to the rules, or a condition that may be either way. It is
// what Warnings and Explain vary to ask "what if".
type variable struct {
	name    string
	fact    *fact // nil: a condition, taken to be false or true
	texts   []string
	numbers []int64
}

// other stands for every text that no rule compares with.
const other = "\x00other"

// variables returns those of some rules, by first use.
func variables(rules []*rule) []*variable {
	var all []*variable
	known := map[string]*variable{}
	for _, r := range rules {
		for _, p := range r.parts {
			name := p.text
			if !p.free {
				name = p.fact.name
			}
			v := known[name]
			if v == nil {
				v = &variable{name: name, fact: p.fact}
				known[name] = v
				all = append(all, v)
			}
			for _, text := range p.texts {
				if !slices.Contains(v.texts, text) {
					v.texts = append(v.texts, text)
				}
			}
			v.addNumbers(p.numbers)
		}
	}
	for _, v := range all {
		if v.fact != nil && v.fact.kind == kindText {
			v.texts = append(v.texts, v.fact.otherThan(v.texts)...)
		}
	}
	return all
}

// addNumbers adds the numbers at which comparisons with these can turn.
func (v *variable) addNumbers(numbers []int64) {
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
func (t *fact) otherThan(texts []string) []string {
	if t.words == nil {
		return []string{other}
	}
	for _, word := range t.words {
		if !slices.Contains(texts, word) {
			return []string{word}
		}
	}
	return nil
}

// count returns how many values the variable has.
func (v *variable) count() int {
	switch {
	case v.fact == nil || v.fact.kind == kindBool:
		return 2
	case v.fact.kind == kindNumber:
		return len(v.numbers)
	default:
		return len(v.texts)
	}
}

// set gives the variable its i-th value in s.
func (v *variable) set(s scope, i int) {
	switch {
	case v.fact == nil:
		s.assume[v.name] = i == 1
	case v.fact.kind == kindBool:
		v.fact.read(s.facts).SetBool(i == 1)
	case v.fact.kind == kindNumber:
		v.fact.read(s.facts).SetInt(v.numbers[i])
	default:
		v.fact.read(s.facts).SetString(v.texts[i])
	}
}

// show renders the i-th value.
func (v *variable) show(i int) string {
	switch {
	case v.fact == nil || v.fact.kind == kindBool:
		return strconv.FormatBool(i == 1)
	case v.fact.kind == kindNumber:
		return strconv.FormatInt(v.numbers[i], 10)
	case v.texts[i] == other:
		return "anything else"
	default:
		return strconv.Quote(v.texts[i])
	}
}

// imagine returns a scope over a copy of f, in which variables can be set.
func imagine(f Facts) scope {
	return scope{facts: reflect.ValueOf(&f).Elem(), assume: assumption{}}
}
