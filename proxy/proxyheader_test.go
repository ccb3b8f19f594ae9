package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"postern/configs"
	"postern/proxy/smtptest"
)

// TestBalancersHealthCheck: what a balancer asks for itself is not counted as
// that of a client; what it brings is.
func TestBalancersHealthCheck(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) {
		c.Limits.ConnectionsPerClient, c.Limits.ConnectionRate = 2, 2
	}})
	l := Listener{Name: "mx", TLS: "starttls", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}
	hello := func(header, want string) {
		t.Helper()
		c := r.dialFrom("198.51.100.7", l)
		c.send(header)
		c.expect(want)
	}
	const local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	for range 5 {
		hello(local, "220 ")
	}
	hello("PROXY TCP4 192.0.2.1 198.51.100.25 40000 25\r\n", "220 ")
	hello("PROXY TCP4 192.0.2.1 198.51.100.25 40001 25\r\n", "220 ")
	hello("PROXY TCP4 192.0.2.1 198.51.100.25 40002 25\r\n", "421 4.7.0 ")
	hello(local, "220 ")
}

// TestProxyHeaderFromElsewhere: a balancer that is not on the list is told so, and
// the log has it, whichever version it speaks. Its clients would all be one client.
func TestProxyHeaderFromElsewhere(t *testing.T) {
	for name, header := range map[string]string{
		"version 1": "PROXY TCP4 192.0.2.1 198.51.100.25 40000 25\r\n",
		"version 2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x19\x9c\x40\x00\x19EHLO client.example\r\n",
		"a probe":   "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: &openPolicy})
			var log bytes.Buffer
			r.srv.log = slog.New(slog.NewTextHandler(&log, nil))
			c := r.connect("198.51.100.7")
			c.send(header)
			c.expect("554 5.7.1 PROXY header not expected from here")
			c.closed()
			for _, want := range []string{"no usable PROXY header", "result=proxy_header"} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log has no %q:\n%s", want, &log)
				}
			}
		})
	}
	// Behind a first command it is rubbish like any other.
	c := newRig(t, rigOptions{policy: &openPolicy}).connect("198.51.100.7")
	c.ehlo()
	c.send("\r\n\r\n\x00\r\nQUIT\n")
	c.expect("500 ")
}

// written keeps what is written to a connection.
type written struct {
	net.Conn
	all *bytes.Buffer
}

func (w written) Write(p []byte) (int, error) {
	w.all.Write(p)
	return w.Conn.Write(p)
}

// TestNameAskedForGoesOn: the MTA learns by which name the client came (SNI).
func TestNameAskedForGoesOn(t *testing.T) {
	var r *rig
	var all bytes.Buffer
	r = newRig(t, rigOptions{
		policy: &openPolicy, identity: "proxy-v2", sink: smtptest.SinkOptions{Proxy: true}, noProbe: true,
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := r.dialSink(ctx, network, address)
			return written{conn, &all}, err // by one session alone
		},
	})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("STARTTLS", "220 ")
	tc := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, ServerName: "mx2.example"})
	c.conn, c.br = tc, bufio.NewReader(tc)
	c.ehlo()
	if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
		t.Fatal(got)
	}
	c.cmd("QUIT", "221 ")
	<-c.done
	header, _, _ := strings.Cut(all.String(), "EHLO")
	if !strings.Contains(header, "\x02\x00\x0bmx2.example") {
		t.Errorf("%q", header)
	}
}
