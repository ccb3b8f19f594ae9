package configs

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestRender(t *testing.T) {
	long := strings.Repeat("x", 300)
	files := map[string]string{
		"a.yaml": "one\n\twhen: spf.reslt == \"Zürich\" \x1b[31m\r\n" + long + "\n\nlast",
	}
	read := func(name string) (io.ReadCloser, error) {
		text, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
	err := errors.Join(
		Faults{
			{Position: Position{"a.yaml", 2, 8}, Text: "no such fact"},
			{Position: Position{"a.yaml", 2, 30}, Text: "behind a letter of two octets"},
			{Position: Position{"a.yaml", 3, 151}, Text: "in the middle"},
			{Position: Position{"a.yaml", 4, 1}, Text: "an empty line is not shown"},
			{Position: Position{"a.yaml", 5, 99}, Text: "behind the end"},
			{Position: Position{"a.yaml", 9, 1}, Text: "no such line"},
			{Position: Position{File: "POSTERN_X"}, Text: "of the environment"},
			{Severity: SeverityWarning, Text: "nowhere"},
			{Text: "repeats \x1b[2J \u202e\x9b日本"},
		},
		errors.New("no fault"),
	)
	want := `a.yaml:2:8: no such fact
    2 |  when: spf.reslt == "Zürich" ?[31m
      |        ^
a.yaml:2:30: behind a letter of two octets
    2 |  when: spf.reslt == "Zürich" ?[31m
      |                             ^
a.yaml:3:151: in the middle
    3 | ...` + long[:120] + `...
      |    ` + strings.Repeat(" ", 60) + `^
a.yaml:4:1: an empty line is not shown
a.yaml:5:99: behind the end
    5 | last
      |     ^
a.yaml:9:1: no such line
POSTERN_X: of the environment
nowhere (warning)
repeats ?[2J ??日本
no fault
`
	if d := cmp.Diff(want, Render(err, read)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// A list with a fault in every line is not read for each of them, and not all are shown.
func TestRenderIsBounded(t *testing.T) {
	var faults Faults
	for i := range 1000 {
		faults = append(faults, &Fault{Position: Position{"l.txt", i + 1, 1}, Text: "bad"})
	}
	opened := 0
	got := Render(faults, func(string) (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(strings.Repeat("x\n", 1000))), nil
	})
	if opened != 1 || strings.Count(got, "\n") != 1000+2*maxShown {
		t.Errorf("%d times opened, %d lines", opened, strings.Count(got, "\n"))
	}
}

// The caret stands below the character at fault, however wide those before it are.
func TestCaret(t *testing.T) {
	for _, c := range []struct {
		line, at string // the fault is at the first at
		want     string // the rows, from the bar on
	}{
		{`name: "日本語" bad`, "bad", "name: \"日本語\" bad\n               ^"},
		{"ｆｕｌｌ bad", "bad", "ｆｕｌｌ bad\n         ^"},
		{"📧📧 bad", "bad", "📧📧 bad\n     ^"},
		{"한글: bad", "bad", "한글: bad\n      ^"},
		{"Zu\u0308rich bad", "bad", "Zu\u0308rich bad\n       ^"}, // two characters, one place
		{"Zu\u0308rich", "\u0308", "Zu\u0308rich\n ^"},            // the mark stands on the u
		{"ｱｲ bad", "bad", "ｱｲ bad\n   ^"},                         // half as wide as the others
		{"\u202eevil\u2066 bad", "bad", "?evil? bad\n       ^"},
		{"a\xff\xfe bad", "bad", "a?? bad\n    ^"},
		{"日本", "\xac", "日本\n  ^"}, // in the middle of a character
		{strings.Repeat("語", 100) + "!" + strings.Repeat("語", 100), "!",
			"..." + strings.Repeat("語", 20) + "!" + strings.Repeat("語", 19) + "...\n   " + strings.Repeat(" ", 40) + "^"},
	} {
		var rows []string
		for row := range strings.Lines(excerpt(Position{"a", 7, 1 + strings.Index(c.line, c.at)}, c.line)) {
			_, row, _ = strings.Cut(row, " | ")
			rows = append(rows, strings.TrimSuffix(row, "\n"))
		}
		if got := strings.Join(rows, "\n"); got != c.want {
			t.Errorf("%q at %q:\n%s\nwant\n%s", c.line, c.at, got, c.want)
		}
	}
}

// FuzzExcerpt: the caret is below the line, never behind its end by more than one place,
// and what is shown of a line is bounded, and is of that line.
func FuzzExcerpt(f *testing.F) {
	f.Add("when: x", 3)
	f.Add("\tü\xff\x00", 2)
	f.Add(strings.Repeat("ö", 400), 399)
	f.Add("日本語: u\u0308", 11)
	f.Add(strings.Repeat("\x80", 400), 200)
	f.Add("a"+strings.Repeat("\u0308", 400), 600)
	f.Fuzz(func(t *testing.T, line string, column int) {
		if strings.ContainsAny(line, "\n") {
			return
		}
		got := excerpt(Position{"a", 1, column}, line)
		if got == "" {
			return
		}
		rows := strings.Split(got, "\n")
		if len(rows) != 3 || !utf8.ValidString(got) || Cells(rows[1]) > Cells(rows[0])+1 {
			t.Errorf("%q %d\n%s", line, column, got)
		}
		if utf8.RuneCountInString(rows[0]) > len("    1 | ......")+shownWidth+utf8.UTFMax || len(line) <= shownWidth && rows[0] != "    1 | "+printable(line) {
			t.Errorf("%q %d\n%s", line, column, got)
		}
	})
}
