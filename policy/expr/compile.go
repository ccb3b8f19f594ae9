package expr

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
	MaxLength  = 8 << 10 // octets of its text
	maxNodes   = 1000    // of its syntax tree
	maxPattern = 1 << 10 // octets of a regular expression
	maxSize    = 10 * maxNodes
	maxDepth   = 50 // of nots, calls and comparisons inside each other
)

// Source is the text of an expression, and where it stands.
type Source struct {
	Text     string
	Position configs.Position // of Text's first octet
	Unless   []string         // lets, none of which may hold besides
}

// Language is what the expressions of one policy may name.
type Language struct {
	Facts *Vocabulary
	Lists Lists
	Lets  map[string]*Expression // named expressions
}

// Lists are those that in_list may ask.
type Lists interface {
	Has(list string) bool
	Names() []string // sorted
	Contains(list, value string) bool
}

// Expression is a compiled text. One that had faults may be used as a let, where it
// makes no further ones, and for nothing else but what it reads.
type Expression struct {
	// Facts are the names of those it reads, and where it does first.
	Facts map[string]configs.Position
	// Parts are its comparisons and calls, and those of its lets.
	Parts []*Part
	// Results are the result words that it compares with: they tell what a reply
	// is about that the rule leaves open.
	Results map[string]bool

	value *value // nil if it is faulty
	loops bool   // any, all or none is used
	size  int    // nodes, those of lets counted as often as they are used
}

// Holds says whether the condition is true.
func (x *Expression) Holds(s Scope) bool { return x.value.truth(s) }

// Holder returns Holds by itself, for who asks it of many expressions in a row.
func (x *Expression) Holder() func(Scope) bool { return x.value.truth }

// Judge says whether the condition is true where only the facts in known are known.
func (x *Expression) Judge(s Scope, known Set) Truth { return x.value.judge(s, known) }

// Reads returns the facts in the expression, those of its lets included.
func (x *Expression) Reads() Set { return x.value.reads }

// Constant says that the value is written and hangs on no fact.
func (x *Expression) Constant() bool { return x.value.constant }

// Part is a comparison or a call inside an expression, or a fact that is yes or
// no by itself: what can be shown of it, and what "what if" turns about.
type Part struct {
	Text     string // the expression, in a canonical spelling
	Position configs.Position
	List     string // that in_list reads
	// Free says that the part may be taken to be either, for no fact's closed
	// set of values tells.
	Free bool

	value    *value
	operands []*value
	// fact and the values it is compared with, unless Free.
	fact    *Fact
	texts   []string
	numbers []int64
}

// Holds says whether the part is true.
func (p *Part) Holds(s Scope) bool { return p.value.truth(s) }

// Judge says whether the part is true where only the facts in known are known.
func (p *Part) Judge(s Scope, known Set) Truth { return p.value.judge(s, known) }

// Operand is a side of a comparison, or what a call is given.
type Operand struct {
	Text  string // in a canonical spelling
	value *value
}

// Show renders the operand's value as it would be written.
func (o Operand) Show(s Scope) string { return o.value.show(s) }

// Reads returns the facts in the operand.
func (o Operand) Reads() Set { return o.value.reads }

// Operands returns those of the part that are not constant.
func (p *Part) Operands() []Operand {
	var all []Operand
	for _, v := range p.operands {
		if !v.constant {
			all = append(all, Operand{Text: v.node.String(), value: v})
		}
	}
	return all
}

// Sought returns the text that a part with a List looks up in it.
func (p *Part) Sought(s Scope) string { return p.operands[0].text(s) }

// compiler is one text being compiled.
type compiler struct {
	Source
	Language

	out    *Expression
	faults []*configs.Fault
	reads  Set   // the facts read since compile began with the node in hand
	inner  int   // depth of any, all and none around us
	item   *Fact // the list that they go through, where it is a fact
	depth  int   // of what we are in, chains of and and or not counted
}

// Condition compiles an expression that is true or false.
func (l Language) Condition(src Source) (*Expression, []*configs.Fault) {
	x := l.compiler(src)
	x.out.value = x.condition()
	return x.out, x.faults
}

// Let compiles an expression of any kind that others may use by a name.
func (l Language) Let(src Source) (*Expression, []*configs.Fault) {
	x := l.compiler(src)
	x.out.value = x.compileText()
	return x.out, x.faults
}

func (l Language) compiler(src Source) *compiler {
	src.Text = strings.TrimRight(src.Text, " \t\r\n")
	return &compiler{Source: src, Language: l, out: &Expression{Facts: map[string]configs.Position{}, Results: map[string]bool{}}}
}

// condition returns nil if the text is faulty or no condition.
func (x *compiler) condition() *value {
	v := x.compileText()
	if v != nil && v.kind != Bool {
		hint := ""
		if v.fact != nil && v.kind == Text {
			hint = fmt.Sprintf(": compare it, as in %s == %s", v.source(), x.example(v.fact))
		}
		x.fault(v.offset, "%s is %s, not a condition%s", v.source(), v.kind, hint)
		return nil
	}
	return v
}

func (x *compiler) compileText() *value {
	switch {
	case strings.TrimSpace(x.Text) == "":
		x.fault(0, "the expression is empty; write true for a rule that always applies")
		return nil
	case len(x.Text) > MaxLength:
		x.fault(0, "the expression is longer than %d octets: move addresses and domains into a list and read it with in_list", MaxLength)
		return nil
	case !utf8.ValidString(x.Text):
		x.fault(0, "the expression is not valid UTF-8")
		return nil
	}
	tree, err := parse(x.Text)
	if err != nil {
		x.syntaxFault(err)
		return nil
	}
	for _, let := range x.Unless {
		tree = &ast.BinaryNode{Operator: "and", Left: tree, Right: &ast.UnaryNode{Operator: "not", Node: &ast.IdentifierNode{Value: let}}}
	}
	return x.compile(tree)
}

// fault notes a fault at a rune of the text.
func (x *compiler) fault(offset int, format string, args ...any) {
	x.faults = append(x.faults, &configs.Fault{Position: x.at(offset), Text: fmt.Sprintf(format, args...)})
}

// at returns the position of a rune of the text, on top of the text's own.
func (x *compiler) at(offset int) configs.Position {
	p := x.Position
	for _, r := range x.Text {
		if offset == 0 {
			break
		}
		offset--
		if r == '\n' {
			// A block scalar has lost its indentation, the same on each line.
			p.Line, p.Column = p.Line+1, x.Position.Column
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
func (x *compiler) compile(n ast.Node) *value {
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
	x.out.size++
	around := x.reads
	x.reads = Set{}
	v := x.compileNode(n)
	if v != nil {
		v.node, v.offset, v.reads = n, start(n), x.reads
	}
	x.reads = x.reads.With(around)
	return v
}

func (x *compiler) compileNode(n ast.Node) *value {
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
		return &value{kind: Text, fact: x.item, text: func(s Scope) string { return *s.item }}
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
