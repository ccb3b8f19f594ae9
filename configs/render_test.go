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
			{Position{"a.yaml", 2, 8}, "no such fact"},
			{Position{"a.yaml", 2, 30}, "behind a letter of two octets"},
			{Position{"a.yaml", 3, 151}, "in the middle"},
			{Position{"a.yaml", 4, 1}, "an empty line is not shown"},
			{Position{"a.yaml", 5, 99}, "behind the end"},
			{Position{"a.yaml", 9, 1}, "no such line"},
			{Position{File: "POSTERN_X"}, "of the environment"},
			{Position{}, "nowhere"},
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
nowhere
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
		faults = append(faults, &Fault{Position{"l.txt", i + 1, 1}, "bad"})
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

// FuzzExcerpt: the caret is below the line, never behind its end by more than one.
func FuzzExcerpt(f *testing.F) {
	f.Add("when: x", 3)
	f.Add("\tü\xff\x00", 2)
	f.Add(strings.Repeat("ö", 400), 399)
	f.Fuzz(func(t *testing.T, line string, column int) {
		if strings.ContainsAny(line, "\n") {
			return
		}
		got := excerpt(Position{"a", 1, column}, line)
		if got == "" {
			return
		}
		rows := strings.Split(got, "\n")
		if len(rows) != 3 || !utf8.ValidString(got) || utf8.RuneCountInString(rows[1]) > utf8.RuneCountInString(rows[0])+1 {
			t.Errorf("%q %d\n%s", line, column, got)
		}
	})
}
