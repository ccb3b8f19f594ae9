package expr

import (
	"github.com/expr-lang/expr/ast"
)

func (x *compiler) unary(n *ast.UnaryNode) *value {
	v := x.compile(n.Node)
	if v == nil {
		return nil
	}
	switch n.Operator {
	case "not", "!":
		if v.kind == Bool {
			truth := v.truth
			return &value{kind: Bool, constant: v.constant, connective: "not", left: v, truth: func(s Scope) bool { return !truth(s) }}
		}
		x.fault(n.Location().From, "%s wants a condition, %s is %s; not binds tighter than ==, so write not (a == b) or a != b", n.Operator, v.source(), v.kind)
	case "-", "+":
		if v.kind == Number && v.constant {
			number := v.number(Scope{})
			if n.Operator == "-" {
				number = -number
			}
			return constantNumber(number)
		}
		x.fault(n.Location().From, "%s stands before a written number only", n.Operator)
	}
	return nil
}

func (x *compiler) binary(n *ast.BinaryNode) *value {
	switch n.Operator {
	case "and", "or", "&&", "||", "==", "!=", "<", "<=", ">", ">=", "in", "contains", "startsWith", "endsWith", "matches":
	case "..":
		x.fault(n.Location().From, "a range has no place in a rule: write %s >= %s and %s <= %s", "x", n.Left, "x", n.Right)
		return nil
	default:
		x.fault(n.Location().From, "%s has no place in a rule: rules compare, they do not calculate", n.Operator)
		return nil
	}
	left, right := x.compile(n.Left), x.compile(n.Right)
	if left == nil || right == nil {
		return nil
	}
	var v *value
	about := &Part{operands: []*value{left, right}}
	switch n.Operator {
	case "and", "&&", "or", "||":
		return x.connective(n, left, right)
	case "==", "!=":
		v = x.equal(n, left, right, about)
	case "<", "<=", ">", ">=":
		v = x.order(n, left, right, about)
	case "in":
		v = x.in(n, left, right, about)
	case "matches":
		v = x.matches(n, left, right)
	default:
		v = x.substring(n, left, right)
	}
	if v == nil {
		return nil
	}
	v.kind, v.constant = Bool, left.constant && right.constant
	return x.part(n, v, about)
}

// part makes v, the value of n, one that Explain shows and that can be assumed.
func (x *compiler) part(n ast.Node, v *value, about *Part) *value {
	if x.inner > 0 || v.constant {
		return v // it has another value for each element; or always the same
	}
	v.node, v.offset = n, start(n)
	about.value, about.Text, about.Position = v, n.String(), x.at(v.offset)
	about.Free = about.fact == nil
	if about.Free {
		truth, key := v.truth, about.Text
		v.truth = func(s Scope) bool {
			if s.assume != nil {
				if assumed, ok := s.assume[key]; ok {
					return assumed
				}
			}
			return truth(s)
		}
	}
	x.out.Parts = append(x.out.Parts, about)
	return v
}

func isConnective(operator string) bool {
	return operator == "and" || operator == "or" || operator == "&&" || operator == "||"
}

func (x *compiler) connective(n *ast.BinaryNode, left, right *value) *value {
	for _, side := range []*value{left, right} {
		if side.kind != Bool {
			hint := ""
			if side.constant && left.kind == Bool {
				hint = ": each side of it is a whole comparison, as in a == \"x\" or a == \"y\"; or write a in [\"x\", \"y\"]"
			}
			x.fault(side.offset, "%s joins conditions, %s is %s%s", n.Operator, side.source(), side.kind, hint)
			return nil
		}
	}
	a, b := left.truth, right.truth
	v := &value{kind: Bool, constant: left.constant && right.constant, connective: "or", left: left, right: right}
	if n.Operator == "and" || n.Operator == "&&" {
		v.connective = "and"
		v.truth = func(s Scope) bool { return a(s) && b(s) }
	} else {
		v.truth = func(s Scope) bool { return a(s) || b(s) }
	}
	return v
}
