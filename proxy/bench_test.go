package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"postern/proxy/backend/mta"
	"postern/proxy/smtptest"
)

// benchClient is a client on loopback that does not allocate.
type benchClient struct {
	b    *testing.B
	conn net.Conn
	br   *bufio.Reader
}

// benchRig serves a rig on loopback, so that the benchmarks count what a
// message really costs: system calls.
func benchRig(b *testing.B, o rigOptions) (dial func() *benchClient) {
	b.Helper()
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &mta.Server{Hostname: "mta.test", Store: smtptest.Nowhere{}, Keywords: smtptest.AllKeywords}
	go func() { _ = server.Serve(sink) }()
	b.Cleanup(func() { _ = server.Close() })
	o.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, sink.Addr().String())
	}
	r := newRig(b, o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = r.srv.Serve(ln, Listener{Name: "mx", TLS: "off"}) }()
	return func() *benchClient {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c := &benchClient{b: b, conn: conn, br: bufio.NewReader(conn)}
		c.expect('2')
		c.cmd("EHLO client.example\r\n", '2')
		return c
	}
}

func (c *benchClient) expect(class byte) {
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil || len(line) < 4 || line[0] != class {
			c.b.Fatalf("%q, %v", line, err)
		}
		if line[3] == ' ' {
			return
		}
	}
}

func (c *benchClient) cmd(line string, class byte) { c.write([]byte(line), class) }

func (c *benchClient) write(octets []byte, class byte) {
	if _, err := c.conn.Write(octets); err != nil {
		c.b.Fatal(err)
	}
	c.expect(class)
}

// message sends one message in the way of a client that pipelines.
func (c *benchClient) message(text []byte) {
	if _, err := io.WriteString(c.conn, "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nDATA\r\n"); err != nil {
		c.b.Fatal(err)
	}
	c.expect('2')
	c.expect('2')
	c.expect('3')
	c.write(text, '2')
}

const benchHeader = "From: Alice <a@good.example>\r\nTo: b@local.example\r\nSubject: hello\r\nMessage-ID: <1@good.example>\r\n\r\n"

func benchText(size int) []byte {
	line := strings.Repeat("x", 74) + "\r\n"
	return []byte(benchHeader + strings.Repeat(line, size/len(line)+1) + ".\r\n")
}

// benchZone lets the loopback client speak for good.example.
const benchZone = `
good.example.           TXT "v=spf1 ip4:127.0.0.1 -all"
1.0.0.127.in-addr.arpa. PTR client.example.
client.example.         A   127.0.0.1
`

func BenchmarkMessagePerSession(b *testing.B) {
	dial := benchRig(b, rigOptions{zone: benchZone})
	text := benchText(4 << 10)
	b.ReportAllocs()
	for b.Loop() {
		c := dial()
		c.message(text)
		c.cmd("QUIT\r\n", '2')
		_ = c.conn.Close()
	}
}

func BenchmarkManyPerSession(b *testing.B) {
	dial := benchRig(b, rigOptions{zone: benchZone})
	text := benchText(4 << 10)
	c := dial()
	b.ReportAllocs()
	for b.Loop() {
		c.message(text)
	}
}

func BenchmarkLargeMessage(b *testing.B) {
	dial := benchRig(b, rigOptions{zone: benchZone})
	text := benchText(50<<20 - 64<<10)
	c := dial()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		c.message(text)
	}
}
