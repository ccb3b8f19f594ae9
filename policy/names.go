package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// example returns a value that f could well be compared with.
func (x *expression) example(f *fact) string {
	if f.words != nil {
		return strconv.Quote(f.words[0])
	}
	return `"..."`
}

func (x *expression) name(n ast.Node) *value {
	name, ok := dotted(n)
	if m, member := n.(*ast.MemberNode); !ok && member {
		if property, ok := m.Property.(*ast.StringNode); ok {
			x.fault(n.Location().From, "%s is no group of facts and has no %s", m.Node, property.Value)
			return nil
		}
	}
	if !ok {
		x.fault(n.Location().From, "%s: elements of a list are read with in, any, all and none", n)
		return nil
	}
	if let, ok := x.lets[name]; ok {
		if let.value == nil {
			return nil // its own fault has been noted
		}
		if x.size += let.size; x.size > maxSize {
			x.fault(n.Location().From, "the expression has more than %d parts, those of its lets counted in", maxSize)
			return nil
		}
		x.loops = x.loops || let.loops
		if let.loops && x.inner > 0 {
			x.fault(n.Location().From, "%s goes through a list for each element of this one: take it out of the inner condition", name)
			return nil
		}
		for f := range let.facts {
			x.read(f, n)
		}
		if x.inner == 0 {
			x.parts = append(x.parts, let.parts...)
		}
		maps.Copy(x.results, let.results)
		v := *let.value
		return &v
	}
	f, ok := vocabulary[name]
	if !ok {
		x.unknownName(n, name)
		return nil
	}
	x.read(f, n)
	v := f.value()
	if f.kind == kindBool {
		x.part(n, v, &part{fact: f})
	}
	return v
}

// read notes that the expression reads f, at n.
func (x *expression) read(f *fact, n ast.Node) {
	x.reads.add(f)
	if _, noted := x.facts[f]; !noted {
		x.facts[f] = x.at(start(n))
	}
}

func (x *expression) unknownName(n ast.Node, name string) {
	if groups[name] {
		x.fault(start(n), "%s is a group of facts, not a fact: read %s", name, alternatives(members(name)))
		return
	}
	known := slices.Clone(factNames)
	for let := range x.lets {
		known = append(known, let)
	}
	slices.Sort(known)
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		group := name[:i]
		if groups[group] {
			x.fault(n.Location().From, "%s has no %s%s; there is %s", group, name[i+1:], didYouMeanIn(group, name[i+1:]), alternatives(members(group)))
			return
		}
		if _, ok := vocabulary[group]; ok {
			x.fault(n.Location().From, "%s is a fact and has no %s", group, name[i+1:])
			return
		}
	}
	hint := didYouMean(name, known)
	if hint == "" && !strings.Contains(name, ".") {
		hint = `: a text stands in quotes, as in "` + name + `"`
	}
	x.fault(start(n), "unknown name %s%s", name, hint)
}
