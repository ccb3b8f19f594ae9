package configs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

const (
	// maxShown bounds how many faults are shown with their line: a list may have
	// one in each of its million lines.
	maxShown = 50
	// shownWidth is how much of a long line is shown, around the column.
	shownWidth = 120
)

// Render writes faults as a compiler does: file:line:column and the text, a warning
// marked as one, then the line itself and a caret below the column. read opens a file, nil is os.Open; what
// cannot be read is left out. What is no Fault in err is written as it is.
func Render(err error, read func(file string) (io.ReadCloser, error)) string {
	if read == nil {
		read = func(file string) (io.ReadCloser, error) { return os.Open(file) }
	}
	var b strings.Builder
	faults := flatten(err)
	lines := sourceLines(faults[:min(len(faults), maxShown)], read)
	for _, err := range faults {
		// A text may repeat what stands in a file, and lists come from strangers.
		for i, line := range strings.Split(err.Error(), "\n") {
			if i > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(printable(line))
		}
		var f *Fault
		if !errors.As(err, &f) {
			b.WriteByte('\n')
			continue
		}
		if f.Severity == SeverityWarning {
			b.WriteString(" (warning)")
		}
		b.WriteByte('\n')
		if line, ok := lines[Position{File: f.Position.File, Line: f.Position.Line}]; ok {
			b.WriteString(excerpt(f.Position, line))
		}
	}
	return b.String()
}

// FaultsOf takes an error apart into its faults; a fault that has no place gets at.
func FaultsOf(at Position, err error) (faults Faults) {
	for _, e := range flatten(err) {
		var f *Fault
		if !errors.As(e, &f) {
			f = &Fault{Position: at, Text: e.Error()}
		}
		faults = append(faults, f)
	}
	return faults
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range many.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// sourceLines returns the lines that faults point into, reading each file once.
func sourceLines(faults []error, read func(file string) (io.ReadCloser, error)) map[Position]string {
	wanted := map[string]map[int]bool{}
	for _, err := range faults {
		var f *Fault
		if !errors.As(err, &f) || f.Position.File == "" || f.Position.Line < 1 {
			continue
		}
		if wanted[f.Position.File] == nil {
			wanted[f.Position.File] = map[int]bool{}
		}
		wanted[f.Position.File][f.Position.Line] = true
	}
	found := map[Position]string{}
	for file, numbers := range wanted {
		r, err := read(file)
		if err != nil {
			continue // a variable of the environment, or a flag
		}
		in := bufio.NewReaderSize(r, 64<<10)
		for n, left := 1, len(numbers); left > 0; n++ {
			line, err := in.ReadSlice('\n')
			if numbers[n] && (err == nil || len(line) > 0) {
				found[Position{File: file, Line: n}] = strings.TrimRight(string(line), "\r\n")
				left--
			}
			for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that nobody can read anyway
				_, err = in.ReadSlice('\n')
			}
			if err != nil {
				break
			}
		}
		_ = r.Close() // nothing was written
	}
	return found
}

// excerpt is the line and the caret:
//
//	7 |       when: spf.reslt == "fail"
//	  |             ^
//
// A line that is longer than shownWidth is cut on both sides, between characters.
func excerpt(at Position, line string) string {
	column := characterStart(line, min(max(at.Column, 1)-1, len(line))) // in octets
	from, to := 0, len(line)
	if to > shownWidth {
		from = characterStart(line, max(0, column-shownWidth/2))
		to = max(column, characterStart(line, min(len(line), from+shownWidth)))
	}
	before, cut := printable(line[from:column]), ""
	if from > 0 {
		cut = "..."
	}
	shown := cut + before + printable(line[column:to])
	if to < len(line) {
		shown += "..."
	}
	if strings.TrimSpace(shown) == "" {
		return ""
	}
	number := fmt.Sprintf("%5d", at.Line)
	indent := len(cut) + Cells(before)
	if r, _ := utf8.DecodeRuneInString(line[column:]); Cells(before) > 0 && CellsOf(r) == 0 {
		indent-- // it stands on the character before it
	}
	return fmt.Sprintf("%s | %s\n%s | %s^\n", number, shown, strings.Repeat(" ", len(number)), strings.Repeat(" ", indent))
}

// characterStart returns where the character begins that the octet at offset belongs to.
// An octet that belongs to none is one by itself.
func characterStart(line string, offset int) int {
	for start := offset; start >= 0 && offset-start < utf8.UTFMax && offset < len(line); start-- {
		if _, size := utf8.DecodeRuneInString(line[start:]); start+size > offset && size > 1 {
			return start
		}
	}
	return offset
}

// printable lets no character move the cursor but forwards.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == utf8.RuneError, !IsShown(r):
			return '?'
		}
		return r
	}, s)
}

// Cells is how many places a printable text takes in a terminal.
func Cells(s string) (n int) {
	for _, r := range s {
		n += CellsOf(r)
	}
	return n
}

// CellsOf is how many places a printable character takes: none if it combines with the
// one before, two if it is wide (Unicode Standard Annex 11), otherwise one.
func CellsOf(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}
