package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"

	"postern/configs"
)

// The bounds of one expression. Each part of it is evaluated once, or once for
// each element of one list, so an expression of bounded size needs no budget at
// run time. maxSize bounds what lets make of it that are used by lets.
const (
	maxExpression = 8 << 10 // octets
	maxNodes      = 1000    // of its syntax tree
	maxPattern    = 1 << 10 // octets of a regular expression
	maxSize       = 10 * maxNodes
	maxDepth      = 50 // of nots, calls and comparisons inside each other
)

// expression is one text being compiled: a rule's condition, or a let.
//
// The language is a part of expr-lang's, which parses it. We check and compile
// the tree ourselves: so faults speak of facts and result words, so every value
// on the way can be shown by Explain, and so a decision costs no allocation (the
// library's machine boxes each fact it reads). A property test holds the two
// evaluations together.
type expression struct {
	text     string
	position configs.Position // of text's first octet
	unless   []string         // lets, none of which may hold besides
	lets     map[string]*named
	lists    *Lists

	faults []*configs.Fault
	facts  map[*fact]configs.Position // those it reads, and where first
	reads  FactSet                    // the facts read since compile began with the node in hand
	parts  []*part                    // its comparisons and calls, as Explain shows them
	inner  int                        // depth of any, all and none around us
	item   *fact                      // the list that they go through, where it is a fact
	depth  int                        // of what we are in, chains of and and or not counted
	loops  bool                       // any, all or none is used
	size   int                        // nodes, those of lets counted as often as they are used
	// results are the result words that it compares with: they tell what a reply
	// is about that the rule leaves open.
	results map[Result]bool
}

// named is a compiled let.
type named struct {
	value   *value // nil if it is faulty
	facts   map[*fact]configs.Position
	parts   []*part
	loops   bool
	size    int
	results map[Result]bool
}

// part is a comparison or a call inside an expression, or a fact that is yes or
// no by itself: what Explain shows, and what Warnings and "what if" turn about.
type part struct {
	value    *value
	text     string // the expression, in a canonical spelling
	operands []*value
	position configs.Position
	// free says that the part may be taken to be either, for no fact's closed
	// set of values tells.
	free bool
	list string // that in_list reads
	// fact and the values it is compared with, unless free.
	fact    *fact
	texts   []string
	numbers []int64
}

// compileCondition compiles text and returns nil if it is faulty.
func (x *expression) compileCondition() *value {
	v := x.compileText()
	if v != nil && v.kind != kindBool {
		hint := ""
		if v.fact != nil && v.kind == kindText {
			hint = fmt.Sprintf(": compare it, as in %s == %s", v.source(), x.example(v.fact))
		}
		x.fault(v.offset, "%s is %s, not a condition%s", v.source(), v.kind, hint)
		return nil
	}
	return v
}

func (x *expression) compileText() *value {
	x.facts, x.results = map[*fact]configs.Position{}, map[Result]bool{}
	x.text = strings.TrimRight(x.text, " \t\r\n")
	switch {
	case strings.TrimSpace(x.text) == "":
		x.fault(0, "the expression is empty; write true for a rule that always applies")
		return nil
	case len(x.text) > maxExpression:
		x.fault(0, "the expression is longer than %d octets: move addresses and domains into a list and read it with in_list", maxExpression)
		return nil
	case !utf8.ValidString(x.text):
		x.fault(0, "the expression is not valid UTF-8")
		return nil
	}
	tree, err := parse(x.text)
	if err != nil {
		x.syntaxFault(err)
		return nil
	}
	for _, let := range x.unless {
		tree = &ast.BinaryNode{Operator: "and", Left: tree, Right: &ast.UnaryNode{Operator: "not", Node: &ast.IdentifierNode{Value: let}}}
	}
	return x.compile(tree)
}

// fault notes a fault at a rune of the text.
func (x *expression) fault(offset int, format string, args ...any) {
	x.faults = append(x.faults, &configs.Fault{Position: x.at(offset), Text: fmt.Sprintf(format, args...)})
}

// at returns the position of a rune of the text, on top of the text's own.
func (x *expression) at(offset int) configs.Position {
	p := x.position
	for _, r := range x.text {
		if offset == 0 {
			break
		}
		offset--
		if r == '\n' {
			// A block scalar has lost its indentation, the same on each line.
			p.Line, p.Column = p.Line+1, x.position.Column
		} else {
			p.Column += utf8.RuneLen(r)
		}
	}
	return p
}

// start returns where n's text starts; a node's own location is that of its
// operator or of its last name.
func start(n ast.Node) int {
	switch n := n.(type) {
	case *ast.BinaryNode:
		return start(n.Left)
	case *ast.MemberNode:
		return start(n.Node)
	}
	return n.Location().From
}

// compile compiles n; nil if something in it is faulty, which has been noted.
func (x *expression) compile(n ast.Node) *value {
	if b, ok := n.(*ast.BinaryNode); !ok || !isConnective(b.Operator) {
		// Printing a tree costs its depth times its size.
		if x.depth++; x.depth > maxDepth {
			if x.depth == maxDepth+1 {
				x.fault(start(n), "the expression is nested more than %d deep: give parts of it names with let", maxDepth)
			}
			x.depth--
			return nil
		}
		defer func() { x.depth-- }()
	}
	x.size++
	around := x.reads
	x.reads = FactSet{}
	v := x.compileNode(n)
	if v != nil {
		v.node, v.offset, v.reads = n, start(n), x.reads
	}
	x.reads = x.reads.with(around)
	return v
}

func (x *expression) compileNode(n ast.Node) *value {
	switch n := n.(type) {
	case *ast.BoolNode:
		return constantTruth(n.Value)
	case *ast.IntegerNode:
		return constantNumber(int64(n.Value))
	case *ast.StringNode:
		return constantText(n.Value)
	case *ast.IdentifierNode, *ast.MemberNode:
		return x.name(n)
	case *ast.UnaryNode:
		return x.unary(n)
	case *ast.BinaryNode:
		return x.binary(n)
	case *ast.ArrayNode:
		return x.array(n)
	case *ast.PointerNode:
		if n.Name != "" {
			x.fault(n.Location().From, "#%s is unknown: # is the element in question", n.Name)
			return nil
		}
		return &value{kind: kindText, fact: x.item, text: func(s scope) string { return s.item }}
	case *ast.PredicateNode:
		return x.compile(n.Node)
	case *ast.BuiltinNode:
		return x.call(n, n.Name, n.Arguments)
	case *ast.CallNode:
		if callee, ok := n.Callee.(*ast.IdentifierNode); ok {
			return x.call(n, callee.Value, n.Arguments)
		}
		x.fault(n.Location().From, "%s is no function: facts are read without parentheses", n.Callee)
	case *ast.FloatNode:
		x.fault(n.Location().From, "%s: numbers in rules are whole", n)
	case *ast.NilNode:
		x.fault(n.Location().From, `nil: a fact always has a value; one that is missing is "", 0 or false`)
	case *ast.ConditionalNode:
		x.fault(n.Location().From, "a choice (? : or if) has no place in a rule: write two rules, or use and, or")
	case *ast.VariableDeclaratorNode:
		x.fault(n.Location().From, "let stands beside the rules, not in an expression: policy.let: [{name: %s, is: ...}]", n.Name)
	case *ast.ChainNode:
		x.fault(n.Location().From, "?. has no place in a rule: every fact has a value, write .")
	case *ast.SliceNode:
		x.fault(n.Location().From, "a piece [:] has no place in a rule: use startsWith, endsWith, contains or matches")
	case *ast.SequenceNode:
		x.fault(n.Nodes[1].Location().From, "; has no place in a rule: a rule is one condition")
	default:
		x.fault(n.Location().From, "%s has no place in a rule", n)
	}
	return nil
}
