package dkim

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

var blanks = regexp.MustCompile(`[ \t]+`)

// naive is the canonical form of a body, word for word as RFC 6376 §3.4.3 and
// §3.4.4 say it.
func naive(f form, body string) string {
	if f == relaxed {
		lines := strings.Split(body, "\r\n")
		for i, line := range lines {
			lines[i] = strings.TrimRight(blanks.ReplaceAllString(line, " "), " ")
		}
		body = strings.Join(lines, "\r\n")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body == "" && f == relaxed {
		return ""
	}
	return body + "\r\n"
}

func inPieces(f form, body string, sizes []byte) string {
	var out bytes.Buffer
	c := canonicalBody{form: f, emit: func(p []byte) { out.Write(p) }}
	for i := 0; body != ""; i++ {
		n := len(body)
		if len(sizes) > 0 {
			n = min(n, int(sizes[i%len(sizes)])%7+1)
		}
		c.write([]byte(body[:n]))
		body = body[n:]
	}
	c.finish()
	return out.String()
}

func TestCanonicalBody(t *testing.T) {
	for _, body := range []string{
		"", "\r\n", "\r\n\r\n", "x", "x\r\n", "x\r\n\r\n", " \r\n", "\t", " x \t y \r\n \r\n", "\r", "x\r", "\r\r\n", "x\n\r\n", "\r\nx",
		" C \r\nD \t E\r\n\r\n\r\n", strings.Repeat("\r\n", 5000) + "x", strings.Repeat("word ", 3000) + "\r\n",
	} {
		for _, f := range []form{simple, relaxed} {
			for _, sizes := range [][]byte{nil, {0}, {1}, {2, 0}, {6}} {
				if got, want := inPieces(f, body, sizes), naive(f, body); got != want {
					t.Errorf("form %d of %.40q in pieces of %v: %.60q, and should be %.60q", f, body, sizes, got, want)
				}
			}
		}
	}
}

// FuzzCanonicalBody: a body has one canonical form, in whatever pieces it comes.
func FuzzCanonicalBody(f *testing.F) {
	f.Add("x \t y\r\n\r\n", []byte{0, 3})
	f.Add("\r\r\n \n\r", []byte{1})
	f.Fuzz(func(t *testing.T, body string, sizes []byte) {
		for _, form := range []form{simple, relaxed} {
			if got, want := inPieces(form, body, sizes), naive(form, body); got != want {
				t.Fatalf("form %d of %q: %q, and should be %q", form, body, got, want)
			}
		}
	})
}

// FuzzWithoutSignature: whatever stands in a signature, b= is all that is taken
// out of it.
func FuzzWithoutSignature(f *testing.F) {
	f.Add(" v=1; a=rsa-sha256; z=Subject:Job=20offer; h=From:from; b=AAAA")
	f.Add("b\t=\r\n AA; bb=x;b")
	f.Fuzz(func(t *testing.T, value string) {
		_, rest, _ := strings.Cut(withoutSignature("DKIM-Signature:"+value+"\r\n"), ":")
		was, is := strings.Split(value+"\r\n", ";"), strings.Split(rest, ";")
		if len(was) != len(is) {
			t.Fatalf("%q of %q", rest, value)
		}
		for i := range was {
			name, _, ok := strings.Cut(was[i], "=")
			if signature := ok && strings.Trim(name, whiteSpace) == "b"; signature && is[i] != name+"=" || !signature && is[i] != was[i] {
				t.Fatalf("%q of %q", rest, value)
			}
		}
	})
}
