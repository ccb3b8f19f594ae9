package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"postern/configs"
	"postern/proxy/smtptest"
)

// summed is a PROXY header of version 2 with those TLVs and a CRC32C, to which wrong is added.
func summed(t testing.TB, command proxyproto.ProtocolVersionAndCommand, wrong uint32, tlvs ...proxyproto.TLV) string {
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000}, &net.TCPAddr{IP: net.IPv4(198, 51, 100, 25), Port: 25})
	h.Command = command
	if err := h.SetTLVs(append([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_CRC32C, Value: make([]byte, 4)}}, tlvs...)); err != nil {
		t.Fatal(err)
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(b[16+12+3:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))+wrong)
	return string(b)
}

// TestProxyHeaderChecksum: a header of version 2 that says what its sum must be,
// and has another, ends the connection; so does one whose TLVs are not whole.
func TestProxyHeaderChecksum(t *testing.T) {
	const (
		fixed = "\r\n\r\n\x00\r\nQUIT\n"
		addrs = "\xc0\x00\x02\x01\xc6\x33\x64\x19\x9c\x40\x00\x19"
	)
	authority := proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("mx.test")}
	r := newRig(t, rigOptions{policy: &openPolicy})
	l := Listener{Name: "mx", TLS: "starttls", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}
	for _, tt := range []struct {
		name, header string
		good         bool
	}{
		{"no sum", fixed + "\x21\x11\x00\x0c" + addrs, true},
		{"no sum, a TLV", fixed + "\x21\x11\x00\x10" + addrs + "\x04\x00\x01x", true},
		{"the sum", summed(t, proxyproto.PROXY, 0), true},
		{"the sum, and more", summed(t, proxyproto.PROXY, 0, authority), true},
		{"another sum", summed(t, proxyproto.PROXY, 1), false},
		{"another sum, and more", summed(t, proxyproto.PROXY, 1<<31, authority), false},
		{"another client than was summed", strings.Replace(summed(t, proxyproto.PROXY, 0), "\xc0\x00\x02\x01", "\xc0\x00\x02\x07", 1), false},
		{"LOCAL, the sum", summed(t, proxyproto.LOCAL, 0), true},
		{"LOCAL where PROXY was summed", strings.Replace(summed(t, proxyproto.PROXY, 0), "QUIT\n\x21", "QUIT\n\x20", 1), false},
		{"LOCAL with anything", fixed + "\x20\x00\x00\x05\x01\xff\xffxx", true},
		{"LOCAL with less than an address", fixed + "\x20\x11\x00\x02xx", true},
		{"two sums", summed(t, proxyproto.PROXY, 0, proxyproto.TLV{Type: proxyproto.PP2_TYPE_CRC32C, Value: make([]byte, 4)}), false},
		{"a sum of three octets", fixed + "\x21\x11\x00\x12" + addrs + "\x03\x00\x03xxx", false},
		{"half a TLV", fixed + "\x21\x11\x00\x0e" + addrs + "\x02\x00", false},
		{"a TLV longer than the header", fixed + "\x21\x11\x00\x10" + addrs + "\x02\x00\x02x", false},
		{"as much as is read", fixed + "\x21\x11\x10\x00" + addrs + "\x04\x0f\xf1" + strings.Repeat("x", 0xff1), true},
		{"more than is read", fixed + "\x21\x11\x10\x01" + addrs + "\x04\x0f\xf2" + strings.Repeat("x", 0xff2), false},
		{"no signature", "\r\n\r\n\x00\r\nQUIX\n\x21\x11\x00\x0c" + addrs, false},
	} {
		c := r.dialFrom("198.51.100.7", l)
		c.say(tt.header + "QUIT\r\n")
		want := "close"
		if tt.good {
			want = "220"
		}
		if got := c.hear(); code(got) != want {
			t.Errorf("%s: %q, want %s", tt.name, got, want)
		}
		if tt.good {
			c.expect("221 ") // nothing behind the header was lost
		}
		c.closed()
	}
}

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

// TestProxyHeaderBeforeTLS: on a listener that begins with TLS a balancer sends
// the header together with what the client has said by then, its first record.
// It is all there, and behind the header nothing is read as plain text.
func TestProxyHeaderBeforeTLS(t *testing.T) {
	const fixed = "\r\n\r\n\x00\r\nQUIT\n"
	l := Listener{Name: "mx", TLS: "implicit", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}
	for name, header := range map[string]string{
		"version 1": "PROXY TCP4 192.0.2.1 198.51.100.25 40000 25\r\n",
		"version 2": fixed + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x19\x9c\x40\x00\x19",
		"a probe":   fixed + "\x20\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: &openPolicy})
			c := r.dialFrom("198.51.100.7", l)
			c.conn = &behind{Conn: c.conn, header: header}
			if err := c.tls(); err != nil {
				t.Fatal(err)
			}
			c.expect("220 ")
			c.ehlo()
			if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
				t.Error(got)
			}
			c.cmd("QUIT", "221 ")
			c.closed()

			c = r.dialFrom("198.51.100.7", l)
			c.send(header + "EHLO client.example\r\n")
			if got := c.hear(); got != "close" {
				t.Errorf("plain text behind the header: %q", got)
			}
		})
	}
}

// behind writes the header together with what is written first.
type behind struct {
	net.Conn
	header string
}

func (c *behind) Write(p []byte) (int, error) {
	n := len(c.header)
	b := append([]byte(c.header), p...)
	c.header = ""
	m, err := c.Conn.Write(b)
	return max(m-n, 0), err
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
