package backend

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postern/checks/leaktest"
	"postern/configs"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// alice is the client in most stories.
var alice = Client{
	Addr: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("198.51.100.1:25"),
	Name: "mail.example.com", ReverseName: "mail.example.com", Helo: "mail.example.com", ESMTP: true,
}

var (
	sender    = smtp.Path{Local: "a", Domain: "example.com"}
	recipient = smtp.Path{Local: "b", Domain: "example.org"}
)

// backendAt is the configuration of a backend without frills.
func backendAt(identity string, addresses ...string) configs.Backend {
	return configs.Backend{Name: "mta", Addresses: addresses, TLS: tlsOff, Identity: identity}
}

// newSet makes a Set that ends with the test.
func newSet(t testing.TB, o Options, backends ...configs.Backend) *Set {
	t.Helper()
	if o.Hostname == "" {
		o.Hostname = "mx.test"
	}
	s, err := New(backends, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// newSink makes a Sink that ends with the test.
func newSink(t testing.TB, o smtptest.SinkOptions) *smtptest.Sink {
	s := smtptest.NewSink(o)
	t.Cleanup(s.Close)
	return s
}

func open(t testing.TB, s *Set, c Client) *Conn {
	t.Helper()
	conn, err := s.pools[0].Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// failure opens a connection that must not come, and returns why.
func failure(t testing.TB, s *Set, c Client) *Error {
	t.Helper()
	conn, err := s.pools[0].Open(context.Background(), c)
	if err == nil {
		conn.Abort()
		t.Fatal("Open succeeded")
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	return e
}

func want(t testing.TB, c *Conn, code int) {
	t.Helper()
	r, err := c.Reply()
	if err != nil {
		t.Fatalf("want %d: %v", code, err)
	}
	if r.Code != code {
		t.Fatalf("want %d, got %v", code, r)
	}
}

// send does a whole transaction by DATA.
func send(t testing.TB, c *Conn, text string) {
	t.Helper()
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueData()
	want(t, c, 250)
	want(t, c, 250)
	want(t, c, 354)
	for _, piece := range []string{text, ".\r\n"} {
		if _, err := c.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.FinalReply()
	if err != nil || r.Code != 250 {
		t.Fatalf("end of data: %v %v", r, err)
	}
}

// authority is a root of trust made for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

// file writes the root as PEM.
func (a *authority) file(t testing.TB) string {
	name := filepath.Join(t.TempDir(), "ca.pem")
	p := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// server is a TLS configuration with a certificate for the given names or IPs.
func (a *authority) server(t testing.TB, names ...string) *tls.Config {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour),
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// counting counts the writes on a connection.
type counting struct {
	net.Conn
	writes *[][]byte
}

func (c counting) Write(p []byte) (int, error) {
	*c.writes = append(*c.writes, bytes.Clone(p))
	return c.Conn.Write(p)
}
