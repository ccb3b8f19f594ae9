package smtp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// stuff writes text through a DotWriter in pieces of size octets.
func stuff(text string, size int) (string, error) {
	var b bytes.Buffer
	d := NewDotWriter(&b)
	for _, p := range pieces(text, size) {
		if n, err := d.Write([]byte(p)); err != nil || n != len(p) {
			return b.String(), errors.Join(err, d.Close())
		}
	}
	err := d.Close()
	return b.String(), err
}

func TestDotWriter(t *testing.T) {
	for _, tt := range []struct{ story, in, want string }{
		{"an empty message", "", ".\r\n"},
		{"a line", "a\r\n", "a\r\n.\r\n"},
		{"a last line that has no end gets one", "a", "a\r\n.\r\n"},
		{"dots at the start of a line", ".a\r\n..\r\n.\r\n", "..a\r\n...\r\n..\r\n.\r\n"},
		{"and elsewhere", "a.b\r\nc.\r\n", "a.b\r\nc.\r\n.\r\n"},
		{"a dot alone at the end", "a\r\n.", "a\r\n..\r\n.\r\n"},
		{"many lines with dots", strings.Repeat(".\r\n", 50), strings.Repeat("..\r\n", 50) + ".\r\n"},
		{"empty lines", "\r\n\r\n.", "\r\n\r\n..\r\n.\r\n"},
	} {
		for _, size := range []int{1, 2, 3, 1000} {
			if got, err := stuff(tt.in, size); got != tt.want || err != nil {
				t.Errorf("%s, in pieces of %d: %q, %v; want %q", tt.story, size, got, err, tt.want)
			}
		}
	}
}

// TestDotWriterRefuses: what could be taken for another text never gets its end.
func TestDotWriterRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"a\nb\r\n":     ErrBareLF,
		"\n":           ErrBareLF,
		"a\rb\r\n":     ErrBareCR,
		"a\r\r\n":      ErrBareCR,
		"a\r":          ErrBareCR,
		"a\x00\r\n":    ErrNUL,
		"a\r\n.\r\r\n": ErrBareCR,
	} {
		for _, size := range []int{1, 2, 3, 1000} {
			got, err := stuff(in, size)
			if !errors.Is(err, want) || strings.HasSuffix(got, ".\r\n") || strings.ContainsAny(strings.ReplaceAll(got, "\r\n", ""), "\r\n\x00") {
				t.Errorf("%q in pieces of %d: %q, %v; want %v", in, size, got, err, want)
			}
		}
	}
}

// failing is a writer that breaks after some octets.
type failing struct{ left int }

var errBroken = errors.New("broken pipe")

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return 0, errBroken
	}
	f.left -= len(p)
	return len(p), nil
}

func TestDotWriterKeepsItsError(t *testing.T) {
	for left := range 16 {
		d := NewDotWriter(&failing{left})
		_, err := io.WriteString(d, ".a\r")
		if err == nil {
			_, err = io.WriteString(d, "\n.b\r\n..\r\n")
		}
		if cerr := d.Close(); !errors.Is(cerr, errBroken) || err != nil && err != cerr {
			t.Errorf("room for %d: Write %v, Close %v", left, err, cerr)
		}
	}
	d := NewDotWriter(io.Discard)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write([]byte("x")); err == nil {
		t.Error("text behind the end was taken")
	}
	if d.Close() == nil {
		t.Error("a second end was written")
	}
}

func TestUnstuffer(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"a\r\n":               "a\r\n",
		"..a\r\n...\r\n":      ".a\r\n..\r\n",
		".a\r\n":              "a\r\n",
		"a..\r\n.":            "a..\r\n",
		"..":                  ".",
		"\r\n..\r\n..\r\n..x": "\r\n.\r\n.\r\n.x",
		"a\r\r\n..":           "a\r\r\n.",
		"a\n..":               "a\n..",
		"a\r..":               "a\r..",
	} {
		for _, size := range []int{1, 2, 3, 1000} {
			var u Unstuffer
			var got []byte
			for _, p := range pieces(in, size) {
				got = u.Append(got, []byte(p))
			}
			if string(got) != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, size, got, want)
			}
		}
	}
}

func TestRestuff(t *testing.T) {
	for _, tt := range []struct{ story, in, want string }{
		{"nothing to do", "From: a\r\n\r\n", "From: a\r\n\r\n"},
		{"stuffed as it should be", "..From: a\r\n...\r\n", "..From: a\r\n...\r\n"},
		{"a field that hides behind a dot", "To: a\r\n.From: b\r\n\r\n", "To: a\r\nFrom: b\r\n\r\n"},
		{"in the first line", ".From: b\r\n\r\n", "From: b\r\n\r\n"},
		{"a continuation that does", "From: a\r\n. , b\r\n", "From: a\r\n , b\r\n"},
		{"cut behind the dot", "A: b\r\n.", "A: b\r\n"},
		{"nothing", "", ""},
	} {
		if got := string(Restuff([]byte(tt.in))); got != tt.want {
			t.Errorf("%s: Restuff(%q) = %q, want %q", tt.story, tt.in, got, tt.want)
		}
	}
	b := []byte("From: a\r\n..b: c\r\n\r\n")
	if n := testing.AllocsPerRun(10, func() { Restuff(b) }); n != 0 {
		t.Errorf("%v allocations for nothing", n)
	}
}

// TestRestuffIsUnstuffAndStuff: Restuff is what unstuffing and stuffing again
// gives, and keeps the message as it is for who unstuffs it.
func TestRestuffIsUnstuffAndStuff(t *testing.T) {
	alphabet := rapid.SampledFrom([]string{"\r\n", ".", "..", "a", " ", "\r\n.", "\r\n.."})
	rapid.Check(t, func(t *rapid.T) {
		wire := strings.Join(rapid.SliceOfN(alphabet, 0, 20).Draw(t, "wire"), "") + "\r\n"
		var u, v Unstuffer
		plain := string(u.Append(nil, []byte(wire)))
		want, err := stuff(plain, 1000)
		got := string(Restuff([]byte(wire)))
		if want = strings.TrimSuffix(want, ".\r\n"); got != want || err != nil {
			t.Fatalf("%q: %q, want %q, %v", wire, got, want, err)
		}
		if again := string(v.Append(nil, []byte(got))); again != plain {
			t.Fatalf("%q is %q to the reader, was %q", wire, again, plain)
		}
	})
}

func TestTextScanner(t *testing.T) {
	for _, tt := range []struct {
		story, in string
		want      error
	}{
		{"lines", "a\r\nb\r\n", nil},
		{"no line end", "a", nil},
		{"nothing", "", nil},
		{"a dot alone is text", "a\r\n.\r\n", nil},
		{"a bare LF", "a\nb", ErrBareLF},
		{"a bare CR", "a\rb", ErrBareCR},
		{"CR CR LF", "a\r\r\n", ErrBareCR},
		{"a CR at the end", "a\r", ErrBareCR},
		{"a NUL", "a\x00", ErrNUL},
	} {
		for _, size := range []int{1, 2, 3, 1000} {
			var s TextScanner
			var err error
			for _, p := range pieces(tt.in, size) {
				if err == nil {
					err = s.Scan([]byte(p))
				}
			}
			if err == nil {
				err = s.Close()
			}
			if err != tt.want {
				t.Errorf("%s, in pieces of %d: %v, want %v", tt.story, size, err, tt.want)
			}
		}
	}
}

// roundTrip: text that DotWriter takes has its end where it was written and
// nowhere before, for DataScanner, and comes back from Unstuffer as it was.
func roundTrip(t interface{ Fatalf(string, ...any) }, text string, size int) {
	wire, err := stuff(text, size)
	rest := strings.ReplaceAll(text, "\r\n", "")
	if bad := strings.ContainsAny(rest, "\r\n\x00"); bad != (err != nil) {
		t.Fatalf("%q: %v", text, err)
	}
	if err != nil {
		if strings.Contains("\r\n"+wire, "\r\n.\r\n") {
			t.Fatalf("%q was refused, and ended: %q", text, wire)
		}
		return
	}
	p := relay(pieces(wire, size)...)
	if p.err != nil || p.end != len(wire)-3 {
		t.Fatalf("%q went out as %q: end at %d, %v", text, wire, p.end, p.err)
	}
	var u Unstuffer
	var got []byte
	for _, s := range pieces(p.passed, size) {
		got = u.Append(got, []byte(s))
	}
	if text != "" && !strings.HasSuffix(text, "\r\n") {
		text += "\r\n"
	}
	if string(got) != text || p.octets != int64(len(text)) {
		t.Fatalf("%q came back as %q, counted as %d", text, got, p.octets)
	}
}

func TestDotsRoundTrip(t *testing.T) {
	alphabet := rapid.SampledFrom([]string{"\r\n", "\r\n", "\r\n.", ".", "..", "a", "bc", "\xfc", strings.Repeat("x", 50), "\r\n.\r\n", "\r"})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(alphabet, 0, 20).Draw(t, "text"), "")
		roundTrip(t, text, rapid.IntRange(1, 8).Draw(t, "size"))
	})
}

func FuzzDotWriter(f *testing.F) {
	for _, s := range []string{"", ".\r\n", "a\r\n.b\r\n..", "a\rb", "\r\n\r\n.", "\xfc\r\n"} {
		f.Add(s, 2)
	}
	f.Fuzz(func(t *testing.T, s string, size int) { roundTrip(t, s, 1+(size&0xff)) })
}
