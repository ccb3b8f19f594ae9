package fields

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/proxy/smtp"
)

// Fields that come from outside and speak in our name are taken out before ours are
// put on top.

const authResults = "Authentication-Results"

// WithoutForged returns the header section head, parsed as h with bad lines that are
// no field, less the fields that would speak in the name of the server called hostname:
// an Authentication-Results that somebody might take for its own, and every field that
// a tag rule may write, which names are. The former goes whether or not the server
// writes one itself: the MTA behind it believes it. What is such a field to some readers
// alone goes as well, see smtp.Lookalikes. Where there is none, head itself is returned.
func WithoutForged(head []byte, h smtp.Header, bad int, hostname string, names []string) []byte {
	forged := func(f *smtp.Field) bool {
		if equalFold(f.Name, authResults) {
			return claims(f.Value, hostname)
		}
		return slices.ContainsFunc(names, func(name string) bool { return equalFold(f.Name, name) })
	}
	any := bad > 0
	for i := range h {
		any = any || forged(&h[i])
	}
	if !any {
		return head
	}
	var out []smtp.Extent
	h, at, _ := smtp.ParseHeaderExtents(head)
	for i := range h {
		if forged(&h[i]) {
			out = append(out, at[i])
		}
	}
	if bad > 0 {
		for _, l := range smtp.Lookalikes(head, authResults) {
			if !l.Parsed && claims(l.Value, hostname) {
				out = append(out, l.Extent)
			}
		}
		for _, name := range names {
			for _, l := range smtp.Lookalikes(head, name) {
				if !l.Parsed {
					out = append(out, l.Extent)
				}
			}
		}
		slices.SortFunc(out, func(a, b smtp.Extent) int { return a.Start - b.Start })
	}
	kept := make([]byte, 0, len(head))
	from := 0
	for _, e := range out {
		kept = append(kept, head[from:max(from, e.Start)]...)
		from = max(from, e.End)
	}
	return append(kept, head[from:]...)
}

// claims says whether somebody might take an Authentication-Results field for one of
// the server whose authserv-id is id: it bears that (compared without regard to case,
// and as a domain, RFC 8601 §2.2), or what is that up to a character that is no part of
// a name; or it bears none, or cannot be parsed, so that it is nobody's, and a careless
// reader finds in it what he looks for.
// NOT: as RFC 8601 §5 wants, those of an unknown version, under whatever name.
// Nobody reads them, and the signature of a message may cover them.
func claims(value, id string) bool {
	got, ok := parseAuthservID(value)
	if !ok || sameID(got, id) {
		return true
	}
	got = strings.TrimLeftFunc(got, func(r rune) bool { return !isNameRune(r) })
	if end := strings.IndexFunc(got, func(r rune) bool { return !isNameRune(r) }); end >= 0 {
		got = got[:end]
	}
	return sameID(got, id)
}

func sameID(got, id string) bool {
	got = strings.TrimRight(got, ".")
	if equalFold(got, id) {
		return true
	}
	a, err1 := smtp.ASCIIDomain(got)
	b, err2 := smtp.ASCIIDomain(id)
	return err1 == nil && err2 == nil && a == b
}

// parseAuthservID reads an Authentication-Results field (RFC 8601 §2.2) as far as it
// says who speaks: the authserv-id, unquoted, a version, and behind semicolons results
// of which each begins as one. Their properties are not looked at: many who write
// honestly write those wrongly.
func parseAuthservID(value string) (id string, ok bool) {
	p := authParser{rest: value}
	if !p.cfws() {
		return "", false
	}
	if strings.HasPrefix(p.rest, `"`) {
		id, ok = p.quoted()
	} else {
		id, ok = p.token()
	}
	if !ok || id == "" || !p.cfws() {
		return "", false
	}
	if version, _ := p.token(); strings.Trim(version, "0123456789") != "" || !p.cfws() {
		return "", false
	}
	for p.rest != "" {
		if p.rest[0] != ';' {
			return "", false
		}
		p.rest = p.rest[1:]
		if !p.cfws() || !p.result() {
			return "", false
		}
	}
	return id, true
}

// authParser eats a field value from the left.
type authParser struct{ rest string }

// cfws eats white space and comments, nested ones too (RFC 5322 §3.2.2); not ok: one
// does not end.
func (p *authParser) cfws() bool {
	depth := 0
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n':
			p.rest = p.rest[i:]
			return true
		}
	}
	p.rest = ""
	return depth == 0
}

// token eats a token (RFC 2045 §5.1), which may hold U-labels (RFC 8616 §4).
func (p *authParser) token() (token string, ok bool) {
	end := strings.IndexFunc(p.rest, func(r rune) bool { return !isNameRune(r) })
	if end < 0 {
		end = len(p.rest)
	}
	token, p.rest = p.rest[:end], p.rest[end:]
	return token, end > 0
}

// quoted eats a quoted-string and returns what is in it.
func (p *authParser) quoted() (content string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case '\r', '\n':
			// folding within the string
		case '\\':
			if i++; i < len(p.rest) {
				b.WriteByte(p.rest[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// result eats a method and its result, or "none", or nothing, up to the next semicolon
// or the end.
func (p *authParser) result() bool {
	if p.rest == "" || p.rest[0] == ';' {
		return true
	}
	method, ok := p.token()
	if !ok || !p.cfws() {
		return false
	}
	if strings.HasPrefix(p.rest, "/") { // the version of the method
		p.rest = p.rest[1:]
		if !p.cfws() {
			return false
		}
		if _, ok := p.token(); !ok || !p.cfws() {
			return false
		}
	}
	if !strings.HasPrefix(p.rest, "=") {
		return equalFold(method, "none") && (p.rest == "" || p.rest[0] == ';')
	}
	p.rest = p.rest[1:]
	if !p.cfws() {
		return false
	}
	if _, ok := p.token(); !ok {
		return false
	}
	for {
		if !p.cfws() {
			return false
		}
		switch {
		case p.rest == "" || p.rest[0] == ';':
			return true
		case p.rest[0] == '"':
			if _, ok := p.quoted(); !ok {
				return false
			}
		default:
			p.rest = p.rest[1:]
		}
	}
}

// isNameRune says whether r may stand in a token, or in a U-label.
func isNameRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r > ' ' && r != 0x7f && !strings.ContainsRune(`()<>@,;:\"/[]?=`, r)
	}
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r))
}
