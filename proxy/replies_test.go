package proxy

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var updateReplies = flag.Bool("update-replies", false, "write what is said and not yet listed into ../deploy/replies.md")

// The page of replies is for whoever has a caller on the telephone who reads one out: each
// text that we can refuse with is there, and none that we no longer say.
func TestEveryReplyIsOnThePage(t *testing.T) {
	const file = "../deploy/replies.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([45]\\d\\d [^`]*)` \\|(.*)\\|(.*)\\|$").FindAllStringSubmatch(string(page), -1) {
		if rows[row[1]] != nil {
			t.Errorf("%s is there twice", row[1])
		}
		rows[row[1]] = row[2:]
	}
	said := repliesOf(t)
	if len(said) < 60 {
		t.Fatalf("only %d replies found in the code", len(said))
	}
	for reply, where := range said {
		switch cells := rows[reply]; {
		case cells == nil && *updateReplies:
			page = fmt.Appendf(page, "| `%s` | | |\n", reply)
		case cells == nil:
			t.Errorf("%s (%s) is not on the page", reply, where)
		case strings.TrimSpace(cells[0]) == "" || strings.TrimSpace(cells[1]) == "":
			t.Errorf("%s: why it is said, or what to tell the caller, is not told", reply)
		}
	}
	for reply := range rows {
		if said[reply] == "" {
			t.Errorf("%s is on the page, and nobody says it", reply)
		}
	}
	if *updateReplies {
		if err := os.WriteFile(file, page, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// passedOn are the functions whose replies have another's words: those of a caller, which
// are found there, of a rule, of a backend, or of a fact's tag.
var passedOn = []string{"accepted", "refuse", "expand", "factsReply", "badManners"}

// repliesOf gathers what the code refuses with, and where: "450 4.7.1 text". What is not
// known before it is said is three dots.
func repliesOf(t *testing.T) map[string]string {
	t.Helper()
	said := map[string]string{}
	add := func(code, enhanced, text, where string) {
		switch {
		case code[0] != '4' && code[0] != '5':
		case enhanced == "": // AMTP has none where the drafts' words are said
			said[code+" "+text] = where
		default:
			said[fmt.Sprintf("%s %c.%s %s", code, code[0], enhanced, text)] = where
		}
	}
	for _, file := range sources(t, ".", "../policy", "../checks") {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			name := ""
			if f, ok := d.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			gather(d, func(n ast.Node, code, enhanced, text string) {
				where := set.Position(n.Pos()).String()
				if code == "" || text == unknown {
					if !slices.Contains(passedOn, name) {
						t.Errorf("%s: who says what this reply says cannot be seen: write code and text as literals", where)
					}
					return
				}
				add(code, enhanced, text, where)
			})
			// What a check's fact says of a refusal stands in its tag.
			ast.Inspect(d, func(n ast.Node) bool {
				if f, ok := n.(*ast.Field); ok && f.Tag != nil {
					for _, m := range regexp.MustCompile(`refusal\w*:"(\S+) ([^"]*)"`).FindAllStringSubmatch(f.Tag.Value, -1) {
						add("550", m[1], m[2], set.Position(n.Pos()).String())
					}
				}
				return true
			})
		}
	}
	var builtin struct {
		Policy struct {
			Rules []struct{ Name, Reply string }
		}
	}
	b, err := os.ReadFile("../policy/builtin.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_ = yaml.Unmarshal(b, &builtin) // other keys are not asked for
	for _, r := range builtin.Policy.Rules {
		if r.Reply != "" {
			said[r.Reply] = "built-in rule " + r.Name
		}
	}
	return said
}

// sources are the Go files of the rooms whose replies reach a client: not the MTA in small, which
// answers us, nor what asks other servers, nor helpers of tests.
func sources(t *testing.T, dirs ...string) (files []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && slices.Contains([]string{"mta", "smtptest", "etrn", "backend", "dnscache"}, d.Name()) {
				return filepath.SkipDir
			}
			if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// unknown is a text of which nothing stands in the code.
const unknown = "..."

// gather calls found for each reply that is made in d: by a literal, or by a function that is
// given code, enhanced code and text. Code is empty where it is no literal.
func gather(d ast.Decl, found func(n ast.Node, code, enhanced, text string)) {
	literals := map[string][2]string{} // variables that hold a reply, and functions that make one of a text: code, enhanced
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, right := range n.Rhs {
				if i >= len(n.Lhs) {
					break
				}
				if sel, ok := n.Lhs[i].(*ast.SelectorExpr); ok && sel.Sel.Name == "Text" { // r.Text = "..."
					if of, ok := sel.X.(*ast.Ident); ok && literals[of.Name][0] != "" {
						found(n, literals[of.Name][0], literals[of.Name][1], textOf(right))
					}
				}
				if id, ok := n.Lhs[i].(*ast.Ident); ok {
					ast.Inspect(right, func(inner ast.Node) bool {
						if code, enhanced, _, ok := literal(inner); ok && code != "" {
							literals[id.Name] = [2]string{code, enhanced}
						}
						return true
					})
				}
			}
		case *ast.CompositeLit:
			if code, enhanced, text, ok := literal(n); ok {
				if text == unknown && code != "" { // the text comes by a call of the function that this stands in
					return true
				}
				found(n, code, enhanced, text)
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && literals[id.Name][0] != "" && len(n.Args) == 1 {
				found(n, literals[id.Name][0], literals[id.Name][1], textOf(n.Args[0]))
			}
			for i := range n.Args {
				if i+2 >= len(n.Args) {
					break
				}
				code, enhanced := word(n.Args[i], token.INT), word(n.Args[i+1], token.STRING)
				if len(code) == 3 && regexp.MustCompile(`^\d\.\d+$`).MatchString(enhanced) {
					found(n, code, enhanced, textOf(n.Args[i+2]))
				}
			}
		}
		return true
	})
}

// literal reads smtp.Reply{Code: ..., Enhanced: ..., Text: ...}, and the same without keys.
func literal(n ast.Node) (code, enhanced, text string, ok bool) {
	lit, ok := n.(*ast.CompositeLit)
	if !ok || len(lit.Elts) == 0 {
		return "", "", "", false
	}
	switch typ := lit.Type.(type) {
	case *ast.Ident:
		ok = typ.Name == "Reply"
	case *ast.SelectorExpr:
		ok = typ.Sel.Name == "Reply"
	default:
		ok = false
	}
	if !ok {
		return "", "", "", false
	}
	for i, e := range lit.Elts {
		key, value := []string{"Code", "Enhanced", "Text"}[i%3], e
		if kv, keyed := e.(*ast.KeyValueExpr); keyed {
			key, value = kv.Key.(*ast.Ident).Name, kv.Value
		}
		switch key {
		case "Code":
			code = word(value, token.INT)
		case "Enhanced":
			enhanced = word(value, token.STRING)
		case "Text":
			text = textOf(value)
		}
	}
	return code, enhanced, text, ok
}

func word(e ast.Expr, kind token.Token) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != kind {
		return ""
	}
	if kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return lit.Value
}

// textOf is a text as far as it stands there.
func textOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		return word(e, token.STRING)
	case *ast.BinaryExpr:
		return textOf(e.X) + textOf(e.Y)
	}
	return unknown
}

// A reply whose words the gathering does not see would be on no page.
func TestRepliesAreSeen(t *testing.T) {
	source := `package x
var a = smtp.Reply{Code: 451, Enhanced: "3.0", Text: "One"}
var b = Reply{501, "5.4", "Two"}
func c(s *session) { s.refuse(421, "7.0", "Three of "+verb+"s") }
func d() { bad := func(text string) smtp.Reply { return smtp.Reply{Code: 501, Enhanced: "5.4", Text: text} }; bad("Four") }
func e() { r := Reply{Code: 550, Enhanced: "6.0", Text: "Five"}; r.Text = "Six" }
func f() { g(Reply{Code: code, Text: "Seven"}) }
func h(text string) { s.refuse(421, "7.0", text) }
`
	parsed, err := parser.ParseFile(token.NewFileSet(), "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, d := range parsed.Decls {
		gather(d, func(_ ast.Node, code, enhanced, text string) { got[code+" "+enhanced+" "+text] = true })
	}
	want := []string{"451 3.0 One", "501 5.4 Two", "421 7.0 Three of ...s", "501 5.4 Four", "550 6.0 Five", "550 6.0 Six", "  Seven", "421 7.0 ..."}
	slices.Sort(want)
	if is := slices.Sorted(maps.Keys(got)); !slices.Equal(is, want) {
		t.Errorf("seen %q, not %q", is, want)
	}
}
