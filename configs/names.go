package configs

import "strings"

// isName says whether s may be a name, which becomes a metric's label and a word in logs.
func isName(s string) bool { return consists(s, 64, "_.-") && alphanumeric(rune(s[0])) }

// isFilterName says whether s may be the name of a filter, which stands in the names of facts.
func isFilterName(s string) bool {
	return consists(s, 32, "_") && s == strings.ToLower(s) && 'a' <= s[0] && s[0] <= 'z'
}

// isKeyPrefix says whether the keys of a store may begin with s. NOT: braces, by which a
// cluster would keep all of them on one server.
func isKeyPrefix(s string) bool { return consists(s, 64, "_.:/-") }

// isProgramName says whether s may stand before the colon in a line of syslog (RFC 3164 §4.1.3), with
// Postfix's slashes and hyphens.
func isProgramName(s string) bool { return consists(s, 64, "._/-") && alphanumeric(rune(s[0])) }

// isHostname accepts names of one label too (RFC 5321 has no use for them, /etc/hostname does).
func isHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if !consists(label, 63, "_-") || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return true
}

// consists says whether s has one character, at most so many, and none but letters and digits of ASCII and
// those of others. NOT: a regular expression, of which one that counts up to 64 is longer in the making than
// the configuration is in the reading.
func consists(s string, most int, others string) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return !alphanumeric(r) && !strings.ContainsRune(others, r)
	})
}

func alphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}
