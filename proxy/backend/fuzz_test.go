package backend

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

// canned is a connection to a server that has said everything beforehand.
type canned struct {
	net.Conn
	r    io.Reader
	sent bytes.Buffer
}

func (c *canned) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *canned) Write(p []byte) (int, error)      { return c.sent.Write(p) }
func (c *canned) Close() error                     { return nil }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }
func (c *canned) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }

// Whatever a backend says, in whatever order: the conversation ends, every
// failure has a kind, and our half stays SMTP in which the dot is sent at most
// once, after a 354 that came.
func FuzzConversation(f *testing.F) {
	const offer = "220 mta\r\n250-mta\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-XFORWARD NAME ADDR\r\n250 XCLIENT NAME ADDR HELO\r\n"
	f.Add([]byte(offer+"250 OK\r\n250 OK\r\n354 Go\r\n250 Done\r\n"), byte(0))
	f.Add([]byte(offer+"250 XFORWARD\r\n250 OK\r\n550 No\r\n354 Go\r\n250 Done\r\n"), byte(1))
	f.Add([]byte(offer+"220 mta\r\n250-mta\r\n250 8BITMIME\r\n250 OK\r\n421 Gone\r\n"), byte(2))
	f.Add([]byte("220-a\r\n220 b\r\n250 x\r\n250 y\r\n250 OK\r\n250 OK\r\n250 OK\r\n"), byte(3))
	f.Fuzz(func(t *testing.T, says []byte, how byte) {
		identity := []string{identityNone, identityXForward, identityXClient, identityProxyV2}[how%4]
		bdat := how&4 != 0
		var conns []*canned
		dial := func(context.Context, string, string) (net.Conn, error) {
			c := &canned{r: bytes.NewReader(says)}
			conns = append(conns, c)
			return c, nil
		}
		b := backendAt(identity, "mta:25")
		s, err := New([]configs.Backend{b}, nil, Options{Dial: dial, Hostname: "mx.test"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 2 {
			if err := converse(s, bdat, false); err != nil {
				var e *Error
				if !errors.As(err, &e) || e.Kind == "" || e.Backend != "mta" {
					t.Fatalf("%#v", err)
				}
			}
		}
		for _, c := range conns {
			sent := c.sent.String()
			if n := strings.Count(sent, "\r\n.\r\n"); n > 0 && !strings.Contains(sent, "DATA\r\n.\r\n") || n > 0 && !bytes.Contains(says, []byte("354")) {
				t.Fatalf("%q", sent)
			}
		}
	})
}
