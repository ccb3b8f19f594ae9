package dnstest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Names and strings stand in miekg/dns with a backslash before what would be
// syntax, and octets as \DDD. The zone holds them as octets.

// unescape undoes the presentation form (RFC 1035 §5.1).
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		rest := s[i+1:]
		switch {
		case len(rest) >= 3 && digits(rest[:3]):
			n := int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0')
			if n > 255 {
				return "", fmt.Errorf("escape beyond 255 in %q", s)
			}
			b = append(b, byte(n))
			i += 3
		case len(rest) >= 1:
			b = append(b, rest[0])
			i++
		default:
			return "", fmt.Errorf("backslash at the end of %q", s)
		}
	}
	return string(b), nil
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// escape is the inverse, for a name without its last dot.
func escape(name string) string {
	var b strings.Builder
	b.Grow(len(name) + 1)
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c <= ' ' || c > '~':
			fmt.Fprintf(&b, `\%03d`, c)
		case strings.IndexByte(`"\;()@$`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('.')
	return b.String()
}

// askable tells whether a name can be put into a query (RFC 1035 §2.3.4).
func askable(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	if last := name[len(name)-1]; last >= '0' && last <= '9' || strings.Contains(name, ":") { // else the error would be garbage
		if _, err := netip.ParseAddr(name); err == nil {
			return false
		}
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return true
}

// ReverseName is the name of an address's PTR records.
func ReverseName(ip netip.Addr) string {
	name, _ := dns.ReverseAddr(ip.String()) // never fails: ip is an address
	return strings.TrimSuffix(name, ".")
}
