package spf

import (
	"fmt"
	"net/netip"
	"strings"
)

// mechanism is the kind of a directive (RFC 7208 §5).
type mechanism uint8

const (
	mechAll mechanism = iota
	mechInclude
	mechA
	mechMX
	mechPTR
	mechIP4
	mechIP6
	mechExists
)

var mechanismNames = [...]string{"all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"}

// record is a record read as a whole: RFC 7208 §4.6 wants a syntax error
// found wherever it stands, and not only if evaluation gets there.
type record struct {
	domain   string // that published it
	terms    []term
	redirect string // domain-spec; empty: none
	exp      string // domain-spec; empty: none

	redirected *record // what evaluation found behind redirect=, once it got there
}

// term is one directive, and what evaluation learnt of it.
type term struct {
	text      string // as published
	spec      string // domain-spec; empty: the record's own domain
	prefix    netip.Prefix
	mech      mechanism
	qualifier byte  // + - ~ ?
	cidr4     uint8 // prefix lengths of a and mx
	cidr6     uint8

	matched  bool
	included *record
}

// syntaxError is a record that cannot be read: a permerror (RFC 7208 §2.6.7).
type syntaxError struct{ domain, term, text string }

func (e *syntaxError) Error() string {
	if e.term == "" {
		return "record of " + e.domain + ": " + e.text
	}
	return "record of " + e.domain + ": \"" + e.term + "\": " + e.text
}

// maxTermShown bounds how much of a faulty term a reason repeats.
const maxTermShown = 64

func badTerm(term, text string) error {
	return &syntaxError{term: term[:min(len(term), maxTermShown)], text: text}
}

// parseRecord reads and checks what follows the version of a record
// (RFC 7208 §4.6, §12).
func parseRecord(text string) (*record, error) {
	for i := range len(text) {
		// Terms are parted by spaces alone. A tab or a line end is a fault of
		// the publisher's, not white space (RFC 7208 §4.6.1).
		if c := text[i]; c < 0x20 || c > 0x7e {
			return nil, &syntaxError{text: fmt.Sprintf("octet 0x%02x is not printable ASCII", c)}
		}
	}
	rec := &record{terms: make([]term, 0, min(strings.Count(text, " ")+1, 16))} // spaces are cheap, terms are not
	var seenRedirect, seenExp bool
	for text != "" {
		var word string
		word, text, _ = strings.Cut(text, " ")
		if word == "" {
			continue
		}
		if name, value, ok := cutModifier(word); ok {
			switch {
			case strings.EqualFold(name, "redirect"):
				if seenRedirect {
					return nil, badTerm(word, "redirect= stands twice")
				}
				if err := checkDomainSpec(word, value); err != nil {
					return nil, err
				}
				seenRedirect, rec.redirect = true, value
			case strings.EqualFold(name, "exp"):
				if seenExp {
					return nil, badTerm(word, "exp= stands twice")
				}
				if err := checkDomainSpec(word, value); err != nil {
					return nil, err
				}
				seenExp, rec.exp = true, value
			default:
				// An unknown modifier is ignored, but must be well-formed.
				if _, err := checkMacroString(word, value, true); err != nil {
					return nil, err
				}
			}
			continue
		}
		t, err := parseTerm(word)
		if err != nil {
			return nil, err
		}
		rec.terms = append(rec.terms, t)
	}
	return rec, nil
}

// cutModifier cuts name=value; the "=" must come before any ":" or "/"
// (RFC 7208 §4.6.1).
func cutModifier(word string) (name, value string, ok bool) {
	for i := range len(word) {
		switch c := word[i]; {
		case isAlpha(c):
		case i > 0 && (isDigit(c) || c == '-' || c == '_' || c == '.'):
		case i > 0 && c == '=':
			return word[:i], word[i+1:], true
		default:
			return "", "", false
		}
	}
	return "", "", false
}

func parseTerm(word string) (term, error) {
	t := term{text: word, qualifier: '+', cidr4: 32, cidr6: 128}
	rest := word
	switch rest[0] {
	case '+', '-', '~', '?':
		t.qualifier, rest = rest[0], rest[1:]
	}
	name, args := rest, ""
	if i := strings.IndexAny(rest, ":/"); i >= 0 {
		name, args = rest[:i], rest[i:]
	}
	known := false
	for m, n := range mechanismNames {
		if strings.EqualFold(name, n) {
			t.mech, known = mechanism(m), true
			break
		}
	}
	if !known {
		return t, badTerm(word, "no such mechanism")
	}

	switch t.mech {
	case mechAll:
		if args != "" {
			return t, badTerm(word, "all takes no argument")
		}
		return t, nil
	case mechIP4, mechIP6:
		if args == "" || args[0] != ':' {
			return t, badTerm(word, "an address must follow")
		}
		p, ok := parseNetwork(args[1:], t.mech == mechIP4)
		if !ok {
			return t, badTerm(word, "bad address or prefix length")
		}
		t.prefix = p
		return t, nil
	case mechA, mechMX:
		var ok bool
		if args, t.cidr4, t.cidr6, ok = cutDualCIDR(args); !ok {
			return t, badTerm(word, "bad prefix length")
		}
		if args == "" {
			return t, nil
		}
	case mechPTR:
		if args == "" {
			return t, nil
		}
	}
	if args == "" || args[0] != ':' {
		return t, badTerm(word, "a domain must follow")
	}
	t.spec = args[1:]
	return t, checkDomainSpec(word, t.spec)
}

// parseNetwork reads ip4-network or ip6-network with its optional length.
// Leading zeros are refused, as they are read as octal by some.
func parseNetwork(s string, v4 bool) (netip.Prefix, bool) {
	host, length, sliced := strings.Cut(s, "/")
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" || ip.Is4() != v4 {
		return netip.Prefix{}, false
	}
	bits := ip.BitLen()
	if sliced {
		var ok bool
		if bits, ok = prefixLength(length, ip.BitLen()); !ok {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(ip, bits), true
}

// cutDualCIDR cuts ["/" ip4-length] ["//" ip6-length] from the end of the
// arguments of a or mx. From the end, because a domain-spec may hold slashes.
func cutDualCIDR(s string) (rest string, v4, v6 uint8, ok bool) {
	v4, v6 = 32, 128
	if i := trailingDigits(s); i >= 2 && i < len(s) && s[i-1] == '/' && s[i-2] == '/' {
		n, ok := prefixLength(s[i:], 128)
		if !ok {
			return s, 0, 0, false
		}
		v6, s = uint8(n), s[:i-2]
	}
	if i := trailingDigits(s); i >= 1 && i < len(s) && s[i-1] == '/' {
		n, ok := prefixLength(s[i:], 32)
		if !ok {
			return s, 0, 0, false
		}
		v4, s = uint8(n), s[:i-1]
	}
	return s, v4, v6, true
}

// trailingDigits returns where the digits at the end of s begin.
func trailingDigits(s string) int {
	i := len(s)
	for i > 0 && isDigit(s[i-1]) {
		i--
	}
	return i
}

func prefixLength(s string, most int) (int, bool) {
	if s == "" || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, n <= most
}

// matchesIP says whether an ip4 or ip6 term holds ip. IPv4-mapped clients are
// IPv4, and ip6: is never for them (RFC 7208 §5).
func (t *term) matchesIP(ip netip.Addr) bool { return t.prefix.Contains(ip) }

// holds says whether a term a or mx matches ip at the address found.
func (t *term) holds(ip, found netip.Addr) bool {
	found = found.Unmap()
	if found.Is4() != ip.Is4() {
		return false
	}
	bits := int(t.cidr6)
	if ip.Is4() {
		bits = int(t.cidr4)
	}
	return netip.PrefixFrom(found, bits).Contains(ip)
}

func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// winner walks an evaluated record again and returns the term that decided,
// with the record that holds it; nil if none matched. It is told by what
// evaluation wrote into the terms, so it asks nobody.
func (rec *record) winner(ip netip.Addr) (*term, *record) {
	for i := range rec.terms {
		t := &rec.terms[i]
		matched := t.matched
		switch t.mech {
		case mechAll:
			matched = true
		case mechIP4, mechIP6:
			matched = t.matchesIP(ip)
		case mechInclude:
			if t.included != nil {
				inner, _ := t.included.winner(ip)
				matched = inner != nil && inner.qualifier == '+'
			}
		}
		if matched {
			return t, rec
		}
	}
	if rec.redirected != nil {
		return rec.redirected.winner(ip)
	}
	return nil, rec
}

// why names the mechanism that matched, in words.
func (rec *record) why(ip netip.Addr) string {
	t, at := rec.winner(ip)
	if t == nil {
		return "no mechanism of " + at.domain + " matches"
	}
	s := "\"" + t.text + "\" of " + at.domain
	for t.mech == mechInclude {
		if t, at = t.included.winner(ip); t == nil {
			break
		}
		s += ", by \"" + t.text + "\" of " + at.domain
	}
	return s
}
