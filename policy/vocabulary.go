package policy

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"postern/policy/expr"
)

// fact is one name that rules may read.
type fact struct {
	*expr.Fact
	by    string // the check that finds it; empty: none does
	stage Stage
	needs []string // the checks whose findings it is made of
	of    string   // the check whose trouble it is if something is wrong with it
}

// factOf returns what a policy has to know of a fact, nil where there is no such one; of
// lists, whatever the names of their elements.
func factOf(name string) *fact {
	if f := vocabulary[name]; f != nil {
		return f
	}
	if p := words.Prototype(name); p != nil {
		return listed[p.Name]
	}
	return nil
}

// lists are those of Facts whose elements the configuration names.
const (
	services = "service"
	milters  = "milter"
)

// words is what rules may read, by the tags of Facts; vocabulary holds the same facts
// with what a policy has to know of them besides.
var (
	words      = expr.Describe(reflect.TypeFor[Facts]())
	vocabulary = describe()
	listed     = describeListed() // by the names of prototypes, "service.action"
)

func describeListed() map[string]*fact {
	facts := map[string]*fact{}
	for _, p := range slices.Concat(words.Prototypes(services), words.Prototypes(milters)) {
		f := &fact{Fact: p}
		f.stage, _ = ParseStage(p.Inherited("stage"))
		facts[p.Name] = f
	}
	return facts
}

func describe() map[string]*fact {
	facts := map[string]*fact{}
	checks := map[string]bool{}
	for _, name := range words.Names() {
		f := &fact{Fact: words.Fact(name)}
		f.stage, _ = ParseStage(f.Inherited("stage"))
		f.needs = strings.Fields(f.Inherited("needs"))
		f.of = cmp.Or(f.Tag().Get("of"), f.Group)
		facts[name] = f
		checks[f.Group] = checks[f.Group] || f.Result
	}
	for _, f := range facts {
		by, ok := f.Tag().Lookup("by")
		if !ok {
			by = f.Group
		}
		if checks[by] {
			f.by = by
		}
	}
	return facts
}

// ParseStage returns the stage of that name.
func ParseStage(name string) (Stage, bool) {
	for i, s := range stageNames {
		if s == name {
			return Stage(i), true
		}
	}
	return 0, false
}
