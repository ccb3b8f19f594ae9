// Package proxy is the SMTP side that faces the Internet: the server, the
// session, the relay of messages to the backend, and the fields put on top of
// them. It asks checks to measure and policy to judge, and it never says 250
// to a message that the backend has not said 250 to.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"postern/checks"
	"postern/checks/memory"
	"postern/configs"
	"postern/metrics"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/fields"
	"postern/proxy/hold"
	"postern/proxy/relay"
	"postern/proxy/share"
	"postern/proxy/wire"
)

// Settings is what a configuration makes of the server. It is replaced as a
// whole, never changed; a session takes the newest at each new transaction.
type Settings struct {
	Hostname string
	TLS      *tls.Config // nil: STARTTLS is not offered
	Checks   *checks.Set
	Chain    *policy.Chain
	// Candidate is judged beside Chain when a transaction has ended, for the
	// record and the metrics alone, and nothing but a message that it wants to
	// see whole is held for it; nil: none.
	Candidate *policy.Chain
	Observe   bool // judge, log and count, but refuse nothing
	Backends  *backend.Set
	Memory    *memory.Memory // is told what came of each transaction, and of held mail; nil: nobody is, and none is held
	Headers   configs.Headers
	Limits    configs.Limits
	Timeouts  configs.Timeouts
	TraceDNS  bool // keep each DNS answer in the transaction's record
	// LenientXtext takes a SUBMITTER that is no xtext for the mailbox itself.
	LenientXtext bool
}

// Listener says what is particular to one address that the server stands on.
type Listener struct {
	Name          string
	TLS           string         // off | starttls | implicit
	ProxyProtocol []netip.Prefix // the peers that must send a PROXY header; none: no header is read
	Pregreet      time.Duration  // how long to wait, before the greeting, for clients that cannot
}

// Options is what stays the same for the life of a server.
type Options struct {
	Log     *slog.Logger     // nil: discard
	Metrics *metrics.Metrics // may be nil
	// Record is called once for each transaction, after it was logged; nil: nobody is told. The record
	// is the session's: who keeps it takes a copy.
	Record func(*journal.Record)
	Now    func() time.Time // nil: time.Now
}

// Server accepts SMTP sessions. Make it with New.
type Server struct {
	log      *slog.Logger
	metrics  *metrics.Metrics
	record   func(*journal.Record)
	now      func() time.Time
	settings atomic.Pointer[Settings]
	draining atomic.Bool
	leaving  atomic.Bool // nobody new is accepted, but sessions go on

	// ctx ends when sessions must end, whatever they are doing.
	ctx    context.Context
	cancel context.CancelFunc
	site   relay.Site // for what the sessions have to do with backends; immutable

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	guests    int // connections of other protocols
	within    int // of sessions: those of mail that came by another protocol
	giving    int // of sessions: those that give way to others and will end
	wg        sync.WaitGroup
	serving   sync.WaitGroup // calls of Serve

	clients share.Budget // sessions, by client
	held    hold.Space
	rates   share.Rates
	parking parking
	crew    *crew
}

// New returns a server with those settings.
func New(o Options, s *Settings) *Server {
	srv := &Server{
		log: o.Log, metrics: o.Metrics, record: o.Record, now: o.Now,
		listeners: make(map[net.Listener]struct{}),
		sessions:  make(map[*session]struct{}),
	}
	if srv.log == nil {
		srv.log = slog.New(slog.DiscardHandler)
	}
	if srv.now == nil {
		srv.now = time.Now
	}
	srv.held.Metrics = o.Metrics
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	srv.crew = newCrew(srv.ctx)
	srv.site = relay.Site{Context: srv.ctx, Log: srv.log, Metrics: srv.metrics}
	srv.Configure(s)
	return srv
}

// sizeLimit is the largest message that we and the backend take.
func (set *Settings) sizeLimit(caps backend.Capabilities) int64 {
	limit := int64(set.Limits.MessageSize)
	if caps.HasSize && caps.Size > 0 {
		limit = min(limit, max(caps.Size-set.addedSize(), 1))
	}
	return limit
}

// addedSize is how many octets the fields on top of a message may come to: the
// SIZE that is announced leaves them room below the backend's, and the one that
// the backend is told of a message counts them. It is a bound, or the backend
// would refuse for good what we have announced to take.
func (set *Settings) addedSize() int64 {
	tags := set.Chain.TagsSize()
	return int64(fields.TraceSize + tags + recipientTags(tags) + set.Checks.AddedSize())
}

// Configure replaces the settings. Running transactions end under those they
// began with.
func (srv *Server) Configure(s *Settings) {
	srv.announce(s)
	srv.settings.Store(s)
}

// announce makes the series of what the settings can decide, before it is decided.
func (srv *Server) announce(s *Settings) {
	if srv.metrics == nil || s == nil {
		return
	}
	srv.metrics.Rule(string(journal.DispositionPass), "")
	srv.metrics.Rule(string(journal.NotAsked), "")
	for _, step := range s.Chain.Plan() {
		srv.metrics.Rule(step.Do, step.Rule)
	}
	if s.Candidate != nil {
		var concluded []string
		for _, d := range journal.Dispositions {
			if d != journal.NotAsked {
				concluded = append(concluded, string(d))
			}
		}
		srv.metrics.Candidate(concluded)
	}
}

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("proxy: server closed")

// Serve accepts connections on ln until Shutdown, or until ln fails for good.
func (srv *Server) Serve(ln net.Listener, l Listener) error {
	srv.mu.Lock()
	if srv.draining.Load() || srv.leaving.Load() {
		srv.mu.Unlock()
		_ = ln.Close()
		return ErrServerClosed
	}
	srv.listeners[ln] = struct{}{}
	srv.serving.Add(1)
	defer srv.serving.Done()
	srv.mu.Unlock()
	srv.metrics.Listener(l.Name, endings)
	defer func() {
		srv.mu.Lock()
		delete(srv.listeners, ln)
		srv.mu.Unlock()
	}()

	done := srv.wg.Done
	ended := func() bool { return srv.draining.Load() || srv.leaving.Load() }
	if err := wire.Accept(srv.ctx, ln, l.Name, srv.log, ended, func(conn net.Conn) {
		srv.wg.Add(1)
		srv.crew.run(func() { srv.begin(conn, &l, done) })
	}); err != nil {
		return fmt.Errorf("proxy: accept on %s: %w", ln.Addr(), err)
	}
	return ErrServerClosed
}

// Handle runs one session on conn, from the greeting to the close.
func (srv *Server) Handle(conn net.Conn, l Listener) { srv.begin(conn, &l, nil) }

// begin begins a session. It has come to its end when begin returns, or, with
// done, when that is called: it may have been parked meanwhile.
func (srv *Server) begin(conn net.Conn, l *Listener, done func()) {
	s := newSession(srv, conn, l)
	s.idle.done = done
	if !srv.enter(s) {
		// It gets no session, but has its log line all the same.
		s.result = endedShutdown
		s.wire.TurnAway(s.refuse(421, "3.2", "Service shutting down"))
		s.end()
		if done != nil {
			done()
		}
		return
	}
	srv.metrics.SessionStarted()
	s.run(false)
}

// enter registers the session; false if the server is shutting down.
func (srv *Server) enter(s *session) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.draining.Load() {
		return false
	}
	srv.sessions[s] = struct{}{}
	return true
}

func (srv *Server) leave(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.sessions, s)
	if s.origin != nil {
		srv.within--
	}
	if s.idle.givesWay.Load() {
		srv.giving--
	}
	if s.peer.counted {
		srv.clients.Give(s.peer.who, 1)
	}
}

// logPanic notes a panic; to be called where it was recovered.
func (srv *Server) logPanic(session string, p any) {
	defer func() { _ = recover() }() // it may be the log that panics, and then there is nobody to tell
	srv.log.Error("panic in session", "session", session, "panic", p, "stack", string(debug.Stack()))
}

// Draining says whether Shutdown was called.
func (srv *Server) Draining() bool { return srv.draining.Load() }

// Leave stops accepting and waits until every session has come to its end by
// itself, or until ctx ends, whose error it then returns: for a server whose
// place another has taken. Nobody is told to go; for those who stay, call Shutdown.
func (srv *Server) Leave(ctx context.Context) error {
	srv.leaving.Store(true)
	srv.mu.Lock()
	for ln := range srv.listeners {
		_ = ln.Close()
	}
	srv.mu.Unlock()

	select {
	case <-srv.ended():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ended is closed when the last session has ended. Nobody new may be accepted
// any more.
func (srv *Server) ended() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		// Serve may have accepted a connection a moment ago that wg does not count yet.
		// Once Serve has returned, nothing is added to wg any more.
		srv.serving.Wait()
		srv.wg.Wait()
		close(done)
	}()
	return done
}

// lastWords is how long sessions that must end now have for saying so.
const lastWords = time.Second

// Shutdown stops accepting, tells idle clients 421 4.3.2, and lets messages on
// their way be finished until ctx ends. Then it ends what is left, with a 421
// for those who listen, and returns ctx's error.
func (srv *Server) Shutdown(ctx context.Context) error {
	srv.draining.Store(true)
	srv.mu.Lock()
	for ln := range srv.listeners {
		_ = ln.Close()
	}
	for s := range srv.sessions {
		s.wake()
	}
	srv.mu.Unlock()

	done := srv.ended()
	select {
	case <-done:
		srv.cancel()
		return nil
	case <-ctx.Done():
	}
	srv.cancel()
	srv.mu.Lock()
	for s := range srv.sessions {
		s.abort()
	}
	srv.mu.Unlock()
	select {
	case <-done:
		return context.Cause(ctx)
	case <-time.After(lastWords):
	}
	srv.mu.Lock()
	for s := range srv.sessions {
		s.wire.Cut()
	}
	srv.mu.Unlock()
	<-done
	return context.Cause(ctx)
}
