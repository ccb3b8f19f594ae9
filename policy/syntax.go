package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"postern/configs"
)

// whole is the condition with what excuses from it, as one would write it. A condition
// that does not parse is a fault, and is shown as it is.
func whole(r configs.Rule) string {
	text := strings.TrimRight(r.When, " \t\r\n")
	if len(r.Unless) == 0 {
		return text
	}
	tree, err := parse(text)
	if strings.Contains(text, "//") {
		text += "\n" // the end of a comment
	}
	if err == nil {
		if b, ok := tree.(*ast.BinaryNode); ok && (b.Operator == "or" || b.Operator == "||") {
			text = "(" + text + ")"
		}
	}
	return text + " and not " + strings.Join(r.Unless, " and not ")
}

// parse makes a tree of bounded size of a text.
func parse(text string) (ast.Node, error) {
	config := conf.CreateNew()
	config.MaxNodes = maxNodes
	tree, err := parser.ParseWithConfig(text, config)
	if err != nil {
		return nil, err
	}
	return tree.Node, nil
}

func (x *expression) syntaxFault(err error) {
	var at *file.Error
	if !errors.As(err, &at) {
		x.fault(0, "%v", err)
		return
	}
	text := at.Message
	if what, ok := strings.CutPrefix(text, "unexpected token "); ok {
		_, token, found := strings.Cut(strings.TrimSuffix(what, ")"), "(")
		if token, err := strconv.Unquote(token); found && err == nil {
			what = token
		}
		switch what {
		case "EOF":
			text = "the expression ends too early"
		case "=":
			text = "= does not compare: write =="
		case "&", "|":
			text = fmt.Sprintf("%s is no operator: write %s", what, map[string]string{"&": "and", "|": "or"}[what])
		case ">":
			text = "> is not expected here; for unequal write !="
		default:
			text = fmt.Sprintf("%s is not expected here", strconv.Quote(what))
			if strings.EqualFold(what, "and") || strings.EqualFold(what, "or") || strings.EqualFold(what, "in") {
				text += ": operators are written in lower case"
			}
		}
	} else if text == "literal not terminated" {
		text = "a text is not closed: its last quote is missing"
	} else if strings.Contains(text, "maximum allowed nodes") {
		text = fmt.Sprintf("the expression has more than %d parts: move addresses and domains into a list and read it with in_list", maxNodes)
	}
	x.fault(at.From, "%s", text)
}

// dotted returns the name that n spells, where it spells one: a.b.c.
func dotted(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return n.Value, true
	case *ast.MemberNode:
		property, ok := n.Property.(*ast.StringNode)
		if !ok || n.Optional {
			return "", false
		}
		prefix, ok := dotted(n.Node)
		return prefix + "." + property.Value, ok
	}
	return "", false
}
