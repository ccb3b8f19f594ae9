package receiver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/leaktest"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy"
	"postern/proxy/amtp"
	"postern/proxy/amtp/receiver"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// peer is where the holder of the sender's mail is.
const peer = "192.0.2.54"

// zone says where it is, and who else.
const zone = `
sender.example.   A 192.0.2.54
sender.example.   TXT "v=spf1 ip4:192.0.2.54 -all"
both.example.     A 192.0.2.54
both.example.     A 127.0.0.1
other.example.    A 192.0.2.99
local.example.    A 127.0.0.1
link.example.     A 169.254.1.1
metadata.example. A 169.254.169.254
private.example.  A 10.1.2.3
own.example.      A 9.9.9.9
public.example.   A 9.9.9.8
six.example.      AAAA 2a00::1
mapped.example.   AAAA ::ffff:127.0.0.1
linklocal6.example. AAAA fe80::1
; SERVFAIL trouble.example
`

// rig is a proxy with its half of AMTP, a recording MTA behind it, and a holder of mail that it calls.
type rig struct {
	t      testing.TB
	sink   *smtptest.Sink
	smtp   *proxy.Server
	server *amtp.Server
	recv   *receiver.Receiver
	set    *receiver.Settings
	limits *configs.Limits
	holder *holder
	log    locked

	mu      sync.Mutex
	records []*journal.Record
	dialled []string
	inner   net.Conn // the last session within
	up      bool
	done    sync.WaitGroup
	close   func()
}

// locked is a log that several may write to.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB, script func(smtptest.Step) smtptest.Action) *rig {
	t.Helper()
	r := &rig{t: t, sink: smtptest.NewSink(smtptest.SinkOptions{Script: script}), up: true}
	r.holder = newHolder()
	z, err := dnstest.Parse(zone)
	if err != nil {
		t.Fatal(err)
	}
	cfg := configs.Default()
	r.limits = &cfg.Limits
	lists, err := policy.NewLists(nil, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := policy.Compile(policy.BuiltIn(), lists)
	if err != nil {
		t.Fatal(err)
	}
	backends, err := backend.New([]configs.Backend{{Name: "mta", Addresses: []string{"127.0.0.1:10025"}, TLS: "off", Identity: "none"}}, nil, backend.Options{
		Hostname: "mx.test", Timeouts: cfg.Timeouts, IdlePerAddress: -1,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			r.done.Go(func() { r.sink.Handle(server) })
			return client, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	set := &proxy.Settings{
		Hostname: "mx.test", Chain: chain, Backends: backends, Headers: cfg.Headers, Limits: cfg.Limits, Timeouts: cfg.Timeouts,
		Checks: checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: z}, func(n string) bool { return chain.Needs(n) || n == "spf" }),
	}
	log := slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.smtp = proxy.New(proxy.Options{Log: log, Record: func(rec *journal.Record) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.records = append(r.records, rec.Clone())
	}}, set)
	r.set = &receiver.Settings{
		Hostname: "mx.test", Domains: []string{"rcpt.example"}, Lifetime: 5 * 24 * time.Hour, Timeout: 30 * time.Second, Port: 26, Size: 1 << 20,
		Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Resolver: z,
		Block: 3 * time.Minute, HeaderSize: 256 << 10, HeaderFields: 1000, Takes: func(a netip.Addr) bool { return a.Is4() },
		Ready: func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.up },
	}
	r.recv = receiver.New(receiver.Options{
		Settings: func() *receiver.Settings { return r.set }, Inside: r.inside, Misbehaved: r.smtp.Misbehaved, Log: log,
		Own: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("9.9.9.9")}, nil },
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			r.mu.Lock()
			r.dialled = append(r.dialled, address)
			r.mu.Unlock()
			if address != peer+":26" {
				return nil, errors.New("nobody is there")
			}
			return r.holder.accept(&r.done)
		},
	})
	r.server = &amtp.Server{
		Name: "amtp", Handler: r.recv, Admit: r.smtp.Admit, Log: log,
		Settings: func() *amtp.Settings {
			return &amtp.Settings{Hostname: "mx.test", Limits: *r.limits, Timeouts: cfg.Timeouts}
		},
	}
	r.close = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = r.server.Shutdown(ctx)
		_ = r.recv.Shutdown(ctx)
		_ = r.smtp.Shutdown(ctx)
		backends.Close()
		r.sink.Close()
		_ = r.holder.server.Shutdown(ctx)
		r.done.Wait()
	})
	t.Cleanup(r.close)
	return r
}

// placed is a pipe between two addresses.
type placed struct {
	net.Conn
	remote, local netip.AddrPort
}

func (p *placed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.remote) }
func (p *placed) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(p.local) }

// client is somebody who speaks AMTP to the proxy.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
}

// call connects from an address, and hears the greeting.
func (r *rig) call(from string) *client {
	r.t.Helper()
	conn, server := net.Pipe()
	r.done.Go(func() {
		r.server.Handle(&placed{server, netip.AddrPortFrom(netip.MustParseAddr(from), 4000), netip.MustParseAddrPort("198.51.100.1:26")})
	})
	r.t.Cleanup(func() { _ = conn.Close() })
	c := &client{r.t, conn, bufio.NewReader(conn)}
	c.want("220")
	return c
}

func (c *client) want(code string) smtp.Reply {
	c.t.Helper()
	r, err := smtp.ReadReply(c.br)
	if err != nil || !strings.HasPrefix(r.String(), code) {
		c.t.Fatalf("heard %q, %v; want %s", r, err, code)
	}
	return r
}

// say says lines and wants such a reply to them.
func (c *client) say(text, code string) smtp.Reply {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, strings.ReplaceAll(text, "\n", "\r\n")+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	return c.want(code)
}

// bye ends the connection.
func (c *client) bye() {
	c.say("QUIT", "221")
	_ = c.conn.Close()
}

// announce says SELO from an address.
func (r *rig) announce(from, domain, number, rcpt, code string) smtp.Reply {
	r.t.Helper()
	c := r.call(from)
	reply := c.say("SELO "+domain+" "+number+" "+rcpt, code)
	c.bye()
	return reply
}

// calls are the addresses that were dialled.
func (r *rig) calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.dialled...)
}

// holder keeps mail for others, at peer.
type holder struct {
	server *amtp.Server
	wrap   func(net.Conn) net.Conn // around the connection of who calls; nil: nothing
	said   chan smtp.Reply         // the last words that it hears, the zero one where there was none

	mu    sync.Mutex
	mail  map[string]func() io.Reader // by claim
	words map[string][]smtp.Reply     // the last words, by claim
	open  int                         // connections now
	most  int                         // at one time
}

func newHolder() *holder {
	d := configs.Default()
	h := &holder{mail: map[string]func() io.Reader{}, words: map[string][]smtp.Reply{}, said: make(chan smtp.Reply, 10_000)}
	h.server = &amtp.Server{
		Name: "hold", Handler: h, Log: slog.New(slog.DiscardHandler), Admit: func(netip.Addr) (func(), string) { return func() {}, "" },
		Settings: func() *amtp.Settings {
			return &amtp.Settings{Hostname: "sender.example", Limits: d.Limits, Timeouts: d.Timeouts}
		},
	}
	return h
}

func (h *holder) accept(done *sync.WaitGroup) (net.Conn, error) {
	client, server := net.Pipe()
	h.mu.Lock()
	h.open++
	h.most = max(h.most, h.open)
	h.mu.Unlock()
	done.Go(func() {
		h.server.Handle(&placed{server, netip.MustParseAddrPort("198.51.100.1:5000"), netip.MustParseAddrPort(peer + ":26")})
	})
	var conn net.Conn = &told{Conn: client, closed: sync.OnceFunc(func() {
		h.mu.Lock()
		h.open--
		h.mu.Unlock()
	})}
	if h.wrap != nil {
		conn = h.wrap(conn)
	}
	return conn, nil
}

// told tells that it is closed.
type told struct {
	net.Conn
	closed func()
}

func (c *told) Close() error {
	c.closed()
	return c.Conn.Close()
}

// keep keeps a message for somebody under a number.
func (h *holder) keep(rcpt, number, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mail[rcpt+":"+number] = func() io.Reader { return strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")) }
}

// Begin implements amtp.Handler.
func (h *holder) Begin(*amtp.Session) amtp.Guest { return &caller{h} }

type caller struct{ *holder }

func (*caller) Login(context.Context, string, string) (smtp.Path, error) {
	return smtp.Path{}, amtp.ErrCredentials
}
func (*caller) Recipient(context.Context, smtp.Path) smtp.Reply      { return amtp.NotLocal }
func (*caller) Message(context.Context, *amtp.Submission) smtp.Reply { return amtp.NotLocal }
func (*caller) Reset()                                               {}
func (*caller) Selo(context.Context, amtp.Announcement) smtp.Reply   { return amtp.NoSelo }
func (*caller) End()                                                 {}
func (c *caller) Sema(_ context.Context, a amtp.Claim) (amtp.Parcel, smtp.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	claim := a.Recipient.String() + ":" + a.Number
	text := c.mail[claim]
	if text == nil {
		return nil, amtp.NoMail
	}
	return &parcel{Reader: text(), h: c.holder, claim: claim}, smtp.Reply{}
}

type parcel struct {
	io.Reader
	h     *holder
	claim string
}

func (p *parcel) Answered(r smtp.Reply) error {
	p.h.mu.Lock()
	p.h.words[p.claim] = append(p.h.words[p.claim], r)
	if r.Positive() || r.Permanent() {
		delete(p.h.mail, p.claim)
	}
	p.h.mu.Unlock()
	p.h.said <- r
	return nil
}

func (p *parcel) Close() error { return nil }

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func newReader(conn net.Conn) *bufio.Reader { return bufio.NewReader(conn) }

func (r *rig) inside(o amtp.Origin) (net.Conn, error) {
	conn, err := r.smtp.Inside(o)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inner = conn
	return conn, err
}
