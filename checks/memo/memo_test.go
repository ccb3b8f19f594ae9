package memo

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
)

// answers answers each name with texts, and counts.
type answers struct {
	Resolver
	texts []string
	err   error
	asked int
}

func (a *answers) LookupTXT(context.Context, string) ([]string, error) {
	a.asked++
	return a.texts, a.err
}

// judge judges by one text, as one who remembers does.
func judge(t *testing.T, m *Memo[string, string], of string, r *answers) (what string, known bool) {
	t.Helper()
	if what, known = m.Known(t.Context(), r, of); known {
		return what, known
	}
	w := NewWitness(r)
	texts, _ := w.LookupTXT(t.Context(), of)
	what = strings.Join(texts, "+")
	m.Keep(of, what, len(of)+len(what), w)
	return what, false
}

func TestAJudgementIsKnownWhileItsAnswersAreTheSame(t *testing.T) {
	m := New[string, string]()
	gone := &net.DNSError{Err: "no such record", IsNotFound: true}
	nobody := &net.DNSError{Err: "no such domain", IsNotFound: true}
	for i, x := range []struct {
		texts []string
		err   error
		known bool
	}{
		{texts: []string{"a", "b"}},
		{texts: []string{"a", "b"}, known: true},
		{texts: []string{"b", "a"}},
		{texts: []string{"b", "a"}, known: true},
		{err: gone},
		{err: gone, known: true},
		{err: nobody},
		{err: &net.DNSError{Err: "no answer in time", IsTemporary: true}},
		{err: &net.DNSError{Err: "no answer in time", IsTemporary: true}},
		{err: nobody, known: true},
		{texts: []string{strings.Repeat("x", MaxOctets)}},
		{texts: []string{strings.Repeat("x", MaxOctets)}},
	} {
		what, known := judge(t, m, "d.example", &answers{texts: x.texts, err: x.err})
		if known != x.known || what != strings.Join(x.texts, "+") {
			t.Errorf("%d: %q, known: %v", i, what, known)
		}
	}
	if _, known := judge(t, nil, "d.example", &answers{}); known {
		t.Error("nobody remembers")
	}
}

// All that is kept of a judgement counts, whoever it came from.
func TestWhatIsKeptOfAJudgementIsBounded(t *testing.T) {
	long := strings.Repeat("x", MaxOctets/2)
	for _, x := range []struct {
		of, what, answer string
		kept             bool
	}{{"a", "b", "c", true}, {long, "b", "c", true}, {"a", long, "c", true}, {long, long, "c", false}, {long, "b", long, false}, {"a", long, long, false}} {
		m, r := New[string, string](), &answers{texts: []string{x.answer}}
		w := NewWitness(r)
		_, _ = w.LookupTXT(t.Context(), "d.example")
		m.Keep(x.of, x.what, len(x.of)+len(x.what), w)
		if _, ok := m.Known(t.Context(), r, x.of); ok != x.kept {
			t.Errorf("of %d octets, %d and %d: kept: %v", len(x.of), len(x.what), len(x.answer), ok)
		}
	}
}

func TestOfManyJudgementsTheLatestAreKnown(t *testing.T) {
	m, r := New[string, string](), &answers{texts: []string{"a"}}
	known := 0
	for range 2 {
		for i := range entries + 10 {
			judge(t, m, fmt.Sprintf("d%d.example", i), r)
		}
	}
	for i := range entries + 10 {
		if _, ok := m.Known(t.Context(), r, fmt.Sprintf("d%d.example", i)); ok {
			known++
		}
	}
	if known != entries {
		t.Errorf("%d of %d are known", known, entries)
	}
}

func TestATextIsReadOnce(t *testing.T) {
	reads := 0
	read := func(text string) int { reads++; return len(text) }
	long := strings.Repeat("x", MaxText+1)
	m := NewTexts[int]()
	for _, x := range []struct {
		text  string
		reads int
	}{{"one", 1}, {"one", 1}, {"other", 2}, {"one", 2}, {long, 3}, {long, 4}} {
		if n := m.Read(x.text, read); n != len(x.text) || reads != x.reads {
			t.Errorf("%.10q: %d after %d readings, want %d", x.text, n, reads, x.reads)
		}
	}
	for i := range texts {
		m.Read(fmt.Sprint(i), read)
	}
	reads = 0
	if m.Read("one", read); reads != 1 {
		t.Error("more is kept than the bound")
	}
	if (*Texts[int])(nil).Read("one", read) != 3 {
		t.Error("nobody remembers")
	}
}
