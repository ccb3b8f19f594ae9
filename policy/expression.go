package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

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

// example returns a value that f could well be compared with.
func (x *expression) example(f *fact) string {
	if f.words != nil {
		return strconv.Quote(f.words[0])
	}
	return `"..."`
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

func (x *expression) unary(n *ast.UnaryNode) *value {
	v := x.compile(n.Node)
	if v == nil {
		return nil
	}
	switch n.Operator {
	case "not", "!":
		if v.kind == kindBool {
			truth := v.truth
			return &value{kind: kindBool, constant: v.constant, connective: "not", left: v, truth: func(s scope) bool { return !truth(s) }}
		}
		x.fault(n.Location().From, "%s wants a condition, %s is %s; not binds tighter than ==, so write not (a == b) or a != b", n.Operator, v.source(), v.kind)
	case "-", "+":
		if v.kind == kindNumber && v.constant {
			number := v.number(scope{})
			if n.Operator == "-" {
				number = -number
			}
			return constantNumber(number)
		}
		x.fault(n.Location().From, "%s stands before a written number only", n.Operator)
	}
	return nil
}

func (x *expression) array(n *ast.ArrayNode) *value {
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
		if !v.constant || v.kind != kindText && v.kind != kindNumber {
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
	if elements[0].kind == kindNumber {
		list := &value{kind: kindNumbers, constant: true}
		for _, e := range elements {
			list.numbers = append(list.numbers, e.number(scope{}))
		}
		return list
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = e.text(scope{})
	}
	return &value{kind: kindTexts, constant: true, texts: func(scope) []string { return texts }}
}

func (x *expression) binary(n *ast.BinaryNode) *value {
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
	about := &part{operands: []*value{left, right}}
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
	v.kind, v.constant = kindBool, left.constant && right.constant
	return x.part(n, v, about)
}

// part makes v, the value of n, one that Explain shows and that can be assumed.
func (x *expression) part(n ast.Node, v *value, about *part) *value {
	if x.inner > 0 || v.constant {
		return v // it has another value for each element; or always the same
	}
	v.node, v.offset = n, start(n)
	about.value, about.text, about.position = v, n.String(), x.at(v.offset)
	about.free = about.fact == nil
	if about.free {
		truth, key := v.truth, about.text
		v.truth = func(s scope) bool {
			if s.assume != nil {
				if assumed, ok := s.assume[key]; ok {
					return assumed
				}
			}
			return truth(s)
		}
	}
	x.parts = append(x.parts, about)
	return v
}

func isConnective(operator string) bool {
	return operator == "and" || operator == "or" || operator == "&&" || operator == "||"
}

func (x *expression) connective(n *ast.BinaryNode, left, right *value) *value {
	for _, side := range []*value{left, right} {
		if side.kind != kindBool {
			hint := ""
			if side.constant && left.kind == kindBool {
				hint = ": each side of it is a whole comparison, as in a == \"x\" or a == \"y\"; or write a in [\"x\", \"y\"]"
			}
			x.fault(side.offset, "%s joins conditions, %s is %s%s", n.Operator, side.source(), side.kind, hint)
			return nil
		}
	}
	a, b := left.truth, right.truth
	v := &value{kind: kindBool, constant: left.constant && right.constant, connective: "or", left: left, right: right}
	if n.Operator == "and" || n.Operator == "&&" {
		v.connective = "and"
		v.truth = func(s scope) bool { return a(s) && b(s) }
	} else {
		v.truth = func(s scope) bool { return a(s) || b(s) }
	}
	return v
}

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

func (x *expression) in(n *ast.BinaryNode, left, right *value, about *part) *value {
	switch {
	case right.kind == kindNumbers && left.kind == kindNumber:
		if left.fact != nil {
			about.fact, about.numbers = left.fact, right.numbers
		}
		read, numbers := left.number, right.numbers
		return &value{truth: func(s scope) bool { return slices.Contains(numbers, read(s)) }}
	case right.kind == kindTexts && left.kind == kindText && !right.constant:
		if left.constant && right.fact != nil && right.fact.form != "" {
			element := value{kind: kindText, fact: right.fact}
			if _, ok := x.literal(&element, left, left.text(scope{}), false); !ok {
				return nil
			}
		}
		read, list := left.text, right.texts
		return &value{truth: func(s scope) bool { return slices.Contains(list(s), read(s)) }}
	case right.kind == kindTexts && left.kind == kindText:
		return x.inTexts(n, left, right, about)
	case right.kind == kindText:
		x.fault(n.Location().From, "in wants a list on its right, %s is a text: write in [%s], or contains for a part of a text", right.source(), right.source())
	case right.kind == kindTexts || right.kind == kindNumbers:
		x.fault(n.Location().From, "%s is %s and %s is %s: it is never in it", left.source(), left.kind, right.source(), right.kind)
	default:
		x.fault(n.Location().From, "in wants a list on its right, %s is %s", right.source(), right.kind)
	}
	return nil
}

// linear is the length up to which a list is searched from end to end.
const linear = 8

// inTexts is "fact in [...]": texts, or addresses and networks for an address.
func (x *expression) inTexts(n *ast.BinaryNode, left, right *value, about *part) *value {
	elements := n.Right.(*ast.ArrayNode).Nodes
	var texts []string
	var networks []netip.Prefix
	good := true
	for i, text := range right.texts(scope{}) {
		text, ok := x.literal(left, &value{offset: start(elements[i])}, text, true)
		good = good && ok
		if ok && left.fact != nil && left.fact.form == "ip" && strings.Contains(text, "/") {
			network, _ := parseNetwork(text) // literal has found it good
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
		return &value{truth: func(s scope) bool {
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
		return &value{truth: func(s scope) bool { return slices.Contains(texts, read(s)) }}
	}
	set := make(map[string]struct{}, len(texts))
	for _, t := range texts {
		set[t] = struct{}{}
	}
	return &value{truth: func(s scope) bool { _, ok := set[read(s)]; return ok }}
}

func (x *expression) matches(n *ast.BinaryNode, left, right *value) *value {
	if left.kind != kindText {
		x.fault(n.Location().From, "matches wants a text on its left, %s is %s", left.source(), left.kind)
		return nil
	}
	if right.kind != kindText || !right.constant {
		x.fault(right.offset, "matches wants a written pattern on its right, so that it can be checked now")
		return nil
	}
	pattern := right.text(scope{})
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
	return &value{truth: func(s scope) bool { return re.MatchString(read(s)) }}
}

func (x *expression) substring(n *ast.BinaryNode, left, right *value) *value {
	if left.kind == kindTexts {
		x.fault(n.Location().From, "%s is a list: write %s in %s, or any(%s, # %s %s)", left.source(), right.source(), left.source(), left.source(), n.Operator, right.source())
		return nil
	}
	for _, side := range []*value{left, right} {
		if side.kind != kindText {
			x.fault(n.Location().From, "%s wants texts, %s is %s", n.Operator, side.source(), side.kind)
			return nil
		}
	}
	a, b := left.text, right.text
	switch n.Operator {
	case "contains":
		return &value{truth: func(s scope) bool { return strings.Contains(a(s), b(s)) }}
	case "startsWith":
		return &value{truth: func(s scope) bool { return strings.HasPrefix(a(s), b(s)) }}
	default:
		return &value{truth: func(s scope) bool { return strings.HasSuffix(a(s), b(s)) }}
	}
}

// functions are those that rules may call, with what they take.
var functions = map[string]string{
	"in_list": `in_list("name", text)`,
	"len":     "len(text or list)",
	"lower":   "lower(text)",
	"upper":   "upper(text)",
	"any":     "any(list, condition on #)",
	"all":     "all(list, condition on #)",
	"none":    "none(list, condition on #)",
}

func functionNames() []string {
	names := make([]string, 0, len(functions))
	for name := range functions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (x *expression) call(n ast.Node, name string, args []ast.Node) *value {
	usage, known := functions[name]
	if !known {
		x.fault(n.Location().From, "unknown function %s%s; there is %s", name, didYouMean(name, functionNames()), alternatives(functionNames()))
		return nil
	}
	want := strings.Count(usage, ",") + 1
	if len(args) != want {
		x.fault(n.Location().From, "%s takes %d: %s", name, want, usage)
		return nil
	}
	switch name {
	case "in_list":
		return x.inList(n, args)
	case "any", "all", "none":
		return x.quantifier(n, name, args)
	}
	v := x.compile(args[0])
	if v == nil {
		return nil
	}
	if name == "len" && v.kind == kindTexts {
		list := v.texts
		return &value{kind: kindNumber, number: func(s scope) int64 { return int64(len(list(s))) }}
	}
	if v.kind != kindText {
		x.fault(v.offset, "%s is %s: %s", v.source(), v.kind, usage)
		return nil
	}
	text := v.text
	switch name {
	case "len":
		return &value{kind: kindNumber, constant: v.constant, number: func(s scope) int64 { return int64(utf8.RuneCountInString(text(s))) }}
	case "lower":
		return &value{kind: kindText, constant: v.constant, text: func(s scope) string { return strings.ToLower(text(s)) }}
	default:
		return &value{kind: kindText, constant: v.constant, text: func(s scope) string { return strings.ToUpper(text(s)) }}
	}
}

func (x *expression) inList(n ast.Node, args []ast.Node) *value {
	v := x.compile(args[1])
	name, ok := args[0].(*ast.StringNode)
	switch {
	case !ok:
		x.fault(start(args[0]), `in_list wants the list's written name first: %s`, functions["in_list"])
		return nil
	case !x.lists.Has(name.Value):
		names := x.lists.Names()
		there := "; no lists are defined"
		if len(names) > 0 {
			there = "; there is " + alternatives(names)
		}
		x.fault(name.Location().From, "unknown list %q%s%s", name.Value, didYouMean(name.Value, names), there)
		return nil
	case v == nil:
		return nil
	case v.kind != kindText:
		hint := ""
		if v.kind == kindTexts {
			hint = fmt.Sprintf(": write any(%s, in_list(%q, #))", v.source(), name.Value)
		}
		x.fault(v.offset, "in_list looks up a text, %s is %s%s", v.source(), v.kind, hint)
		return nil
	}
	lists, list, text := x.lists, name.Value, v.text
	result := &value{kind: kindBool, truth: func(s scope) bool { return lists.Contains(list, text(s)) }}
	return x.part(n, result, &part{operands: []*value{v}, list: list})
}

func (x *expression) quantifier(n ast.Node, name string, args []ast.Node) *value {
	if x.inner > 0 {
		x.fault(n.Location().From, "%s goes through a list for each element of another one: take it out of the inner condition", name)
		return nil
	}
	x.loops = true
	list := x.compile(args[0])
	x.inner++
	if list != nil {
		x.item = list.fact
	}
	condition := x.compile(args[1])
	x.item = nil
	x.inner--
	if list == nil || condition == nil {
		return nil
	}
	if list.kind != kindTexts {
		x.fault(list.offset, "%s goes through a list of texts, %s is %s", name, list.source(), list.kind)
		return nil
	}
	if condition.kind != kindBool {
		x.fault(condition.offset, "%s is %s, not a condition", condition.source(), condition.kind)
		return nil
	}
	texts, truth := list.texts, condition.truth
	// any stops at the first that holds; all and none at the first that does not fit.
	stop, found := name != "all", name == "any"
	v := &value{kind: kindBool, truth: func(s scope) bool {
		for _, s.item = range texts(s) {
			if truth(s) == stop {
				return found
			}
		}
		return !found
	}}
	return x.part(n, v, &part{operands: []*value{list}})
}
