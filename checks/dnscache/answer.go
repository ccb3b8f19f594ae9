package dnscache

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

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
	rcode rcode  // where the kind is kindFailure
	ttl   uint32 // seconds: the least of the records used; of a negative answer min(SOA TTL, minimum)
	soa   bool   // a negative answer came with a SOA; without, it is kept for noSOATTL
	alias string // the end of a CNAME chain; empty if there was none
	links int

	records int  // of the type asked for, with those that cannot be used
	dropped bool // there were some, none that can be used

	text []string // TXT: the strings of a record joined; PTR: names with a dot at the end
	mx   []*net.MX
	ips  []netip.Addr
	tlsa []TLSA
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
	sections, err := sections(msg)
	if err != nil {
		return nil, err
	}
	a := &answer{rcode: rcode(msg[3] & 0xf), ttl: 1<<32 - 1}
	owner := q.name
	// CNAMEs come in any order, so each link is a walk over the section; the
	// usual answer has none and is walked over once.
	for {
		next, err := a.answers(sections[0], owner, q.rrtype)
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
	found := len(a.text)+len(a.mx)+len(a.ips)+len(a.tlsa) > 0
	referral, err := a.authority(sections[1], owner, found)
	if err != nil {
		return nil, err
	}
	for r := range sections[2].records() {
		if r.rrtype == dns.TypeOPT { // whose TTL begins with the upper bits of the code (RFC 6891 §6.1.3)
			a.rcode |= rcode(r.ttl >> 24 << 4)
		}
	}
	switch {
	case a.rcode == dns.RcodeNameError:
		// RFC 2308 §2.1: of the last name of the chain, the others exist.
		*a = answer{kind: kindNXDomain, ttl: a.ttl, soa: a.soa}
	case a.rcode != dns.RcodeSuccess:
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
		a.ttl = min(a.ttl, noSOATTL)
	}
	return a, nil
}

// noSOATTL is how long, in seconds, "there is none" is kept from a server that
// leaves out the SOA, as forwarders in front of a resolver like to do. RFC 2308
// §5 would have it asked for each time, lest two servers hand it to each other
// for ever. We hand it to nobody, and for a busy sender without a DMARC record
// that would be a query for each message.
const noSOATTL = 1

// answers walks over the answer section once, and takes the records of owner.
// It returns the target if owner is an alias.
func (a *answer) answers(s section, owner string, want rrtype) (next string, err error) {
	for r := range s.records() {
		if next != "" || !r.is(dns.TypeCNAME) && !r.is(uint16(want)) {
			continue
		}
		switch {
		case !r.ownedBy(owner):
		case r.is(dns.TypeCNAME):
			// What follows a CNAME of the same owner is a fault of the zone; the
			// alias wins, as it does in every resolver.
			if next, err = target(r); err != nil {
				return "", err
			}
			if next == owner {
				return "", errChain
			}
			a.ttl = min(a.ttl, seconds(r.ttl))
			a.text, a.mx, a.ips, a.tlsa, a.records, a.dropped = nil, nil, nil, nil, 0, false
			if next == "" {
				a.dropped = true // the root has no such records, and is not to be asked for
				return "", nil
			}
		default:
			if err := a.record(r); err != nil {
				return "", err
			}
		}
	}
	return next, nil
}

// target is where a CNAME leads to; a name with a dot in a label is none.
func target(r placed) (string, error) {
	rr, err := r.unpack()
	if c, ok := rr.(*dns.CNAME); ok && err == nil {
		if name, ok := plainName(c.Target); ok {
			return name, nil
		}
	}
	return "", errMalformed
}

// record takes one record of the type asked for.
func (a *answer) record(r placed) error {
	a.dropped = true // outvoted by a record that can be used
	a.ttl = min(a.ttl, seconds(r.ttl))
	if a.records++; a.records > maxRecords {
		// Of reverse names any ten will do (RFC 7208 §4.6.4). Elsewhere the record
		// that counts could be the one left out, so better no answer than half.
		if r.is(dns.TypePTR) {
			return nil
		}
		return errTooMany
	}
	rr, err := r.unpack()
	if err != nil {
		switch {
		case r.is(dns.TypePTR), r.is(dns.TypeMX):
			return nil // a name that cannot be read is no host
		case r.is(dns.TypeTXT) && r.data == r.end:
			return nil // RFC 1035 §3.3.14: one or more strings
		}
		return errMalformed
	}
	switch rr := rr.(type) {
	case *dns.A:
		a.address(rr.A)
	case *dns.AAAA:
		a.address(rr.AAAA)
	case *dns.TXT:
		a.text = append(a.text, unescape(strings.Join(rr.Txt, ""))) // RFC 7208 §3.3
	case *dns.MX:
		host, ok := plainName(rr.Mx)
		if rr.Mx == "" || !ok || host != "" && !hostName(host) {
			return nil
		}
		// The root is kept: a null MX says something (RFC 7505).
		a.mx = append(a.mx, &net.MX{Host: host + ".", Pref: rr.Preference})
	case *dns.PTR:
		host, ok := plainName(rr.Ptr)
		if !ok || !hostName(host) {
			return nil
		}
		a.text = append(a.text, host+".")
	case *dns.TLSA:
		if t, ok := readTLSA(rr); ok {
			a.tlsa = append(a.tlsa, t)
		}
	default:
		return fmt.Errorf("type %d is not asked for", r.rrtype)
	}
	return nil
}

// address takes the address of a record. One of IPv6 that is IPv4-mapped stays as it is.
func (a *answer) address(octets net.IP) {
	if ip, ok := netip.AddrFromSlice(octets); ok {
		a.ips = append(a.ips, ip)
	}
}

// authority looks for the SOA of owner's zone, which says how long a negative
// answer may be kept, and for the NS of a referral.
func (a *answer) authority(s section, owner string, found bool) (referral bool, err error) {
	for r := range s.records() {
		referral = referral || r.rrtype == dns.TypeNS
		if !r.is(dns.TypeSOA) || a.soa || !r.covers(owner) {
			continue
		}
		rr, err := r.unpack()
		soa, ok := rr.(*dns.SOA)
		if err != nil || !ok {
			return false, errMalformed
		}
		a.soa = true
		if !found {
			a.ttl = min(a.ttl, seconds(r.ttl), seconds(soa.Minttl)) // RFC 2308 §5
		}
	}
	return referral, nil
}

// seconds reads a TTL: with its top bit set it is zero (RFC 2181 §8).
func seconds(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}
