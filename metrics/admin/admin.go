// Package admin is the HTTP side: metrics for a scraper, health for whoever
// starts and balances, and a page for a person. It changes
// nothing; it belongs on a loopback or management address. Profiles are not
// served: they show memory, and with it mail.
package admin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Options says what there is to show.
type Options struct {
	Metrics http.Handler    // serves /metrics
	Ready   func() []string // what stands in the way of serving, in words; nothing: ready
	// Page serves a person: /, and what is below /page/ and /api/. nil: there is none.
	Page  http.Handler
	Hosts func() []string // names by which we are asked besides localhost; nil: none
	Log   *slog.Logger    // nil: slog.Default
}

// maxConnections bounds those that are open at a time; more wait.
const maxConnections = 256

// Server serves the admin address.
type Server struct {
	opt  Options
	http *http.Server
}

// New returns a server that listens to nothing yet.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	s := &Server{opt: opt}
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // a scrape may take its time
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(opt.Log.Handler(), slog.LevelInfo), // what goes wrong here is the client's fault
	}
	return s
}

// Handler returns what is served: the page, /metrics, /healthz, /readyz. A request for a host that is
// not known is answered by 421.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.opt.Metrics)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.opt.Page != nil {
		mux.Handle("/{$}", s.opt.Page)
		mux.Handle("/page/", s.opt.Page)
		mux.Handle("/api/", s.opt.Page)
	}
	return s.guarded(mux)
}

// Serve answers on ln until Shutdown; that is no error.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(netutil.LimitListener(ln, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops listening and waits for running requests until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// healthz says that the process serves. Trouble of the backend or of the DNS is none of
// its business: starting us anew would cure neither.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	plain(w, http.StatusOK, "ok\n")
}

// readyz says whether mail should be sent here: 200, or 503 and the reasons.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := s.opt.Ready()
	if len(reasons) == 0 {
		plain(w, http.StatusOK, "ready\n")
		return
	}
	var b bytes.Buffer
	for _, r := range reasons {
		b.WriteString("not ready: " + r + "\n")
	}
	plain(w, http.StatusServiceUnavailable, b.String())
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may have gone
}
