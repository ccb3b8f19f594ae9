package dkim

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/policy"
	"postern/proxy/smtp"
)

// signature is one DKIM-Signature field (RFC 6376 §3.5), and how far its
// verification has come.
type signature struct {
	field int // its index in the section

	domain, selector string // d= and s=, without white space
	agent            string // the domain of i=; d= where there is no i=
	algorithm        string // a= before the hyphen: rsa or ed25519
	names            []string
	headerForm       form
	bodyForm         form
	length           int64 // l=; -1: it is not there
	bodyHash, sig    []byte
	tags             tagList

	key                  publicKey
	headerGood, bodyGood bool
	trouble              string        // why one of them cannot be said now
	result               policy.Result // empty: nothing is known to be wrong
	reason               string
}

// open says whether nothing is known against the signature.
func (s *signature) open() bool { return s.result == "" }

// end settles the signature, unless it is already.
func (s *signature) end(result policy.Result, reason string) {
	if s.open() {
		s.result, s.reason = result, reason
	}
}

// tag is one tag of a tag-list.
type tag struct {
	name, value string // the value as written, white space included
}

// tagList is a list of tags in their order (RFC 6376 §3.2).
type tagList []tag

// maxNames bounds the names in h=. Those who sign all that there is, and that
// there is no more of it, have some fifty.
const maxNames = 1000

// maxTags bounds the tags of a list. RFC 6376 knows twelve of a signature and
// eight of a key.
const maxTags = 64

var (
	errDuplicateTag = errors.New("a tag is there twice")
	errManyTags     = errors.New("too many tags")
	errNoTag        = errors.New("what should be a tag is none")
)

// readTags reads a tag-list. White space around a name is none of it; an empty
// tag, as the one behind a last semicolon, is none. A list with a tag twice is
// invalid as a whole (RFC 6376 §3.2).
func readTags(text string) (tagList, error) {
	list := make(tagList, 0, 12)
	for part := range strings.SplitSeq(text, ";") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.Trim(name, whiteSpace)
		switch {
		case !ok && name == "":
			continue
		case !ok || !isTagName(name):
			return list, errNoTag
		case len(list) == maxTags:
			return list, errManyTags
		}
		if slices.ContainsFunc(list, func(t tag) bool { return t.name == name }) {
			return list, errDuplicateTag
		}
		list = append(list, tag{name, value})
	}
	return list, nil
}

func isTagName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if letter := 'a' <= c && c <= 'z'; !letter && (i == 0 || s[i] != '_' && (s[i] < '0' || s[i] > '9')) {
			return false
		}
	}
	return s != ""
}

// get returns the value of a tag without white space; not ok: it is not there.
func (l tagList) get(name string) (value string, ok bool) {
	for _, t := range l {
		if t.name == name {
			return squeeze(t.value), true
		}
	}
	return "", false
}

const whiteSpace = " \t\r\n"

// squeeze takes white space out, folding included (RFC 6376 §2.8).
func squeeze(s string) string {
	if !strings.ContainsAny(s, whiteSpace) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if strings.IndexByte(whiteSpace, s[i]) < 0 {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// readSignature reads the value of a DKIM-Signature field. What is wrong with it
// ends the signature at once; the domain is known as far as it can be read.
func readSignature(value string) *signature {
	s := &signature{length: -1}
	tags, err := readTags(value)
	s.tags = tags
	s.domain, _ = tags.get("d")
	s.selector, _ = tags.get("s")
	if err != nil {
		s.end(policy.PermError, "malformed signature: "+err.Error())
	}
	return s
}

// check reads the tags of the signature and settles it where they say that it
// cannot be verified (RFC 6376 §6.1.1).
func (s *signature) check(now time.Time) {
	if !s.open() {
		return
	}
	for _, name := range []string{"v", "a", "b", "bh", "d", "h", "s"} {
		if v, ok := s.tags.get(name); !ok || v == "" && name != "b" && name != "bh" {
			s.end(policy.PermError, "signature has no "+name+"=")
			return
		}
	}
	for _, read := range []func() string{
		s.readVersion, s.readAlgorithm, s.readForms, s.readNames, s.readDomains, s.readHashes, s.readQuery, s.readLength,
	} {
		if reason := read(); reason != "" {
			s.end(policy.PermError, reason)
			return
		}
	}
	if reason := s.readTimes(now); reason != "" {
		s.end(policy.PermError, reason)
	}
}

func (s *signature) readVersion() string {
	if v, _ := s.tags.get("v"); v != "1" {
		return "incompatible signature version"
	}
	return ""
}

// readAlgorithm reads a=. SHA-1 is no hash any more (RFC 8301 §3.1).
func (s *signature) readAlgorithm() string {
	a, _ := s.tags.get("a")
	algorithm, hashed, ok := strings.Cut(a, "-")
	switch {
	case !ok:
		return "malformed algorithm name"
	case hashed == "sha1":
		return "hash algorithm too weak: sha1"
	case hashed != "sha256":
		return "unsupported hash algorithm"
	case algorithm != "rsa" && algorithm != "ed25519":
		return "unsupported key algorithm"
	}
	s.algorithm = algorithm
	return ""
}

func (s *signature) readForms() string {
	c, ok := s.tags.get("c")
	if !ok {
		return ""
	}
	header, body, both := strings.Cut(c, "/")
	if s.headerForm, ok = formOf(header); !ok {
		return "unsupported header canonicalization"
	}
	if both {
		if s.bodyForm, ok = formOf(body); !ok {
			return "unsupported body canonicalization"
		}
	}
	return ""
}

// readNames reads h=. From must be among the names (RFC 6376 §5.4).
func (s *signature) readNames() string {
	h, _ := s.tags.get("h")
	s.names = strings.SplitN(strings.ToLower(h), ":", maxNames+1)
	if len(s.names) > maxNames {
		return "too many names in h="
	}
	if !slices.Contains(s.names, "from") {
		return "From field not signed"
	}
	return ""
}

// readDomains reads d= and i=, whose domain is d= or below it. Domains are
// compared without regard to letter case (RFC 4343), and the local part of i= is
// in quoted-printable (RFC 6376 §2.11, §3.5).
func (s *signature) readDomains() string {
	domain, ok := asciiDomain(s.domain)
	if !ok || !strings.Contains(domain, ".") {
		return "d= is no domain"
	}
	if s.keyName() == "" {
		return "s= is no selector"
	}
	s.agent = domain
	i, ok := s.tags.get("i")
	if !ok {
		return ""
	}
	_, of, ok := smtp.CutAddress(i)
	if !ok {
		return "i= has no domain"
	}
	agent, ok := asciiDomain(unquote(of))
	if !ok || agent != domain && !strings.HasSuffix(agent, "."+domain) {
		return "domain mismatch: i= is not within d="
	}
	s.agent = agent
	return ""
}

// unquote decodes DKIM-Quoted-Printable (RFC 6376 §2.11). What is no encoding
// stays as it is.
func unquote(s string) string {
	if !strings.Contains(s, "=") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(c))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func (s *signature) readHashes() string {
	bh, _ := s.tags.get("bh")
	b, _ := s.tags.get("b")
	var err error
	if s.bodyHash, err = base64.StdEncoding.DecodeString(bh); err != nil {
		return "malformed body hash"
	}
	if s.sig, err = base64.StdEncoding.DecodeString(b); err != nil {
		return "malformed signature data"
	}
	return ""
}

// readQuery reads q=: where the key is found. Methods that nobody knows are
// passed over (RFC 6376 §3.5).
func (s *signature) readQuery() string {
	if q, ok := s.tags.get("q"); ok && !slices.Contains(strings.Split(q, ":"), "dns/txt") {
		return "unsupported public key query method"
	}
	return ""
}

// readLength reads l=, at most 76 digits (RFC 6376 §3.5).
func (s *signature) readLength() string {
	l, ok := s.tags.get("l")
	if !ok {
		return ""
	}
	n, err := digits(l)
	if err != nil {
		return "malformed length"
	}
	s.length = n
	return ""
}

// readTimes reads t= and x=, seconds since 1970. A signature is over at x=, and
// was never good where that is not behind t=.
func (s *signature) readTimes(now time.Time) string {
	signed, isSigned := s.tags.get("t")
	expires, doesExpire := s.tags.get("x")
	var from, until int64
	var err error
	if isSigned {
		if from, err = digits(signed); err != nil {
			return "malformed time"
		}
	}
	if !doesExpire {
		return ""
	}
	if until, err = digits(expires); err != nil {
		return "malformed expiration time"
	}
	switch {
	case isSigned && until <= from:
		return "signature expires before it was made"
	case now.Unix() > until:
		return "signature has expired"
	}
	return ""
}

// digits reads a number without a sign. What is too large for us is the largest
// that there is: no body is so long, and no clock shows it.
func digits(s string) (int64, error) {
	const most = 76
	if s == "" || len(s) > most || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("no number")
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, nil //nolint:nilerr // digits alone: too many of them
	}
	return n, nil
}

// verifyHeader verifies the signature over the fields that it names and over
// itself (RFC 6376 §3.7).
func (s *signature) verifyHeader(section *section) {
	hash := sha256.New()
	pick := picker{section: section, own: s.field, left: make(map[string]int, len(s.names))}
	for _, name := range s.names {
		if f := pick.pick(name); f != nil {
			hash.Write(f.canonical(s.headerForm))
		}
	}
	own := section.fields[s.field]
	if s.headerForm == simple {
		hash.Write([]byte(strings.TrimSuffix(withoutSignature(own.raw), "\r\n")))
	} else {
		_, value, _ := strings.Cut(withoutSignature(own.name+":"+own.value), ":")
		line := appendRelaxed(nil, own.name, value)
		hash.Write(line[:len(line)-2])
	}
	if s.headerGood = s.key.verify(hash.Sum(nil), s.sig); !s.headerGood {
		s.end(policy.Fail, "signature did not verify")
	}
}

// withoutSignature returns a DKIM-Signature field as its signer had it: with
// nothing in b= (RFC 6376 §3.7). NOT: the first "b=" of the text, for the value
// of another tag may hold one, as z=Date:Sat,=201=20Feb=202026 does.
func withoutSignature(field string) string {
	name, value, _ := strings.Cut(field, ":")
	var out strings.Builder
	out.Grow(len(field))
	out.WriteString(name)
	sep := byte(':')
	for tag := range strings.SplitSeq(value, ";") {
		out.WriteByte(sep)
		sep = ';'
		if key, _, ok := strings.Cut(tag, "="); ok && strings.Trim(key, whiteSpace) == "b" {
			out.WriteString(key)
			out.WriteByte('=')
			continue
		}
		out.WriteString(tag)
	}
	return out.String()
}

// asciiDomain returns a domain as A-labels in lower case (RFC 8616 lets d= and i=
// have U-labels).
func asciiDomain(s string) (string, bool) {
	d, err := smtp.ASCIIDomain(s)
	return d, err == nil && d != ""
}
