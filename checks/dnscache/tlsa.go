package dnscache

import (
	"context"
	"encoding/hex"

	"github.com/miekg/dns"
)

// TLSA is a record of RFC 6698 §2.1: what a certificate is to be compared with.
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// LookupTLSA asks for the records of a name (_25._tcp.mx.example.org), past the cache: it is for
// an examination, and nothing that mail hangs on. authentic says that the server has verified the
// answer by DNSSEC (AD, which the question asks for: RFC 6840 §5.7); whether that server and
// the way to it can be trusted is for the caller to know. No records and no error: there are none.
func (r *Resolver) LookupTLSA(ctx context.Context, name string) (records []TLSA, authentic bool, err error) {
	q, err := newQuestion(name, typeTLSA)
	if err != nil {
		return nil, false, nil //nolint:nilerr // a name that cannot be asked for has no records
	}
	err = errTemporary(name, "", "no server")
	for _, s := range *r.servers.Load() {
		var a *answer
		if a, authentic, err = r.secured(ctx, s, q); err == nil {
			return a.tlsa, authentic, nil
		}
	}
	return nil, false, err
}

// secured is one question to one server with AD set, by UDP if that will do.
func (r *Resolver) secured(ctx context.Context, s *server, asked question) (a *answer, authentic bool, err error) {
	networks := []string{"udp", "tcp"}
	if s.tls != nil {
		networks = networks[1:]
	}
	for _, network := range networks {
		q, err := newQuery(asked, false, true)
		if err != nil {
			return nil, false, err
		}
		q.wire[3] |= bitAD
		msg, _, err := r.once(ctx, s, q, network)
		switch {
		case err != nil:
			return nil, false, errTemporary(asked.name, s.address, err.Error())
		case truncated(msg) && network == "udp":
			continue
		case truncated(msg):
			return nil, false, errTemporary(asked.name, s.address, errCut.Error())
		}
		a, err := parse(msg, q.question)
		if err != nil {
			return nil, false, errTemporary(asked.name, s.address, err.Error())
		}
		if a.kind == kindFailure {
			return nil, false, rcodeError(asked.name, s.address, a.rcode)
		}
		return a, msg[3]&bitAD != 0, nil
	}
	return nil, false, errTemporary(asked.name, s.address, errCut.Error())
}

// bitAD is in the fourth octet of the header (RFC 4035 §3.2.3).
const bitAD = 0x20

// readTLSA reads the record as the library has it.
func readTLSA(rr *dns.TLSA) (TLSA, bool) {
	data, err := hex.DecodeString(rr.Certificate)
	return TLSA{Usage: rr.Usage, Selector: rr.Selector, Matching: rr.MatchingType, Data: data}, err == nil
}
