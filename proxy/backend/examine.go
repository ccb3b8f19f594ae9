package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"time"

	"postern/proxy/smtp"
)

// Examination is what one address of a backend did when it was tried, without a
// message.
type Examination struct {
	Backend, Address string
	// Err is why no transaction could begin, an *Error; nil: it could.
	Err  error
	Took time.Duration // from the connect to the answer to EHLO, TLS included

	Greeting string // the text behind 220
	Caps     Capabilities
	Known    bool // Caps are: it came as far as EHLO

	TLS         string            // the version in use: "TLS 1.3"; empty: none
	Certificate *x509.Certificate // that it showed; nil: none
	// Clear is why an opportunistic connection goes on without encryption, although
	// STARTTLS is offered.
	Clear error

	// Told is what came of telling it who the client is; nil where the identity is
	// none, or where there was nobody to tell.
	Told *Told
	// NoIPv6 is what came of telling it of a client of IPv6, where only one of IPv4 can
	// be told of; nil: both can, or nobody knows.
	NoIPv6 error
}

// Told is what a backend made of being told of a client.
type Told struct {
	// Err is why it was not told, or what it said to it. An *Error of KindRefused
	// means that it was, and turned that client away.
	Err error
	// Hello is the first line of its answer to the EHLO after that, in which some
	// MTAs say whom they see.
	Hello string
	// Greeting is the first line behind 220: of the answer to XCLIENT, or the
	// greeting after a PROXY header.
	Greeting string
	// XClient says that XCLIENT is offered to this client as well. Postfix no longer
	// offers it once it was told of a client that is not authorized to use it.
	XClient bool
}

// Examine tries every address of every backend twice, side by side: as a probe
// does, and as for the client c, whom it tells of in the configured way; then it tells
// of clients of either family, to see whether both can be. It begins no
// transaction. What an address offers is remembered, as if a session had learned it,
// so that Capabilities tells of all of them afterwards.
//
// It ends with ctx, and for each address with the timeouts of the Set.
func (s *Set) Examine(ctx context.Context, c Client) []Examination {
	var all []Examination
	var addrs []*address
	for _, p := range s.pools {
		for _, a := range p.addrs {
			all = append(all, Examination{Backend: p.name, Address: a.name})
			addrs = append(addrs, a)
		}
	}
	tellings := make([]*Told, len(all))
	var wg sync.WaitGroup
	for i, a := range addrs {
		if a.pool.identity != identityNone {
			tellings[i] = &Told{}
			wg.Go(func() { tellings[i].try(ctx, a, c) })
		}
		wg.Go(func() { all[i].try(ctx, a) })
	}
	wg.Wait()
	for i := range all {
		// Where the address could not be talked to, that it could not be told of a client
		// would be the same finding twice.
		var e *Error
		if x := &all[i]; x.Err == nil || errors.As(x.Err, &e) && e.Kind == KindIdentity {
			x.Told = tellings[i]
		}
	}
	for i, a := range addrs {
		if t := all[i].Told; t != nil && t.Err == nil {
			wg.Go(func() {
				if no, err := a.noIPv6(ctx); no {
					all[i].NoIPv6 = err
				}
			})
		}
	}
	wg.Wait()
	return all
}

// apart returns a copy of the address whose failures count for nothing, and whose
// replies are handed to heard.
func (a *address) apart(heard func(smtp.Reply)) *address {
	o := a.pool.o
	o.Metrics, o.heard = nil, heard
	p := &Pool{name: a.pool.name, identity: a.pool.identity, tlsMode: a.pool.tlsMode, o: o}
	return &address{pool: p, name: a.name, full: a.full, network: a.network, addr: a.addr, tls: a.tls}
}

// try is the probe.
func (x *Examination) try(ctx context.Context, a *address) {
	start := time.Now()
	one := a.apart(func(r smtp.Reply) {
		if x.Greeting == "" {
			x.Greeting = firstLine(r)
		}
	})
	l, err := one.converse(ctx, nil, a.pool.tlsMode != tlsOff)
	var e *Error
	if a.pool.tlsMode == tlsOpportunistic && errors.As(err, &e) && e.Kind == KindTLS && ctx.Err() == nil {
		x.Clear = err
		l, err = one.converse(ctx, nil, false)
	}
	x.Took = time.Since(start)
	x.Caps, x.Known, x.Err = one.caps, one.known, err
	if err != nil {
		return
	}
	if tc, ok := l.nc.(*tls.Conn); ok {
		state := tc.ConnectionState()
		x.TLS = tls.VersionName(state.Version)
		if len(state.PeerCertificates) > 0 {
			x.Certificate = state.PeerCertificates[0]
		}
	}
	a.learned(l.caps)
	a.markUp()
	l.sayGoodbye()
}

// try tells the backend of a client.
func (t *Told) try(ctx context.Context, a *address, c Client) {
	one := a.apart(func(r smtp.Reply) {
		switch r.Code {
		case 220: // the greeting, STARTTLS, XCLIENT: the last one counts
			t.Greeting = firstLine(r)
		case 250:
			t.Hello = firstLine(r)
		}
	})
	l, err := one.dial(ctx, &c)
	if err != nil {
		t.Err = err
		return
	}
	t.XClient = l.caps.XClient != nil
	if a.pool.identity == identityXForward {
		hello := t.Hello
		var lines [][]byte
		xlines("XFORWARD", xforwardWant, l.caps.XForward, c, func(line []byte) { lines = append(lines, line) })
		for _, line := range lines {
			r, err := l.ask(string(line), a.pool.o.Timeouts.BackendCommand)
			if err == nil && r.Code != 250 {
				err = l.refuse(KindIdentity, r, "XFORWARD")
			}
			if t.Err = err; err != nil {
				break
			}
		}
		t.Hello = hello
	}
	l.sayGoodbye()
}

// sayGoodbye is quit for one who has the time to hear the answer: an MTA logs a
// connection that is lost.
func (l *link) sayGoodbye() {
	_, _ = l.ask("QUIT", lastWords) // 221, or whatever
	l.close()
}

// firstLine is that of a reply's text.
func firstLine(r smtp.Reply) string {
	line, _, _ := strings.Cut(r.Text, "\n")
	return line
}
