package smtp

import (
	"bytes"
	"io"
)

var crlfDot = []byte("\r\n.")

// DotWriter turns plain text into what follows DATA (RFC 5321 §4.5.2): a dot is
// put before each line that begins with one, and Close writes the end. It
// refuses text that could be taken for another: bare CR, bare LF, NUL.
type DotWriter struct {
	w      io.Writer
	text   TextScanner // holds back a CR that waits for its LF
	within bool        // what was written so far does not end a line
	err    error
}

// NewDotWriter returns a DotWriter to w, which should be buffered.
func NewDotWriter(w io.Writer) *DotWriter { return &DotWriter{w: w} }

// Write writes text, which may be cut anywhere, also between CR and LF. The
// error is ErrBareCR, ErrBareLF or ErrNUL, with nothing of p written, or that
// of the writer. After an error the message cannot be ended any more.
func (d *DotWriter) Write(p []byte) (int, error) {
	if d.err == nil {
		d.err = d.write(p)
	}
	if d.err != nil {
		return 0, d.err
	}
	return len(p), nil
}

func (d *DotWriter) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	held := d.text.cr
	if err := d.text.Scan(p); err != nil {
		return err
	}
	rest := p
	if held {
		if _, err := d.w.Write(crlfDot[:2]); err != nil {
			return err
		}
		d.within = false
		rest = rest[1:] // the LF
	}
	if d.text.cr {
		rest = rest[:len(rest)-1]
	}
	if len(rest) == 0 {
		return nil
	}
	if !d.within && rest[0] == '.' {
		if _, err := d.w.Write(crlfDot[2:]); err != nil {
			return err
		}
	}
	d.within = rest[len(rest)-1] != '\n'
	for {
		i := bytes.Index(rest, crlfDot)
		if i < 0 {
			_, err := d.w.Write(rest)
			return err
		}
		// The piece ends with the dot, and the next begins with the same: that
		// is the stuffing.
		if _, err := d.w.Write(rest[:i+3]); err != nil {
			return err
		}
		rest = rest[i+2:]
	}
}

// Close writes the end of the message, "." CRLF, after a CRLF if the text does
// not end in one. It does not write the end after an error, and does not close
// the writer below.
func (d *DotWriter) Close() error {
	if d.err != nil {
		return d.err
	}
	if d.err = d.text.Close(); d.err != nil {
		return d.err
	}
	end := "\r\n.\r\n"
	if !d.within {
		end = end[2:]
	}
	if _, d.err = io.WriteString(d.w, end); d.err != nil {
		return d.err
	}
	d.err = io.ErrClosedPipe // for whoever writes on
	return nil
}

// Unstuffer undoes dot-stuffing (RFC 5321 §4.5.2): the dot that a line begins
// with is dropped. The zero Unstuffer is at the start of a message. The end
// mark must not be given to it.
type Unstuffer struct {
	seen byte // last octets seen: 0 a line end (or nothing yet), '\r' a CR, else anything else
}

// Append appends to dst what src stands for; src may be cut anywhere.
func (u *Unstuffer) Append(dst, src []byte) []byte {
	if len(src) == 0 {
		return dst
	}
	// First what hangs over from the last call: start of line, or its CR.
	switch {
	case u.seen == 0 && src[0] == '.':
		src = src[1:]
	case u.seen == '\r' && src[0] == '\n':
		dst = append(dst, '\n')
		u.seen = 0
		return u.Append(dst, src[1:])
	}
	for {
		i := bytes.Index(src, crlfDot)
		if i < 0 {
			break
		}
		dst = append(dst, src[:i+2]...)
		src = src[i+3:]
		u.seen = 'x' // behind a dot: within a line
	}
	switch {
	case bytes.HasSuffix(src, crlfDot[:2]):
		u.seen = 0
	case bytes.HasSuffix(src, crByte):
		u.seen = '\r'
	case len(src) > 0:
		u.seen = 'x'
	case u.seen == 0:
		u.seen = 'x' // src was the dot alone
	}
	return append(dst, src...)
}

// Restuff returns b, dot-stuffed text that begins at the start of a line, with
// the stuffing that a conforming sender would have used: a dot in front of a
// line that has no second one stands for nothing and is dropped. It is the
// same message to whoever unstuffs it.
//
// Header sections are read in this form. NOT: as they came; ".From: x" is the
// field From to everyone behind us, and a line ". x" continues the field above.
//
// It does not allocate where nothing is to be done, which is nearly always.
func Restuff(b []byte) []byte {
	if !hasLoneDot(b) {
		return b
	}
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		if b[0] == '.' && (len(b) == 1 || b[1] != '.') {
			b = b[1:]
		}
		i := bytes.Index(b, crlfDot[:2])
		if i < 0 {
			break
		}
		out = append(out, b[:i+2]...)
		b = b[i+2:]
	}
	return append(out, b...)
}

// hasLoneDot says whether a line of b begins with exactly one dot.
func hasLoneDot(b []byte) bool {
	lone := func(b []byte) bool { return len(b) < 2 || b[1] != '.' } // b begins with a dot
	if len(b) > 0 && b[0] == '.' && lone(b) {
		return true
	}
	for {
		i := bytes.Index(b, crlfDot)
		if i < 0 {
			return false
		}
		if b = b[i+2:]; lone(b) {
			return true
		}
	}
}
