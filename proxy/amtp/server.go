package amtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/proxy/wire"
)

// Handler is told of each connection.
type Handler interface {
	// Begin returns what serves a connection; nil: the server is about to end.
	Begin(s *Session) Guest
}

// Settings is what a configuration makes of a server. A connection keeps those that it began with.
type Settings struct {
	Hostname string
	TLS      *tls.Config // nil: STARTTLS is not offered
	Limits   configs.Limits
	Timeouts configs.Timeouts
}

// Server accepts connections of AMTP. Its fields are set before Serve and not changed.
type Server struct {
	Name     string // of the listener
	Handler  Handler
	Settings func() *Settings // the newest
	// Admit says whether a client may connect: release is called at the end of its connection. why is the word of
	// connections_total for a refusal; empty: it may.
	Admit   func(client netip.Addr) (release func(), why string)
	Log     *slog.Logger
	Metrics *metrics.Metrics // may be nil

	mu       sync.Mutex
	ln       map[net.Listener]struct{}
	sessions map[*Session]struct{}
	wg       sync.WaitGroup
	draining atomic.Bool

	once   sync.Once
	ctx    context.Context //nolint:containedctx // that of the server, which ends with it
	cancel context.CancelFunc
}

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("amtp: server closed")

func (srv *Server) begin() {
	srv.once.Do(func() { srv.ctx, srv.cancel = context.WithCancel(context.Background()) })
}

// Serve accepts connections on ln until Shutdown, or until ln fails for good.
func (srv *Server) Serve(ln net.Listener) error {
	srv.begin()
	srv.mu.Lock()
	if srv.draining.Load() {
		srv.mu.Unlock()
		_ = ln.Close()
		return ErrServerClosed
	}
	if srv.ln == nil {
		srv.ln = map[net.Listener]struct{}{}
	}
	srv.ln[ln] = struct{}{}
	srv.mu.Unlock()
	if err := wire.Accept(srv.ctx, ln, srv.Name, srv.Log, srv.draining.Load, func(conn net.Conn) { go srv.Handle(conn) }); err != nil {
		return fmt.Errorf("amtp: accept on %s: %w", ln.Addr(), err)
	}
	return ErrServerClosed
}

// Handle runs one session on conn, from the greeting to the close.
func (srv *Server) Handle(conn net.Conn) {
	srv.begin()
	s := &Session{
		ID: wire.NewID(), Peer: wire.AddrPort(conn.RemoteAddr()), Local: local(conn),
		srv: srv, set: srv.Settings(), began: time.Now(), state: Identified, result: "lost",
	}
	s.wire.Open(conn, wire.Options{Context: srv.ctx, Session: s.ID, Log: srv.Log, Metrics: srv.Metrics})
	s.wire.FlushWithin = s.set.Timeouts.Command
	if !srv.enter(s) {
		s.result = "shutdown"
		s.wire.TurnAway(replyShutdown)
		s.wire.Close()
		s.logConnection()
		return
	}
	defer srv.leave(s)
	release, why := srv.Admit(s.Peer.Addr())
	if why != "" {
		s.result = why
		s.wire.TurnAway(replyConnections)
		s.wire.Close()
		s.logConnection()
		return
	}
	defer release()
	s.wire.Begin()
	s.run(srv.ctx)
}

// enter registers the session; false: the server is shutting down.
func (srv *Server) enter(s *Session) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.draining.Load() {
		return false
	}
	if srv.sessions == nil {
		srv.sessions = map[*Session]struct{}{}
	}
	srv.sessions[s] = struct{}{}
	srv.wg.Add(1)
	return true
}

func (srv *Server) leave(s *Session) {
	srv.mu.Lock()
	delete(srv.sessions, s)
	srv.mu.Unlock()
	srv.wg.Done()
}

// Shutdown stops accepting, tells who is idle 421, and lets messages on their way be finished until ctx ends; then it
// ends what is left, and returns ctx's error.
func (srv *Server) Shutdown(ctx context.Context) error {
	srv.begin()
	defer srv.cancel()
	srv.mu.Lock()
	srv.draining.Store(true)
	for ln := range srv.ln {
		_ = ln.Close()
	}
	for s := range srv.sessions {
		s.wake()
	}
	srv.mu.Unlock()
	done := make(chan struct{})
	go func() {
		srv.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	srv.cancel()
	srv.mu.Lock()
	for s := range srv.sessions {
		s.wire.Cut()
	}
	srv.mu.Unlock()
	<-done
	return context.Cause(ctx)
}
