package dnscache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Messages are read by golang.org/x/net/dns/dnsmessage, the parser below the
// standard library's own resolver, and NOT: by miekg/dns, which hands out TXT
// strings and names in escaped presentation form and takes records that
// announce more than there is. Queries are packed here, octet by octet.

// rrtype is a resource record type that we ask for.
type rrtype uint16

const (
	typeA    = rrtype(dnsmessage.TypeA)
	typePTR  = rrtype(dnsmessage.TypePTR)
	typeMX   = rrtype(dnsmessage.TypeMX)
	typeTXT  = rrtype(dnsmessage.TypeTXT)
	typeAAAA = rrtype(dnsmessage.TypeAAAA)
)

// String returns the type's name. The set is closed: it labels a metric.
func (t rrtype) String() string {
	switch t {
	case typeA:
		return "A"
	case typePTR:
		return "PTR"
	case typeMX:
		return "MX"
	case typeTXT:
		return "TXT"
	case typeAAAA:
		return "AAAA"
	}
	return "other"
}

// question is what is asked, and the key of the cache. The name is canonical.
type question struct {
	name   string
	rrtype rrtype
}

const (
	headerSize = 12
	// udpSize is what we announce by EDNS: no answer of that size is fragmented
	// on any usual path (DNS flag day 2020).
	udpSize = 1232

	maxRecords = 256 // of the type asked for, in one answer
	maxChain   = 12  // CNAMEs from the name asked for to the one that answers
)

// query is a packed query.
type query struct {
	question
	wire  []byte
	end   int // of the question section
	edns  bool
	mixed bool // the letters of the name are in random case
}

// newQuery packs a query with a random ID. With mixCase the letters of the
// name are in random case, which an answer must repeat: what a forger would
// have to guess on top of ID and port (draft-vixie-dnsext-dns0x20).
func newQuery(q question, mixCase, edns bool) *query {
	var random [2 + (maxName+8)/8]byte
	// It never fails (the process ends instead), see crypto/rand.
	_, _ = rand.Read(random[:])
	bits := random[2:]
	b := make([]byte, 0, headerSize+len(q.name)+2+4+11)
	b = append(b, random[0], random[1], 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0) // RD, one question
	size, n := len(b), 0
	b = append(b, 0)
	for i := 0; i < len(q.name); i++ {
		c := q.name[i]
		if c == '.' {
			b[size] = byte(n)
			size, n = len(b), 0
			b = append(b, 0)
			continue
		}
		if mixCase && 'a' <= c && c <= 'z' && bits[i/8]>>(i%8)&1 == 1 {
			c -= 'a' - 'A'
		}
		b = append(b, c)
		n++
	}
	if q.name != "" { // else the root, which is its own end
		b[size] = byte(n)
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(q.rrtype))
	b = append(b, 0, 1) // class IN
	end := len(b)
	if edns { // RFC 6891 §6.1.2: root, OPT, size, no flags, no options
		b[11] = 1
		b = append(b, 0, 0, 41, udpSize>>8, udpSize&0xff, 0, 0, 0, 0, 0, 0)
	}
	return &query{question: q, wire: b, end: end, edns: edns, mixed: mixCase}
}

// match says how a message fits the query.
type match int

const (
	matchNot   match = iota // not an answer to this query: to be passed over
	matchCase               // an answer, but the case of the name was not kept
	matchExact              // an answer
)

// match compares ID, QR, opcode and question (RFC 5452 §9.1). The question is
// compared as octets: nothing stands before its name that it could point to.
func (q *query) match(msg []byte) match {
	if len(msg) < headerSize || msg[0] != q.wire[0] || msg[1] != q.wire[1] || msg[2]&0xf8 != 0x80 {
		return matchNot
	}
	if binary.BigEndian.Uint16(msg[4:]) == 0 {
		// Servers that stumble over EDNS may send the bare header back (RFC 6891
		// §7). Only that is taken: it costs us nothing but a plain query.
		if code := msg[3] & 0xf; len(msg) == headerSize && q.edns &&
			(code == byte(dnsmessage.RCodeFormatError) || code == byte(dnsmessage.RCodeNotImplemented)) {
			return matchExact
		}
		return matchNot
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 || len(msg) < q.end {
		return matchNot
	}
	exact := true
	for i := headerSize; i < q.end; i++ {
		a, b := msg[i], q.wire[i]
		if a == b {
			continue
		}
		// Within the name only, and length octets are no letters.
		if i >= q.end-4 || lower(a) != lower(b) {
			return matchNot
		}
		exact = false
	}
	if !exact {
		return matchCase
	}
	return matchExact
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}

// truncated reports the TC bit.
func truncated(msg []byte) bool { return msg[2]&0x02 != 0 }

// kind says what an answer is.
type kind uint8

const (
	kindFound    kind = iota
	kindNoData        // the name exists, without records of the type
	kindNXDomain      // the name does not exist
	kindFailure       // nobody could tell
	kindAlias         // the server stopped at a CNAME: its target is to be asked for
)

// answer is what a response said.
type answer struct {
	kind  kind
	rcode dnsmessage.RCode // with the extended bits, where the kind is kindFailure
	ttl   uint32           // seconds: the least of the records used; of a negative answer min(SOA TTL, minimum)
	soa   bool             // a negative answer came with a SOA; without, it is not to be cached
	alias string           // the end of a CNAME chain; empty if there was none
	links int

	dropped bool // there were records of the type, none that can be used

	text []string // TXT: the strings of a record joined; PTR: names with a dot at the end
	mx   []*net.MX
	ips  []net.IPAddr
}

// answerError is what is wrong with an answer that came.
type answerError string

func (e answerError) Error() string { return string(e) }

const (
	errMalformed = answerError("malformed answer")
	errTooMany   = answerError("too many records")
	errChain     = answerError("CNAME chain too long, or a loop")
	errReferral  = answerError("referral instead of an answer")
)

// parse reads a response that matches the query (see query.match). What is in
// it about other names than the one asked for, and those its CNAMEs lead to,
// counts for nothing.
func parse(msg []byte, q question) (*answer, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil, errMalformed
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, errMalformed
	}
	a := &answer{rcode: h.RCode, ttl: 1<<32 - 1}
	owner := q.name
	start := p
	// CNAMEs come in any order, so each link is a walk over the section; the
	// usual answer has none and is walked over once.
	for {
		p = start
		next, err := a.section(&p, owner, q.rrtype)
		if err != nil {
			return nil, err
		}
		if next == "" {
			break
		}
		if a.links++; a.links > maxChain {
			return nil, errChain
		}
		owner = next
		a.alias = next
	}
	found := len(a.text)+len(a.mx)+len(a.ips) > 0
	referral := false
	for {
		rh, err := p.AuthorityHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return nil, errMalformed
		}
		referral = referral || rh.Type == dnsmessage.TypeNS
		if rh.Type != dnsmessage.TypeSOA || rh.Class != dnsmessage.ClassINET || a.soa || !covers(rh.Name, owner) {
			if err := p.SkipAuthority(); err != nil {
				return nil, errMalformed
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return nil, errMalformed
		}
		a.soa = true
		if !found {
			a.ttl = min(a.ttl, seconds(rh.TTL), seconds(soa.MinTTL)) // RFC 2308 §5
		}
	}
	if err := a.extended(&p); err != nil {
		return nil, err
	}
	switch {
	case a.rcode == dnsmessage.RCodeNameError:
		// RFC 2308 §2.1: of the last name of the chain, the others exist.
		*a = answer{kind: kindNXDomain, ttl: a.ttl, soa: a.soa}
	case a.rcode != dnsmessage.RCodeSuccess:
		a.kind = kindFailure
	case found:
		a.kind = kindFound
	case a.dropped:
		a.kind, a.soa = kindNoData, true // known as long as the records say
	case a.soa:
		a.kind = kindNoData
	case a.alias != "":
		a.kind = kindAlias
	case referral:
		return nil, errReferral // RFC 2308 §2.2: NS without SOA
	default:
		a.kind = kindNoData
	}
	if !a.soa && (a.kind == kindNoData || a.kind == kindNXDomain) {
		a.ttl = 0
	}
	return a, nil
}

// section walks over the answers once, and takes the records of owner. It
// returns the target if owner is an alias.
func (a *answer) section(p *dnsmessage.Parser, owner string, want rrtype) (next string, err error) {
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return next, nil
		}
		if err != nil {
			return "", errMalformed
		}
		ours := h.Class == dnsmessage.ClassINET && sameName(h.Name, owner)
		switch {
		case ours && h.Type == dnsmessage.TypeCNAME && next == "":
			// What follows a CNAME of the same owner is a fault of the zone; the
			// alias wins, as it does in every resolver.
			c, err := p.CNAMEResource()
			if err != nil {
				return "", errMalformed
			}
			next = nameText(c.CNAME)
			if next == owner {
				return "", errChain
			}
			a.ttl = min(a.ttl, seconds(h.TTL))
			a.text, a.mx, a.ips, a.dropped = nil, nil, nil, false
		case ours && h.Type == dnsmessage.Type(want) && next == "":
			if err := a.record(p, h); err != nil {
				return "", err
			}
		default:
			if err := p.SkipAnswer(); err != nil {
				return "", errMalformed
			}
		}
	}
}

// record takes one record of the type asked for.
func (a *answer) record(p *dnsmessage.Parser, h dnsmessage.ResourceHeader) error {
	a.dropped = true // outvoted by a record that can be used
	a.ttl = min(a.ttl, seconds(h.TTL))
	if len(a.text)+len(a.mx)+len(a.ips) >= maxRecords {
		// Of reverse names any ten will do (RFC 7208 §4.6.4). Elsewhere the record
		// that counts could be the one left out, so better no answer than half.
		if h.Type == dnsmessage.TypePTR {
			return skip(p)
		}
		return errTooMany
	}
	switch h.Type {
	case dnsmessage.TypeA:
		if h.Length != net.IPv4len {
			return errMalformed
		}
		r, err := p.AResource()
		if err != nil {
			return errMalformed
		}
		a.ips = append(a.ips, net.IPAddr{IP: net.IP(r.A[:])})
	case dnsmessage.TypeAAAA:
		if h.Length != net.IPv6len {
			return errMalformed
		}
		r, err := p.AAAAResource()
		if err != nil {
			return errMalformed
		}
		a.ips = append(a.ips, net.IPAddr{IP: net.IP(r.AAAA[:])})
	case dnsmessage.TypeTXT:
		if h.Length == 0 {
			return skip(p) // RFC 1035 §3.3.14: one or more strings
		}
		r, err := p.TXTResource()
		if err != nil {
			return errMalformed
		}
		a.text = append(a.text, strings.Join(r.TXT, "")) // RFC 7208 §3.3
	case dnsmessage.TypeMX:
		r, err := p.MXResource()
		if err != nil {
			return skip(p)
		}
		host := nameText(r.MX)
		if host != "" && !hostName(host) {
			return nil
		}
		// The root is kept: a null MX says something (RFC 7505).
		a.mx = append(a.mx, &net.MX{Host: host + ".", Pref: r.Pref})
	case dnsmessage.TypePTR:
		r, err := p.PTRResource()
		if err != nil {
			return skip(p) // octets that no host name has
		}
		host := nameText(r.PTR)
		if !hostName(host) {
			return nil
		}
		a.text = append(a.text, host+".")
	default:
		return fmt.Errorf("type %v is not asked for", h.Type)
	}
	return nil
}

func skip(p *dnsmessage.Parser) error {
	if err := p.SkipAnswer(); err != nil {
		return errMalformed
	}
	return nil
}

// extended looks for an OPT record, whose TTL holds the upper bits of the
// RCODE (RFC 6891 §6.1.3).
func (a *answer) extended(p *dnsmessage.Parser) error {
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return errMalformed
		}
		if h.Type == dnsmessage.TypeOPT {
			a.rcode = h.ExtendedRCode(a.rcode)
		}
		if err := p.SkipAdditional(); err != nil {
			return errMalformed
		}
	}
}

// seconds reads a TTL: with its top bit set it is zero (RFC 2181 §8).
func seconds(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}

// nameText returns a name of a message in canonical form, but unchecked.
func nameText(n dnsmessage.Name) string {
	return strings.ToLower(string(trimDot(n.Data[:n.Length])))
}

func trimDot(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '.' {
		return b[:n-1]
	}
	return b
}

// sameName compares a name of a message with a canonical one.
func sameName(n dnsmessage.Name, name string) bool {
	b := trimDot(n.Data[:n.Length])
	if len(b) != len(name) {
		return false
	}
	for i := range b {
		if lower(b[i]) != name[i] {
			return false
		}
	}
	return true
}

// covers tells whether zone is name or stands above it.
func covers(zone dnsmessage.Name, name string) bool {
	z := nameText(zone)
	return z == "" || z == name || strings.HasSuffix(name, "."+z)
}
