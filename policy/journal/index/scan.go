package index

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"time"
)

// row is what the index has of one line.
type row struct {
	time  uint32
	ip    uint64
	marks Mark
	terms []uint32
}

func (r *row) reset() { *r = row{terms: r.terms[:0]} }

// name adds a term. A word that is there already is not added again.
func (r *row) name(k Kind, word []byte) {
	if len(word) == 0 {
		return
	}
	// Many recipients are looked through once each: a record of thousands keeps what is there twice.
	const few = 64
	t := term(k, lower(word))
	if len(r.terms) > few || !slices.Contains(r.terms, t) {
		r.terms = append(r.terms, t)
	}
}

// mailbox adds the terms of an address and of its domain.
func (r *row) mailbox(whole, domain Kind, address []byte) {
	r.name(whole, address)
	r.name(domain, address[bytes.LastIndexByte(address, '@')+1:])
}

var dispositions = map[string]Mark{"pass": Pass, "tag": Tag, "hold": Hold, "defer": Defer, "reject": Reject, "none": NotAsked}

var outcomes = map[string]Mark{
	"delivered": Delivered, "refused": RefusedByUs, "backend_refused": BackendRefused,
	"failed": Failed, "abandoned": Abandoned, "unknown": Unknown,
}

// mark adds the mark of a word. Of one that is not known, the record is looked at.
func (r *row) mark(known map[string]Mark, word []byte) {
	if m, ok := known[string(word)]; ok {
		r.marks |= m
	} else if len(word) > 0 {
		r.marks |= markWild
	}
}

// reply adds what a reply to the client says.
func (r *row) reply(text []byte) {
	if len(text) > 0 && (text[0] == '4' || text[0] == '5') {
		r.marks |= Refused
	}
}

// scan makes the row of a record. false: the line is none, as far as that is seen in
// passing. A row of what is no whole JSON may be wrong: whoever looks at the record sees it.
func (r *row) scan(line []byte) bool {
	s := scanner{b: line}
	found, v := false, ""
	s.object(func(key []byte) {
		switch string(key) {
		case "v":
			v = string(s.raw())
		case "time":
			if t, err := time.Parse(time.RFC3339, string(s.text())); err == nil {
				r.time = seconds(t)
			} else {
				r.marks |= markWild
			}
		case "id":
			id := s.text()
			found = len(id) > 0
			r.name(ID, id)
		case "session":
			r.name(Session, s.text())
		case "facts":
			r.facts(&s)
		case "rule":
			r.name(Rule, s.text())
		case "disposition":
			r.mark(dispositions, s.text())
		case "reply":
			r.reply(s.text())
		case "recipients":
			s.array(func() { r.recipient(&s) })
		case "outcome":
			r.mark(outcomes, s.text())
		case "backend_reply":
			for word := range QueueIDs(s.text()) {
				r.name(QueueID, word)
			}
		default:
			s.skip()
		}
	})
	switch {
	case s.bad || !found:
		return false
	case v == "1":
		// What policy was not asked about had passed, there.
		r.marks |= NotAsked
	case v != "2":
		r.marks |= markWild // its words may mean other things
	}
	r.marks |= markRecord
	return true
}

// facts reads those by which records are looked for.
func (r *row) facts(s *scanner) {
	s.object(func(of []byte) {
		switch string(of) {
		case "client":
			s.object(func(key []byte) { r.client(s, key) })
		case "mail":
			s.object(func(key []byte) {
				from := r.party(s, key, Sender, SenderDomain, "from", "domain")
				if string(key) == "from" && len(from) == 0 {
					r.name(Sender, []byte(NullSender))
				}
			})
		case "submitter", "pra":
			s.object(func(key []byte) { r.party(s, key, Sender, SenderDomain, "address", "domain") })
		case "header":
			s.object(func(key []byte) { r.party(s, key, Sender, SenderDomain, "", "from_domain") })
		case "rcpt":
			s.object(func(key []byte) { r.party(s, key, Recipient, RecipientDomain, "address", "domain") })
		default:
			s.skip()
		}
	})
}

func (r *row) client(s *scanner, key []byte) {
	if string(key) != "ip" {
		s.skip()
		return
	}
	if a, err := netip.ParseAddr(string(s.text())); err == nil {
		r.ip = address(a)
	} else {
		r.marks |= markWild
	}
}

// party reads a member of what names somebody: the address, or the domain.
func (r *row) party(s *scanner, key []byte, whole, domain Kind, address, of string) (text []byte) {
	switch string(key) {
	case address:
		text = s.text()
		r.mailbox(whole, domain, text)
	case of:
		r.name(domain, s.text())
	default:
		s.skip()
	}
	return text
}

func (r *row) recipient(s *scanner) {
	s.object(func(key []byte) {
		switch string(key) {
		case "address":
			r.mailbox(Recipient, RecipientDomain, s.text())
		case "disposition":
			r.mark(dispositions, s.text())
		case "rule":
			r.name(Rule, s.text())
		case "reply":
			r.reply(s.text())
		default:
			s.skip()
		}
	})
}

// QueueIDs are the words of a backend's reply that may be the name under which it keeps
// the message: those with a digit, six octets to 64.
func QueueIDs(reply []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		left := 4 // no reply has more that mean something
		for word := range bytes.FieldsSeq(reply) {
			word = bytes.Trim(word, `<>()[]"',;:.`)
			word = bytes.TrimPrefix(word, []byte("id="))
			if len(word) < 6 || len(word) > 64 || !bytes.ContainsAny(word, "0123456789") {
				continue
			}
			if left--; left < 0 || !yield(word) {
				return
			}
		}
	}
}

// scanner goes through one JSON value once. What it passes over it does not judge: lines
// are written by the journal, and who reads the record reads it with encoding/json.
type scanner struct {
	b   []byte
	i   int
	bad bool
}

// next is the next octet that is no space; 0 where there is none.
func (s *scanner) next() byte {
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// fail ends the scan.
func (s *scanner) fail() { s.bad, s.i = true, len(s.b) }

// object calls fn with the name of each member; fn reads the value, all of it. A value
// that is no object is passed over.
func (s *scanner) object(fn func(key []byte)) {
	s.members('{', '}', func() {
		if s.next() != '"' {
			s.fail()
			return
		}
		key := s.text()
		if s.next() != ':' {
			s.fail()
			return
		}
		s.i++
		fn(key)
	})
}

// array calls fn for each element, which it reads.
func (s *scanner) array(fn func()) { s.members('[', ']', fn) }

func (s *scanner) members(open, end byte, fn func()) {
	if s.next() != open {
		s.skip()
		return
	}
	s.i++
	if s.next() == end {
		s.i++
		return
	}
	for !s.bad {
		fn()
		switch s.next() {
		case ',':
			s.i++
		case end:
			s.i++
			return
		default:
			s.fail()
		}
	}
}

// raw is the next value as it stands.
func (s *scanner) raw() []byte {
	s.next()
	from := s.i
	s.skip()
	return bytes.TrimSpace(s.b[min(from, s.i):s.i])
}

// text is the next value where it is a text; else nil, and it is passed over.
func (s *scanner) text() []byte {
	if s.next() != '"' {
		s.skip()
		return nil
	}
	from := s.i
	escaped := s.pass()
	if s.bad {
		return nil
	}
	if !escaped {
		return s.b[from+1 : s.i-1]
	}
	var text string
	if err := json.Unmarshal(s.b[from:s.i], &text); err != nil {
		s.fail()
		return nil
	}
	return []byte(text)
}

// pass passes over a text, the quotes included.
func (s *scanner) pass() (escaped bool) {
	s.i++
	for s.i < len(s.b) {
		end := bytes.IndexByte(s.b[s.i:], '"')
		if end < 0 {
			break
		}
		if slash := bytes.IndexByte(s.b[s.i:s.i+end], '\\'); slash >= 0 {
			escaped = true
			s.i += slash + 2
			continue
		}
		s.i += end + 1
		return escaped
	}
	s.fail()
	return escaped
}

// skip passes over a value: to its end, by brackets, or to what ends a word.
func (s *scanner) skip() {
	switch s.next() {
	case '"':
		s.pass()
	case '{', '[':
		s.brackets()
	case 0, '}', ']', ',', ':':
		s.fail()
	default:
		for s.i < len(s.b) && !ends[s.b[s.i]] {
			s.i++
		}
	}
}

// brackets passes over an object or an array, of which it only counts what opens and closes.
func (s *scanner) brackets() {
	depth := 0
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case '"':
			s.pass()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				s.i++
				return
			}
		}
		s.i++
	}
	s.fail()
}

// ends are the octets that end a word which is no text.
var ends = [256]bool{' ': true, '\t': true, '\r': true, '\n': true, ',': true, ':': true, '{': true, '}': true, '[': true, ']': true, '"': true}
