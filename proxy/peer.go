package proxy

import (
	"errors"
	"net/netip"
	"os"
	"time"

	"postern/policy"
	"postern/proxy/amtp"
	"postern/proxy/esmtp"
	"postern/proxy/share"
	"postern/proxy/wire"
)

// peer is what a session knows of its client. It is the goroutine's of the session.
type peer struct {
	client  policy.Client // what facts say of it at connect, and network what the check of it found
	network policy.Network
	addr    netip.AddrPort
	who     share.Client // the client as the holder of a share; zero while it is not known
	// counted: the session counts against the limits.
	counted bool
	// unrationed: the session counts against the number of all connections and no other
	// limit.
	unrationed bool

	greeted bool // EHLO or HELO was accepted
	esmtp   bool // by EHLO
	helo    policy.HeloName
	tls     *policy.TLS // nil: in the clear
	offered esmtp.Offer // what the last EHLO reply announced
}

// from makes p the client of an origin.
func (p *peer) from(o *amtp.Origin) {
	p.addr, p.tls, p.who = o.Client, o.TLS, share.Of(o.Client.Addr())
	p.client = policy.Client{IP: o.Client.Addr().String(), Port: int(o.Client.Port()), User: o.User, Fetched: o.Fetched}
}

// begin makes f, which is zero, the facts of a new transaction of this client that said
// helo. An idle session holds none.
func (p *peer) begin(f *policy.Facts, listener string, helo policy.HeloName) {
	f.Client, f.Network, f.Listener, f.Helo = p.client, p.network, listener, helo
	if p.tls != nil {
		f.TLS = *p.tls
	}
	f.Begin(wire.NewID())
}

// mayStartTLS says whether STARTTLS is offered.
func (p *peer) mayStartTLS(l *Listener, set *Settings) bool {
	return l.TLS == "starttls" && p.tls == nil && set.TLS != nil
}

// pregreet finds out whether the client talks before it is greeted. It must not
// (RFC 5321 §3.1); spamware that writes its whole dialogue at once does. That is
// a fact for rules, and the same session goes on. Where the listener does not wait
// for it, what is there already tells. False: the client is gone.
func (p *peer) pregreet(c *wire.Conn, wait time.Duration) bool {
	if wait <= 0 {
		p.client.Pregreet = c.Ahead()
		return true
	}
	c.ReadBy(time.Now().Add(wait))
	switch err := c.Wait(); {
	case err == nil:
		p.client.Pregreet = true
	case errors.Is(err, os.ErrDeadlineExceeded):
	default:
		return false
	}
	return true
}
