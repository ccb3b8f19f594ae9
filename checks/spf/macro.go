package spf

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// macro is one macro-expand of RFC 7208 §7.1.
type macro struct {
	letter  byte // lower case; '%', '_' or '-' for the escapes
	url     bool // upper-case letter: URL-escape the value
	reverse bool
	keep    int    // right-hand parts to keep; 0: all
	delims  string // empty: "."
}

// cutMacro reads the macro at the beginning of s, which begins with "%".
func cutMacro(s string) (m macro, rest string, ok bool) {
	if len(s) < 2 {
		return m, "", false
	}
	switch s[1] {
	case '%', '_', '-':
		return macro{letter: s[1]}, s[2:], true
	case '{':
	default:
		return m, "", false
	}
	end := strings.IndexByte(s, '}')
	if end < 3 {
		return m, "", false
	}
	body, rest := s[2:end], s[end+1:]
	if !isAlpha(body[0]) || strings.IndexByte("slodiphcrtv", body[0]|0x20) < 0 {
		return m, "", false
	}
	m.letter, m.url, body = body[0]|0x20, body[0] < 'a', body[1:]
	if n := len(body) - len(strings.TrimLeft(body, "0123456789")); n > 0 {
		keep, err := strconv.Atoi(body[:n])
		if err != nil || keep == 0 {
			return m, "", false
		}
		m.keep, body = keep, body[n:]
	}
	if body != "" && body[0]|0x20 == 'r' {
		m.reverse, body = true, body[1:]
	}
	for i := range len(body) {
		if strings.IndexByte(".-+,/_=", body[i]) < 0 {
			return m, "", false
		}
	}
	m.delims = body
	return m, rest, true
}

// checkMacroString checks the syntax of a macro-string and returns what stands
// behind its last macro. The letters c, r and t belong to explanations
// (RFC 7208 §7.2).
func checkMacroString(term, s string, explanation bool) (tail string, err error) {
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return s, nil
		}
		m, rest, ok := cutMacro(s[i:])
		if !ok {
			return "", badTerm(term, "bad macro")
		}
		if !explanation && (m.letter == 'c' || m.letter == 'r' || m.letter == 't') {
			return "", badTerm(term, "the macros c, r and t are for explanations")
		}
		s = rest
	}
}

// checkDomainSpec checks a domain-spec: it ends in a macro, or in a dot and a
// top label that is not all digits (RFC 7208 §7.1).
func checkDomainSpec(term, s string) error {
	if s == "" {
		return badTerm(term, "the domain is missing")
	}
	tail, err := checkMacroString(term, s, false)
	if err != nil {
		return err
	}
	if tail == "" {
		return nil
	}
	tail = strings.TrimSuffix(tail, ".")
	dot := strings.LastIndexByte(tail, '.')
	if dot < 0 || !isTopLabel(tail[dot+1:]) {
		return badTerm(term, "the domain must end in a macro or in a dot and a top-level name")
	}
	return nil
}

func isTopLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	digits := true
	for i := range len(s) {
		switch c := s[i]; {
		case isDigit(c):
		case isAlpha(c), c == '-':
			digits = false
		default:
			return false
		}
	}
	return !digits
}

// maxExpansion bounds what macros can grow to, in octets. A name of more is not
// asked for; RFC 7208 §7.3 would cut it to its last 253.
const maxExpansion = 16 << 10

// expandTo appends s to dst with its macros replaced, up to maxExpansion and the
// macro that goes beyond it. The syntax was checked.
func (e *evaluation) expandTo(ctx context.Context, dst []byte, s, domain string) []byte {
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return append(dst, s...)
		}
		dst = append(dst, s[:i]...)
		m, rest, ok := cutMacro(s[i:])
		if !ok || len(dst) > maxExpansion {
			return dst
		}
		s = rest
		switch m.letter {
		case '%':
			dst = append(dst, '%')
		case '_':
			dst = append(dst, ' ')
		case '-':
			dst = append(dst, "%20"...)
		default:
			dst = m.appendTo(dst, e.macroValue(ctx, m.letter, domain))
		}
	}
}

// macroValue is the value of a macro letter before any transformation
// (RFC 7208 §7.2).
func (e *evaluation) macroValue(ctx context.Context, letter byte, domain string) string {
	switch letter {
	case 's':
		return e.id.local + "@" + e.id.domain
	case 'l':
		return e.id.local
	case 'o':
		return e.id.domain
	case 'd':
		return domain
	case 'i':
		return dottedIP(e.ip)
	case 'p':
		return e.validatedName(ctx, domain)
	case 'v':
		if e.ip.Is4() {
			return "in-addr"
		}
		return "ip6"
	case 'h':
		return e.helo
	case 'c':
		return e.ip.String()
	case 'r':
		if e.hostname == "" {
			return "unknown"
		}
		return e.hostname
	default: // t
		return strconv.FormatInt(time.Now().Unix(), 10)
	}
}

// appendTo appends value, transformed as m says.
func (m macro) appendTo(dst []byte, value string) []byte {
	if m.reverse || m.keep > 0 || m.delims != "" {
		delims := m.delims
		if delims == "" {
			delims = "."
		}
		parts := make([]string, 0, 8)
		for {
			i := strings.IndexAny(value, delims)
			if i < 0 {
				parts = append(parts, value)
				break
			}
			parts, value = append(parts, value[:i]), value[i+1:]
		}
		if m.reverse {
			slices.Reverse(parts)
		}
		if m.keep > 0 && m.keep < len(parts) {
			parts = parts[len(parts)-m.keep:]
		}
		value = strings.Join(parts, ".")
	}
	if !m.url {
		return append(dst, value...)
	}
	const hex = "0123456789ABCDEF"
	for i := range len(value) {
		switch c := value[i]; {
		case isAlpha(c), isDigit(c), c == '-', c == '.', c == '_', c == '~':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// dottedIP is the value of %{i}: an IPv6 address as nibbles parted by dots.
func dottedIP(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, 64)
	for _, o := range ip.As16() {
		b = append(b, hex[o>>4], '.', hex[o&15], '.')
	}
	return string(b[:len(b)-1])
}
