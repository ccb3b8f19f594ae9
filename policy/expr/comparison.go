package expr

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"postern/configs"
	"postern/proxy/smtp"
)

func (x *compiler) equal(n *ast.BinaryNode, left, right *value, about *Part) *value {
	if left.kind != right.kind {
		hint := ""
		if left.kind == Texts || right.kind == Texts {
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
	case Bool:
		a, b := left.truth, right.truth
		return &value{truth: func(s Scope) bool { return (a(s) == b(s)) == same }}
	case Number:
		if right.constant && left.fact != nil {
			about.fact, about.numbers = left.fact, []int64{right.number(Scope{})}
		}
		a, b := left.number, right.number
		return &value{truth: func(s Scope) bool { return (a(s) == b(s)) == same }}
	case Text:
		if !right.constant {
			a, b := left.text, right.text
			return &value{truth: func(s Scope) bool { return (a(s) == b(s)) == same }}
		}
		text, ok := x.literal(left, right, right.text(Scope{}), false)
		if !ok {
			return nil
		}
		if left.fact != nil {
			about.fact, about.texts = left.fact, []string{text}
		}
		read := left.text
		if same {
			return &value{truth: func(s Scope) bool { return read(s) == text }}
		}
		return &value{truth: func(s Scope) bool { return read(s) != text }}
	}
	x.fault(n.Location().From, "lists are not compared: use in, any, all and none")
	return nil
}

// literal checks a text that a rule compares with a fact, and returns it in the
// spelling that the fact would have.
func (x *compiler) literal(with, at *value, text string, network bool) (string, bool) {
	f := with.fact
	if f == nil {
		return text, true
	}
	switch {
	case f.Words != nil && !slices.Contains(f.Words, text):
		suggestion := configs.DidYouMean(text, f.Words)
		x.fault(at.offset, "%s is never %q%s: it is %s", f.Name, text, suggestion, configs.Alternatives(f.Words))
		return "", false
	case f.Form == "ip" && text != "":
		addr, err := netip.ParseAddr(text)
		if err == nil && addr.Zone() == "" {
			return addr.Unmap().String(), true
		}
		if strings.Contains(text, "/") {
			if _, err := configs.ParseNetwork(text); err != nil {
				x.fault(at.offset, "%q is no network: write it as 192.0.2.0/24 or 2001:db8::/32", text)
				return "", false
			}
			if !network {
				x.fault(at.offset, "%s is one address and never equals a network: write %s in [%q]", f.Name, f.Name, text)
				return "", false
			}
			return text, true
		}
		x.fault(at.offset, "%q is no IP address; %s is one", text, f.Name)
		return "", false
	case f.Form == "domain" && text != strings.ToLower(text), f.Form == "hex" && text != strings.ToLower(text):
		x.fault(at.offset, "%s is in lower case and never %q: write %q", f.Name, text, strings.ToLower(text))
		return "", false
	case f.Form == "country" && text != "" && (len(text) != 2 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != ""):
		x.fault(at.offset, "%s is two capital letters (ISO 3166-1), as in \"DE\", and never %q", f.Name, text)
		return "", false
	case f.Form == "domain" && strings.HasSuffix(text, "."):
		x.fault(at.offset, "%s ends without a dot and is never %q", f.Name, text)
		return "", false
	case f.Form == "domain" && strings.ContainsFunc(text, func(r rune) bool { return r > 0x7e }):
		x.fault(at.offset, "%s has A-labels (xn--...) and is never %q", f.Name, text)
		return "", false
	}
	if f.Form == "address" && text != "" && !strings.HasSuffix(text, "]") {
		local, domain, _ := smtp.CutAddress(text)
		switch {
		case text == "<>":
			x.fault(at.offset, "%s of the null reverse-path is empty: write \"\"", f.Name)
		case strings.HasPrefix(text, "<") && strings.HasSuffix(text, ">"):
			x.fault(at.offset, "%s has no angle brackets and is never %q: write %q", f.Name, text, text[1:len(text)-1])
		case domain != strings.ToLower(domain):
			x.fault(at.offset, "%s has its domain in lower case and is never %q: write %q", f.Name, text, local+"@"+strings.ToLower(domain))
		case strings.ContainsFunc(domain, func(r rune) bool { return r > 0x7e }):
			x.fault(at.offset, "%s has A-labels (xn--...) and is never %q", f.Name, text)
		default:
			return text, true
		}
		return "", false
	}
	if f.Result {
		x.out.Results[text] = true
	}
	return text, true
}

func (x *compiler) order(n *ast.BinaryNode, left, right *value, about *Part) *value {
	for _, side := range []*value{left, right} {
		if side.kind != Number {
			x.fault(n.Location().From, "%s compares numbers, %s is %s", n.Operator, side.source(), side.kind)
			return nil
		}
	}
	switch {
	case left.fact != nil && right.constant:
		about.fact, about.numbers = left.fact, []int64{right.number(Scope{})}
	case right.fact != nil && left.constant:
		about.fact, about.numbers = right.fact, []int64{left.number(Scope{})}
	}
	a, b := left.number, right.number
	switch n.Operator {
	case "<":
		return &value{truth: func(s Scope) bool { return a(s) < b(s) }}
	case "<=":
		return &value{truth: func(s Scope) bool { return a(s) <= b(s) }}
	case ">":
		return &value{truth: func(s Scope) bool { return a(s) > b(s) }}
	default:
		return &value{truth: func(s Scope) bool { return a(s) >= b(s) }}
	}
}
