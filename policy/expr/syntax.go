package expr

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
)

// Guarded is a condition with the lets none of which may hold besides, as one would
// write it. A condition that does not parse is a fault, and is shown as it is.
func Guarded(condition string, unless []string) string {
	text := strings.TrimRight(condition, " \t\r\n")
	if len(unless) == 0 {
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
	return text + " and not " + strings.Join(unless, " and not ")
}

// NamesIn returns the names that a text mentions, however it spells them, of facts
// and of lets, known or not. What does not parse names nothing: it is a fault, which
// is told by who compiles it.
func NamesIn(text string) []string {
	if len(text) > MaxLength {
		return nil
	}
	tree, err := parse(text)
	if err != nil {
		return nil
	}
	var names []string
	ast.Walk(&tree, visitor(func(n ast.Node) {
		if name, ok := dotted(n); ok {
			names = append(names, name)
		}
	}))
	return names
}

// visitor is a function that ast.Walk calls with each node.
type visitor func(ast.Node)

// Visit implements ast.Visitor.
func (v visitor) Visit(n *ast.Node) { v(*n) }

// IsName says whether a let may be called s: letters, digits and _, not starting with
// a digit.
func IsName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// IsWord says whether s is a word of the language itself.
func IsWord(s string) bool { return functions[s] != "" || keywords[s] }

var keywords = map[string]bool{
	"true": true, "false": true, "nil": true, "and": true, "or": true, "not": true, "in": true, "if": true, "else": true,
	"let": true, "contains": true, "matches": true, "startsWith": true, "endsWith": true,
}

// parse makes a tree of bounded size of a text.
func parse(text string) (ast.Node, error) {
	// NOT: conf.CreateNew, which lists what the library's compiler wants. That is not used, and the list costs
	// more than the text.
	tree, err := parser.ParseWithConfig(text, &conf.Config{MaxNodes: maxNodes})
	if err != nil {
		return nil, err
	}
	return tree.Node, nil
}

func (x *compiler) syntaxFault(err error) {
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
