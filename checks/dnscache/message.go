package dnscache

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// Answers are read by miekg/dns, none of whose types leaves this room: record by
// record, behind guards, see records.go.

// rrtype is a resource record type that we ask for.
type rrtype uint16

const (
	typeA    = rrtype(dns.TypeA)
	typePTR  = rrtype(dns.TypePTR)
	typeMX   = rrtype(dns.TypeMX)
	typeTXT  = rrtype(dns.TypeTXT)
	typeAAAA = rrtype(dns.TypeAAAA)
	typeTLSA = rrtype(dns.TypeTLSA) // by LookupTLSA alone, past the cache
)

// types are those that the cache has.
var types = [...]rrtype{typeA, typePTR, typeMX, typeTXT, typeAAAA}

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
	optSize    = 11
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
// have to guess on top of ID and port (draft-vixie-dnsext-dns0x20). A name that
// is canonical can be packed; an error says that this one was not.
//
// NOT: by the library, which wants names in presentation form, with what means
// something there escaped, and makes much of it.
func newQuery(q question, mixCase, edns bool) (*query, error) {
	var random [2 + (maxName+8)/8]byte
	// It never fails (the process ends instead), see crypto/rand.
	_, _ = rand.Read(random[:])
	bits := random[2:]
	wire := make([]byte, 0, headerSize+len(q.name)+len("\x00\x00")+4+optSize)
	wire = append(wire, random[0], random[1], 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0) // RD; one question (RFC 1035 §4.1.1)
	i := 0
	for label := range strings.SplitSeq(q.name, ".") {
		if len(label) == 0 || len(label) > maxLabel || len(q.name) > maxName {
			return nil, fmt.Errorf("query for %q: it is no name", q.name)
		}
		wire = append(wire, byte(len(label)))
		for _, c := range []byte(label) {
			if mixCase && 'a' <= c && c <= 'z' && bits[i/8]>>(i%8)&1 == 1 {
				c -= 'a' - 'A'
			}
			wire = append(wire, c)
			i++
		}
	}
	wire = append(wire, 0)
	wire = binary.BigEndian.AppendUint16(wire, uint16(q.rrtype))
	wire = binary.BigEndian.AppendUint16(wire, dns.ClassINET)
	end := len(wire)
	if edns { // the root, OPT, what we take, and nothing else (RFC 6891 §6.1.2)
		wire[headerSize-1] = 1
		wire = binary.BigEndian.AppendUint16(append(wire, 0), dns.TypeOPT)
		wire = binary.BigEndian.AppendUint16(wire, udpSize)
		wire = append(wire, 0, 0, 0, 0, 0, 0)
	}
	return &query{question: q, wire: wire, end: end, edns: edns, mixed: mixCase}, nil
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
// NOT: left to dns.Client, which looks at the ID alone.
func (q *query) match(msg []byte) match {
	if len(msg) < headerSize || msg[0] != q.wire[0] || msg[1] != q.wire[1] || msg[2]&0xf8 != 0x80 {
		return matchNot
	}
	if binary.BigEndian.Uint16(msg[4:]) == 0 {
		// Servers that stumble over EDNS may send the bare header back (RFC 6891
		// §7). Only that is taken: it costs us nothing but a plain query.
		if code := rcode(msg[3] & 0xf); len(msg) == headerSize && q.edns &&
			(code == dns.RcodeFormatError || code == dns.RcodeNotImplemented) {
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

// rcode is a response code, with the extended bits of EDNS (RFC 6891 §6.1.3).
type rcode uint16

// String returns the code's name, or its number.
func (c rcode) String() string {
	if c == dns.RcodeBadVers {
		return "BADVERS" // the library calls 16 by its other name, BADSIG, which is for TSIG
	}
	if s, ok := dns.RcodeToString[int(c)]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", uint16(c))
}
