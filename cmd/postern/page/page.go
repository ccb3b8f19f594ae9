// Package page is what a person sees of a Postern that runs: one page on the admin address, and what it
// asks for. It changes nothing. What comes from senders is data: it is printable when it leaves here, and
// the page puts it into texts and nowhere else.
//
// Mail comes first. A record is counted in a moment and looked at when somebody looks; searches are few
// at a time, have a time to end, and rest as long as they work; listeners are few, and one that
// does not listen is let go.
package page

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
)

// The bounds.
const (
	maxAsking    = 32               // requests at a time, listeners apart
	maxListeners = 16               // that hear what goes on
	maxSearches  = 2                // of the journal at a time
	searchTime   = 20 * time.Second // that one may take
	maxTests     = 1                // sessions of the form at a time
	testTime     = 60 * time.Second // that one may take
	longest      = testTime + answerTime
	maxBody      = 1 << 20          // octets of the form, with the message in it
	maxWord      = 1000             // octets of what is searched for, each
	answerTime   = 10 * time.Second // that a client may take to read an answer, beyond the time it takes to make
)

// Options says what there is to show.
type Options struct {
	Service *service.Service
	// Test runs the session of the form, by a configuration that it must not change.
	Test func(ctx context.Context, cfg *configs.Config, s Session) (*Tested, error)
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger
}

// Session is what the form asks for.
type Session struct {
	IP        string   `json:"ip"`
	Helo      string   `json:"helo"`
	From      string   `json:"from"` // <> is the null reverse-path
	Rcpt      []string `json:"rcpt"`
	Submitter string   `json:"submitter"`
	Message   string   `json:"message"` // empty: one is made up
	Known     string   `json:"known"`   // what is remembered of the sender, as test-session has it behind --known
}

// Tested is what came of it.
type Tested struct {
	Transaction view.Transaction
	Said        []string // the dialogue
	NoVerdict   string   // why there is none; empty: there is one
}

// BadSession is an error of Options.Test about what the form says.
type BadSession struct{ Text string }

func (e BadSession) Error() string { return e.Text }

// Page is the page with what it knows.
type Page struct {
	opt   Options
	watch *watch
	mux   *http.ServeMux
	cross *http.CrossOriginProtection

	asking, listeners, searches, tests room

	closing context.CancelFunc
	closed  context.Context
	wg      sync.WaitGroup

	overviewMu sync.Mutex // of the overview, which is made once for all who ask at a time
	overview   []byte
	overviewAt time.Time

	wrongMu   sync.Mutex
	wrongSaid time.Time // when a wrong token was logged last
}

// room bounds how many do something at a time.
type room chan struct{}

// enter takes a place; leave is nil where there is none.
func (r room) enter() (leave func()) {
	select {
	case r <- struct{}{}:
		return func() { <-r }
	default:
		return nil
	}
}

// New makes a page and begins to watch. It is to be closed.
func New(o Options) *Page {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Page{
		opt: o, watch: newWatch(o.Now()), cross: http.NewCrossOriginProtection(),
		asking: make(room, maxAsking), listeners: make(room, maxListeners), searches: make(room, maxSearches), tests: make(room, maxTests),
	}
	p.closed, p.closing = context.WithCancel(context.Background())
	p.routes()
	p.wg.Go(p.sampling)
	return p
}

// Record implements service.Page.
func (p *Page) Record(r *journal.Record) { p.watch.record(r, p.opt.Now()) }

// Close implements service.Page.
func (p *Page) Close() {
	p.closing()
	p.wg.Wait()
}

// sampling looks at what is no transaction: sessions, DNS, how long answers take.
func (p *Page) sampling() {
	tick := time.NewTicker(fineStep)
	defer tick.Stop()
	for {
		select {
		case <-p.closed.Done():
			return
		case <-tick.C:
			p.watch.sample(p.opt.Service.Glance(), p.opt.Now())
		}
	}
}

func (p *Page) routes() {
	p.mux = http.NewServeMux()
	p.mux.HandleFunc("GET /{$}", serveFile)
	p.mux.HandleFunc("GET /page/{file}", serveFile)
	quick := func(pattern string, do func(r *http.Request) (any, error)) {
		p.mux.Handle(pattern, p.answering(do))
	}
	quick("GET /api/history", p.history)
	quick("GET /api/find", p.find)
	quick("GET /api/explain", p.explain)
	quick("GET /api/held", p.held)
	quick("GET /api/config", p.config)
	quick("POST /api/test-session", p.test)
	p.mux.HandleFunc("GET /api/overview", p.serveOverview)
	p.mux.HandleFunc("GET /api/events", p.events)
}

// ServeHTTP implements http.Handler. Hosts are known already: admin sees to that.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// No script and no style but our own files, nothing from elsewhere, in no frame; and no text becomes a
	// document, whatever the script does.
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")

	if !p.admitted(w, r) {
		return
	}
	// The page of a stranger in a postmaster's browser cannot read an answer, but it could have us work.
	if site := r.Header.Get("Sec-Fetch-Site"); strings.HasPrefix(r.URL.Path, "/api/") && site != "" && site != "same-origin" && site != "none" {
		fail(w, http.StatusForbidden, "this is asked by the page of another site")
		return
	}
	if err := p.cross.Check(r); err != nil {
		fail(w, http.StatusForbidden, "this is sent by the page of another site")
		return
	}
	p.mux.ServeHTTP(w, r)
}

// admitted says whether the page is for who asks, and answers where it is not.
func (p *Page) admitted(w http.ResponseWriter, r *http.Request) bool {
	a := p.opt.Service.Access()
	switch {
	case a.Token == nil && a.Open:
		return true
	case a.Token == nil:
		fail(w, http.StatusForbidden, "The page is not shown here: the admin address can be reached from other machines, and admin.token_file names no token. "+
			"/metrics, /healthz and /readyz are served.")
		return false
	}
	shown, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		_, shown, ok = r.BasicAuth()
	}
	// Hashes are of one length, so that the time says nothing of the token's either.
	got, want := sha256.Sum256([]byte(shown)), sha256.Sum256(a.Token)
	if ok && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return true
	}
	if ok {
		p.wrongToken(r)
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="Postern: any name, and the token as the password", charset="UTF-8"`)
	fail(w, http.StatusUnauthorized, "A token is needed, that of admin.token_file: as the password, with any name, or as Authorization: Bearer.")
	return false
}

// wrongToken logs, once a minute, that somebody tries.
func (p *Page) wrongToken(r *http.Request) {
	p.wrongMu.Lock()
	now := p.opt.Now()
	quiet := !p.wrongSaid.IsZero() && now.Sub(p.wrongSaid) < time.Minute
	if !quiet {
		p.wrongSaid = now
	}
	p.wrongMu.Unlock()
	if !quiet {
		p.opt.Log.Warn("a wrong token was shown to the page", "client", r.RemoteAddr)
	}
}

// problem is an error that the client is told, with a status.
type problem struct {
	status int
	text   string
}

func (e *problem) Error() string { return e.text }

var errBusy = &problem{http.StatusServiceUnavailable, "Others ask at this moment. Try again in a moment."}

// answering answers by what do returns, in JSON.
func (p *Page) answering(do func(r *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leave := p.asking.enter()
		if leave == nil {
			refuse(w, errBusy)
			return
		}
		defer leave()
		// To look may take longer than a request may take to come.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(longest)) // one that has none has its own bounds
		v, err := do(r)
		if err != nil {
			refuse(w, err)
			return
		}
		text, err := encode(v)
		if err != nil {
			refuse(w, err)
			return
		}
		send(w, text)
	})
}

// send answers with JSON.
func send(w http.ResponseWriter, text []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // one that has none has its own bounds
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(text) // the client may have gone
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	var known *problem
	if !errors.As(err, &known) {
		known = &problem{http.StatusInternalServerError, err.Error()}
	}
	if known.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	fail(w, known.status, known.text)
}

// fail answers with an error in JSON, which a person can read too.
func fail(w http.ResponseWriter, status int, text string) {
	b, err := json.Marshal(map[string]string{"error": configs.Printable(text)})
	if err != nil {
		b = []byte(`{"error": "the error cannot be told"}`)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // one that has none has its own bounds
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "%s\n", b) // the client may have gone
}
