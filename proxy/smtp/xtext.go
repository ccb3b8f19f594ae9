package smtp

import (
	"errors"
	"unicode/utf8"
)

var errXtext = errors.New("smtp: not xtext")

const upperHex = "0123456789ABCDEF"

// EncodeXtext encodes s as xtext (RFC 3461 §4): every octet that is no
// printable ASCII, and "+" and "=", as "+" with two hexadecimal digits.
func EncodeXtext(s string) string {
	more := 0
	for i := range len(s) {
		if !isXchar(s[i]) {
			more += 2
		}
	}
	if more == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+more)
	for i := range len(s) {
		if c := s[i]; isXchar(c) {
			b = append(b, c)
		} else {
			b = append(b, '+', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}

// DecodeXtext decodes xtext (RFC 3461 §4), to the letter: hexadecimal digits
// are in upper case, "+" and "=" stand only encoded. Two things go beyond the
// letter. A control character that comes out is an error, because nothing
// that is sent as xtext may hold one and all of it ends up in logs and header
// fields. And UTF-8 that was not encoded passes: ParseMail has seen to it that
// it came with SMTPUTF8 (RFC 6531 §3.3).
func DecodeXtext(s string) (string, error) {
	hex := false
	for i := range len(s) {
		c := s[i]
		if c == '+' {
			hex = true
		} else if !isXchar(c) && c < utf8.RuneSelf {
			return "", errXtext
		}
	}
	if !hex {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) {
				return "", errXtext
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 {
				return "", errXtext
			}
			c = byte(hi<<4 | lo)
			if isControl(c) {
				return "", errXtext
			}
			i += 2
		}
		b = append(b, c)
	}
	return string(b), nil
}

func isXchar(c byte) bool { return '!' <= c && c <= '~' && c != '+' && c != '=' }

// unhex returns the value of an upper-case hexadecimal digit, -1 for any other octet.
func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
