package amtp_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/checks/leaktest"
	"postern/configs"
	"postern/proxy/amtp"
	"postern/proxy/smtp"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// house is a server with one user, a few recipients, and what others have left for it. It is both halves: a user's
// mail to its own domain is kept, other recipients are forwarded to, SELO is noted, and SEMA is answered.
type house struct {
	server *amtp.Server
	limits configs.Limits
	tls    *tls.Config
	log    bytes.Buffer // to be read when the sessions have ended

	sessions sync.WaitGroup

	mu        sync.Mutex
	got       []string // messages, in RFC 5322
	announced []amtp.Announcement
	parcels   map[string]string // by claim: messages
	answers   []string          // the last words on parcels
	trouble   error             // of Login
	answered  error             // of Answered
	reply     smtp.Reply        // to a message; zero: 250
	ended     int
	broken    error // of the parcels
}

func newHouse() *house {
	d := configs.Default()
	h := &house{limits: d.Limits, parcels: map[string]string{}}
	settings := func() *amtp.Settings {
		return &amtp.Settings{Hostname: "master.com", TLS: h.tls, Limits: h.limits, Timeouts: d.Timeouts}
	}
	h.server = &amtp.Server{
		Name: "amtp", Handler: h, Settings: settings, Log: slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Admit: func(netip.Addr) (func(), string) { return func() {}, "" },
	}
	return h
}

// Begin implements amtp.Handler.
func (h *house) Begin(s *amtp.Session) amtp.Guest { return &visitor{h, s} }

type visitor struct {
	*house
	s *amtp.Session
}

// Login implements amtp.Guest.
func (v *visitor) Login(_ context.Context, name, password string) (smtp.Path, error) {
	switch {
	case v.trouble != nil:
		return smtp.Path{}, v.trouble
	case name != "bct" || password != "123":
		return smtp.Path{}, amtp.ErrCredentials
	}
	return smtp.Path{Local: "bcrouzet", Domain: "master.com"}, nil
}

// Recipient implements amtp.Guest.
func (v *visitor) Recipient(_ context.Context, to smtp.Path) smtp.Reply {
	switch {
	case to.Local == "nobody":
		return smtp.Reply{Code: 550, Text: "No such user"}
	case to.Local == "full":
		return smtp.Reply{Code: 452, Text: "Mailbox full"}
	case to.Local == "away":
		return smtp.Reply{Code: 450, Text: "Mailbox busy"}
	case to.Local == "bad":
		return smtp.Reply{Code: 553, Text: "Mailbox name not allowed"}
	case to.Domain == "elsewhere.example":
		return amtp.NotLocal
	case to.Domain == "maybe.example":
		return smtp.Reply{Code: 252, Text: "Will be tried"}
	case to.Domain != "master.com":
		return smtp.Reply{Code: 251, Text: "User not local; will forward"}
	}
	return smtp.Reply{Code: 250}
}

// Message implements amtp.Guest.
func (v *visitor) Message(_ context.Context, m *amtp.Submission) smtp.Reply {
	body, err := io.ReadAll(m.Body)
	if err != nil {
		return smtp.Reply{Code: 250, Text: "said of no message"}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.got = append(v.got, string(m.Head)+string(body))
	if !v.reply.IsZero() {
		return v.reply
	}
	var to []string
	for _, p := range m.To {
		to = append(to, `"`+p.String()+`"`)
	}
	return smtp.Reply{Code: 250, Text: "Mail delivery successful for " + strings.Join(to, ", ")}
}

// Reset implements amtp.Guest.
func (v *visitor) Reset() {}

// Selo implements amtp.Guest.
func (v *visitor) Selo(_ context.Context, a amtp.Announcement) smtp.Reply {
	if a.Recipient.Domain != "master.com" {
		return amtp.NoSelo
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.announced = append(v.announced, a)
	return amtp.SeloAccepted
}

// Sema implements amtp.Guest.
func (v *visitor) Sema(_ context.Context, c amtp.Claim) (amtp.Parcel, smtp.Reply) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text, ok := v.parcels[c.String()]
	if !ok {
		return nil, amtp.NoMail
	}
	return &parcel{v.house, strings.NewReader(text)}, smtp.Reply{}
}

// End implements amtp.Guest.
func (v *visitor) End() {
	v.mu.Lock()
	v.ended++
	v.mu.Unlock()
}

type parcel struct {
	*house
	r io.Reader
}

func (p *parcel) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if errors.Is(err, io.EOF) && p.broken != nil {
		err = p.broken
	}
	return n, err
}

func (p *parcel) Answered(r smtp.Reply) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = append(p.answers, r.String())
	return p.answered
}

func (p *parcel) Close() error { return nil }

// call connects somebody at an address to the house.
func (h *house) call(t testing.TB, from string) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	if h.tls != nil {
		client, server = sockets(t) // in a pipe, the end of a TLS session waits for somebody to read it
	}
	h.sessions.Go(func() {
		h.server.Handle(&placed{server, netip.MustParseAddrPort(from), netip.MustParseAddrPort("193.1.124.54:26")})
	})
	t.Cleanup(func() {
		_ = client.Close()
		h.sessions.Wait()
	})
	return client
}

// sockets is a connection with room for what nobody reads.
func sockets(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err == nil {
		server, err = ln.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// placed is a connection between two addresses.
type placed struct {
	net.Conn
	remote, local netip.AddrPort
}

func (p *placed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.remote) }
func (p *placed) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(p.local) }

// messages is what came, with what differs from day to day taken out.
func (h *house) messages() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b bytes.Buffer
	for _, m := range h.got {
		for line := range strings.SplitAfterSeq(m, "\r\n") {
			name, _, _ := strings.Cut(line, ":")
			switch name {
			case "Date":
				line = "Date: (DATE)\r\n"
			case "Message-ID":
				line = "Message-ID: <NUMBER@master.com>\r\n"
			}
			b.WriteString(line)
		}
	}
	for _, a := range h.announced {
		fmt.Fprintf(&b, "announced: %s\r\n", a)
	}
	for _, a := range h.answers {
		fmt.Fprintf(&b, "last word: %s\r\n", a)
	}
	return b.Bytes()
}

// certificate is one that nobody knows.
func certificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"master.com"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
