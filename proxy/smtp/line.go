package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// What may be wrong with the octets of a line (RFC 5321 §2.3.8).
var (
	ErrLineTooLong = errors.New("smtp: line too long")
	ErrBadOctet    = errors.New("smtp: bare CR or NUL in command line")
	ErrBareCR      = errors.New("smtp: bare CR")
	ErrBareLF      = errors.New("smtp: bare LF")
	ErrNUL         = errors.New("smtp: NUL")
)

// ReadLine reads a command line of at most max octets, CRLF counted, and
// returns it without the CRLF. The slice is valid until the next read from br.
// Only CRLF ends a line (RFC 5321 §2.3.8).
//
// ErrLineTooLong: the line was read to its CRLF and dropped, in bounded memory;
// the next line may be read. ErrBadOctet: likewise, the line had a bare CR or a
// NUL in it. ErrBareLF: returned as soon as that octet was read; what the
// sender takes for lines is anyone's guess from here on, so there is nothing
// to resume. io.ErrUnexpectedEOF: the stream ended within a line; io.EOF: it
// ended between two. Other errors are those of the reader.
//
// It allocates only for a line that exceeds the buffer of br.
func ReadLine(br *bufio.Reader, max int) (line []byte, err error) {
	var long []byte // the pieces of a line that br cannot hold
	size, cr := 0, false
	for {
		part, err := br.ReadSlice('\n')
		size += len(part)
		if err != nil && err != bufio.ErrBufferFull {
			if err == io.EOF && size > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if err == bufio.ErrBufferFull {
			cr = part[len(part)-1] == '\r' // its LF may be the first octet of the next part
			if size <= max {
				long = append(long, part...)
			} else {
				long = nil
			}
			continue
		}
		if n := len(part); n > 1 {
			cr = part[n-2] == '\r'
		}
		switch {
		case !cr:
			return nil, ErrBareLF
		case size > max:
			return nil, ErrLineTooLong
		}
		line = part
		if size > len(part) {
			line = append(long, part...)
		}
		line = line[:len(line)-2]
		if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
			return nil, ErrBadOctet
		}
		return line, nil
	}
}
