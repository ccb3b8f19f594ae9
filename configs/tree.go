package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds what aliases of aliases can unfold to.
const maxNodes = 1 << 17

// document reads a YAML document as a Config, reports what does not fit by line
// and column, and returns what does: values have the type of their field.
func (l *loader) document(file string, src []byte) map[string]any {
	return l.documentOf(reflect.TypeFor[Config](), file, src)
}

// documentOf is document for a section of any type.
func (l *loader) documentOf(t reflect.Type, file string, src []byte) map[string]any {
	l.places[""] = Position{File: file}
	root := l.parse(file, src)
	if root == nil {
		return nil
	}
	s := &source{file: file, lines: strings.Split(string(src), "\n")}
	v, _ := l.convert(s, root, t, "").(map[string]any)
	// The whole document is no place worth naming: a fault in nothing said
	// belongs to the file.
	l.places[""] = Position{File: file}
	return v
}

// parse returns the root node; nil where there is none or it cannot be read.
func (l *loader) parse(file string, src []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			l.faults = append(l.faults, syntaxFault(file, src, err))
		}
		return nil
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		l.faults = append(l.faults, &Fault{Position: Position{file, max(more.Line, 1), max(more.Column, 1)}, Text: "a second document begins here: one file holds one configuration"})
	case !errors.Is(err, io.EOF):
		l.faults = append(l.faults, syntaxFault(file, src, err))
	}
	return doc.Content[0]
}

// yamlError is what the parser's complaints look like. It is made when there is one.
var yamlError = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: (?:line (\d+): )?(?s:(.*))$`) })

// syntaxFault gives the parser's complaint a place. It names a line only, and the
// first octet of its text stands for the column. Faults of the grammar are told by
// the line before, and often by the beginning of the list or section around them.
func syntaxFault(file string, src []byte, err error) *Fault {
	f := &Fault{Position: Position{File: file, Line: 1, Column: 1}, Text: err.Error()}
	if m := yamlError().FindStringSubmatch(err.Error()); m != nil {
		f.Text = "not YAML: " + m[2]
		n, _ := strconv.Atoi(m[1])
		if at, tabbed := tabAt(src, n); tabbed && strings.Contains(m[2], "cannot start any token") {
			f.Text, f.Position.Line, f.Position.Column = "not YAML: a tab stands here, and lines are indented by blanks alone", at.Line, at.Column
			return f
		}
		if strings.HasPrefix(m[2], "did not find expected") {
			f.Text += " here, or in what begins here"
			n++
		}
		if n > 0 {
			f.Position.Line = n
			if lines := strings.Split(string(src), "\n"); n <= len(lines) {
				f.Position.Column = indent(lines[n-1]) + 1
			}
		}
	}
	return f
}

// tabAt finds the tab in the indentation of a line, or of the one below it: the parser names
// the one or the other.
func tabAt(src []byte, n int) (at Position, found bool) {
	lines := strings.Split(string(src), "\n")
	for _, n := range []int{n, n + 1} {
		if n < 1 || n > len(lines) {
			continue
		}
		line := lines[n-1]
		if tab := strings.IndexByte(line[:len(line)-len(strings.TrimLeft(line, " \t"))], '\t'); tab >= 0 {
			return Position{Line: n, Column: tab + 1}, true
		}
	}
	return Position{}, false
}

// indent counts the spaces a line begins with; a line of nothing else has none.
func indent(line string) int {
	rest := strings.TrimLeft(line, " \t")
	if strings.TrimSpace(rest) == "" {
		return 0
	}
	return len(line) - len(rest)
}

// source is the text a node tree came from.
type source struct {
	file  string
	lines []string

	// Where position looked last: nodes come in their order, and a line may be long.
	line, column, octets int
}

// position returns where a node begins. YAML counts columns in characters, we in octets.
func (s *source) position(n *yaml.Node) Position {
	p := Position{s.file, n.Line, n.Column}
	if n.Line < 1 || n.Line > len(s.lines) {
		return p
	}
	if n.Line != s.line || n.Column < s.column {
		s.line, s.column, s.octets = n.Line, 1, 0
	}
	line := s.lines[n.Line-1]
	for ; s.column < n.Column && s.octets < len(line); s.column++ {
		_, size := utf8.DecodeRuneInString(line[s.octets:])
		s.octets += size
	}
	p.Column = s.octets + 1
	return p
}

// text returns where the first octet of a scalar's text stands: behind an opening
// quote, or in the line after a block mark.
func (s *source) text(n *yaml.Node) Position {
	p := s.position(n)
	switch {
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		p.Column++
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		for i := n.Line; i < len(s.lines); i++ {
			if strings.TrimSpace(s.lines[i]) != "" {
				p.Line, p.Column = i+1, indent(s.lines[i])+1
				break
			}
		}
	}
	return p
}

// convert returns the node's value in the form viper keeps it, or nil where it is null or
// does not fit: then the default stands, and a fault was noted.
func (l *loader) convert(s *source, n *yaml.Node, t reflect.Type, path string) any {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if l.nodes++; l.nodes > maxNodes {
		l.fault("", "more than %d values, with what aliases unfold to: keep long lists in files of their own", maxNodes)
		return nil
	}
	l.places[path] = s.position(n)
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return nil
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case isSection(t):
		if n.Kind != yaml.MappingNode {
			l.fault(path, "%s: %s", label(path), wanted("a section of keys", n))
			return nil
		}
		return l.section(s, n, t, path)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			l.fault(path, "%s: %s", label(path), wanted("a list", n))
			return nil
		}
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			p := fmt.Sprintf("%s[%d]", path, i)
			list[i] = l.convert(s, e, t.Elem(), p)
			if list[i] == nil {
				// A bad element keeps its place, so that the elements behind it keep theirs.
				if l.nodes > maxNodes {
					return nil
				}
				l.fault(p, "%s: an element of a list may not be empty", label(p))
				list[i] = reflect.Zero(t.Elem()).Interface()
				if isSection(t.Elem()) {
					list[i] = map[string]any{}
				}
			}
		}
		return list
	}
	v, err := scalar(n, t)
	if err != nil && n.ShortTag() == "!!int" && strings.HasSuffix(path, "].address") {
		err = fmt.Errorf("must be a text: write \"127.0.0.1:%s\", or \":%s\" for all addresses", n.Value, n.Value)
	}
	if err != nil {
		l.fault(path, "%s: %s", label(path), err)
		return nil
	}
	l.said[path] = true
	if t.Kind() == reflect.String {
		l.texts[path] = s.text(n)
	}
	return v
}

// section converts a mapping. Keys are compared as they are written: Hostname is
// not hostname.
func (l *loader) section(s *source, n *yaml.Node, t reflect.Type, path string) any {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		if key := keyOf(t.Field(i)); key != "" {
			fields[key] = t.Field(i).Type
		}
	}
	m := map[string]any{}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		key := k.Value
		p := join(path, key)
		ft, ok := fields[key]
		switch line, twice := seen[key]; {
		case !ok:
			l.faults = append(l.faults, &Fault{Position: s.position(k), Text: unknownKey(key, path, fields)})
			continue
		case twice:
			l.faults = append(l.faults, &Fault{Position: s.position(k), Text: fmt.Sprintf("%s was said before, in line %d", p, line)})
			continue
		}
		seen[key] = k.Line
		if c := l.convert(s, v, ft, p); c != nil {
			m[key] = c
		}
	}
	return m
}

// unknownKey says what a key was probably meant to be, or where it belongs.
func unknownKey(key, path string, fields map[string]reflect.Type) string {
	text := fmt.Sprintf("unknown key %q", key)
	if path != "" {
		text += " in " + path
	}
	if strings.ContainsAny(key, "()[]\"'") {
		// {when: in_list("x", client.ip), do: pass}
		return text + ": is it a part of the value before it? Between { and } a comma ends a value: write the whole value in single quotes, such as when: 'in_list(\"forwarders\", client.ip)'"
	}
	if near := Nearest(key, maps.Keys(fields)); near != "" {
		return text + fmt.Sprintf(": did you mean %q?", near)
	}
	var homes []string
	for p := range keys(reflect.TypeFor[Config](), "") {
		if strings.HasSuffix(p, "."+key) {
			homes = append(homes, p)
		}
	}
	if len(homes) > 0 {
		slices.Sort(homes)
		return text + ": there is " + strings.Join(homes, " and ")
	}
	return text
}

// label names a value in a fault.
func label(path string) string {
	if path == "" {
		return "the configuration"
	}
	return path
}

// wanted says what a node should have been and what it is.
func wanted(what string, n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "must be " + what + ", not a section of keys"
	case yaml.SequenceNode:
		return "must be " + what + ", not a list"
	}
	return "must be " + what + ", not " + strconv.Quote(n.Value)
}

// scalar reads a single value strictly: the file must write it as its type.
func scalar(n *yaml.Node, t reflect.Type) (any, error) {
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode {
		return nil, errors.New(wanted(typeName(t), n))
	}
	switch {
	case t == durationType, t == sizeType:
		v, err := parseScalar(n.Value, t)
		if err != nil {
			return nil, fmt.Errorf("%q %w", n.Value, err)
		}
		return v, nil
	case t.Kind() == reflect.String:
		if tag != "!!str" && tag != "!!timestamp" { // a date stands for itself
			return nil, fmt.Errorf("must be a text: write %q with quotes", n.Value)
		}
		return n.Value, nil
	case t.Kind() == reflect.Bool && tag != "!!bool",
		t.Kind() == reflect.Int && tag != "!!int",
		// YAML 1.1 took 010 for eight.
		t.Kind() == reflect.Int && len(n.Value) > 1 && strings.HasPrefix(strings.TrimLeft(n.Value, "+-"), "0"):
		return nil, errors.New(wanted(typeName(t), n))
	}
	v, err := parseScalar(n.Value, t)
	if err != nil {
		return nil, errors.New(wanted(typeName(t), n))
	}
	return v, nil
}

// typeName is the word for a type in a fault.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration"
	case t == sizeType:
		return "a size"
	case t.Kind() == reflect.String:
		return "a text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	}
	return t.String()
}

// parseScalar reads the text of a value that is neither list nor section.
func parseScalar(text string, t reflect.Type) (any, error) {
	switch {
	case t == durationType:
		return ParseDuration(text)
	case t == sizeType:
		return ParseSize(text)
	case t.Kind() == reflect.String:
		return text, nil
	case t.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return nil, errors.New("is neither true nor false")
		}
		return text == "true", nil
	case t.Kind() == reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, errors.New("is no whole number")
		}
		return n, nil
	}
	return nil, fmt.Errorf("cannot be read as %s", t)
}

// parseText reads the text of an environment variable. A list of texts is separated by
// commas or spaces, any other list is YAML.
func (l *loader) parseText(text string, t reflect.Type, path string) (any, bool) {
	switch {
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }), true
	case t.Kind() == reflect.Slice:
		name := place(l.places, path).File
		before := len(l.faults)
		root := l.parse(name, []byte(text))
		if root == nil {
			return []any{}, len(l.faults) == before
		}
		v := l.convert(&source{file: name, lines: strings.Split(text, "\n")}, root, t, path)
		return v, len(l.faults) == before
	}
	v, err := parseScalar(text, t)
	if err != nil {
		l.fault(path, "%q %v", text, err)
		return nil, false
	}
	return v, true
}
