package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"postern/metrics"
)

// dial opens a connection to one address and brings it to the point where a
// transaction can start: PROXY header, greeting, EHLO, STARTTLS, XCLIENT. A nil
// client is ourselves: a probe.
func (a *address) dial(ctx context.Context, c *Client) (*link, error) {
	l, err := a.converse(ctx, c, a.pool.tlsMode != tlsOff)
	var e *Error
	if a.pool.tlsMode == tlsOpportunistic && errors.As(err, &e) && e.Kind == KindTLS && ctx.Err() == nil {
		// A handshake that failed leaves nothing to talk on; opportunistic
		// means that the mail is worth more than the encryption, so once more
		// and in the clear. NOT: for verify, which promises the opposite.
		a.pool.metrics.Error(string(KindTLS))
		a.pool.o.Log.Warn("backend TLS failed, going on without", "backend", a.pool.name, "address", a.name, "error", err)
		l, err = a.converse(ctx, c, false)
	}
	if err != nil {
		if ctx.Err() != nil && !errors.As(err, &e) {
			return nil, &Error{Kind: KindTimeout, Backend: a.pool.name, Address: a.name, Err: ctx.Err()}
		}
		return nil, err
	}
	return l, nil
}

// converse opens a connection, and speaks on it until mail can be given.
func (a *address) converse(ctx context.Context, c *Client, startTLS bool) (_ *link, err error) {
	p, t, start := a.pool, a.pool.o.Timeouts, time.Now()
	until := start.Add(t.BackendConnect)
	dctx, cancel := context.WithDeadline(ctx, until)
	nc, err := p.o.Dial(dctx, a.network, a.addr)
	cancel()
	if err != nil {
		return nil, &Error{Kind: KindDial, Backend: p.name, Address: a.name, Err: err}
	}
	l := newLink(a, nc, start)
	// The reads below know deadlines only; closing the socket is what makes
	// them heed ctx.
	stop := context.AfterFunc(ctx, l.close)
	defer func() {
		if !stop() && err == nil {
			err = l.fail(KindTimeout, ctx.Err())
		}
		if err != nil {
			l.close()
		}
	}()

	if err := l.greeted(c, until); err != nil {
		return nil, err
	}
	p.metrics.Took(metrics.PhaseConnect, time.Since(start))

	name := p.o.Hostname
	if p.identity == identityProxyV2 && c != nil {
		name = ehloName(*c, name)
	}
	if err := l.ehlo(name, t.BackendCommand); err != nil {
		return nil, err
	}
	if startTLS {
		if err := l.startTLS(ctx, name); err != nil {
			return nil, err
		}
	}
	if c == nil || p.identity != identityProxyV2 {
		// What one client is offered, told by a PROXY header, need not be what
		// the next one is.
		a.learned(l.caps)
	}
	if err := l.introduce(c); err != nil {
		return nil, err
	}
	return l, nil
}

// greeted sends the PROXY header, where there is one, and waits for the greeting.
func (l *link) greeted(c *Client, until time.Time) error {
	p := l.at.pool
	if p.identity == identityProxyV2 {
		h, err := proxyHeader(c, l.nc.RemoteAddr())
		if err != nil {
			return l.fail(KindIdentity, err)
		}
		l.introduced = c != nil
		if err := l.write(h, p.o.Timeouts.BackendConnect); err != nil {
			return l.fail(kindOf(err), err)
		}
	}
	r, err := l.reply(time.Until(until))
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return l.refuse(KindRefused, r, "greeting")
	}
	return nil
}

// introduce tells who the client is by what follows EHLO, or finds out for a probe that
// it could be told.
func (l *link) introduce(c *Client) error {
	p := l.at.pool
	switch {
	case p.identity == identityXForward && len(l.caps.XForward) == 0:
		return l.fail(KindIdentity, errors.New("XFORWARD is not offered (Postfix: smtpd_authorized_xforward_hosts)"))
	case p.identity != identityXClient:
		return nil // XFORWARD travels with the first MAIL
	case c == nil && l.caps.XClient == nil:
		return l.fail(KindIdentity, errors.New("XCLIENT is not offered (Postfix: smtpd_authorized_xclient_hosts)"))
	case c == nil:
		return nil
	}
	start := time.Now()
	if err := l.xclient(*c, p.o.Timeouts.BackendCommand); err != nil {
		return err
	}
	p.metrics.Took(metrics.PhaseIdentity, time.Since(start))
	return nil
}

// startTLS encrypts the connection and says EHLO again: all that was learned
// in the clear is forgotten (RFC 3207 §4.2).
func (l *link) startTLS(ctx context.Context, name string) error {
	p := l.at.pool
	must := p.tlsMode == tlsVerify
	if !l.caps.StartTLS {
		if must {
			return l.fail(KindTLS, errors.New("STARTTLS is not offered"))
		}
		return nil
	}
	start := time.Now()
	r, err := l.ask("STARTTLS", p.o.Timeouts.BackendCommand)
	if err != nil {
		return err
	}
	if r.Code != 220 {
		if must {
			return l.refuse(KindTLS, r, "STARTTLS")
		}
		return nil
	}
	// What stands behind the 220 already was written in the clear, by whoever
	// hopes that we read it as if it had come encrypted.
	if l.br.Buffered() > 0 {
		return l.fail(KindTLS, errors.New("plaintext behind the reply to STARTTLS"))
	}
	tc := tls.Client(l.raw, l.at.tls)
	hctx, cancel := context.WithTimeout(ctx, p.o.Timeouts.TLSHandshake)
	defer cancel()
	// The handshake has a deadline of its own; those of the commands before
	// it must not cut it short.
	if err := l.raw.SetDeadline(time.Time{}); err != nil {
		return l.fail(KindTLS, err)
	}
	if err := tc.HandshakeContext(hctx); err != nil {
		return l.fail(KindTLS, err)
	}
	l.nc = tc
	l.br.Reset(tc)
	l.caps = Capabilities{TLS: true, Verified: must}
	p.metrics.Took(metrics.PhaseTLS, time.Since(start))
	return l.ehlo(name, p.o.Timeouts.BackendCommand)
}

// probe asks an address whether it would take mail now.
func (a *address) probe(ctx context.Context) error {
	l, err := a.dial(ctx, nil)
	if err != nil {
		return err
	}
	l.quit()
	return nil
}

// reintroduce makes a connection that other sessions have used fit for c.
func (l *link) reintroduce(ctx context.Context, c *Client) (err error) {
	if !l.resetting && l.at.pool.identity != identityXClient {
		return nil // RSET, and XFORWARD, travel with the first MAIL
	}
	stop := context.AfterFunc(ctx, l.close)
	defer func() {
		if !stop() && err == nil {
			err = l.fail(KindTimeout, ctx.Err())
		}
	}()
	d := l.at.pool.o.Timeouts.BackendCommand
	if l.resetting {
		if err := l.readReset(d); err != nil {
			return err
		}
	}
	if l.at.pool.identity == identityXClient {
		return l.xclient(*c, d)
	}
	return nil
}

// readReset takes the reply to the RSET that was sent when the connection came
// back to the pool.
func (l *link) readReset(d time.Duration) error {
	l.resetting = false
	r, err := l.reply(d)
	if err != nil {
		return err
	}
	if !r.Positive() {
		return l.refuse(KindProtocol, r, "RSET")
	}
	return nil
}
