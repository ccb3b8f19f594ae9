package smtp

import (
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Sizes of a domain name in its text form, in octets (RFC 1035 §2.3.4; 255 on
// the wire are 253 in text, without the final dot).
const (
	maxLabel = 63
	// MaxDomain is the length of the longest name that the DNS can be asked for.
	MaxDomain = 253
)

var errDomain = errors.New("smtp: not a domain name")

// toASCII converts U-labels (RFC 5891 §5, RFC 5893). It maps case and width
// first as browsers do, and leaves it to nameGood to say which ASCII may stand.
var toASCII = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false),
	idna.StrictDomainName(false), idna.CheckHyphens(false))

// ASCIIDomain returns the form of a domain name that DNS is asked for and that
// names are compared in: A-labels in lower case (RFC 5890 §2.3.2.1), without a
// final dot. Labels may have underscores and hyphens anywhere; the sizes are
// those of DNS, labels of 63 octets and 253 octets altogether. An address literal, an
// empty label and any other character are errors. It does not allocate where
// s has that form already.
func ASCIIDomain(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if !isASCII(s) {
		if len(s) > 4*MaxDomain || !utf8.ValidString(s) { // no longer name has a good A-label form: spare the work
			return "", errDomain
		}
		a, err := toASCII.ToASCII(s)
		if err != nil {
			return "", errDomain
		}
		s = strings.TrimSuffix(a, ".") // may have been U+3002
	}
	if !nameGood(s) {
		return "", errDomain
	}
	return strings.ToLower(s), nil
}

// IsDomain says whether s is a name that DNS can be asked for, of two labels or
// more, the last of which is not a number: 192.0.2.1 is no domain, and no
// top-level domain is all digits (RFC 3696 §2).
func IsDomain(s string) bool {
	a, err := ASCIIDomain(s)
	if err != nil {
		return false
	}
	dot := strings.LastIndexByte(a, '.')
	return dot > 0 && strings.Trim(a[dot+1:], "0123456789") != ""
}

// CutAddress parts the text of an address before its domain: at the last @, since a
// quoted local part may have others (RFC 5321 §4.1.2). Where there is none, all of it is
// the local part, and ok is false.
func CutAddress(address string) (local, domain string, ok bool) {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return address[:at], address[at+1:], true
	}
	return address, "", false
}

// Address returns the form of an address that facts have: the domain as
// A-labels in lower case, or the literal in lower case, and the local part as
// received, unquoted where that is possible. It is empty for the null
// reverse-path.
func Address(p Path) string {
	d, err := ASCIIDomain(p.Domain)
	if err != nil {
		d = strings.ToLower(p.Domain)
	}
	return Path{Local: p.Local, Domain: d}.String()
}

// nameGood checks a name in ASCII, without final dot.
func nameGood(s string) bool {
	if s == "" || len(s) > MaxDomain {
		return false
	}
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if i == label || i-label > maxLabel {
				return false
			}
			label = i + 1
		case c >= utf8.RuneSelf || !isLDH[c]:
			return false
		}
	}
	return label < len(s) && len(s)-label <= maxLabel
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Askable says whether a query can be composed from name, which bears no final
// dot: labels of 1 to 63 octets, 253 octets in all (RFC 1035 §2.3.4). Of the
// octets in them it says nothing.
func Askable(name string) bool {
	if name == "" || len(name) > MaxDomain {
		return false
	}
	label := 0
	for i := range len(name) {
		if name[i] != '.' {
			label++
			continue
		}
		if label == 0 || label > maxLabel {
			return false
		}
		label = 0
	}
	return label > 0 && label <= maxLabel
}

// WithinDomain says whether name is domain or below it, letter case and final
// dots aside.
func WithinDomain(name, domain string) bool {
	name, domain = strings.TrimSuffix(name, "."), strings.TrimSuffix(domain, ".")
	if len(name) < len(domain) || !strings.EqualFold(name[len(name)-len(domain):], domain) {
		return false
	}
	return len(name) == len(domain) || name[len(name)-len(domain)-1] == '.'
}
