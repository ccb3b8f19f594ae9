package wire

import (
	"errors"
	"strings"
)

// Clients of other protocols, in place of the first command.
var (
	ErrHTTP        = errors.New("proxy: HTTP in place of a command")
	ErrTLS         = errors.New("proxy: a TLS handshake in place of a command")
	ErrProxyHeader = errors.New("proxy: PROXY header in place of a command") // of version 2
)

// tlsHandshake is the content type of a ClientHello (RFC 8446 §5.1), which no
// command begins with.
const tlsHandshake = 0x16

// httpMethods begin the request line of a client that has lost its way, or of a
// browser that was sent here with a session of SMTP in what it posts.
var httpMethods = []string{"GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "CONNECT ", "DELETE ", "PATCH ", "TRACE ", "PRI "}

// OtherProtocol says whether what comes next is no SMTP: ErrHTTP or ErrTLS. It waits for
// more only within what may become the method of a request, which is no line yet; a
// whole line is looked at again (IsHTTP). Call Wait before. NOT: the answer "unknown
// command" to each line, which would read what stands in the body, where the browser's
// page has put it, as commands.
func (c *Conn) OtherProtocol() error {
	for n := 1; ; n++ {
		b, err := c.in.br.Peek(n)
		if err != nil {
			return nil // the error comes again with the line
		}
		if b[0] == tlsHandshake && c.encrypted == nil {
			return ErrTLS
		}
		open := false
		for _, m := range httpMethods {
			open = open || len(m) > n && strings.EqualFold(m[:n], string(b))
			if strings.EqualFold(m, string(b)) {
				return ErrHTTP
			}
		}
		if !open {
			return nil
		}
	}
}

// IsHTTP says whether a line is the request line of HTTP/1 (RFC 9112 §3).
func IsHTTP(line []byte) bool {
	text := strings.TrimRight(string(line[max(0, len(line)-16):]), " ")
	i := strings.LastIndexByte(text, ' ')
	return i > 0 && len(text)-i > len(" HTTP/") && strings.EqualFold(text[i:i+len(" HTTP/")], " HTTP/")
}

// proxySignature begins a PROXY header of version 2. As lines they would be two
// empty ones, one with a NUL, and one that ends in a bare LF.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// ProxySigned says whether a PROXY header of version 2 is what comes next. It waits
// for more only within what is no line yet, and behind the NUL, which is in no
// command: a client that said an empty line must be answered. Call Wait before.
func (c *Conn) ProxySigned() bool {
	b, _ := c.in.br.Peek(1)
	if len(b) == 0 || b[0] != proxySignature[0] {
		return false
	}
	_, _ = c.in.br.Peek(2) // brings what else is there
	const nul = len("\r\n\r\n\x00")
	n := min(c.in.br.Buffered(), len(proxySignature))
	if b, _ = c.in.br.Peek(n); n < nul || string(b) != proxySignature[:n] {
		return false
	}
	b, _ = c.in.br.Peek(len(proxySignature)) // an error comes again with the line
	return string(b) == proxySignature
}
