package trial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"postern/cmd/postern/service"
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
	parts     *service.Parts
	server    *proxy.Server
	listeners []configs.Listener
	records   []*journal.Record // of the session that runs
	stop      []func()
}

// newRig builds the proxy as configured, less what has to do with the ends of the
// line, which it fills into w.
func newRig(ctx context.Context, cfg *configs.Config, w *service.World) (r *rig, err error) {
	r = &rig{listeners: service.Listeners(cfg)}
	for i := range r.listeners {
		ln := &r.listeners[i]
		ln.ProxyProtocol = nil // a test says itself who the client is
		if ln.TLS == "implicit" {
			ln.TLS = "starttls"
		}
	}
	sink := service.InnerBackend("test-session", "none")
	if len(cfg.Backends) > 0 {
		sink.Name = cfg.Backends[0].Name
	}
	cfg.Backends, cfg.Routes = []configs.Backend{sink}, nil
	cfg.Journal = configs.Journal{} // this mail did not happen
	inner := service.NewInnerListener()
	w.Dial, w.Fallback, w.Everything = inner.Dial, sink, true
	r.parts, err = service.Build(cfg, w, nil)
	if err != nil {
		return nil, err
	}
	r.stop = append(r.stop, func() { r.parts.Close(nil) })

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	r.stop = append(r.stop, wg.Wait)
	drain := newDrain(int64(cfg.Limits.MessageSize) + 1<<20)
	wg.Go(func() { _ = drain.Serve(inner) }) // ends with Close
	wg.Go(func() { r.parts.Backends.Run(ctx) })
	r.stop = append(r.stop, cancel, func() { _ = drain.Close() })
	if err := r.parts.WaitUp(ctx, time.Minute); err != nil {
		r.close()
		return nil, err
	}
	r.server = proxy.New(proxy.Options{Log: w.Log, Record: func(rec *journal.Record) { r.records = append(r.records, rec.Clone()) }}, r.parts.Settings)
	return r, nil
}

// close ends all that newRig began, the last first.
// remember has the rig's store tell what is known of the next sender.
func (r *rig) remember(s *script, k *Known) {
	s.say(k.remembered())
	if m := r.parts.Memory; m != nil {
		m.Pretend(k.healthy())
	}
}

func (r *rig) close() {
	for i := len(r.stop) - 1; i >= 0; i-- {
		r.stop[i]()
	}
}

// caller is the client that is acted.
type caller struct {
	ip       netip.Addr
	listener string      // the listener that the client connects to; empty: the first
	tls      *tls.Config // what the client says STARTTLS with; nil: it does not
}

// session runs one session, and returns what came of its last transaction.
func (r *rig) session(ctx context.Context, from caller, m Mail) (*Tested, error) {
	listener := r.listeners[0]
	for _, ln := range r.listeners {
		if ln.Name == from.listener {
			listener = ln
		}
	}
	if from.listener != "" && listener.Name != from.listener {
		return nil, fmt.Errorf("there is no listener %q", from.listener)
	}
	ours, theirs, err := service.SocketPair()
	if err != nil {
		return nil, err
	}
	r.records = nil
	var session sync.WaitGroup
	session.Go(func() {
		r.server.Handle(service.FromAddress(theirs, netip.AddrPortFrom(from.ip, 25000)), service.ProxyListener(listener))
	})
	stop := context.AfterFunc(ctx, func() { _ = ours.Close() })
	defer stop()
	c := NewClient(ours)
	c.tls = from.tls
	reply, err := c.Send(m)
	c.Quit()
	session.Wait()

	t := &Tested{record: &journal.Record{Undecided: true}, chain: r.parts.Rules.Chain, said: c.said}
	if err == nil {
		t.heard = reply.String()
		err = errors.New(t.heard)
	}
	err = fmt.Errorf("the session came to no verdict: %w", err)
	switch {
	case len(r.records) > 0:
		t.record = r.records[len(r.records)-1]
	case t.heard == "":
		return nil, err
	}
	if t.record.Undecided {
		t.NoVerdict = err
	}
	return t, nil
}

// Tested is what came of a session. What the protocol refused before its first
// transaction has a record that tells nothing.
type Tested struct {
	record *journal.Record
	chain  *policy.Chain
	said   []string
	heard  string // the reply that ended it, in one line; empty: the connection broke
	// noVerdict says why there is none: what was said was refused for what it is.
	NoVerdict error
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

func (drain) Write(p []byte) (int, error) { return len(p), nil }

func (drain) Discard() {}

func (drain) Commit() smtp.Reply {
	return smtp.Reply{Code: 250, Enhanced: "6.0", Text: "OK"}
}
