package smtp

import (
	"bytes"
	"encoding/binary"
)

// DataScanner watches the text of a DATA command go by as it stands on the
// wire, dot-stuffed (RFC 5321 §4.5.2): it says how much of it is good to be passed on
// verbatim, and it alone finds the end. Only CRLF ends a line and only a line
// that is a single dot ends the message (RFC 5321 §2.3.8, §4.1.1.4); every
// look-alike with a bare CR, a bare LF or a NUL is an error, before any octet
// of its line was passed. The zero DataScanner is at the start of a message.
type DataScanner struct {
	// Detect8Bit asks for Has8Bit to be kept. Set it before the first Scan.
	Detect8Bit bool

	within  bool // the octets passed so far do not end a line
	has8Bit bool
	octets  int64
}

// Octets returns the size of the message so far: what was passed, CRLF counted,
// stuffed dots and the end mark not (RFC 1870 §5).
func (s *DataScanner) Octets() int64 { return s.octets }

// Has8Bit says whether an octet above 127 was passed, if Detect8Bit is set.
func (s *DataScanner) Has8Bit() bool { return s.has8Bit }

// Scan looks at the next octets of the stream: those of the last call that were
// not passed, and new ones. The first n may be passed on as they stand.
//
// end says that the message ends at b[n:], which begins with the three octets
// ".\r\n"; they are the caller's to consume. What comes behind them is not
// looked at. Without end, the one or two octets that are not passed can only
// be judged with more: a CR, or a dot (and a CR) at the start of a line.
//
// err is ErrBareCR, ErrBareLF or ErrNUL; n is then the start of the line at
// fault (or 0, if that line began in an earlier call), and Skip finds the end.
//
// Lines may be of any length; a buffer of three octets will do.
func (s *DataScanner) Scan(b []byte) (n int, end bool, err error) {
	lines, dots := 0, 0 // line ends in b[:n], and stuffed dots
	line := 0           // where the current line starts
	start := !s.within
	for {
		if start && line < len(b) && b[line] == '.' {
			var open bool
			if end, open = endMark(b[line:]); end || open {
				n = line
				break
			}
			dots++
		}
		i := bytes.IndexByte(b[line:], '\n')
		if i < 0 {
			n = len(b)
			if n > line && b[n-1] == '\r' {
				n--
			}
			break
		}
		i += line
		if i == 0 || b[i-1] != '\r' {
			return s.fault(b[:i+1])
		}
		lines++
		line, start = i+1, true
	}

	// A line end has one CR, so if there are more, one is bare. Counting them in
	// one go for many lines costs a fraction of looking into each line.
	pass := b[:n]
	if bytes.Count(pass, crByte) != lines || bytes.IndexByte(pass, 0) >= 0 {
		return s.fault(pass)
	}
	s.pass(pass, dots)
	return n, end, nil
}

var crByte = []byte{'\r'}

// endMark says of a line that begins with a dot whether it is the end of the
// message; open: more octets are needed to tell.
func endMark(b []byte) (end, open bool) {
	switch {
	case len(b) >= 3:
		return b[1] == '\r' && b[2] == '\n', false
	case len(b) == 2:
		return false, b[1] == '\r'
	}
	return false, true
}

// pass accounts for octets that go on.
func (s *DataScanner) pass(b []byte, dots int) {
	if len(b) == 0 {
		return
	}
	if s.Detect8Bit && !s.has8Bit {
		s.has8Bit = Has8Bit(b)
	}
	s.octets += int64(len(b) - dots)
	s.within = b[len(b)-1] != '\n'
}

// fault finds the first line of b that is at fault; there is one. The lines
// before it are passed.
func (s *DataScanner) fault(b []byte) (n int, end bool, err error) {
	dots := 0
	start := !s.within
	for n < len(b) {
		i := bytes.IndexByte(b[n:], '\n') + 1
		if i == 0 {
			i = len(b) - n
		}
		line := b[n : n+i]
		for j, c := range line {
			switch {
			case c == 0:
				err = ErrNUL
			case c == '\n' && (j == 0 || line[j-1] != '\r'):
				err = ErrBareLF
			case c == '\r' && (j+1 == len(line) || line[j+1] != '\n'):
				err = ErrBareCR
			default:
				continue
			}
			s.pass(b[:n], dots)
			return n, false, err
		}
		if start && line[0] == '.' {
			dots++
		}
		n, start = n+i, true
	}
	panic("smtp: DataScanner found no fault where there is one")
}

// Skip is Scan for a message that has been refused: it accepts anything and
// finds only the true end, CRLF "." CRLF, so that the client can be answered
// and heard again. n octets are to be dropped; end says that b[n:] begins with
// ".\r\n". It may be called with what Scan did not pass.
func (s *DataScanner) Skip(b []byte) (n int, end bool) {
	for {
		if !s.within && n < len(b) && b[n] == '.' {
			if end, open := endMark(b[n:]); end || open {
				return n, end
			}
		}
		i := bytes.IndexByte(b[n:], '\n')
		if i < 0 {
			hold := 0
			if len(b) > n && b[len(b)-1] == '\r' {
				hold = 1
			}
			if len(b)-hold > n {
				s.within = true
			}
			return len(b) - hold, false
		}
		i += n
		s.within = i == 0 || b[i-1] != '\r'
		n = i + 1
	}
}

// Has8Bit says whether b has an octet above 127.
func Has8Bit(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		w := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if w&high != 0 {
			return true
		}
		b = b[32:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}
