package dnscache

import (
	"net/netip"
	"strings"
)

// Limits of a name (RFC 1035 §2.3.4). A name of 255 octets on the wire has at
// most 253 in text.
const (
	maxName  = 253
	maxLabel = 63
)

// canonical returns the name as cache keys and queries have it: lower case, no
// dot at the end. ok is false for names that cannot be asked for: empty, too
// long, an empty label, an octet that is not printable ASCII (U-labels are the
// caller's to convert), or an IP address.
//
// Printable ASCII is all that is asked for, NOT: letters, digits and hyphens.
// SPF macros put local parts and even spaces into names (RFC 7208 §7.1), and a
// query is packed octet by octet, so nothing in a name can be mistaken for
// syntax. What comes back as a host name is held to stricter rules: see
// hostName.
//
// A name that is canonical already costs no allocation.
func canonical(name string) (_ string, ok bool) {
	name = strings.TrimSuffix(name, ".")
	if len(name) == 0 || len(name) > maxName {
		return "", false
	}
	label, upper, digits := 0, false, true
	for i := 0; i < len(name); i++ {
		switch b := name[i]; {
		case b == '.':
			if label == 0 {
				return "", false
			}
			label = 0
			continue
		case b < ' ' || b > '~':
			return "", false
		case 'A' <= b && b <= 'Z':
			upper, digits = true, false
		case b < '0' || b > '9':
			digits = false
		}
		if label++; label > maxLabel {
			return "", false
		}
	}
	if label == 0 {
		return "", false
	}
	// 192.0.2.1 as the target of an MX is a common mistake. It is no name: there
	// is no numeric top-level domain, and it must not be taken for the address.
	if digits {
		if _, err := netip.ParseAddr(name); err == nil {
			return "", false
		}
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}

// hostName tells whether a name out of a PTR or MX record has the form of a
// host name: letters, digits, hyphens, and underscores as seen in the wild.
// Others are dropped, for these names end up in header fields and logs.
func hostName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := 0; i < len(name); i++ {
		b := name[i]
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '.', b == '_':
		default:
			return false
		}
	}
	return true
}

// reverseName returns the name whose PTR records belong to an address
// (RFC 1035 §3.5, RFC 3596 §2.5).
func reverseName(ip netip.Addr) string {
	const hex = "0123456789abcdef"
	if ip = ip.Unmap(); ip.Is4() {
		a := ip.As4()
		b := make([]byte, 0, len("255.255.255.255.in-addr.arpa"))
		for i := len(a) - 1; i >= 0; i-- {
			if a[i] >= 100 {
				b = append(b, '0'+a[i]/100)
			}
			if a[i] >= 10 {
				b = append(b, '0'+a[i]/10%10)
			}
			b = append(b, '0'+a[i]%10, '.')
		}
		return string(append(b, "in-addr.arpa"...))
	}
	a := ip.As16()
	b := make([]byte, 0, 4*len(a)+len("ip6.arpa"))
	for i := len(a) - 1; i >= 0; i-- {
		b = append(b, hex[a[i]&15], '.', hex[a[i]>>4], '.')
	}
	return string(append(b, "ip6.arpa"...))
}
