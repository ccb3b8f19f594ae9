package dkim

import "bytes"

// form is a canonicalization (RFC 6376 §3.4).
type form int

const (
	simple form = iota
	relaxed
)

// formOf returns the canonicalization of that name (RFC 6376 §3.5, c=).
func formOf(name string) (f form, ok bool) {
	switch name {
	case "simple":
		return simple, true
	case "relaxed":
		return relaxed, true
	}
	return 0, false
}

// appendRelaxed appends the form "relaxed" of a header field (RFC 6376 §3.4.2),
// its final CRLF included. name and value are those of the field, value with its
// folding and without the line end.
func appendRelaxed(b []byte, name, value string) []byte {
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	b = append(b, ':')
	blank, some := false, false
	for i := range len(value) {
		switch c := value[i]; c {
		case ' ', '\t', '\r', '\n':
			blank = true
		default:
			if blank && some {
				b = append(b, ' ')
			}
			blank, some = false, true
			b = append(b, c)
		}
	}
	return append(b, "\r\n"...)
}

// emptyLines is what canonicalBody writes line ends from.
var emptyLines = bytes.Repeat([]byte("\r\n"), 512)

// canonicalBody turns a body, which comes in pieces, into one of its canonical
// forms (RFC 6376 §3.4.3, §3.4.4). It keeps no octet of it: line ends and blanks
// that may turn out to be the last are counted.
type canonicalBody struct {
	form form
	emit func([]byte)

	cr    bool  // a CR came, and what follows it is not known yet
	ends  int64 // CRLFs since the last octet of text
	blank bool  // blanks and tabs stand before what comes next; relaxed alone
	some  bool  // any text came
	out   []byte
}

// write takes the next octets of the body.
func (c *canonicalBody) write(p []byte) {
	if len(p) == 0 {
		return
	}
	if c.cr {
		c.cr = false
		if p[0] == '\n' {
			c.end()
			p = p[1:]
		} else {
			c.text([]byte{'\r'})
		}
	}
	if n := len(p); n > 0 && p[n-1] == '\r' {
		c.cr = true
		p = p[:n-1]
	}
	if c.form == simple {
		c.writeSimple(p)
	} else {
		c.writeRelaxed(p)
	}
}

// writeSimple passes p on up to the line ends that it closes with.
func (c *canonicalBody) writeSimple(p []byte) {
	n := len(p)
	for n >= 2 && p[n-2] == '\r' && p[n-1] == '\n' {
		n -= 2
	}
	if n > 0 {
		c.text(p[:n])
	}
	c.ends += int64(len(p)-n) / 2
}

// writeRelaxed passes the words of p on, and of the blanks between them one.
func (c *canonicalBody) writeRelaxed(p []byte) {
	if c.out == nil {
		c.out = make([]byte, 0, 4<<10)
	}
	for i := 0; i < len(p); {
		switch {
		case p[i] == ' ' || p[i] == '\t':
			c.blank = true
			i++
			continue
		case p[i] == '\r' && i+1 < len(p) && p[i+1] == '\n':
			c.end()
			i += 2
			continue
		}
		start := i
		for i++; i < len(p) && p[i] != ' ' && p[i] != '\t' && p[i] != '\r'; i++ {
		}
		c.text(p[start:i])
	}
	c.flush()
}

// end counts a line end. The blanks before it are none (RFC 6376 §3.4.4).
func (c *canonicalBody) end() {
	c.ends++
	c.blank = false
}

// text passes on what is no line end and, in the form relaxed, no blank, behind
// what was held back before it.
func (c *canonicalBody) text(p []byte) {
	if c.ends > 0 {
		c.flush()
		for n := c.ends * 2; n > 0; {
			m := min(n, int64(len(emptyLines)))
			c.emit(emptyLines[:m])
			n -= m
		}
		c.ends = 0
	}
	c.some = true
	if c.form == simple {
		c.emit(p)
		return
	}
	if c.blank {
		c.out = append(c.out, ' ')
		c.blank = false
	}
	if len(c.out)+len(p) > cap(c.out) {
		c.flush()
	}
	if len(p) > cap(c.out) {
		c.emit(p)
		return
	}
	c.out = append(c.out, p...)
}

func (c *canonicalBody) flush() {
	if len(c.out) > 0 {
		c.emit(c.out)
		c.out = c.out[:0]
	}
}

// finish ends the body with the one CRLF that it has in canonical form: an empty
// body has one in the form simple and none in the form relaxed.
func (c *canonicalBody) finish() {
	if c.cr {
		c.cr = false
		c.text([]byte{'\r'})
	}
	c.flush()
	if c.some || c.form == simple {
		c.emit(emptyLines[:2])
	}
}
