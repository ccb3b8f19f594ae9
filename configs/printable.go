package configs

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsShown says whether a terminal shows the character, and does not obey it.
func IsShown(r rune) bool { return unicode.IsPrint(r) }

// Printable shows control and format characters as what they are, and octets that are no
// UTF-8 too: DNS records and replies are a stranger's text, and a terminal obeys some of it.
func Printable(s string) string {
	hidden := func(r rune) bool { return r != '\n' && !IsShown(r) }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case hidden(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}
