package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a configuration file; the zero Position is none. A
// value that came from the environment or from a flag has its name for File,
// and no line.
type Position struct {
	File         string
	Line, Column int // from 1; the column counts octets
}

// String renders the position as compilers do: file:line:column.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Severity says how a fault is to be taken.
type Severity int

// Severities.
const (
	SeverityError   Severity = iota // the configuration is refused
	SeverityWarning                 // what is written is legal, and hardly meant
)

// Fault is one thing wrong in the configuration.
type Fault struct {
	Position Position
	Severity Severity
	Text     string // says what is wrong and what to do
}

// Warning is a fault that nothing is refused for.
func Warning(at Position, format string, args ...any) Fault {
	return Fault{Position: at, Severity: SeverityWarning, Text: fmt.Sprintf(format, args...)}
}

// Error renders the fault as file:line:column: text.
func (f *Fault) Error() string {
	if f.Position.File == "" {
		return f.Text
	}
	return f.Position.String() + ": " + f.Text
}

// Faults is everything that is wrong, in the order of the files.
type Faults []*Fault

// Error renders one fault a line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find the single faults.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		errs[i] = f
	}
	return errs
}

// Sorted puts the faults into the order in which a reader meets them.
func (fs Faults) Sorted() Faults {
	slices.SortStableFunc(fs, func(a, b *Fault) int {
		return cmp.Or(
			cmp.Compare(a.Position.File, b.Position.File),
			cmp.Compare(a.Position.Line, b.Position.Line),
			cmp.Compare(a.Position.Column, b.Position.Column),
		)
	})
	return fs
}
