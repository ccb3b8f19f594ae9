package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/proxy/smtptest"
)

// tls goes on in TLS, as a client that checks no certificate.
func (c *client) tls() error {
	_ = c.conn.SetDeadline(time.Now().Add(time.Minute))
	tc := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		return err
	}
	_ = c.conn.SetDeadline(time.Time{})
	c.conn, c.br = tc, bufio.NewReader(tc)
	return nil
}

// starttlsStep is one step of a case; the keys say what is done.
type starttlsStep struct {
	Write        *string
	Read         codes
	MustNotOffer string          `json:"must_not_offer"`
	TLS          json.RawMessage `json:"tls"`
	Quiet        int             `json:"read_quiet_ms"`
	AtOnce       string          `json:"write_then_tls_without_waiting"`
	CloseWithin  int             `json:"expect_close_within_ms"`
}

func TestSuiteStartTLS(t *testing.T) {
	var f struct {
		Cases []struct {
			ID, Side string
			Steps    []starttlsStep
		}
	}
	readSuite(t, "testdata/smtp/starttls-dev.json", &f)
	s := newScore(t, "starttls-dev", nil)
	for _, tt := range f.Cases {
		var wrong string
		synctest.Test(t, func(t *testing.T) { // a close is to come in time
			if tt.Side == "backend" {
				wrong = backendInjects(t)
				return
			}
			r := newRig(t, rigOptions{policy: &openPolicy})
			defer r.close()
			wrong = playStartTLS(r.connect("192.0.2.1"), tt.Steps)
			for _, line := range r.sink.Commands() {
				if strings.Contains(line, "evil") {
					t.Errorf("%s: the backend heard %q", tt.ID, line)
				}
			}
		})
		s.count(tt.ID, wrong)
	}
}

// playStartTLS says what is wrong, or nothing.
func playStartTLS(c *client, steps []starttlsStep) string {
	last := ""
	for i, st := range steps {
		switch {
		case st.Write != nil:
			c.say(octets(*st.Write))
			if i+1 < len(steps) && (len(steps[i+1].Read) > 0 || steps[i+1].CloseWithin > 0) {
				continue
			}
			if last = c.hear(); last[0] == '5' && i+1 < len(steps) && steps[i+1].TLS != nil {
				// No handshake then; what came in the same segment must be gone.
				if next := c.hear(); next != "close" {
					return fmt.Sprintf("after %q still there: %q", last, next)
				}
				return ""
			}
		case len(st.Read) > 0:
			if last = c.hear(); !slices.Contains(st.Read, code(last)) {
				return fmt.Sprintf("got %q, want %v", last, st.Read)
			}
			if st.MustNotOffer != "" && strings.Contains(last, st.MustNotOffer) {
				return fmt.Sprintf("%s is offered: %q", st.MustNotOffer, last)
			}
		case st.TLS != nil:
			if err := c.tls(); err != nil {
				return err.Error()
			}
		case st.Quiet > 0:
			_ = c.conn.SetReadDeadline(time.Now().Add(time.Duration(st.Quiet) * time.Millisecond))
			if b, err := c.br.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Sprintf("not quiet: %q, %v", b, err)
			}
		case st.AtOnce != "":
			var hello strings.Builder
			_ = tls.Client(writerConn{&hello}, &tls.Config{InsecureSkipVerify: true}).Handshake()
			c.say(st.AtOnce + hello.String())
			reply := c.hear()
			if code(reply) == "220" {
				return "the handshake went on with what was sent before the 220"
			}
			if next := c.hear(); next != "close" {
				return fmt.Sprintf("%q, then %q", reply, next)
			}
		case st.CloseWithin > 0:
			_ = c.conn.SetReadDeadline(time.Now().Add(time.Duration(st.CloseWithin) * time.Millisecond))
			b, err := io.ReadAll(c.br)
			if err != nil || strings.Contains(string(b), "250") {
				return fmt.Sprintf("%q, %v", b, err)
			}
		}
	}
	return ""
}

// writerConn is a connection that only takes.
type writerConn struct{ io.Writer }

func (writerConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (writerConn) Close() error                     { return nil }
func (writerConn) LocalAddr() net.Addr              { return nil }
func (writerConn) RemoteAddr() net.Addr             { return nil }
func (writerConn) SetDeadline(time.Time) error      { return nil }
func (writerConn) SetReadDeadline(time.Time) error  { return nil }
func (writerConn) SetWriteDeadline(time.Time) error { return nil }

// backendInjects: a backend whose 220 to STARTTLS is followed in the clear by an
// EHLO reply of somebody else. What that offers must never be believed, and no
// mail may go in the clear.
func backendInjects(t *testing.T) string {
	r := newRig(t, rigOptions{
		policy: &openPolicy, noProbe: true,
		backend: func(b *configs.Backend) { b.TLS = "verify" },
		sink: smtptest.SinkOptions{
			TLS: &tls.Config{Certificates: []tls.Certificate{rigCertificate()}},
			Script: func(s smtptest.Step) smtptest.Action {
				if s.Verb == "STARTTLS" {
					return smtptest.Action{Reply: "220 go ahead\r\n250-backend\r\n250 AUTH PLAIN\r\n", Do: true}
				}
				return smtptest.Action{}
			},
		},
	})
	defer r.close()
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	got := c.cmd("RCPT TO:<rcpt@local.example>", "")
	if got[0] != '4' {
		return got
	}
	for _, line := range r.sink.Commands() {
		if strings.HasPrefix(line, "MAIL") {
			return fmt.Sprintf("the backend heard %q", line)
		}
	}
	return ""
}
