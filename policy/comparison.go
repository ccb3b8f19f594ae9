package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
)

func (x *expression) equal(n *ast.BinaryNode, left, right *value, about *part) *value {
	if left.kind != right.kind {
		hint := ""
		if left.kind == kindTexts || right.kind == kindTexts {
			hint = "; use in"
		}
		x.fault(n.Location().From, "%s is %s and %s is %s: they are never equal%s", left.source(), left.kind, right.source(), right.kind, hint)
		return nil
	}
	if left.constant {
		left, right = right, left
	}
	same := n.Operator == "=="
	switch left.kind {
	case kindBool:
		a, b := left.truth, right.truth
		return &value{truth: func(s scope) bool { return (a(s) == b(s)) == same }}
	case kindNumber:
		if right.constant && left.fact != nil {
			about.fact, about.numbers = left.fact, []int64{right.number(scope{})}
		}
		a, b := left.number, right.number
		return &value{truth: func(s scope) bool { return (a(s) == b(s)) == same }}
	case kindText:
		if !right.constant {
			a, b := left.text, right.text
			return &value{truth: func(s scope) bool { return (a(s) == b(s)) == same }}
		}
		text, ok := x.literal(left, right, right.text(scope{}), false)
		if !ok {
			return nil
		}
		if left.fact != nil {
			about.fact, about.texts = left.fact, []string{text}
		}
		read := left.text
		if same {
			return &value{truth: func(s scope) bool { return read(s) == text }}
		}
		return &value{truth: func(s scope) bool { return read(s) != text }}
	}
	x.fault(n.Location().From, "lists are not compared: use in, any, all and none")
	return nil
}

// literal checks a text that a rule compares with a fact, and returns it in the
// spelling that the fact would have.
func (x *expression) literal(with, at *value, text string, network bool) (string, bool) {
	f := with.fact
	if f == nil {
		return text, true
	}
	switch {
	case f.words != nil && !slices.Contains(f.words, text):
		suggestion := didYouMean(text, f.words)
		x.fault(at.offset, "%s is never %q%s: it is %s", f.name, text, suggestion, alternatives(f.words))
		return "", false
	case f.form == "ip" && text != "":
		addr, err := netip.ParseAddr(text)
		if err == nil && addr.Zone() == "" {
			return addr.Unmap().String(), true
		}
		if strings.Contains(text, "/") {
			if _, err := parseNetwork(text); err != nil {
				x.fault(at.offset, "%q is no network: write it as 192.0.2.0/24 or 2001:db8::/32", text)
				return "", false
			}
			if !network {
				x.fault(at.offset, "%s is one address and never equals a network: write %s in [%q]", f.name, f.name, text)
				return "", false
			}
			return text, true
		}
		x.fault(at.offset, "%q is no IP address; %s is one", text, f.name)
		return "", false
	case f.form == "domain" && text != strings.ToLower(text), f.form == "hex" && text != strings.ToLower(text):
		x.fault(at.offset, "%s is in lower case and never %q: write %q", f.name, text, strings.ToLower(text))
		return "", false
	case f.form == "domain" && strings.HasSuffix(text, "."):
		x.fault(at.offset, "%s ends without a dot and is never %q", f.name, text)
		return "", false
	case f.form == "domain" && strings.ContainsFunc(text, func(r rune) bool { return r > 0x7e }):
		x.fault(at.offset, "%s has A-labels (xn--...) and is never %q", f.name, text)
		return "", false
	}
	if sign := strings.LastIndexByte(text, '@'); f.form == "address" && text != "" && !strings.HasSuffix(text, "]") {
		domain := text[sign+1:]
		switch {
		case text == "<>":
			x.fault(at.offset, "%s of the null reverse-path is empty: write \"\"", f.name)
		case strings.HasPrefix(text, "<") && strings.HasSuffix(text, ">"):
			x.fault(at.offset, "%s has no angle brackets and is never %q: write %q", f.name, text, text[1:len(text)-1])
		case sign >= 0 && domain != strings.ToLower(domain):
			x.fault(at.offset, "%s has its domain in lower case and is never %q: write %q", f.name, text, text[:sign+1]+strings.ToLower(domain))
		case sign >= 0 && strings.ContainsFunc(domain, func(r rune) bool { return r > 0x7e }):
			x.fault(at.offset, "%s has A-labels (xn--...) and is never %q", f.name, text)
		default:
			return text, true
		}
		return "", false
	}
	if f.result {
		x.results[Result(text)] = true
	}
	return text, true
}

func (x *expression) order(n *ast.BinaryNode, left, right *value, about *part) *value {
	for _, side := range []*value{left, right} {
		if side.kind != kindNumber {
			x.fault(n.Location().From, "%s compares numbers, %s is %s", n.Operator, side.source(), side.kind)
			return nil
		}
	}
	switch {
	case left.fact != nil && right.constant:
		about.fact, about.numbers = left.fact, []int64{right.number(scope{})}
	case right.fact != nil && left.constant:
		about.fact, about.numbers = right.fact, []int64{left.number(scope{})}
	}
	a, b := left.number, right.number
	switch n.Operator {
	case "<":
		return &value{truth: func(s scope) bool { return a(s) < b(s) }}
	case "<=":
		return &value{truth: func(s scope) bool { return a(s) <= b(s) }}
	case ">":
		return &value{truth: func(s scope) bool { return a(s) > b(s) }}
	default:
		return &value{truth: func(s scope) bool { return a(s) >= b(s) }}
	}
}
