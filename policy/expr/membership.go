package expr

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"postern/configs"
)

func (x *compiler) array(n *ast.ArrayNode) *value {
	if len(n.Nodes) == 0 {
		x.fault(n.Location().From, "the list is empty, so nothing is in it")
		return nil
	}
	elements := make([]*value, 0, len(n.Nodes))
	for _, node := range n.Nodes {
		v := x.compile(node)
		if v == nil {
			continue
		}
		if !v.constant || v.kind != Text && v.kind != Number {
			x.fault(v.offset, "%s cannot stand in a list: a list holds written texts or written numbers", v.source())
			continue
		}
		if len(elements) > 0 && elements[0].kind != v.kind {
			x.fault(v.offset, "%s is %s, but the list starts with %s", v.source(), v.kind, elements[0].kind)
			continue
		}
		elements = append(elements, v)
	}
	if len(elements) < len(n.Nodes) {
		return nil
	}
	if elements[0].kind == Number {
		list := &value{kind: Numbers, constant: true}
		for _, e := range elements {
			list.numbers = append(list.numbers, e.number(Scope{}))
		}
		return list
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = e.text(Scope{})
	}
	return &value{kind: Texts, constant: true, texts: func(Scope) []string { return texts }}
}

func (x *compiler) in(n *ast.BinaryNode, left, right *value, about *Part) *value {
	switch {
	case right.kind == Numbers && left.kind == Number:
		if left.fact != nil {
			about.fact, about.numbers = left.fact, right.numbers
		}
		read, numbers := left.number, right.numbers
		return &value{truth: func(s Scope) bool { return slices.Contains(numbers, read(s)) }}
	case right.kind == Texts && left.kind == Text && !right.constant:
		if left.constant && right.fact != nil && right.fact.Form != "" {
			element := value{kind: Text, fact: right.fact}
			if _, ok := x.literal(&element, left, left.text(Scope{}), false); !ok {
				return nil
			}
		}
		read, list := left.text, right.texts
		return &value{truth: func(s Scope) bool { return slices.Contains(list(s), read(s)) }}
	case right.kind == Texts && left.kind == Text:
		return x.inTexts(n, left, right, about)
	case right.kind == Text:
		x.fault(n.Location().From, "in wants a list on its right, %s is a text: write in [%s], or contains for a part of a text", right.source(), right.source())
	case right.kind == Texts || right.kind == Numbers:
		x.fault(n.Location().From, "%s is %s and %s is %s: it is never in it", left.source(), left.kind, right.source(), right.kind)
	default:
		x.fault(n.Location().From, "in wants a list on its right, %s is %s", right.source(), right.kind)
	}
	return nil
}

// linear is the length up to which a list is searched from end to end.
const linear = 8

// inTexts is "fact in [...]": texts, or addresses and networks for an address. The list
// may stand in a let.
func (x *compiler) inTexts(n *ast.BinaryNode, left, right *value, about *Part) *value {
	var elements []ast.Node // empty where the list stands elsewhere
	if array, ok := n.Right.(*ast.ArrayNode); ok {
		elements = array.Nodes
	}
	var texts []string
	var networks []netip.Prefix
	good := true
	for i, text := range right.texts(Scope{}) {
		at := right
		if elements != nil {
			at = &value{offset: start(elements[i])}
		}
		text, ok := x.literal(left, at, text, true)
		good = good && ok
		if ok && left.fact != nil && left.fact.Form == "ip" && strings.Contains(text, "/") {
			network, _ := configs.ParseNetwork(text) // literal has found it good
			networks = append(networks, network.Masked())
			continue
		}
		texts = append(texts, text)
	}
	if !good {
		return nil
	}
	read := left.text
	if networks != nil {
		return &value{truth: func(s Scope) bool {
			text := read(s)
			if slices.Contains(texts, text) {
				return true
			}
			addr, err := netip.ParseAddr(text)
			return err == nil && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
		}}
	}
	if left.fact != nil {
		about.fact, about.texts = left.fact, texts
	}
	if len(texts) <= linear {
		return &value{truth: func(s Scope) bool { return slices.Contains(texts, read(s)) }}
	}
	set := make(map[string]struct{}, len(texts))
	for _, t := range texts {
		set[t] = struct{}{}
	}
	return &value{truth: func(s Scope) bool { _, ok := set[read(s)]; return ok }}
}

func (x *compiler) matches(n *ast.BinaryNode, left, right *value) *value {
	if left.kind != Text {
		x.fault(n.Location().From, "matches wants a text on its left, %s is %s", left.source(), left.kind)
		return nil
	}
	if right.kind != Text || !right.constant {
		x.fault(right.offset, "matches wants a written pattern on its right, so that it can be checked now")
		return nil
	}
	pattern := right.text(Scope{})
	if len(pattern) > maxPattern {
		x.fault(right.offset, "the pattern is longer than %d octets", maxPattern)
		return nil
	}
	// RE2: time linear in the text, whatever the pattern.
	re, err := regexp.Compile(pattern)
	if err != nil {
		x.fault(right.offset, "the pattern is wrong: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return nil
	}
	read := left.text
	return &value{truth: func(s Scope) bool { return re.MatchString(read(s)) }}
}

func (x *compiler) substring(n *ast.BinaryNode, left, right *value) *value {
	if left.kind == Texts {
		x.fault(n.Location().From, "%s is a list: write %s in %s, or any(%s, # %s %s)", left.source(), right.source(), left.source(), left.source(), n.Operator, right.source())
		return nil
	}
	for _, side := range []*value{left, right} {
		if side.kind != Text {
			x.fault(n.Location().From, "%s wants texts, %s is %s", n.Operator, side.source(), side.kind)
			return nil
		}
	}
	a, b := left.text, right.text
	switch n.Operator {
	case "contains":
		return &value{truth: func(s Scope) bool { return strings.Contains(a(s), b(s)) }}
	case "startsWith":
		return &value{truth: func(s Scope) bool { return strings.HasPrefix(a(s), b(s)) }}
	default:
		return &value{truth: func(s Scope) bool { return strings.HasSuffix(a(s), b(s)) }}
	}
}
