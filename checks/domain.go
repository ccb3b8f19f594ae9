package checks

import (
	"strings"

	"golang.org/x/net/idna"
)

// maxName is the length of the longest name that the DNS can be asked for, in
// text and without the final dot (RFC 1035 §3.1, RFC 7208 §7.3).
const maxName = 253

// domainName returns s as A-labels in lower case without a final dot. It
// refuses what is no host-like domain name: empty or overlong labels, address
// literals, anything but letters, digits, hyphens and underscores.
func domainName(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	ascii, lower := true, true
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 0x80:
			ascii = false
		case 'A' <= c && c <= 'Z':
			lower = false
		}
	}
	if !ascii {
		a, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", false
		}
		s, lower = a, false
	}
	if !askable(s) {
		return "", false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", false
		}
	}
	if !lower {
		s = strings.ToLower(s)
	}
	return s, true
}

// checkable is domainName for a domain that authorization can be asked of: one
// of two labels or more (RFC 7208 §4.3).
func checkable(s string) (string, bool) {
	d, ok := domainName(s)
	return d, ok && strings.IndexByte(d, '.') >= 0
}

// askable says whether a query can be composed from name, which bears no final
// dot: labels of 1 to 63 octets, 253 octets in all (RFC 1035 §2.3.4).
func askable(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	label := 0
	for i := range len(name) {
		if name[i] != '.' {
			label++
			continue
		}
		if label == 0 || label > 63 {
			return false
		}
		label = 0
	}
	return label > 0 && label <= 63
}

// isSubdomain says whether name is domain or below it, letter case and final
// dots aside.
func isSubdomain(name, domain string) bool {
	name, domain = strings.TrimSuffix(name, "."), strings.TrimSuffix(domain, ".")
	if len(name) < len(domain) || !strings.EqualFold(name[len(name)-len(domain):], domain) {
		return false
	}
	return len(name) == len(domain) || name[len(name)-len(domain)-1] == '.'
}
