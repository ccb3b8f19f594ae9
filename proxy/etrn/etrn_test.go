package etrn_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/etrn"
	"postern/proxy/smtp"
)

// player plays a host: a line "S: " is said, "C: " must be heard, "TLS" is a handshake.
func player(t *testing.T, script string, cert *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, address string) (net.Conn, error) {
		if address != "backup.example:25" {
			t.Errorf("asked %s", address)
		}
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			nc := theirs
			br := bufio.NewReader(nc)
			for line := range strings.Lines(script) {
				line = strings.TrimSpace(line)
				says, isSaid := strings.CutPrefix(line, "S: ")
				switch {
				case line == "":
				case line == "TLS":
					nc = tls.Server(nc, cert)
					br = bufio.NewReader(nc)
				case isSaid:
					if _, err := io.WriteString(nc, strings.ReplaceAll(says, `\r\n`, "\r\n")+"\r\n"); err != nil {
						return
					}
				default:
					got, err := br.ReadString('\n')
					if err != nil {
						return // the other side had enough, and the test sees why
					}
					if want := strings.TrimPrefix(line, "C: ") + "\r\n"; got != want {
						t.Errorf("heard %q, want %q", got, want)
						return
					}
				}
			}
		}()
		return ours, nil
	}
}

const good = `
	S: 220 backup.example ESMTP
	C: EHLO mx.example.org
	S: 250-backup.example
	S: 250 ETRN
`

func TestAsk(t *testing.T) {
	cert, roots := certificate(t, "backup.example")
	verify := &tls.Config{ServerName: "backup.example", RootCAs: roots}
	hello := "S: 220 backup.example ESMTP\nC: EHLO mx.example.org\nS: 250-backup.example\n"
	for name, tt := range map[string]struct {
		script string
		domain string
		tls    *tls.Config
		reply  string // of ETRN
		begun  bool
		err    string
	}{
		"begun":           {script: good + "C: ETRN example.org\nS: 250 2.0.0 Queuing started\nC: QUIT\nS: 221 Bye", reply: "250 2.0.0 Queuing started", begun: true},
		"nothing there":   {script: good + "C: ETRN example.org\nS: 251 No mail waiting\nC: QUIT\nS: 221 Bye", reply: "251 No mail waiting", begun: true},
		"so many":         {script: good + "C: ETRN example.org\nS: 253 14 pending messages\nC: QUIT", reply: "253 14 pending messages", begun: true},
		"cannot now":      {script: good + "C: ETRN example.org\nS: 458 Unable\nC: QUIT", reply: "458 Unable"},
		"not allowed":     {script: good + "C: ETRN example.org\nS: 459 4.7.1 Not allowed\nC: QUIT", reply: "459 4.7.1 Not allowed"},
		"international":   {domain: "bücher.example", script: good + "C: ETRN xn--bcher-kva.example\nS: 250 OK\nC: QUIT", reply: "250 OK", begun: true},
		"does not offer":  {script: hello + "S: 250 STARTTLS", err: "ETRN is not offered"},
		"turned away":     {script: "S: 554 5.7.1 Go away", err: "the connection was answered by 554 5.7.1 Go away"},
		"no EHLO":         {script: "S: 220 old\nC: EHLO mx.example.org\nS: 502 What", err: "EHLO mx.example.org was answered by 502 What"},
		"not SMTP":        {script: "S: SSH-2.0-x", err: "malformed reply"},
		"breaks off":      {script: good + "C: ETRN example.org", err: "EOF"},
		"no domain":       {domain: "192.0.2.1", err: "is no domain"},
		"more than that":  {domain: "a.example\r\nVRFY x", err: "is no domain"},
		"no TLS":          {tls: verify, script: good, err: "STARTTLS is not offered"},
		"TLS unavailable": {tls: verify, script: hello + "S: 250 STARTTLS\nC: STARTTLS\nS: 454 Not now", err: "STARTTLS was answered by 454 Not now"},
		"early":           {tls: verify, script: hello + `S: 250 STARTTLS` + "\nC: STARTTLS\n" + `S: 220 Go\r\n250 mine`, err: "plaintext behind"},
		"verified": {
			tls:    verify,
			script: hello + "S: 250 STARTTLS\nC: STARTTLS\nS: 220 Go\nTLS\nC: EHLO mx.example.org\nS: 250 ETRN\nC: ETRN example.org\nS: 250 OK\nC: QUIT",
			reply:  "250 OK", begun: true,
		},
		"offered in the clear alone": {
			tls:    verify,
			script: hello + "S: 250-ETRN\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 Go\nTLS\nC: EHLO mx.example.org\nS: 250 x",
			err:    "ETRN is not offered",
		},
		"somebody else": {
			tls:    &tls.Config{ServerName: "other.example", RootCAs: roots},
			script: hello + "S: 250 STARTTLS\nC: STARTTLS\nS: 220 Go\nTLS\nC: EHLO mx.example.org\n",
			err:    "certificate is valid for backup.example, not other.example",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.domain == "" {
				tt.domain = "example.org"
			}
			a := etrn.Asker{Hostname: "mx.example.org", Dial: player(t, tt.script, cert)}
			r, err := a.Ask(t.Context(), etrn.Host{Domain: tt.domain, Address: "backup.example:25", TLS: tt.tls})
			switch {
			case tt.err == "" && err != nil, tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Fatalf("error %v, want %q", err, tt.err)
			case r.String() != tt.reply || etrn.Begun(r) != tt.begun:
				t.Errorf("%q, begun %v", r, etrn.Begun(r))
			}
		})
	}
}

// A host that is silent, or says ever more, costs no more than the time for it.
func TestAskIsBounded(t *testing.T) {
	for name, script := range map[string]string{"silent": "", "silent after EHLO": good} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ours, theirs := net.Pipe()
				go func() {
					for line := range strings.Lines(script) {
						line = strings.TrimSpace(line)
						if says, ok := strings.CutPrefix(line, "S: "); ok {
							_, _ = io.WriteString(theirs, says+"\r\n")
						} else if line != "" {
							_, _ = bufio.NewReader(theirs).ReadString('\n')
						}
					}
					_, _ = io.Copy(io.Discard, theirs)
				}()
				a := etrn.Asker{Hostname: "mx.example.org", Timeout: 10 * time.Second, Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }}
				_, err := a.Ask(t.Context(), etrn.Host{Domain: "example.org", Address: "backup.example:25"})
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
					t.Errorf("%v after %v", err, time.Since(began))
				}
				_ = theirs.Close()
			})
		})
	}
	endless := func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			for {
				if _, err := io.WriteString(theirs, "220-more\r\n"); err != nil {
					return
				}
			}
		}()
		return ours, nil
	}
	a := etrn.Asker{Hostname: "mx.example.org", Dial: endless}
	if _, err := a.Ask(t.Context(), etrn.Host{Domain: "example.org", Address: "backup.example:25"}); !errors.Is(err, smtp.ErrReplyTooLong) {
		t.Errorf("%v", err)
	}
}

// canned is a connection to a host that has said everything beforehand.
type canned struct {
	net.Conn
	r    io.Reader
	sent bytes.Buffer
}

func (c *canned) Read(p []byte) (int, error)      { return c.r.Read(p) }
func (c *canned) Write(p []byte) (int, error)     { return c.sent.Write(p) }
func (c *canned) Close() error                    { return nil }
func (c *canned) SetDeadline(time.Time) error     { return nil }
func (c *canned) SetReadDeadline(time.Time) error { return nil }

// Whatever a host says: the conversation ends, and our half of it is the one that
// was configured.
func FuzzAsk(f *testing.F) {
	f.Add([]byte("220 x\r\n250 ETRN\r\n250 OK\r\n221 Bye\r\n"))
	f.Add([]byte("220 x\r\n250-x\r\n250 ETRN\r\n459 No\r\n"))
	f.Add([]byte("220-x\r\n220 x\r\n421 x\r\n"))
	f.Fuzz(func(t *testing.T, says []byte) {
		c := &canned{r: bytes.NewReader(says)}
		a := etrn.Asker{Hostname: "mx.example.org", Dial: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
		r, err := a.Ask(t.Context(), etrn.Host{Domain: "example.org", Address: "backup.example:25"})
		if sent := c.sent.String(); !strings.HasPrefix("EHLO mx.example.org\r\nETRN example.org\r\nQUIT\r\n", sent) {
			t.Fatalf("said %q", sent)
		}
		if (err == nil) != (r.Code != 0) {
			t.Fatalf("%v and %v", r, err)
		}
	})
}

// certificate is that of a host which is its own root.
func certificate(t *testing.T, name string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}
