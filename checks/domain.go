package checks

import (
	"strings"

	"postern/proxy/smtp"
)

// maxName is the length of the longest name that the DNS can be asked for, in
// text and without the final dot (RFC 1035 §3.1, RFC 7208 §7.3).
const maxName = 253

// domainName returns s as A-labels in lower case without a final dot; not ok for
// what is no domain name: see smtp.ASCIIDomain.
func domainName(s string) (string, bool) {
	d, err := smtp.ASCIIDomain(s)
	return d, err == nil
}

// checkable is domainName for a domain that authorization can be asked of: two
// labels or more (RFC 7208 §4.3), and no IPv4 address, as a top-level domain is
// not all digits.
func checkable(s string) (string, bool) {
	d, ok := domainName(s)
	dot := strings.LastIndexByte(d, '.')
	return d, ok && dot > 0 && strings.Trim(d[dot+1:], "0123456789") != ""
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
