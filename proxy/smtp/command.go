package smtp

import "strings"

// SyntaxError is what the parsers of commands return: Reply is what the
// client is to be told, a fixed text (RFC 5321 §4.2.4, RFC 3463 §3).
type SyntaxError struct{ Reply Reply }

// Error renders the reply on one line.
func (e *SyntaxError) Error() string { return "smtp: " + e.Reply.String() }

var (
	errCommand = &SyntaxError{Reply{500, "5.2", "Command syntax error."}}
	errOctet   = &SyntaxError{Reply{501, "5.4", "Control character in command."}}
)

// ParseCommand splits a command line, without its CRLF, into the verb in upper
// case and what follows it (RFC 5321 §4.1.1). White space around the argument
// is dropped: blanks and tabs behind the verb and at the end of the line.
//
// The verb is whatever printable ASCII comes first; whether it is a command is
// for the caller to say. The argument may hold octets above 127 and no control
// characters; that it is UTF-8 is checked by who parses it. The error is a
// *SyntaxError.
func ParseCommand(line []byte) (verb, arg string, err error) {
	for len(line) > 0 && (line[len(line)-1] == ' ' || line[len(line)-1] == '\t') {
		line = line[:len(line)-1]
	}
	n := 0
	for n < len(line) && line[n] != ' ' && line[n] != '\t' {
		if line[n] < '!' || line[n] > '~' {
			return "", "", errCommand
		}
		n++
	}
	if n == 0 {
		return "", "", errCommand
	}
	verb = upperVerb(line[:n])
	rest := line[n:]
	for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
		rest = rest[1:]
	}
	for _, c := range rest {
		if isControl(c) {
			return "", "", errOctet
		}
	}
	return verb, string(rest), nil
}

// upperVerb allocates only for a verb that nobody knows.
func upperVerb(b []byte) string {
	var buf [8]byte // as long as the longest known verb
	if len(b) > len(buf) {
		return strings.ToUpper(string(b))
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		buf[i] = c
	}
	switch string(buf[:len(b)]) {
	case "EHLO":
		return "EHLO"
	case "HELO":
		return "HELO"
	case "MAIL":
		return "MAIL"
	case "RCPT":
		return "RCPT"
	case "DATA":
		return "DATA"
	case "BDAT":
		return "BDAT"
	case "RSET":
		return "RSET"
	case "NOOP":
		return "NOOP"
	case "QUIT":
		return "QUIT"
	case "STARTTLS":
		return "STARTTLS"
	case "VRFY":
		return "VRFY"
	case "EXPN":
		return "EXPN"
	case "HELP":
		return "HELP"
	case "AUTH":
		return "AUTH"
	case "ETRN":
		return "ETRN"
	}
	return string(buf[:len(b)])
}

// isControl says whether c is a control character of ASCII.
func isControl(c byte) bool { return c < ' ' || c == 0x7f }
