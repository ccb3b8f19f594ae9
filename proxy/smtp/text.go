package smtp

import (
	"bytes"
	"errors"
)

// TextScanner checks text that is framed by length, as BDAT brings it: CRLF is
// the only line ending there as well (RFC 3030 §2). The zero value is ready.
type TextScanner struct{ cr bool }

// Scan looks at the next octets. The error is ErrBareCR, ErrBareLF or ErrNUL; a
// CR at the end of b is decided by the next call.
func (s *TextScanner) Scan(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return ErrNUL
	}
	if s.cr {
		s.cr = false
		if b[0] != '\n' {
			return ErrBareCR
		}
		b = b[1:]
	}
	// As many CRs as LFs, and a CR before each LF: then none stands alone.
	crs := bytes.Count(b, crByte)
	for i := 0; ; crs-- {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			break
		}
		if i+j == 0 || b[i+j-1] != '\r' {
			return ErrBareLF
		}
		i += j + 1
	}
	if len(b) > 0 && b[len(b)-1] == '\r' {
		s.cr = true
		crs--
	}
	if crs != 0 {
		return ErrBareCR
	}
	return nil
}

// Close says whether the text may end here.
func (s *TextScanner) Close() error {
	if s.cr {
		return ErrBareCR
	}
	return nil
}

// BadOctets is the refusal of a message for an error of TextScanner, DataScanner or
// DotWriter: ErrBareCR, ErrNUL, and any other as ErrBareLF.
func BadOctets(err error) Reply {
	r := Reply{Code: 550, Enhanced: "6.0", Text: "Message contains a bare LF"}
	switch {
	case errors.Is(err, ErrBareCR):
		r.Text = "Message contains a bare CR"
	case errors.Is(err, ErrNUL):
		r.Text = "Message contains NUL"
	}
	return r
}
