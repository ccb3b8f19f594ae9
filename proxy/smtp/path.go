package smtp

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Sizes of RFC 5321 §4.5.3.1, in octets. What that section gives is what every
// server must be able to take, not what it may refuse above. A domain is bound
// by DNS anyway. A local part is not: bounce addresses that carry the whole
// recipient (VERP, SRS) do exceed 64 octets every day, and the MTA behind us
// takes them.
const (
	maxDomain = 255 // RFC 5321 §4.5.3.1.2
	maxLocal  = 256 // RFC 5321 §4.5.3.1.1 asks for 64
)

// maxParams bounds the parameters of one command. A dozen are registered.
const maxParams = 32

var (
	errMailForm     = &SyntaxError{Reply{501, "5.4", "Syntax: MAIL FROM:<address> [parameters]"}}
	errRcptForm     = &SyntaxError{Reply{501, "5.4", "Syntax: RCPT TO:<address> [parameters]"}}
	errParam        = &SyntaxError{Reply{501, "5.4", "Bad parameter syntax."}}
	errParamTwice   = &SyntaxError{Reply{501, "5.4", "Parameter given twice."}}
	errParams       = &SyntaxError{Reply{501, "5.4", "Too many parameters."}}
	errSender       = &SyntaxError{Reply{501, "1.7", "Bad sender mailbox syntax."}}
	errRecipient    = &SyntaxError{Reply{501, "1.3", "Bad recipient mailbox syntax."}}
	errSenderUTF8   = &SyntaxError{Reply{550, "6.7", "Address needs SMTPUTF8."}}
	errRecptUTF8    = &SyntaxError{Reply{553, "6.7", "Address needs SMTPUTF8."}}
	errParamNotUTF8 = &SyntaxError{Reply{501, "5.4", "Parameter needs SMTPUTF8."}}
)

// ParseMail parses what follows MAIL: FROM:<reverse-path> [SP parameters]
// (RFC 5321 §4.1.1.2, §4.1.2). What senders do and can be read in one way only is
// tolerated, as MTAs do: blanks around the colon, within the brackets and between
// parameters, no brackets at all, a dot behind the domain, dots in the local part
// where a Dot-string has none. The Path has the canonical form of it.
//
// UTF-8 in the address or in a parameter value needs SMTPUTF8 among the
// parameters (RFC 6531 §3.4). A parameter may stand once. Whether a parameter
// is known is for the caller to say. The error is a *SyntaxError.
func ParseMail(arg string) (from Path, params []Param, err error) {
	rest, ok := cutKeyword(arg, "FROM")
	if !ok {
		return Path{}, nil, errMailForm
	}
	p := pathParser{lenient: true}
	if from, rest, ok = p.path(rest); !ok || from.Domain == "" && !from.IsNull() {
		return Path{}, nil, errSender
	}
	params, rawUTF8, err := parseParams(rest)
	if err != nil {
		return Path{}, nil, err
	}
	if p.utf8 || rawUTF8 {
		declared := false
		for i := range params {
			declared = declared || params[i].Key == "SMTPUTF8"
		}
		switch {
		case declared:
		case p.utf8:
			return Path{}, nil, errSenderUTF8
		default:
			return Path{}, nil, errParamNotUTF8
		}
	}
	return from, params, nil
}

// ParseRcpt parses what follows RCPT: TO:<forward-path> [SP parameters]
// (RFC 5321 §4.1.1.3), as ParseMail does; utf8 says that MAIL carried SMTPUTF8.
// <postmaster> needs no domain (RFC 5321 §4.5.1), nor does any other plain name,
// which the MTA completes with its own; <> is no forward-path. NOT: in MAIL, where
// the domain is what is judged.
func ParseRcpt(arg string, utf8 bool) (to Path, params []Param, err error) {
	rest, ok := cutKeyword(arg, "TO")
	if !ok {
		return Path{}, nil, errRcptForm
	}
	p := pathParser{lenient: true, local: true}
	if to, rest, ok = p.path(rest); !ok || to.IsNull() {
		return Path{}, nil, errRecipient
	}
	params, rawUTF8, err := parseParams(rest)
	switch {
	case err != nil:
		return Path{}, nil, err
	case p.utf8 && !utf8:
		return Path{}, nil, errRecptUTF8
	case rawUTF8 && !utf8:
		return Path{}, nil, errParamNotUTF8
	}
	return to, params, nil
}

// ParseMailbox parses a Mailbox, an address without brackets (RFC 5321 §4.1.2),
// as SUBMITTER= has it (RFC 4405 §4). Without utf8 it must be ASCII. The
// error is a *SyntaxError that speaks of a sender.
func ParseMailbox(s string, utf8 bool) (Path, error) {
	var p pathParser
	m, rest, ok := p.mailbox(s)
	switch {
	case !ok || rest != "" || m.Domain == "":
		return Path{}, errSender
	case p.utf8 && !utf8:
		return Path{}, errSenderUTF8
	}
	return m, nil
}

// cutKeyword takes "FROM:" or "TO:" off the front, with blanks around the colon.
func cutKeyword(arg, keyword string) (rest string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(arg[len(keyword):], " "), ":")
	return strings.TrimLeft(rest, " "), ok
}

// pathParser reads a path from the front of a string. It takes UTF-8 wherever
// RFC 6531 §3.3 does and notes that it did, because whether that was allowed
// is known only when the parameters behind the path were read.
type pathParser struct {
	utf8    bool
	lenient bool // what MTAs take and can be read in one way only is taken
	local   bool // a plain local part may stand alone
}

// path reads <mailbox>, <>, <postmaster> or <@route:mailbox>, or, if it is lenient,
// a mailbox that ends at a blank.
func (p *pathParser) path(s string) (m Path, rest string, ok bool) {
	if s, ok = strings.CutPrefix(s, "<"); !ok {
		if !p.lenient {
			return Path{}, "", false
		}
		m, rest, ok = p.mailbox(s)
		return m, rest, ok && (rest == "" || rest[0] == ' ')
	}
	if p.lenient {
		s = strings.TrimLeft(s, " ")
	}
	if rest, ok = strings.CutPrefix(s, ">"); ok {
		return Path{}, rest, true
	}
	if s, ok = p.skipRoute(s); !ok {
		return Path{}, "", false
	}
	if m, s, ok = p.mailbox(s); !ok {
		return Path{}, "", false
	}
	if p.lenient {
		s = strings.TrimLeft(s, " ")
	}
	rest, ok = strings.CutPrefix(s, ">")
	return m, rest, ok
}

// skipRoute drops a source route, "@a,@b:" (RFC 5321 §4.1.2 and appendix C:
// accepted, and ignored).
func (p *pathParser) skipRoute(s string) (rest string, ok bool) {
	if s == "" || s[0] != '@' {
		return s, true
	}
	for {
		if s, ok = strings.CutPrefix(s, "@"); !ok {
			return "", false
		}
		n := p.domain(s)
		if n == 0 || n == len(s) {
			return "", false
		}
		sep := s[n]
		s = s[n+1:]
		switch sep {
		case ':':
			return s, true
		case ',':
		default:
			return "", false
		}
	}
}

// mailbox reads local-part@domain. A bare postmaster is one with no Domain, and so is
// any plain name where local says so.
func (p *pathParser) mailbox(s string) (m Path, rest string, ok bool) {
	var n int
	quoted := s != "" && s[0] == '"'
	if quoted {
		m.Local, n = p.quotedString(s)
	} else {
		if n = p.dotString(s); n == 0 && p.lenient {
			n = p.dotsAnywhere(s)
		}
		m.Local = s[:n]
	}
	if n == 0 || n > maxLocal {
		return Path{}, "", false
	}
	s = s[n:]
	if !quoted && (s == "" || s[0] != '@') && (strings.EqualFold(m.Local, "postmaster") || p.local && isPlain(m.Local)) {
		return m, s, true
	}
	if s, ok = strings.CutPrefix(s, "@"); !ok {
		return Path{}, "", false
	}
	if s != "" && s[0] == '[' {
		n = addressLiteral(s)
	} else {
		if n = p.domain(s); n == 0 && p.lenient {
			// The name from the root on, as DNS writes it.
			if end := runOf(s, &isLDH); end > 1 && s[end-1] == '.' && p.domain(s[:end-1]) == end-1 {
				m.Domain = s[:end-1]
				return m, s[end:], true
			}
		}
	}
	if n == 0 {
		return Path{}, "", false
	}
	m.Domain = s[:n]
	return m, s[n:], true
}

// runOf returns how many octets at the front of s are dots, of the set, or UTF-8.
func runOf(s string, set *[utf8.RuneSelf]bool) int {
	i := 0
	for i < len(s) && (s[i] >= utf8.RuneSelf || s[i] == '.' || set[s[i]]) {
		i++
	}
	return i
}

// dotsAnywhere returns the length of what would be a Dot-string if dots could stand
// at its edges and side by side, as in addresses that some providers once gave out;
// quoted it is a local part like any. It is followed by its @.
func (p *pathParser) dotsAnywhere(s string) int {
	n := runOf(s, &isAtext)
	if n == len(s) || s[n] != '@' {
		return 0
	}
	for i := 0; i < n; {
		if s[i] == '.' {
			i++
			continue
		}
		atom, _, _ := strings.Cut(s[i:n], ".")
		if p.dotString(atom) != len(atom) {
			return 0
		}
		i += len(atom)
	}
	if strings.Trim(s[:n], ".") == "" {
		return 0
	}
	return n
}

// isPlain says whether s names a mailbox of the MTA's own domain and nothing else.
// NOT: with a percent sign or an exclamation mark, in which an MTA may see another host.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || !isLDH[c] && c != '.' && c != '+' {
			return false
		}
	}
	return s != ""
}

// dotString returns the length of the Dot-string at the front of s, 0 if
// there is none.
func (p *pathParser) dotString(s string) int {
	i, dot := 0, true // dot: an atom must begin here
	for i < len(s) {
		c := s[i]
		switch {
		case c < utf8.RuneSelf && isAtext[c]:
			i++
		case c == '.' && !dot:
			i++
			dot = true
			continue
		case c >= utf8.RuneSelf:
			n := p.nonASCII(s[i:])
			if n == 0 {
				return 0
			}
			i += n
		default:
			if dot {
				return 0
			}
			return i
		}
		dot = false
	}
	if dot {
		return 0
	}
	return i
}

// quotedString reads a Quoted-string and returns what it stands for and its
// length as written, 0 if it is none.
func (p *pathParser) quotedString(s string) (text string, n int) {
	var b []byte // only where there is a quoted-pair
	start := 1
	for i := 1; i < len(s); {
		switch c := s[i]; {
		case c == '"':
			if start == 1 {
				return s[1:i], i + 1
			}
			return string(append(b, s[start:i]...)), i + 1
		case c == '\\':
			if i+1 == len(s) || s[i+1] >= utf8.RuneSelf || isControl(s[i+1]) {
				return "", 0
			}
			b = append(b, s[start:i]...)
			start = i + 1
			i += 2
		case isControl(c):
			return "", 0
		case c >= utf8.RuneSelf:
			w := p.nonASCII(s[i:])
			if w == 0 {
				return "", 0
			}
			i += w
		default:
			i++
		}
	}
	return "", 0
}

// nonASCII returns the length of the UTF-8 sequence at the front of s, 0 if
// it is none or a control character (C1, which no address needs and every
// terminal obeys).
func (p *pathParser) nonASCII(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n == 1 || r < 0xa0 {
		return 0
	}
	p.utf8 = true
	return n
}

// domain returns the length of the Domain at the front of s, 0 if there is
// none. Labels may have underscores, which the grammar does not know and
// host names in use do. A domain in UTF-8 must have a form that DNS can be
// asked for (RFC 6531 §3.3: U-labels).
func (p *pathParser) domain(s string) int {
	i, label, ascii := 0, 0, true // label: where the current one starts
	for ; i < len(s); i++ {
		c := s[i]
		if c >= utf8.RuneSelf {
			n := p.nonASCII(s[i:])
			if n == 0 {
				return 0
			}
			ascii = false
			i += n - 1
			continue
		}
		if c == '.' {
			if !labelGood(s[label:i]) {
				return 0
			}
			label = i + 1
		} else if !isLDH[c] {
			break
		}
	}
	if i > maxDomain || !labelGood(s[label:i]) {
		return 0
	}
	if !ascii {
		if _, err := ASCIIDomain(s[:i]); err != nil {
			return 0
		}
	}
	return i
}

func labelGood(l string) bool {
	return l != "" && l[0] != '-' && l[len(l)-1] != '-' && (len(l) <= maxLabel || !isASCII(l))
}

// addressLiteral returns the length of the IPv4 or IPv6 literal at the front
// of s, brackets included, 0 if there is none (RFC 5321 §4.1.3). A
// General-address-literal has no meaning yet: no tag but IPv6 is registered.
func addressLiteral(s string) int {
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return 0
	}
	text := s[1:end]
	want6 := len(text) > 5 && strings.EqualFold(text[:5], "IPv6:")
	if want6 {
		text = text[5:]
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Is4() == want6 || a.Zone() != "" {
		return 0
	}
	return end + 1
}

// parseParams parses *(SP esmtp-param) (RFC 5321 §4.1.2). rawUTF8 says that a
// value has UTF-8 in it.
func parseParams(s string) (params []Param, rawUTF8 bool, err error) {
	if s == "" {
		return nil, false, nil
	}
	if s[0] != ' ' {
		return nil, false, errParam
	}
	for {
		s = strings.TrimLeft(s, " ")
		if s == "" {
			return params, rawUTF8, nil
		}
		var word string
		word, s, _ = strings.Cut(s, " ")
		var p Param
		p.Key, p.Value, p.HasValue = strings.Cut(word, "=")
		if !isKeyword(p.Key) {
			return nil, false, errParam
		}
		if p.HasValue {
			ok, ascii := isValue(p.Value)
			if !ok {
				return nil, false, errParam
			}
			rawUTF8 = rawUTF8 || !ascii
		}
		p.Key = strings.ToUpper(p.Key)
		for i := range params {
			if params[i].Key == p.Key {
				return nil, false, errParamTwice
			}
		}
		if len(params) == maxParams {
			return nil, false, errParams
		}
		if params == nil {
			params = make([]Param, 0, 4)
		}
		params = append(params, p)
	}
}

// isKeyword says whether s is an esmtp-keyword.
func isKeyword(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || !isLDH[c] || c == '_' || c == '-' && i == 0 {
			return false
		}
	}
	return s != ""
}

// isValue says whether s is an esmtp-value of RFC 5321 §4.1.2, or of RFC 6531
// §3.3 where it is not ASCII.
func isValue(s string) (ok, ascii bool) {
	ascii = true
	for i := range len(s) {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			ascii = false
		case c <= ' ' || c == '=' || c == 0x7f:
			return false, false
		}
	}
	if !ascii {
		for _, r := range s {
			if r == utf8.RuneError || 0x80 <= r && r < 0xa0 {
				return false, false
			}
		}
	}
	return s != "", ascii
}

// String returns the mailbox without brackets, its local part quoted where it
// has to be (RFC 5321 §4.1.2); the empty string for the null reverse-path.
func (p Path) String() string {
	if p.IsNull() {
		return ""
	}
	if p.Domain != "" && isDotString(p.Local) {
		return p.Local + "@" + p.Domain
	}
	return string(p.appendMailbox(make([]byte, 0, len(p.Local)+len(p.Domain)+8)))
}

// Angle returns the path as MAIL and RCPT have it: <local@domain>, <>.
func (p Path) Angle() string {
	return string(p.AppendAngle(make([]byte, 0, len(p.Local)+len(p.Domain)+8)))
}

// AppendAngle appends the path in its angle brackets to dst.
func (p Path) AppendAngle(dst []byte) []byte {
	dst = append(dst, '<')
	dst = p.appendMailbox(dst)
	return append(dst, '>')
}

func (p Path) appendMailbox(dst []byte) []byte {
	if p.IsNull() {
		return dst
	}
	dst = appendLocal(dst, p.Local)
	if p.Domain != "" {
		dst = append(dst, '@')
		dst = append(dst, p.Domain...)
	}
	return dst
}

func appendLocal(dst []byte, local string) []byte {
	if isDotString(local) {
		return append(dst, local...)
	}
	dst = append(dst, '"')
	for i := range len(local) {
		if c := local[i]; c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, local[i])
	}
	return append(dst, '"')
}

// isDotString says whether local may stand without quotes.
func isDotString(local string) bool {
	var p pathParser
	return local != "" && p.dotString(local) == len(local)
}

// isAtext has the characters of an atom (RFC 5322 §3.2.3).
var isAtext = octets("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~")

// isLDH has letters, digits, hyphen, and the underscore.
var isLDH = octets("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

func octets(s string) (set [utf8.RuneSelf]bool) {
	for i := range len(s) {
		set[s[i]] = true
	}
	return set
}
