package dnscache

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"postern/proxy/share"
)

const (
	maxIdle  = 4                // connections kept for later
	maxConns = 32               // connections at a time, with shares for clients; who wants more waits
	idleTime = 10 * time.Second // servers close earlier than later (RFC 7766 §6.2.3)
)

// pool keeps the stream connections to one server. A connection carries one
// query at a time.
type pool struct {
	turnstile *share.Turnstile // whoever gets a connection has gone through it

	mu     sync.Mutex
	idle   []idleConn
	closed bool
	reaper *time.Timer
}

type idleConn struct {
	net.Conn
	since time.Time
}

// get returns an idle connection or opens one.
func (p *pool) get(ctx context.Context, r *Resolver, s *server) (conn net.Conn, reused bool, err error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c.Conn, true, nil
	}
	p.mu.Unlock()
	conn, err = r.dial(ctx, "tcp", s.address)
	if err == nil && s.tls != nil {
		tc := tls.Client(conn, s.tls)
		if err = tc.HandshakeContext(ctx); err != nil {
			conn.Close()
		}
		conn = tc
	}
	if err != nil {
		return nil, false, err
	}
	return conn, false, nil
}

// put gives a connection back that is in good order.
func (p *pool) put(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdle {
		conn.Close()
		return
	}
	p.idle = append(p.idle, idleConn{conn, time.Now()})
	if p.reaper == nil {
		p.reaper = time.AfterFunc(idleTime, p.reap)
	}
}

// reap closes what was idle for too long, and comes back while there is more.
func (p *pool) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := p.idle[:0]
	for _, c := range p.idle {
		if time.Since(c.since) >= idleTime {
			c.Close()
		} else {
			keep = append(keep, c)
		}
	}
	clear(p.idle[len(keep):])
	if p.idle = keep; len(keep) > 0 && !p.closed {
		p.reaper.Reset(idleTime)
	} else {
		p.reaper = nil
	}
}

// close closes what is idle, and whatever is given back later.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}
