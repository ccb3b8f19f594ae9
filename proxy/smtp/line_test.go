package smtp

import (
	"bufio"
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
)

func TestReadLine(t *testing.T) {
	for _, tt := range []struct {
		story, in string
		lines     []string // what comes out, errors as their text
	}{
		{"lines, one by one", "EHLO a\r\nQUIT\r\n", []string{"EHLO a", "QUIT", "EOF"}},
		{"an empty line", "\r\n", []string{"", "EOF"}},
		{"a line of 512 octets with its CRLF", strings.Repeat("x", 510) + "\r\n", []string{strings.Repeat("x", 510), "EOF"}},
		{"one octet more, and the next is heard", strings.Repeat("x", 511) + "\r\nQUIT\r\n", []string{"smtp: line too long", "QUIT", "EOF"}},
		{"much more, with bare CRs that end nothing", strings.Repeat("x\r", 5000) + "\r\nQUIT\r\n", []string{"smtp: line too long", "QUIT", "EOF"}},
		{"a bare LF", "NOOP\nQUIT\r\n", []string{"smtp: bare LF"}},
		{"a bare LF alone", "\n", []string{"smtp: bare LF"}},
		{"a bare LF in a line that is too long", strings.Repeat("x", 5000) + "\nQUIT\r\n", []string{"smtp: bare LF"}},
		{"a bare CR, and the next is heard", "NO\rOP\r\nQUIT\r\n", []string{"smtp: bare CR or NUL in command line", "QUIT", "EOF"}},
		{"CR CR LF", "NOOP\r\r\nQUIT\r\n", []string{"smtp: bare CR or NUL in command line", "QUIT", "EOF"}},
		{"a NUL", "NO\x00OP\r\nQUIT\r\n", []string{"smtp: bare CR or NUL in command line", "QUIT", "EOF"}},
		{"8-bit is the parser's business", "MAIL \xff\r\n", []string{"MAIL \xff", "EOF"}},
		{"gone within a line", "NOOP", []string{"unexpected EOF"}},
		{"gone between CR and LF", "NOOP\r", []string{"unexpected EOF"}},
	} {
		for _, size := range []int{16, 64, 511, 4096} {
			for _, step := range []int{1, 7, 1 << 20} {
				br := reader([]byte(tt.in), size, step)
				for i, want := range tt.lines {
					line, err := ReadLine(br, 512)
					got := string(line)
					if err != nil {
						got = err.Error()
					}
					if got != want {
						t.Errorf("%s, buffer %d, pieces of %d: line %d is %.80q, want %.80q", tt.story, size, step, i, got, want)
						break
					}
				}
			}
		}
	}
}

// TestReadLineCutAtEveryOctet: a buffer may end anywhere, also between CR and LF.
func TestReadLineCutAtEveryOctet(t *testing.T) {
	for n := range 70 {
		want := strings.Repeat("x", n)
		br := reader([]byte(want+"\r\nQUIT\r\n"), 16, 1<<20)
		for _, w := range []string{want, "QUIT"} {
			if got, err := ReadLine(br, 100); string(got) != w || err != nil {
				t.Fatalf("line of %d octets: %q, %v", n, got, err)
			}
		}
	}
}

// endless is a line that never ends.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	e.left -= n
	for i := range p[:n] {
		p[i] = 'x'
	}
	return n, nil
}

func TestReadLineOfManyMegabytesIsNotKept(t *testing.T) {
	br := bufio.NewReaderSize(io.MultiReader(&endless{64 << 20}, strings.NewReader("\r\nQUIT\r\n")), 4096)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ReadLine(br, 12288)
	runtime.ReadMemStats(&after)
	if err != ErrLineTooLong {
		t.Fatalf("64 MiB: %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("64 MiB of a line cost %d octets of memory", used)
	}
	if line, err := ReadLine(br, 512); string(line) != "QUIT" || err != nil {
		t.Errorf("behind it: %q, %v", line, err)
	}
}

func TestReadLineDoesNotAllocate(t *testing.T) {
	in := bytes.Repeat([]byte("RCPT TO:<a@b.example>\r\n"), 1000)
	br := bufio.NewReader(bytes.NewReader(in))
	if n := testing.AllocsPerRun(500, func() {
		if _, err := ReadLine(br, 2048); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a line", n)
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("EHLO a\r\nNO\rOP\r\nQUIT\r\n"), 3)
	f.Add([]byte("x\r\r\n\n"), 1)
	f.Add(append(bytes.Repeat([]byte("x"), 100), "\r\nQUIT\r\n"...), 16)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		const max = 64
		br := reader(in, 16, 1+(step&0xff))
		rest := in
		for {
			line, err := ReadLine(br, max)
			// What it must have been, octet by octet.
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[len(rest) == 0]; err != want {
					t.Fatalf("%q: %v at %q, want %v", in, err, rest, want)
				}
				return
			}
			whole := rest[:i+1]
			rest = rest[i+1:]
			text, crlf := bytes.CutSuffix(whole, []byte("\r\n"))
			switch {
			case !crlf:
				if err != ErrBareLF {
					t.Fatalf("%q: %v at %q", in, err, whole)
				}
				return
			case len(whole) > max:
				if err != ErrLineTooLong {
					t.Fatalf("%q: %v at %q", in, err, whole)
				}
			case bytes.ContainsAny(text, "\r\x00"):
				if err != ErrBadOctet {
					t.Fatalf("%q: %v at %q", in, err, whole)
				}
			case err != nil || !bytes.Equal(line, text):
				t.Fatalf("%q: %q, %v at %q", in, line, err, whole)
			}
		}
	})
}
