package checks

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/proxy/smtp"
)

// Bounds on a mailbox. RFC 5321 §4.5.3.1 has 64 and 255; what is longer than
// these cannot have come in an envelope.
const (
	maxLocal   = 256
	maxComment = 32 // nesting of comments
)

// parseMailbox reads the value of a field that must hold one mailbox (RFC 5322
// §3.4): an addr-spec, or a name with one in angle brackets. Local comes
// unquoted, Domain as written.
//
// It refuses whatever could be read in two ways: lists, groups, two brackets,
// unclosed quotes or comments, an address without a domain or with a literal in
// its place. That is stricter than most readers are, and must be: an address
// that we vouch for has to be the one that everybody else sees.
func parseMailbox(value string) (smtp.Path, bool) {
	s := scanner{rest: value}
	m, ok := s.mailbox()
	if !ok || s.rest != "" {
		return smtp.Path{}, false
	}
	return m, true
}

// parseMailboxes reads the value of a field that holds mailboxes parted by
// commas, as strictly, up to the first that cannot be read; not ok: there is one.
func parseMailboxes(value string) (list []smtp.Path, ok bool) {
	s := scanner{rest: value}
	for {
		m, ok := s.mailbox()
		if !ok {
			return list, false
		}
		list = append(list, m)
		if s.rest == "" {
			return list, true
		}
		s.rest = s.rest[1:]
	}
}

// mailbox reads a mailbox and what white space is behind it, up to the end or a
// comma.
func (s *scanner) mailbox() (smtp.Path, bool) {
	end := func() bool { return s.skip() && (s.rest == "" || s.rest[0] == ',') }
	mark := *s
	if path, ok := s.addrSpec(); ok && end() {
		return path, true
	}

	*s = mark
	if !s.phrase() || !s.take('<') || !s.route() {
		return smtp.Path{}, false
	}
	path, ok := s.addrSpec()
	if !ok || !s.skip() || !s.take('>') || !end() {
		return smtp.Path{}, false
	}
	return path, true
}

// scanner eats a field value from the left.
type scanner struct{ rest string }

func (s *scanner) take(c byte) bool {
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// skip eats folding white space and comments. Not ok: one that never closes, or
// a control character.
func (s *scanner) skip() bool {
	for s.rest != "" {
		switch s.rest[0] {
		case ' ', '\t':
			s.rest = s.rest[1:]
		case '\r':
			if !s.fold() {
				return false
			}
		case '(':
			if !s.comment() {
				return false
			}
		default:
			return true
		}
	}
	return true
}

func (s *scanner) comment() bool {
	depth := 0
	for s.rest != "" {
		c := s.rest[0]
		switch {
		case c == '(':
			if depth++; depth > maxComment {
				return false
			}
			s.rest = s.rest[1:]
		case c == ')':
			s.rest = s.rest[1:]
			if depth--; depth == 0 {
				return true
			}
		case c == '\\':
			if len(s.rest) < 2 || isControl(s.rest[1]) {
				return false
			}
			s.rest = s.rest[2:]
		case c == '\r':
			if !s.fold() {
				return false
			}
		case isControl(c):
			return false
		default:
			s.rest = s.rest[1:]
		}
	}
	return false
}

// fold eats a line end that white space follows. Any other line end is no part
// of a field, whatever let it in.
func (s *scanner) fold() bool {
	if len(s.rest) < 3 || s.rest[1] != '\n' || s.rest[2] != ' ' && s.rest[2] != '\t' {
		return false
	}
	s.rest = s.rest[3:]
	return true
}

// phrase eats a display name up to the angle bracket. It is generous with what
// people put there (dots, brackets, octets of no charset) but for the characters
// that part addresses.
func (s *scanner) phrase() bool {
	for s.skip() && s.rest != "" {
		switch c := s.rest[0]; {
		case c == '<':
			return true
		case c == '"':
			if _, ok := s.quoted(); !ok {
				return false
			}
		case c == ',' || c == ';' || c == ':' || c == '@' || c == '>' || c == ')' || c == '\\' || isControl(c):
			return false
		default:
			s.rest = s.rest[1:]
		}
	}
	return false
}

// route eats an obsolete source route, "@a,@b:" (RFC 5322 §4.4). It names relays
// of another age; the mailbox behind it is unaffected.
func (s *scanner) route() bool {
	if !s.skip() {
		return false
	}
	if s.rest == "" || s.rest[0] != '@' {
		return true
	}
	for s.take('@') {
		if _, ok := s.dotAtom(); !ok || !s.skip() {
			return false
		}
		if s.take(':') {
			return true
		}
		if !s.take(',') || !s.skip() {
			return false
		}
	}
	return false
}

// addrSpec reads local-part "@" domain.
func (s *scanner) addrSpec() (smtp.Path, bool) {
	if !s.skip() || s.rest == "" {
		return smtp.Path{}, false
	}
	var p smtp.Path
	var ok bool
	if s.rest[0] == '"' {
		p.Local, ok = s.quoted()
		ok = ok && utf8.ValidString(p.Local)
	} else {
		p.Local, ok = s.dotAtom()
	}
	if !ok || len(p.Local) > maxLocal || strings.ContainsFunc(p.Local, unicode.IsControl) || !s.skip() || !s.take('@') || !s.skip() {
		return smtp.Path{}, false
	}
	// A literal has no place here: "[" is no atom.
	if p.Domain, ok = s.dotAtom(); !ok {
		return smtp.Path{}, false
	}
	if _, ok := domainName(p.Domain); !ok {
		return smtp.Path{}, false // an atom, and no domain: "a@b!c.example"
	}
	return p, true
}

// dotAtom reads atoms parted by single dots, without comments between.
func (s *scanner) dotAtom() (string, bool) {
	end, dot := 0, true // dot: the octet before was one, or nothing was
	for end < len(s.rest) {
		c := s.rest[end]
		if c == '.' {
			if dot {
				return "", false
			}
			dot = true
			end++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s.rest[end:])
			if r == utf8.RuneError && n == 1 {
				return "", false // no UTF-8: which address it is depends on who guesses
			}
			end, dot = end+n, false
			continue
		}
		if !isAtext(c) {
			break
		}
		end, dot = end+1, false
	}
	if dot {
		return "", false
	}
	word := s.rest[:end]
	s.rest = s.rest[end:]
	return word, true
}

// quoted reads a quoted-string and returns its content.
func (s *scanner) quoted() (string, bool) {
	s.rest = s.rest[1:]
	var b strings.Builder
	for s.rest != "" {
		switch c := s.rest[0]; {
		case c == '"':
			s.rest = s.rest[1:]
			return b.String(), true
		case c == '\\':
			if len(s.rest) < 2 || isControl(s.rest[1]) {
				return "", false
			}
			b.WriteByte(s.rest[1])
			s.rest = s.rest[2:]
		case c == '\r':
			if !s.fold() {
				return "", false
			}
			b.WriteByte(' ')
		case c == '\t':
			b.WriteByte(c)
			s.rest = s.rest[1:]
		case isControl(c):
			return "", false
		default:
			b.WriteByte(c)
			s.rest = s.rest[1:]
		}
	}
	return "", false
}

func isControl(c byte) bool { return c < 0x20 && c != '\t' || c == 0x7f }

// isAtext says whether c may stand in an atom (RFC 5322 §3.2.3).
func isAtext(c byte) bool {
	return isAlpha(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// unquoteLocal is a local part as a value: without its quotes, if it bears any.
func unquoteLocal(local string) string {
	if len(local) < 2 || local[0] != '"' {
		return local
	}
	s := scanner{rest: local}
	if v, ok := s.quoted(); ok && s.rest == "" {
		return v
	}
	return local
}

func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
