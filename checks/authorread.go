package checks

import (
	"encoding/base64"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/policy"
)

// authorReading is one From field, read in every way.
//
// The field is parted into words, quoted strings, comments, brackets and what stands
// between mailboxes, once and generously. Where all readers agree on what is address
// and what is display name, that is settled; where a reader may find another address,
// its domain is noted, and the field is ambiguous.
type authorReading struct {
	authors *Authors // takes the domains

	mailbox   mailboxKey // the first that was found
	several   bool       // another was found
	ambiguous bool
}

// maxAuthorTokens bounds what is read of one field; few have more than usualTokens.
const (
	maxAuthorTokens = 2000
	usualTokens     = 8
)

func (r *authorReading) word() string {
	switch {
	case r.ambiguous:
		return policy.AuthorAmbiguous
	case r.several:
		return policy.AuthorSeveral
	case r.mailbox.known:
		return policy.AuthorOne
	}
	return policy.AuthorNone
}

// found notes a mailbox that every reading finds.
func (r *authorReading) found(m address) {
	switch key := m.key(); {
	case !r.mailbox.known:
		r.mailbox = key
	case r.mailbox != key:
		r.several = true
	}
	r.authors.add(m.domain)
}

// maybe notes a mailbox that a reading finds beside known, which is what the others do.
func (r *authorReading) maybe(m address, known mailboxKey) {
	if m.key() != known {
		r.ambiguous = true
		r.authors.add(m.domain)
	}
}

// The at sign, and those that a reader may take for it.
const atSigns = "@\uff20\ufe6b"

var otherAts = strings.NewReplacer("\uff20", "@", "\ufe6b", "@")

// muddled notes the domains in what stands where an address should and is none.
func (r *authorReading) muddled(text string) {
	r.ambiguous = true
	_, behind, _ := strings.Cut(otherAts.Replace(text), "@")
	for run := range strings.FieldsFuncSeq(behind, func(c rune) bool { return !isDomainRune(c) && !isUnseen(c) }) {
		for _, drop := range [...]func(rune) bool{isUnseen, func(c rune) bool { return c >= utf8.RuneSelf || isUnseen(c) }} {
			domain := strings.Trim(strings.Map(func(c rune) rune {
				if drop(c) {
					return -1
				}
				return c
			}, run), ".")
			if strings.Contains(domain, ".") {
				r.authors.add(domain)
			}
		}
	}
	if decoded, any := decodeWords(text); any && decoded != text {
		r.muddled(decoded)
	}
}

// address is a mailbox that some reading finds; domain is empty for an address literal.
type address struct{ local, domain, literal string }

// mailboxKey is by what mailboxes are the same: in lower case. The zero mailboxKey is none's.
type mailboxKey struct {
	local, domain string
	known         bool
}

func (m address) key() mailboxKey {
	d, ok := domainName(m.domain)
	if !ok {
		d = m.domain + m.literal
	}
	return mailboxKey{strings.ToLower(m.local), strings.ToLower(d), true}
}

// read reads the value of a field.
func (r *authorReading) read(value string) {
	var room [usualTokens]authorToken
	tokens, odd, all := authorTokens(room[:0], value)
	if !all {
		r.ambiguous, r.authors.More = true, true
	}
	if strings.ContainsAny(value, "\u202d\u202e") {
		r.ambiguous = true // a reader does not see the address as it stands
	}
	colon, group, semicolon := false, false, false
	for _, t := range tokens {
		switch t.kind {
		case ':':
			colon = true
		case ';':
			group, semicolon = group || colon, true
		}
	}
	var elements, unclean int
	for len(tokens) > 0 {
		n := 0
		for n < len(tokens) && tokens[n].kind != ',' && tokens[n].kind != ';' {
			n++
		}
		rest := tokens[min(n+1, len(tokens)):]
		found, clean := r.element(tokens[:n], n < len(tokens))
		if found {
			elements++
		}
		if !clean {
			unclean++
		}
		tokens = rest
	}
	if elements > 1 && unclean > 0 || r.several && semicolon || group && (elements > 0 || len(r.authors.Domains) > 0) {
		r.ambiguous = true
	}
	if odd {
		// What is quoted and what is not depends on the reader.
		scanAddresses(value, func(m address) { r.maybe(m, r.mailbox) })
	}
	if r.ambiguous {
		list, _ := parseMailboxes(value) // of a source route, say, by the letter
		for _, m := range list {
			r.authors.add(m.Domain)
		}
	}
}

// element reads what stands between two commas; more: a comma or semicolon is behind
// it. found: there is an address in it. Not clean: there is more in it than that.
func (r *authorReading) element(tokens []authorToken, more bool) (found, clean bool) {
	brackets, last := 0, -1
	for i, t := range tokens {
		if t.kind == '<' {
			brackets, last = brackets+1, i
		}
	}
	if brackets == 0 {
		return r.bareElement(tokens)
	}
	var known mailboxKey
	nameless := false
	for _, t := range tokens {
		if t.kind != '<' {
			continue
		}
		m, ok := bracketed(t.text)
		switch {
		case ok && (!known.known || known == m.key()):
			known = m.key()
			r.found(m)
		case ok:
			r.maybe(m, known) // two pairs of brackets and no comma
		case strings.ContainsAny(t.text, atSigns):
			r.muddled(t.text)
			found = true
		default:
			if decoded, any := decodeWords(t.text); any {
				r.muddled(decoded)
			}
			nameless = nameless || isName(t.text)
		}
	}
	var encoded strings.Builder // display names that are encoded
	for i, t := range tokens {
		switch t.kind {
		case 'w':
			if decoded, any := decodeWords(t.text); any {
				encoded.WriteString(decoded)
				continue
			}
			scanAddresses(t.text, func(m address) { r.maybe(m, known) })
		case 'q':
			// A display name, for all who know quotes. NOT: behind the brackets.
			decoded, any := decodeWords(t.text)
			if i > last || any && strings.ContainsAny(decoded, `"\`) {
				scanAddresses(decoded, func(m address) { r.maybe(m, known) })
			}
		case '(':
			scanAddresses(t.text, func(m address) { r.maybe(m, known) })
		}
	}
	r.displayed(encoded.String(), known, more)
	if nameless && (known.known || r.mailbox.known) {
		r.ambiguous = true // <root> beside an address: for some, that is the address
	}
	return found || known.known, true
}

// isName says whether what stands in angle brackets without an at sign may be the
// name of an account. A heart or an arrow in a display name is none.
func isName(text string) bool {
	text = strings.Trim(text, " \t\r\n")
	return !strings.ContainsAny(text, " \t\r\n") && strings.ContainsFunc(text, unicode.IsLetter)
}

// displayed looks at an encoded display name. For who parses first and decodes then
// it is no more than that. Who does it the other way round finds an address in it
// where it has brackets or commas.
func (r *authorReading) displayed(name string, known mailboxKey, more bool) {
	if strings.ContainsAny(name, "\u202d\u202e") {
		r.ambiguous = true
	}
	if !strings.Contains(name, "@") {
		return
	}
	if strings.ContainsAny(name, "<>,;\x00\r\n") || more {
		r.hidden(name, known)
	}
}

// hidden notes the addresses of a text that only some readers see.
func (r *authorReading) hidden(text string, known mailboxKey) {
	scanAddresses(text, func(m address) { r.maybe(m, known) })
}

// bareElement reads an element without brackets.
func (r *authorReading) bareElement(tokens []authorToken) (found, clean bool) {
	words := joinedWords(tokens)
	var known mailboxKey
	for _, w := range words {
		switch m, ok := bareAddress(w); {
		case ok && !known.known:
			known = m.key()
			r.found(m)
		case ok:
			r.maybe(m, known)
		case strings.ContainsAny(w, atSigns):
			r.muddled(w)
			found = true
		default:
			if decoded, any := decodeWords(w); any && strings.Contains(decoded, "@") {
				r.muddled(decoded)
				found = true
			}
		}
	}
	for _, t := range tokens {
		switch text := t.text; t.kind {
		case 'w':
			// To who ends a domain at white space it is another one.
			if m, ok := bareAddress(text); ok && strings.Contains(m.domain, ".") {
				r.maybe(m, known)
			}
		case 'q':
			text, _ = decodeWords(text)
			fallthrough
		default:
			scanAddresses(text, func(m address) { r.maybe(m, known) })
		}
	}
	return found || known.known, !known.known || len(words) == 1
}

// joinedWords returns the words of an element, those as one between which white space
// or comments stand around the at sign, or behind it around a dot (RFC 5322 §4.4).
func joinedWords(tokens []authorToken) (words []string) {
	joins := false
	for _, t := range tokens {
		switch {
		case t.kind == 'w' && len(words) > 0 && (joins || t.text[0] == '@' || t.text[0] == '.' && strings.Contains(words[len(words)-1], "@")):
			words[len(words)-1] += t.text
		case t.kind == 'w':
			words = append(words, t.text)
		case t.kind == '(':
			continue
		default: // what stands behind it joins nothing before it
			joins = false
			continue
		}
		w := words[len(words)-1]
		joins = strings.HasSuffix(w, "@") || strings.HasSuffix(w, ".") && strings.Contains(w, "@")
	}
	return words
}

// bracketed reads what stands between angle brackets. Not ok: it is no one address.
func bracketed(text string) (address, bool) {
	s := scanner{rest: text}
	if p, ok := s.addrSpec(); ok && s.skip() && s.rest == "" && !strings.Contains(text, "(") {
		return address{local: p.Local, domain: p.Domain}, goodLocal(p.Local) && goodDomain(p.Domain)
	}
	text = strings.Trim(text, " \t\r\n")
	if len(text) > len("mailto:") && strings.EqualFold(text[:len("mailto:")], "mailto:") {
		text = text[len("mailto:"):]
	}
	if s = (scanner{rest: text}); strings.Contains(text, "(") {
		p, ok := s.addrSpec()
		ok = ok && s.skip() && s.rest == ""
		clash := false
		scanAddresses(text, func(m address) { clash = clash || m.key() != address{local: p.Local, domain: p.Domain}.key() })
		return address{local: p.Local, domain: p.Domain}, ok && !clash && goodLocal(p.Local) && goodDomain(p.Domain)
	}
	return bareAddress(text)
}

// bareAddress reads a word that is an address, if with dots where none may be.
func bareAddress(w string) (address, bool) {
	if len(w) > 2 && w[0] == '\'' && w[len(w)-1] == '\'' {
		w = w[1 : len(w)-1] // no domain ends so: who does not take them off has no address
	}
	local, domain, ok := cutLast(w, '@')
	if !ok || !goodLocal(local) {
		return address{}, false
	}
	if isLiteral(domain) {
		return address{local: local, literal: domain}, true
	}
	domain = strings.TrimRight(domain, ".")
	if _, ok := domainName(domain); !ok || !goodDomain(domain) {
		return address{}, false
	}
	return address{local: local, domain: domain}, true
}

// isLiteral says whether domain is the literal of an IP address (RFC 5321 §4.1.3).
// NOT: whatever stands in square brackets. To who drops them it is a domain.
func isLiteral(domain string) bool {
	inner, open := strings.CutPrefix(domain, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if len(inner) > len("IPv6:") && strings.EqualFold(inner[:len("IPv6:")], "IPv6:") {
		inner = inner[len("IPv6:"):]
	}
	_, err := netip.ParseAddr(inner)
	return open && closed && err == nil
}

// goodLocal says whether a local part is read by all in one way, quotes off.
func goodLocal(local string) bool {
	return local != "" && len(local) <= maxLocal && utf8.ValidString(local) && !strings.Contains(local, "=?") &&
		!strings.ContainsFunc(local, func(c rune) bool {
			return strings.ContainsRune(`@{}<>"\`, c) || unicode.IsControl(c) || isUnseen(c) && c != ' '
		})
}

func goodDomain(domain string) bool {
	return strings.IndexFunc(domain, func(c rune) bool { return !isDomainRune(c) }) < 0
}

// isDomainRune says whether c may stand in a domain name, be it one of U-labels.
func isDomainRune(c rune) bool {
	if c < utf8.RuneSelf {
		return isAlpha(byte(c)) || isDigit(byte(c)) || c == '-' || c == '_' || c == '.'
	}
	return c != utf8.RuneError && (unicode.IsLetter(c) || unicode.IsMark(c) || unicode.IsDigit(c))
}

// isUnseen says whether c is not seen where it stands: octets that are no UTF-8, which
// many drop, spaces, and characters that only format.
func isUnseen(c rune) bool {
	return c == utf8.RuneError || c >= utf8.RuneSelf && (unicode.IsSpace(c) || unicode.IsControl(c) || unicode.Is(unicode.Cf, c)) || c == ' '
}

// scanAddresses calls f for whatever looks like an address of a domain of two labels
// or more in a text of any syntax.
func scanAddresses(text string, f func(address)) {
	for pos := 0; ; {
		at := strings.IndexByte(text[pos:], '@')
		if at < 0 {
			return
		}
		at += pos
		start := pos + strings.LastIndexFunc(text[pos:at], func(c rune) bool {
			return c < utf8.RuneSelf && !isAtext(byte(c)) && c != '.' || c == utf8.RuneError
		}) + 1
		end := at + 1
		for end < len(text) {
			c, n := utf8.DecodeRuneInString(text[end:])
			if !isDomainRune(c) {
				break
			}
			end += n
		}
		local := strings.Trim(text[start:at], "'`*|{}")
		domain := strings.Trim(text[at+1:end], ".-_")
		if _, ok := checkable(domain); ok && local != "" {
			f(address{local: local, domain: domain})
		}
		pos = at + 1
	}
}

// authorToken is a piece of a From field: 'w' a word, 'q' a quoted string, '(' a
// comment, '<' what is in angle brackets, or one of the characters , ; and :.
type authorToken struct {
	kind byte
	text string // what is in it
}

// authorTokens parts the value of a From field, into the room of tokens. odd: quotes, comments or brackets do
// not pair, or a special is escaped outside quotes. Not all: there are too many.
func authorTokens(tokens []authorToken, value string) (_ []authorToken, odd, all bool) {
	const special = `"(),:;<>`
	s := scanner{rest: value}
	for s.rest != "" {
		if len(tokens) == maxAuthorTokens {
			return tokens, odd, false
		}
		mark := s
		switch c := s.rest[0]; c {
		case ' ', '\t', '\r', '\n', '>':
			s.rest, odd = s.rest[1:], odd || c == '>'
		case ',', ';', ':':
			tokens, s.rest = append(tokens, authorToken{kind: c}), s.rest[1:]
		case '(':
			if !s.comment() {
				s, odd = mark, true
				s.rest = s.rest[1:]
				continue
			}
			tokens = append(tokens, authorToken{'(', mark.rest[1 : len(mark.rest)-len(s.rest)-1]})
		case ')':
			s.rest, odd = s.rest[1:], true
		case '<':
			text, whole := s.brackets()
			tokens, odd = append(tokens, authorToken{'<', text}), odd || !whole
		case '"':
			content, ok := s.quoted()
			if !ok {
				s, odd = mark, true
				s.rest = s.rest[1:]
				continue
			}
			if strings.HasPrefix(s.rest, "@") && !strings.Contains(content, "@") { // a local part
				end := strings.IndexAny(s.rest, " \t\r\n"+special)
				if end < 0 {
					end = len(s.rest)
				}
				tokens, s.rest = append(tokens, authorToken{'w', content + s.rest[:end]}), s.rest[end:]
				continue
			}
			tokens = append(tokens, authorToken{'q', content})
		default:
			end := 0
			for end < len(s.rest) && strings.IndexByte(" \t\r\n"+special, s.rest[end]) < 0 {
				if s.rest[end] == '\\' && end+1 < len(s.rest) && strings.IndexByte(special+`@\`, s.rest[end+1]) >= 0 {
					odd = true
				}
				end++
			}
			tokens, s.rest = append(tokens, authorToken{'w', s.rest[:end]}), s.rest[end:]
		}
	}
	return tokens, odd, true
}

// brackets eats what stands in angle brackets, up to the next pair where it is not
// closed. whole: it is closed.
func (s *scanner) brackets() (text string, whole bool) {
	s.rest = s.rest[1:]
	all := s.rest
	for s.rest != "" {
		switch s.rest[0] {
		case '>':
			text = all[:len(all)-len(s.rest)]
			s.rest = s.rest[1:]
			return text, true
		case '<':
			return all[:len(all)-len(s.rest)], false
		case '"':
			if mark := *s; true {
				if _, ok := s.quoted(); !ok {
					*s = mark
					s.rest = s.rest[1:]
				}
			}
		default:
			s.rest = s.rest[1:]
		}
	}
	return all, false
}

// decodeWords decodes the encoded-words (RFC 2047 §2) in a text; any: there are some.
// Octets stay as the charset has them, but for those of UTF-16 and UTF-32, and what is
// between escape sequences: what is looked for in them is ASCII.
func decodeWords(text string) (decoded string, any bool) {
	if !strings.Contains(text, "=?") {
		return text, false
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "=?")
		if !ok {
			break
		}
		charset, rest, ok1 := strings.Cut(rest, "?")
		encoding, rest, ok2 := strings.Cut(rest, "?")
		payload, rest, ok3 := strings.Cut(rest, "?=")
		if !ok1 || !ok2 || !ok3 || len(encoding) != 1 {
			break
		}
		any = true
		b.WriteString(before)
		b.WriteString(decodeWord(charset, encoding, payload))
		text = rest
	}
	b.WriteString(text)
	return b.String(), any
}

func decodeWord(charset, encoding, payload string) string {
	var octets []byte
	if encoding == "B" || encoding == "b" {
		payload = strings.TrimRight(payload, "=")
		octets, _ = base64.RawStdEncoding.AppendDecode(nil, []byte(payload)) // as far as it is good
	} else {
		for i := 0; i < len(payload); i++ {
			c := payload[i]
			if c == '_' {
				c = ' '
			}
			if c == '=' && i+2 < len(payload) {
				if hi, lo := unhex(payload[i+1]), unhex(payload[i+2]); hi >= 0 && lo >= 0 {
					c, i = byte(hi<<4|lo), i+2
				}
			}
			octets = append(octets, c)
		}
	}
	charset = strings.ToLower(charset)
	out := octets[:0]
	shifted := false
	for i := 0; i < len(octets); i++ {
		c := octets[i]
		switch {
		case c == 0 && (strings.HasPrefix(charset, "utf-16") || strings.HasPrefix(charset, "utf-32") || strings.HasPrefix(charset, "ucs")):
		case c == 0x1b && i+2 < len(octets): // ISO 2022: ESC $ B is Japanese, ESC ( B is ASCII
			shifted = octets[i+1] == '$'
			i += 2
		case !shifted:
			out = append(out, c)
		}
	}
	return string(out)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
