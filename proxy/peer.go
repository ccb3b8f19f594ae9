package proxy

import (
	"net/netip"

	"postern/policy"
	"postern/proxy/share"
)

// peer is what a session knows of its client. It is the goroutine's of the session.
type peer struct {
	client policy.Client // what facts say of it at connect
	addr   netip.AddrPort
	who    share.Client // as one that has a share; zero while not known
	// counted: against the limits.
	counted bool
	// unrationed: it counts against the number of all connections and no other
	// limit.
	unrationed bool

	greeted bool // EHLO or HELO was accepted
	esmtp   bool // by EHLO
	helo    policy.HeloName
	tls     *policy.TLS // nil: in the clear
	offered offer       // what the last EHLO reply announced
}

// offer is what an EHLO reply announced beyond what is always there; parameters
// of what was not offered are unknown (RFC 5321 §4.1.1.11).
type offer struct {
	eightBit, utf8, dsn, size, submitter, binary, requireTLS bool
}

// begin makes f, which is zero, the facts of a new transaction of this client that said
// helo. An idle session holds none.
func (p *peer) begin(f *policy.Facts, listener string, helo policy.HeloName) {
	f.Client, f.Listener, f.Helo = p.client, listener, helo
	if p.tls != nil {
		f.TLS = *p.tls
	}
	f.Begin(newID())
}
