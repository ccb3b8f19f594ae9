package list

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLinesOfAFileAreFoundHoweverTheyAreWritten(t *testing.T) {
	text := []byte("\ufeff# comment\r\n192.0.2.7 # one\r\n2001:DB8::1\r\n::ffff:192.0.2.7\r\nExample.Org\r\n.example.org\r\nBob@Example.org\r\n192.0.2.0/24\r\nno entry at all\r\n")
	for value, want := range map[string][]int{
		"192.0.2.7": {2, 4}, "192.0.2.7/32": {2, 4}, "2001:db8:0::1": {3}, "example.org.": {5}, "*.EXAMPLE.org": {6}, "bob@example.org": {7}, "192.0.2.0/24": {8}, "192.0.2.8": nil,
	} {
		numbers, _, err := FindInFile(text, value)
		if err != nil || !slices.Equal(numbers, want) {
			t.Errorf("%s: %v, %v, want %v", value, numbers, err, want)
		}
	}
	if _, _, err := FindInFile(text, "a b"); err == nil {
		t.Error("what is no entry is looked for")
	}
}

// Whatever a file holds: what is added is found, what is taken out is gone, and nothing else changes.
func FuzzListFile(f *testing.F) {
	f.Add([]byte("# a\n192.0.2.1 # b\n\nexample.org"), "192.0.2.7", "ann", "why, not")
	f.Add([]byte("a.example\r\n"), "*.a.example", "", "")
	f.Add([]byte("\xff\xfe\n"), "bob@a.example", "x # y", "until")
	f.Fuzz(func(t *testing.T, text []byte, value, owner, reason string) {
		line, err := NewEntry{Value: value, Owner: owner, Reason: reason, Until: "2027-03-01"}.Line(time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC))
		if err != nil {
			return
		}
		before, _, err := FindInFile(text, value)
		if err != nil {
			t.Fatalf("%q is a line, and %q is no entry: %v", line, value, err)
		}
		added := AppendToFile(text, line)
		numbers, lines, err := FindInFile(added, value)
		if err != nil || len(numbers) != len(before)+1 || strings.TrimSpace(lines[len(lines)-1]) != line {
			t.Fatalf("%q: %v, %q, %v", line, numbers, lines, err)
		}
		if !bytes.HasPrefix(added, text) {
			t.Fatal("what was there has changed")
		}
		if cut := CutFromFile(added, numbers[len(before):]); bytes.TrimRight(cut, "\r\n") == nil != (bytes.TrimRight(text, "\r\n") == nil) || !bytes.HasPrefix(cut, text) {
			t.Fatalf("%q became %q", text, cut)
		}
	})
}
