package spf

import "strings"

// selectRecord picks the record of a scope and returns its terms (RFC 7208
// §4.5, RFC 4406 §4.4). n is the number of records left: 0 is none, more than 1
// a permerror.
func selectRecord(txts []string, s Scope) (terms string, n int) {
	var v1, v2 string
	var n1, n2 int
	for _, txt := range txts {
		version, rest, _ := strings.Cut(txt, " ")
		switch {
		case strings.EqualFold(version, "v=spf1"):
			v1, n1 = rest, n1+1
		case s == PRA && hasScope(version, "pra"):
			v2, n2 = rest, n2+1
		}
	}
	switch {
	case n2 == 1 && n1 <= 1:
		return v2, 1 // it displaces v=spf1
	case n2 == 0 && n1 == 1:
		return v1, 1
	}
	return "", n1 + n2
}

// hasScope says whether version is a well-formed spf2 version that names the
// scope as a whole word (RFC 4406 §3.1). The minor version is not looked at.
func hasScope(version, scope string) bool {
	const prefix = "spf2."
	if len(version) < len(prefix) || !strings.EqualFold(version[:len(prefix)], prefix) {
		return false
	}
	minor, scopes, ok := strings.Cut(version[len(prefix):], "/")
	if !ok || minor == "" || strings.Trim(minor, "0123456789") != "" {
		return false
	}
	found := false
	for s := range strings.SplitSeq(scopes, ",") {
		if !isScopeName(s) {
			return false
		}
		found = found || strings.EqualFold(s, scope)
	}
	return found
}

func isScopeName(s string) bool {
	if s == "" || !isAlpha(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}
