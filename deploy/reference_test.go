package deploy

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"postern/policy/journal"
)

var update = flag.Bool("update", false, "write what reference.md says of the log anew")

// A field of the log that nobody can look up, or one that was renamed, costs its reader the
// night: the page has those of the two lines that count, with their meaning, and every other
// line as the code has it.
func TestLogIsOnThePage(t *testing.T) {
	b, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	lines := logLines(t)
	for message, heading := range map[string]string{"transaction": "### The line `transaction`", "connection": "### The line `connection`"} {
		want := lines[message].keys
		if message == "transaction" {
			for _, a := range (&journal.Record{Candidate: &journal.Candidate{}}).AppendAttrs(nil) {
				want = append(want, a.Key)
			}
		}
		if got := firstCells(page, heading); !slices.Equal(got, want) {
			t.Errorf("the line %q has the fields %q, and the page says %q", message, want, got)
		}
		delete(lines, message)
	}
	if got, want := firstCells(page, "### How a connection ended"), endings(t); !slices.Equal(got, want) {
		t.Errorf("connections end by %q, and the page says %q", want, got)
	}

	var all strings.Builder
	for _, message := range sorted(lines) {
		l := lines[message]
		fields := ""
		for _, k := range l.keys {
			fields += " `" + k + "`"
		}
		fmt.Fprintf(&all, "| `%s` | %s |%s |\n", message, strings.Join(l.levels, ", "), fields)
	}
	if len(lines) < 40 {
		t.Fatalf("only %d lines of the log found in the code", len(lines))
	}
	before, rest, ok := strings.Cut(page, "| message | level | fields |\n|---|---|---|\n")
	if !ok {
		t.Fatal("the page has no table of the other lines")
	}
	table, after, _ := strings.Cut(rest, "\n\n")
	if table+"\n" == all.String() {
		return
	}
	if !*update {
		for line := range strings.Lines(all.String()) {
			if !strings.Contains(table+"\n", line) {
				t.Errorf("logged, and not on the page: %s", line)
			}
		}
		for line := range strings.Lines(table + "\n") {
			if !strings.Contains(all.String(), line) {
				t.Errorf("on the page, and not logged: %s", line)
			}
		}
		t.Error("go test ./deploy -update writes the table anew")
		return
	}
	page = before + "| message | level | fields |\n|---|---|---|\n" + all.String() + "\n" + after
	if err := os.WriteFile("reference.md", []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// firstCells are the first column of the table below a heading.
func firstCells(page, heading string) (cells []string) {
	_, section, _ := strings.Cut(page, heading+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| \\S").FindAllStringSubmatch(section, -1) {
		cells = append(cells, m[1])
	}
	return cells
}

type logLine struct{ levels, keys []string }

// add notes a level and fields, each once.
func (l *logLine) add(level string, keys ...string) {
	if !slices.Contains(l.levels, level) {
		l.levels = append(l.levels, level)
		slices.Sort(l.levels)
	}
	for _, k := range keys {
		if !slices.Contains(l.keys, k) {
			l.keys = append(l.keys, k)
		}
	}
}

// logLines gathers what the proxy that runs logs: the message, its levels and its fields.
func logLines(t *testing.T) map[string]*logLine {
	t.Helper()
	lines := map[string]*logLine{}
	line := func(message string) *logLine {
		if lines[message] == nil {
			lines[message] = &logLine{}
		}
		return lines[message]
	}
	for _, file := range goFiles(t, "../cmd/postern/service", "../cmd/postern/control", "../proxy", "../checks", "../policy/journal", "../metrics/admin") {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				// What a function says by slog.String and the like is of its one line.
				if n.Body != nil {
					attributes(n, line)
				}
			case *ast.CallExpr:
				method, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || !strings.Contains("Info Warn Error Debug", method.Sel.Name) || len(n.Args) == 0 {
					return true
				}
				if of := fmt.Sprint(text(n.Args[0])); of != "" && isLog(method.X) {
					l := line(of)
					l.add(strings.ToUpper(method.Sel.Name))
					for i := 1; i < len(n.Args); i += 2 {
						if k := text(n.Args[i]); k != "" {
							l.add(strings.ToUpper(method.Sel.Name), k)
						}
					}
				}
			case *ast.ValueSpec:
				// The journal's own trouble, and its end: one table of texts.
				if len(n.Names) == 1 && n.Names[0].Name == "troubleTexts" {
					for i, s := range journalTexts(n) {
						if s != "" {
							line(s).add([]string{"ERROR", "INFO"}[i%2], "path")
							if i%2 == 0 {
								line(s).add("ERROR", "error")
							}
						}
					}
				}
			}
			return true
		})
	}
	return lines
}

func isLog(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return strings.EqualFold(e.Sel.Name, "log")
	case *ast.Ident:
		return strings.EqualFold(e.Name, "log")
	}
	return false
}

func text(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return ""
}

// attributes notes the line that a function logs by LogAttrs, with the slog.String and the
// like that stand in that function.
func attributes(f *ast.FuncDecl, line func(string) *logLine) {
	var message string
	var keys []string
	level := "INFO"
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if sel.Sel.Name == "LogAttrs" && len(call.Args) > 2 && message == "" {
			message = text(call.Args[2])
			if l, ok := call.Args[1].(*ast.SelectorExpr); ok {
				level = strings.ToUpper(strings.TrimPrefix(l.Sel.Name, "Level"))
			} else {
				level = "INFO, ERROR"
			}
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "slog" && len(call.Args) == 2 {
			if k := text(call.Args[0]); k != "" {
				keys = append(keys, k)
			}
		}
		return true
	})
	if message != "" {
		line(message).add(level, keys...)
	}
}

// journalTexts are the pairs of begun and ended.
func journalTexts(v *ast.ValueSpec) (texts []string) {
	ast.Inspect(v, func(n ast.Node) bool {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		if pair, ok := kv.Value.(*ast.CompositeLit); ok && len(pair.Elts) == 2 {
			texts = append(texts, text(pair.Elts[0]), text(pair.Elts[1]))
		}
		return true
	})
	return texts
}

// endings are the words of connections_total{result}, in their order.
func endings(t *testing.T) (words []string) {
	t.Helper()
	b, err := os.ReadFile("../proxy/endings.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\tended\w+ +ending = "(\w+)"`).FindAllStringSubmatch(string(b), -1) {
		words = append(words, m[1])
	}
	return words
}

// goFiles are the files of a room and of those below it, but for tests and their helpers.
func goFiles(t *testing.T, dirs ...string) (files []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && slices.Contains([]string{"smtptest", "dnstest", "leaktest", "journaltest", "mta", "testdata"}, d.Name()) {
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
