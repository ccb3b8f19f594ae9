package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

// rig is a whole Postern in memory: a zone, a recording MTA behind, and clients
// on wires, which have whatever address they like.
type rig struct {
	t    testing.TB
	srv  *Server
	sink *smtptest.Sink
	set  *Settings
	stop context.CancelFunc

	serving sync.WaitGroup // connections of the sink
	mu      sync.Mutex
	records []*journal.Record
	clients []*client
	panics  panicCount
}

// rigOptions says what is not as usual.
type rigOptions struct {
	settings *Settings // instead of what zone, policy and config make
	zone     string
	policy   *configs.Policy // nil: the built-in one
	sink     smtptest.SinkOptions
	identity string
	config   func(*configs.Config)
	backend  func(*configs.Backend)
	dial     func(context.Context, string, string) (net.Conn, error)
	// allChecks has those that need the whole message run as well.
	allChecks bool
	overTCP   bool // the MTA is on a real socket
	noIdle    bool // no connection to the MTA is kept
	noProbe   bool // capabilities stay unknown until the first transaction
}

const rigZone = `
good.example.    TXT "v=spf1 ip4:192.0.2.1 -all"
bad.example.     TXT "v=spf1 -all"
soft.example.    TXT "v=spf1 ~all"
none.example.    A   192.0.2.9
; SERVFAIL tmp.example
1.2.0.192.in-addr.arpa. PTR mail.good.example.
mail.good.example.      A   192.0.2.1
`

// rigSettings is what the options make of a server, but for the backends.
func rigSettings(t testing.TB, o rigOptions) *Settings {
	t.Helper()
	if o.zone == "" {
		o.zone = rigZone
	}
	zone, err := dnstest.Parse(o.zone)
	if err != nil {
		t.Fatal(err)
	}
	cfg := configs.Default()
	cfg.Hostname = "mx.test"
	if o.config != nil {
		o.config(cfg)
	}
	p := policy.BuiltIn()
	if o.policy != nil {
		p = *o.policy
	}
	if p.Mode == "" {
		p.Mode = "enforce"
	}
	lists, err := policy.NewLists(cfg.Lists, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := policy.Compile(p, lists)
	if err != nil {
		t.Fatal(err)
	}
	return &Settings{
		Hostname: cfg.Hostname,
		TLS:      &tls.Config{Certificates: []tls.Certificate{rigCertificate()}},
		Checks: checks.NewSet(checks.Deps{Hostname: cfg.Hostname, Resolver: zone, Config: cfg.Checks}, func(n string) bool {
			return n != "dkim" && n != "dmarc" && n != "hold" && n != "network" || chain.Needs(n)
		}),
		Chain: chain, Observe: p.Mode == "observe",
		Headers: cfg.Headers, Limits: cfg.Limits, Timeouts: cfg.Timeouts,
	}
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	if o.settings == nil {
		o.settings = rigSettings(t, o)
	}
	set := *o.settings
	r := &rig{t: t, set: &set, sink: smtptest.NewSink(o.sink)}
	if o.identity == "" {
		o.identity = "none"
	}
	dial := r.dialSink
	if o.overTCP {
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", r.sink.Addr())
		}
	}
	if o.dial != nil {
		dial = o.dial
	}
	mta := configs.Backend{Name: "mta", Addresses: []string{"127.0.0.1:10025"}, TLS: "off", Identity: o.identity}
	if o.backend != nil {
		o.backend(&mta)
	}
	bo := backend.Options{Hostname: r.set.Hostname, Timeouts: r.set.Timeouts, Dial: dial}
	if o.noIdle {
		bo.IdlePerAddress = -1
	}
	backends, err := backend.New([]configs.Backend{mta}, nil, bo)
	if err != nil {
		t.Fatal(err)
	}
	r.set.Backends = backends
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.srv = New(Options{Log: slog.New(&r.panics), Record: func(rec *journal.Record) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.records = append(r.records, rec.Clone())
	}}, r.set)
	if !o.noProbe {
		// One look at the backend, so that EHLO announces what it offers.
		conn, err := backends.Route(smtp.Path{}).Open(ctx, backend.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		conn.Release()
	}
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = r.srv.Shutdown(ctx)
	r.mu.Lock()
	clients := r.clients
	r.mu.Unlock()
	for _, c := range clients {
		_ = c.conn.Close()
		<-c.done
	}
	r.stop()
	r.set.Backends.Close()
	r.sink.Close()
	r.serving.Wait()
	if what := r.panics.first(); what != "" {
		r.t.Error(what)
	}
}

// panicCount is a log that keeps what no test may see: a panic, which ends one
// session and would go unnoticed.
type panicCount struct {
	mu   sync.Mutex
	what string
}

func (p *panicCount) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (p *panicCount) WithAttrs([]slog.Attr) slog.Handler           { return p }
func (p *panicCount) WithGroup(string) slog.Handler                { return p }

func (p *panicCount) Handle(_ context.Context, r slog.Record) error {
	if !strings.Contains(r.Message, "panic") {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what = r.Message
	r.Attrs(func(a slog.Attr) bool { p.what += " " + a.String(); return true })
	return nil
}

func (p *panicCount) first() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.what
}

// dialSink connects to the recording MTA.
func (r *rig) dialSink(context.Context, string, string) (net.Conn, error) {
	w := newCable(netip.MustParseAddrPort("198.51.100.25:50000"), netip.MustParseAddrPort("127.0.0.1:10025"))
	r.serving.Go(func() { r.sink.Handle(w.server) })
	return w.client, nil
}

// quiet waits until each session has ended, or waits for its client: a record is
// written behind the reply that ends its transaction.
func (r *rig) quiet() {
	r.mu.Lock()
	clients := r.clients
	r.mu.Unlock()
	for _, c := range clients {
		c.heard.rest()
	}
}

// last returns the last record.
func (r *rig) last() *journal.Record {
	r.quiet()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) == 0 {
		return nil
	}
	return r.records[len(r.records)-1]
}

func (r *rig) count() int {
	r.quiet()
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.records)
}

// client is one SMTP client on a wire.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	done chan struct{} // the session has ended
	// heard is what the session reads.
	heard *half
}

// connect opens a session from ip and reads the greeting.
func (r *rig) connect(ip string) *client {
	r.t.Helper()
	c := r.dialFrom(ip, Listener{Name: "mx", TLS: "starttls"})
	c.expect("220 ")
	return c
}

// rigAddr is where clients connect to.
var rigAddr = netip.MustParseAddrPort("198.51.100.25:25")

func (r *rig) dialFrom(ip string, l Listener) *client {
	w := newCable(netip.AddrPortFrom(netip.MustParseAddr(ip), 40000), rigAddr)
	c := &client{t: r.t, conn: w.client, br: bufio.NewReader(w.client), done: make(chan struct{}), heard: w.server.in}
	go func() {
		defer close(c.done)
		r.srv.Handle(w.server, l)
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients = append(r.clients, c)
	return c
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("send %q: %v", s, err)
	}
}

// reply reads a reply; lines are joined by "\n".
func (c *client) reply() string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			c.t.Fatalf("reading a reply after %q: %v", lines, err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

func (c *client) expect(prefix string) string {
	c.t.Helper()
	got := c.reply()
	if !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("got %q, want %q", got, prefix)
	}
	return got
}

// cmd sends a command line and expects a reply.
func (c *client) cmd(line, prefix string) string {
	c.t.Helper()
	c.send(line + "\r\n")
	return c.expect(prefix)
}

func (c *client) ehlo() string { c.t.Helper(); return c.cmd("EHLO client.example", "250") }

// message runs a transaction up to the reply to the dot.
func (c *client) message(mail, text string) string {
	c.t.Helper()
	c.cmd(mail, "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.cmd("DATA", "354 ")
	c.send(text + ".\r\n")
	return c.reply()
}

// closed expects the server to have closed.
func (c *client) closed() {
	c.t.Helper()
	if b, err := c.br.ReadByte(); err == nil {
		rest, _ := c.br.Peek(c.br.Buffered())
		c.t.Fatalf("still open: %q", string(b)+string(rest))
	}
	<-c.done
}

var rigCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"}, DNSNames: []string{"mx.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// session returns the only session that there is.
func (r *rig) session() *session {
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for s := range r.srv.sessions {
		return s
	}
	r.t.Fatal("no session")
	return nil
}
