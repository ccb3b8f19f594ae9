package expr

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"postern/configs"
)

// example returns a value that f could well be compared with.
func (x *compiler) example(f *Fact) string {
	if f.Words != nil {
		return strconv.Quote(f.Words[0])
	}
	return `"..."`
}

func (x *compiler) name(n ast.Node) *value {
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
	if let, ok := x.Lets[name]; ok {
		if let.value == nil {
			return nil // its own fault has been noted
		}
		if x.out.size += let.size; x.out.size > maxSize {
			x.fault(n.Location().From, "the expression has more than %d parts, those of its lets counted in", maxSize)
			return nil
		}
		x.out.loops = x.out.loops || let.loops
		if let.loops && x.inner > 0 {
			x.fault(n.Location().From, "%s goes through a list for each element of this one: take it out of the inner condition", name)
			return nil
		}
		for name := range let.Facts {
			x.read(x.Facts.Fact(name), n)
		}
		if x.inner == 0 {
			x.out.Parts = append(x.out.Parts, let.Parts...)
		}
		maps.Copy(x.out.Results, let.Results)
		v := *let.value
		return &v
	}
	f := x.Facts.Fact(name)
	if f == nil {
		x.unknownName(n, name)
		return nil
	}
	x.read(f, n)
	v := f.value()
	if f.Kind == Bool {
		x.part(n, v, &Part{fact: f})
	}
	return v
}

// read notes that the expression reads f, at n.
func (x *compiler) read(f *Fact, n ast.Node) {
	x.reads.Add(f)
	if _, noted := x.out.Facts[f.Name]; !noted {
		x.out.Facts[f.Name] = x.at(start(n))
	}
}

func (x *compiler) unknownName(n ast.Node, name string) {
	if x.Facts.groups[name] {
		x.fault(start(n), "%s is a group of facts, not a fact: read %s", name, configs.Alternatives(x.Facts.members(name)))
		return
	}
	known := slices.Clone(x.Facts.names)
	for let := range x.Lets {
		known = append(known, let)
	}
	slices.Sort(known)
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		group := name[:i]
		if x.Facts.groups[group] {
			x.fault(n.Location().From, "%s has no %s%s; there is %s", group, name[i+1:], x.Facts.didYouMeanIn(group, name[i+1:]), configs.Alternatives(x.Facts.members(group)))
			return
		}
		if x.Facts.Fact(group) != nil {
			x.fault(n.Location().From, "%s is a fact and has no %s", group, name[i+1:])
			return
		}
	}
	hint := configs.DidYouMean(name, known)
	if hint == "" && !strings.Contains(name, ".") {
		hint = `: a text stands in quotes, as in "` + name + `"`
	}
	x.fault(start(n), "unknown name %s%s", name, hint)
}

// didYouMeanIn is DidYouMean for the name of a fact inside a group.
func (v *Vocabulary) didYouMeanIn(group, name string) string {
	inside := v.members(group)
	for i, m := range inside {
		inside[i] = strings.TrimPrefix(m, group+".")
	}
	if best := configs.Nearest(name, slices.Values(inside)); best != "" {
		return " (did you mean " + group + "." + best + "?)"
	}
	return ""
}
