package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// passage is what became of a stream after DATA.
type passage struct {
	passed  string // what went on
	end     int    // where the end mark stands in the stream; -1: not found
	err     error
	octets  int64
	has8Bit bool
}

// relay does with pieces of a stream what the session does: pass on what may
// pass; after an error, skip.
func relay(pieces ...string) passage {
	s := &DataScanner{Detect8Bit: true}
	p := passage{end: -1}
	var buf, passed []byte
	done := 0 // octets of the stream passed or dropped
	for _, piece := range pieces {
		buf = append(buf, piece...)
		var n int
		var end bool
		if p.err == nil {
			n, end, p.err = s.Scan(buf)
			passed = append(passed, buf[:n]...)
			done += n
			buf = buf[n:]
		}
		if p.err != nil {
			n, end = s.Skip(buf)
			done += n
			buf = buf[n:]
		}
		if end {
			if !bytes.HasPrefix(buf, []byte(".\r\n")) {
				panic("the end is not where Scan says")
			}
			p.end = done
			break
		}
	}
	p.passed, p.octets, p.has8Bit = string(passed), s.Octets(), s.Has8Bit()
	return p
}

// pieces cuts s into pieces of size octets.
func pieces(s string, size int) (all []string) {
	for len(s) > size {
		all = append(all, s[:size])
		s = s[size:]
	}
	return append(all, s)
}

func TestDataScanner(t *testing.T) {
	for _, tt := range []struct {
		story, in string
		want      passage
	}{
		{"a message", "a\r\nb\r\n.\r\n", passage{"a\r\nb\r\n", 6, nil, 6, false}},
		{"the empty one: its start is the start of a line", ".\r\n", passage{"", 0, nil, 0, false}},
		{"what comes behind the end is not looked at", "a\r\n.\r\nMAIL\n\x00\r\r", passage{"a\r\n", 3, nil, 3, false}},
		{"stuffed dots go on as they stand, but do not count", "..\r\n..a\r\n.\r\n", passage{"..\r\n..a\r\n", 9, nil, 7, false}},
		{"a dot that should have been stuffed is one", ".a\r\n.\r\n", passage{".a\r\n", 4, nil, 3, false}},
		{"dots elsewhere", "a.\r\na\r\n..\r\n.\r\n", passage{"a.\r\na\r\n..\r\n", 11, nil, 10, false}},
		{"8-bit", "\xfc\r\n.\r\n", passage{"\xfc\r\n", 3, nil, 3, true}},
		{"no end yet", "a\r\nb", passage{"a\r\nb", -1, nil, 4, false}},
		{"a CR that waits", "a\r", passage{"a", -1, nil, 1, false}},
		{"a dot that waits", "a\r\n.", passage{"a\r\n", -1, nil, 3, false}},
		{"with its CR", "a\r\n.\r", passage{"a\r\n", -1, nil, 3, false}},
		{"a bare LF: its line does not go on, and the end is found", "a\r\nb\nc\r\n.\r\n", passage{"a\r\n", 8, ErrBareLF, 3, false}},
		{"stuffed dots above the fault", "..a\r\nb\nc\r\n.\r\n", passage{"..a\r\n", 10, ErrBareLF, 4, false}},
		{"a bare CR", "a\r\nb\rc\r\n.\r\n", passage{"a\r\n", 8, ErrBareCR, 3, false}},
		{"a NUL", "a\r\nb\x00c\r\n.\r\n", passage{"a\r\n", 8, ErrNUL, 3, false}},
		{"LF . LF is no end", "a\n.\nb\r\n.\r\n", passage{"", 7, ErrBareLF, 0, false}},
		{"LF . CRLF is none", "a\r\nb\n.\r\nc\r\n.\r\n", passage{"a\r\n", 11, ErrBareLF, 3, false}},
		{"CRLF . LF is none", "a\r\n.\nb\r\n.\r\n", passage{"a\r\n", 8, ErrBareLF, 3, false}},
		{"CRLF . CR CRLF is none", "a\r\n.\r\r\nb\r\n.\r\n", passage{"a\r\n", 10, ErrBareCR, 3, false}},
		{"CR CRLF . CRLF is one, but the CR is refused", "a\r\r\n.\r\n", passage{"", 4, ErrBareCR, 0, false}},
		{"the earlier fault is the one that counts", "a\r\n\x00\n\r\r\n.\r\n", passage{"a\r\n", 8, ErrNUL, 3, false}},
	} {
		if got := relay(tt.in); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.story, got, tt.want)
		}
		for _, size := range []int{1, 2, 3} {
			got := relay(pieces(tt.in, size)...)
			// A line that is found bad only later has gone on in part.
			if !strings.HasPrefix(got.passed, tt.want.passed) || got.end != tt.want.end || got.err != tt.want.err || got.err == nil && got != tt.want {
				t.Errorf("%s, in pieces of %d: %+v, want %+v", tt.story, size, got, tt.want)
			}
		}
	}
}

// TestSmuggling runs every end-of-data look-alike whole, octet by octet and cut
// at every offset: no bare CR, bare LF or NUL goes on, and the end is where it
// truly is.
func TestSmuggling(t *testing.T) {
	var suite struct {
		Cases []struct {
			ID, Sequence, Data string
			Segments           []string
			Expect             struct {
				EndOfData any `json:"end_of_data"`
			}
		}
	}
	readJSON(t, "smuggling-dev.json", &suite)
	if len(suite.Cases) < 19 {
		t.Fatalf("only %d cases", len(suite.Cases))
	}
	for _, c := range suite.Cases {
		data := octetString(c.Data)
		if data == "" {
			for _, s := range c.Segments {
				data += octetString(s)
			}
		}
		true1 := strings.Index("\r\n"+data, "\r\n.\r\n")
		if c.Expect.EndOfData == false && true1 != len(data)-3 {
			t.Fatalf("%s: the case says that nothing ends the message early, %d does", c.ID, true1)
		}
		whole := relay(data)
		try := func(how string, pieces ...string) {
			got := relay(pieces...)
			if got.end != true1 {
				t.Errorf("%s, %s: end found at %d, it is at %d", c.ID, how, got.end, true1)
			}
			if got.err != whole.err {
				t.Errorf("%s, %s: %v, but whole: %v", c.ID, how, got.err, whole.err)
			}
			rest := strings.ReplaceAll(got.passed, "\r\n", "")
			if strings.ContainsAny(rest, "\r\n\x00") {
				t.Errorf("%s, %s: passed %q", c.ID, how, got.passed)
			}
			if got.err == nil && got.passed != data[:true1] {
				t.Errorf("%s, %s: passed %q of %q", c.ID, how, got.passed, data)
			}
		}
		try("whole", data)
		try("octet by octet", pieces(data, 1)...)
		for i := range data {
			try(fmt.Sprint("cut at ", i), data[:i], data[i:])
		}
	}
}

// reference is DataScanner octet by octet, as the RFC has it. pass is what goes
// on if the whole stream is there at once.
func reference(b []byte) (p passage) {
	p.end = -1
	line, i := 0, 0
	var octets, dots int64
loop:
	for i < len(b) {
		if i == line && b[i] == '.' {
			switch rest := string(b[i:]); {
			case strings.HasPrefix(rest, ".\r\n"):
				p.end = i
				break loop
			case rest == ".", rest == ".\r":
				break loop
			}
			dots++
		}
		next := byte('x')
		if i+1 < len(b) {
			next = b[i+1]
		}
		switch c := b[i]; {
		case c == 0:
			p.err = ErrNUL
		case c == '\n':
			p.err = ErrBareLF
		case c == '\r' && i+1 == len(b):
			break loop
		case c == '\r' && next != '\n':
			p.err = ErrBareCR
		case c == '\r':
			i += 2
			line = i
			octets = int64(i) - dots
			continue
		default:
			i++
			continue
		}
		i = line
		break
	}
	if p.err != nil {
		p.octets = octets
		if j := strings.Index("\r\n"+string(b), "\r\n.\r\n"); j >= 0 {
			p.end = j
		}
	} else {
		p.octets = int64(i) - dots
	}
	p.passed = string(b[:i])
	p.has8Bit = bytes.ContainsFunc(b[:i], func(r rune) bool { return r >= 0x80 })
	return p
}

// against compares DataScanner with the reference, whole and in pieces.
func against(t interface{ Fatalf(string, ...any) }, b []byte, size int) {
	want := reference(b)
	if got := relay(string(b)); got != want {
		t.Fatalf("%q: %+v, want %+v", b, got, want)
	}
	got := relay(pieces(string(b), size)...)
	switch {
	case got.end != want.end:
		t.Fatalf("%q in pieces of %d: end at %d, want %d", b, size, got.end, want.end)
	case !errors.Is(got.err, want.err):
		t.Fatalf("%q in pieces of %d: %v, want %v", b, size, got.err, want.err)
	case !strings.HasPrefix(got.passed, want.passed) || !strings.HasPrefix(string(b), got.passed):
		t.Fatalf("%q in pieces of %d: passed %q, want %q", b, size, got.passed, want.passed)
	case want.err == nil && got != want:
		t.Fatalf("%q in pieces of %d: %+v, want %+v", b, size, got, want)
	case strings.ContainsAny(strings.ReplaceAll(got.passed, "\r\n", ""), "\r\n\x00"):
		t.Fatalf("%q in pieces of %d: passed %q", b, size, got.passed)
	}
}

func TestDataScannerAgainstReference(t *testing.T) {
	alphabet := rapid.SampledFrom([]string{"\r\n", "\r\n", "\r\n.", "\r\n.\r\n", ".", "a", "bc", "\r", "\n", "\x00", "\xfc", strings.Repeat("x", 50)})
	rapid.Check(t, func(t *rapid.T) {
		b := strings.Join(rapid.SliceOfN(alphabet, 0, 20).Draw(t, "stream"), "")
		against(t, []byte(b), rapid.IntRange(1, 8).Draw(t, "size"))
	})
}

func TestDataScannerSeesEveryEightBitOctet(t *testing.T) {
	for n := range 100 {
		b := bytes.Repeat([]byte("x"), 100)
		b[n] = 0x80
		s := DataScanner{Detect8Bit: true}
		if s.Scan(b); !s.Has8Bit() {
			t.Errorf("not at %d", n)
		}
	}
}

func TestDataScannerDoesNotAllocate(t *testing.T) {
	b := message(64 << 10)
	if n := testing.AllocsPerRun(10, func() {
		s := DataScanner{Detect8Bit: true}
		s.Scan(b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDataScanner(f *testing.F) {
	for _, s := range []string{"a\r\n.\r\nx", ".\r\n", "..\r\n.a\r\n.\r\n", "a\n.\r\n", "\r\r\n.\r\n", "\x00.\r\n\xfc\r\n.\r\n", "a\r\n.\r\r\n.\r\n"} {
		f.Add([]byte(s), 2)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int) { against(t, b, 1+(size&0xff)) })
}
