package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy"
	"postern/proxy/backend/mta"
	"postern/proxy/smtp"
)

// rig is the proxy without its ends: sessions come over connections in memory, and
// what passes goes to an MTA that takes everything and keeps nothing. All
// between is the code that serves. One session runs at a time.
type rig struct {
	parts     *parts
	server    *proxy.Server
	listeners []configs.Listener
	records   []*journal.Record // of the session that runs
	stop      []func()
}

// newRig builds the proxy as configured, less what has to do with the ends of the
// line, which it fills into w.
func newRig(ctx context.Context, cfg *configs.Config, w *world) (r *rig, err error) {
	r = &rig{listeners: configuredListeners(cfg)}
	for i := range r.listeners {
		ln := &r.listeners[i]
		ln.ProxyProtocol = nil // who runs a session says who the client is
		if ln.TLS == "implicit" {
			ln.TLS = "starttls"
		}
	}
	sink := innerBackend("test-session", "none")
	if len(cfg.Backends) > 0 {
		sink.Name = cfg.Backends[0].Name
	}
	cfg.Backends, cfg.Routes = []configs.Backend{sink}, nil
	cfg.Journal = configs.Journal{} // this mail did not happen
	inner := newInnerListener()
	w.dial, w.fallback, w.everything = inner.dial, sink, true
	r.parts, err = build(cfg, w, nil)
	if err != nil {
		return nil, err
	}
	r.stop = append(r.stop, func() { r.parts.close(nil) })

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	r.stop = append(r.stop, wg.Wait)
	drain := newDrain(int64(cfg.Limits.MessageSize) + 1<<20)
	wg.Go(func() { _ = drain.Serve(inner) }) // ends with Close
	wg.Go(func() { r.parts.backends.Run(ctx) })
	r.stop = append(r.stop, cancel, func() { _ = drain.Close() })
	if err := waitUp(ctx, r.parts, time.Minute); err != nil {
		r.close()
		return nil, err
	}
	r.server = proxy.New(proxy.Options{Log: w.log, Record: func(rec *journal.Record) { r.records = append(r.records, rec) }}, r.parts.settings)
	return r, nil
}

// close ends all that newRig began, the last first.
func (r *rig) close() {
	for i := len(r.stop) - 1; i >= 0; i-- {
		r.stop[i]()
	}
}

// caller is the client that is acted.
type caller struct {
	ip       netip.Addr
	listener string      // it connects to; empty: the first
	tls      *tls.Config // it says STARTTLS with this; nil: it does not
}

// session runs one session, and returns what came of its last transaction.
func (r *rig) session(ctx context.Context, from caller, m mail) (*tested, error) {
	listener := r.listeners[0]
	for _, ln := range r.listeners {
		if ln.Name == from.listener {
			listener = ln
		}
	}
	if from.listener != "" && listener.Name != from.listener {
		return nil, fmt.Errorf("there is no listener %q", from.listener)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	r.records = nil
	var session sync.WaitGroup
	session.Go(func() {
		r.server.Handle(&fromAddress{theirs, net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.ip, 25000))}, toProxy(listener))
	})
	stop := context.AfterFunc(ctx, func() { _ = ours.Close() })
	defer stop()
	c := newClient(ours)
	c.tls = from.tls
	reply, err := c.send(m)
	c.quit()
	session.Wait()

	if err == nil {
		err = fmt.Errorf("%d %s", reply.Code, strings.ReplaceAll(reply.Text, "\n", " / "))
	}
	err = fmt.Errorf("the session came to no verdict: %w", err)
	if len(r.records) == 0 {
		return nil, err
	}
	t := &tested{record: r.records[len(r.records)-1], chain: r.parts.rules.chain, said: c.said}
	if t.record.Undecided {
		t.noVerdict = err
	}
	return t, nil
}

// tested is what came of a session.
type tested struct {
	record *journal.Record
	chain  *policy.Chain
	said   []string
	// noVerdict says why there is none: what was said was refused for what it is.
	noVerdict error
}

// waitUp waits, for so long, until a backend is up and has told what it offers.
func waitUp(ctx context.Context, p *parts, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !p.backends.Up() {
		select {
		case <-ctx.Done():
			return errors.New("no backend comes up")
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// newDrain is an MTA that takes every message and keeps none.
func newDrain(maxSize int64) *mta.Server {
	return &mta.Server{
		Hostname: "test-session", Store: drain{}, MaxSize: maxSize,
		Keywords: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING"},
	}
}

type drain struct{}

func (drain) Begin(*mta.Envelope) (mta.Message, smtp.Reply) { return drain{}, smtp.Reply{} }
func (drain) Write(p []byte) (int, error)                   { return len(p), nil }
func (drain) Discard()                                      {}
func (drain) Commit() smtp.Reply {
	return smtp.Reply{Code: 250, Enhanced: "6.0", Text: "OK"}
}

// fromAddress is a connection from wherever one wants.
type fromAddress struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr returns the address of the client that is acted.
func (c *fromAddress) RemoteAddr() net.Addr { return c.remote }

// LocalAddr returns what the client connected to.
func (c *fromAddress) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }
