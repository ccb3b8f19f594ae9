package expr

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"

	"postern/configs"
)

// functions are those that rules may call, with what they take.
var functions = map[string]string{
	"in_list": `in_list("name", text)`,
	"len":     "len(text or list)",
	"lower":   "lower(text)",
	"upper":   "upper(text)",
	"any":     "any(list, condition on #)",
	"all":     "all(list, condition on #)",
	"none":    "none(list, condition on #)",
}

func functionNames() []string {
	names := make([]string, 0, len(functions))
	for name := range functions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (x *compiler) call(n ast.Node, name string, args []ast.Node) *value {
	usage, known := functions[name]
	if !known {
		x.fault(n.Location().From, "unknown function %s%s; there is %s", name, configs.DidYouMean(name, functionNames()), configs.Alternatives(functionNames()))
		return nil
	}
	want := strings.Count(usage, ",") + 1
	if len(args) != want {
		x.fault(n.Location().From, "%s takes %d: %s", name, want, usage)
		return nil
	}
	switch name {
	case "in_list":
		return x.inList(n, args)
	case "any", "all", "none":
		return x.quantifier(n, name, args)
	}
	v := x.compile(args[0])
	if v == nil {
		return nil
	}
	if name == "len" && v.kind == Texts {
		list := v.texts
		return &value{kind: Number, number: func(s Scope) int64 { return int64(len(list(s))) }}
	}
	if v.kind != Text {
		x.fault(v.offset, "%s is %s: %s", v.source(), v.kind, usage)
		return nil
	}
	text := v.text
	switch name {
	case "len":
		return &value{kind: Number, constant: v.constant, number: func(s Scope) int64 { return int64(utf8.RuneCountInString(text(s))) }}
	case "lower":
		return &value{kind: Text, constant: v.constant, text: func(s Scope) string { return strings.ToLower(text(s)) }}
	default:
		return &value{kind: Text, constant: v.constant, text: func(s Scope) string { return strings.ToUpper(text(s)) }}
	}
}

func (x *compiler) inList(n ast.Node, args []ast.Node) *value {
	v := x.compile(args[1])
	name, ok := args[0].(*ast.StringNode)
	switch {
	case !ok:
		x.fault(start(args[0]), `in_list wants the list's written name first: %s`, functions["in_list"])
		return nil
	case !x.Lists.Has(name.Value):
		names := x.Lists.Names()
		there := "; no lists are defined"
		if len(names) > 0 {
			there = "; there is " + configs.Alternatives(names)
		}
		x.fault(name.Location().From, "unknown list %q%s%s", name.Value, configs.DidYouMean(name.Value, names), there)
		return nil
	case v == nil:
		return nil
	case v.kind != Text:
		hint := ""
		if v.kind == Texts {
			hint = fmt.Sprintf(": write any(%s, in_list(%q, #))", v.source(), name.Value)
		}
		x.fault(v.offset, "in_list looks up a text, %s is %s%s", v.source(), v.kind, hint)
		return nil
	}
	lists, list, text := x.Lists, name.Value, v.text
	result := &value{kind: Bool, truth: func(s Scope) bool { return lists.Contains(list, text(s)) }}
	return x.part(n, result, &Part{operands: []*value{v}, List: list})
}

func (x *compiler) quantifier(n ast.Node, name string, args []ast.Node) *value {
	if x.inner > 0 {
		x.fault(n.Location().From, "%s goes through a list for each element of another one: take it out of the inner condition", name)
		return nil
	}
	x.out.loops = true
	list := x.compile(args[0])
	x.inner++
	if list != nil {
		x.item = list.fact
	}
	condition := x.compile(args[1])
	x.item = nil
	x.inner--
	if list == nil || condition == nil {
		return nil
	}
	if list.kind != Texts {
		x.fault(list.offset, "%s goes through a list of texts, %s is %s", name, list.source(), list.kind)
		return nil
	}
	if condition.kind != Bool {
		x.fault(condition.offset, "%s is %s, not a condition", condition.source(), condition.kind)
		return nil
	}
	texts, truth := list.texts, condition.truth
	// any stops at the first that holds; all and none at the first that does not fit.
	stop, found := name != "all", name == "any"
	v := &value{kind: Bool, truth: func(s Scope) bool {
		all := texts(s)
		for i := range all {
			s.item = &all[i]
			if truth(s) == stop {
				return found
			}
		}
		return !found
	}}
	return x.part(n, v, &Part{operands: []*value{list}})
}
