package policy

import (
	"reflect"
	"strings"

	"postern/policy/expr"
)

// fact is one name that rules may read.
type fact struct {
	*expr.Fact
	by    string // the check that finds it; empty: none does
	stage Stage
	needs []string // the checks whose findings it is made of
}

// words is what rules may read, by the tags of Facts; vocabulary holds the same facts
// with what a policy has to know of them besides.
var (
	words      = expr.Describe(reflect.TypeFor[Facts]())
	vocabulary = describe()
)

func describe() map[string]*fact {
	facts := map[string]*fact{}
	checks := map[string]bool{}
	for _, name := range words.Names() {
		f := &fact{Fact: words.Fact(name)}
		f.stage, _ = ParseStage(f.Inherited("stage"))
		f.needs = strings.Fields(f.Inherited("needs"))
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
