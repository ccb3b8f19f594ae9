package checks

import (
	"strings"

	"postern/proxy/smtp"
)

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
