package amtp

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
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
	pause := time.Duration(0)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if srv.draining.Load() {
				return ErrServerClosed
			}
			// Out of descriptors, or a connection that was gone before we came: the listener lives on.
			var ne net.Error
			if errors.As(err, &ne) && !errors.Is(err, net.ErrClosed) {
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				srv.Log.Error("accept failed", "listener", srv.Name, "error", err.Error(), "pause", pause.String())
				select {
				case <-time.After(pause):
				case <-srv.ctx.Done():
				}
				continue
			}
			return fmt.Errorf("amtp: accept on %s: %w", ln.Addr(), err)
		}
		pause = 0
		go srv.Handle(conn)
	}
}

// Handle runs one session on conn, from the greeting to the close.
func (srv *Server) Handle(conn net.Conn) {
	srv.begin()
	s := &Session{
		ID: newID(), Peer: wire.AddrPort(conn.RemoteAddr()), Local: local(conn),
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

// newID returns the id of a session, as the SMTP side has them: twelve characters that nobody spells twice.
func newID() string {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.ToLower(base32.NewEncoding(alphabet).WithPadding(base32.NoPadding).EncodeToString(b[:])[:12])
}
