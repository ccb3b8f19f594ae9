package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/leaktest"
	"postern/proxy/smtp"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// begun returns a Conn on conn that can be read.
func begun(ctx context.Context, conn net.Conn) *Conn {
	c := new(Conn)
	c.Open(conn, Options{Context: ctx, Log: slog.New(slog.DiscardHandler)})
	c.FlushWithin = time.Minute
	c.Begin()
	return c
}

// pipe returns a Conn without a socket, and its client.
func pipe(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	server, client := net.Pipe()
	c := begun(t.Context(), server)
	t.Cleanup(func() { c.Close(); _ = client.Close() })
	return c, client
}

// socketPair returns a Conn on a socket, and its client.
func socketPair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := begun(t.Context(), server)
	t.Cleanup(func() { c.Close(); _ = client.Close() })
	return c, client
}

// encrypted returns a Conn with TLS on it, and its client.
func encrypted(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	c, client := socketPair(t)
	tc := tls.Client(client, &tls.Config{InsecureSkipVerify: true, ServerName: "mx.test"})
	done := make(chan error, 1)
	go func() { done <- tc.Handshake() }()
	if _, _, err := c.Handshake(serverTLS(t), time.Minute, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c, tc
}

// serverTLS is a configuration with a certificate that has an ECDSA key.
func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}},
		MinVersion:   tls.VersionTLS12, GetConfigForClient: KeepHello,
	}
}

// say writes for the client, who does not wait for anybody.
func say(client net.Conn, pieces ...string) {
	go func() {
		for _, p := range pieces {
			_, _ = io.WriteString(client, p)
		}
	}()
}

// line waits for a line and reads it.
func line(t *testing.T, c *Conn) string {
	t.Helper()
	if err := c.WaitLine(); err != nil {
		t.Fatal(err)
	}
	b, err := c.ReadLine()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The same octets are the same lines and blocks, whatever they come by.
func TestLinesAndBlocks(t *testing.T) {
	for name, connect := range map[string]func(*testing.T) (*Conn, net.Conn){"pipe": pipe, "socket": socketPair, "TLS": encrypted} {
		t.Run(name, func(t *testing.T) {
			c, client := connect(t)
			say(client, "EHLO x\r\nDA", "TA\r\n", "text\r\n.\r\nQUIT\r\nRS", "ET\r\n")
			if got := line(t, c); got != "EHLO x" {
				t.Errorf("%q", got)
			}
			if got := line(t, c); got != "DATA" {
				t.Errorf("%q", got)
			}
			var text []byte
			for !bytes.Contains(text, []byte("\r\n.\r\n")) {
				b, block, err := c.ReadBlock(text, false)
				if err != nil {
					t.Fatal(err)
				}
				text = bytes.Clone(b)
				c.PutBlock(block)
			}
			message, rest, _ := bytes.Cut(text, []byte("\r\n.\r\n"))
			if string(message) != "text" {
				t.Errorf("the message is %q", message)
			}
			// What was read too far comes before what is still to come, and what is given
			// back last comes first.
			if len(rest) > 2 {
				c.Unread(rest[2:])
				c.Unread(rest[:2])
			} else {
				c.Unread(rest)
			}
			for _, want := range []string{"QUIT", "RSET"} {
				if got := line(t, c); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			}
			if c.Buffered() != 0 || c.HasLine() {
				t.Errorf("%d octets are left", c.Buffered())
			}
			_ = client.Close()
			if err := c.Wait(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// A message that comes fast and goes on at once is read in larger pieces, within a bound
// for all sessions; what was read too far counts too while it is kept. Not parallel: it
// looks at what all sessions have.
func TestWideBlocks(t *testing.T) {
	c, client := socketPair(t)
	go func() {
		for text := make([]byte, 1<<20); ; {
			if _, err := client.Write(text); err != nil {
				return
			}
		}
	}()
	streams := true
	next := func() ([]byte, *Block) {
		b, block, err := c.ReadBlock([]byte("tail"), streams)
		if err != nil || !bytes.HasPrefix(b, []byte("tail\x00")) {
			t.Fatalf("%d octets, %v", len(b), err)
		}
		return b, block
	}
	if b, block := next(); len(b) > BlockSize {
		t.Errorf("the first block has %d octets", len(b))
	} else {
		c.PutBlock(block)
	}
	b, block := next()
	for len(b) <= BlockSize { // until the client was faster than we are
		c.PutBlock(block)
		b, block = next()
	}
	if wide.Load() != 1 {
		t.Errorf("%d wide blocks are in use, want that one", wide.Load())
	}
	c.Unread(b[len("tail"):])
	c.PutBlock(block)
	if wide.Load() != 1 {
		t.Errorf("%d count as wide blocks, want what was read too far", wide.Load())
	}
	for c.Buffered() > 0 {
		_, block := next()
		c.PutBlock(block)
	}
	if wide.Load() != 0 {
		t.Errorf("%d wide blocks are in use, want none", wide.Load())
	}

	wide.Store(maxWide) // others have them all
	for range 100 {
		b, block := next()
		if len(b) > BlockSize {
			t.Fatalf("a block of %d octets where no wide one was left", len(b))
		}
		c.PutBlock(block)
	}
	wide.Store(0)
	for b, block = next(); len(b) <= BlockSize; b, block = next() {
		c.PutBlock(block)
	}
	c.Unread(b[len("tail"):])
	c.PutBlock(block)
	streams = false // it is held: who makes a copy has the bound of a usual block
	for c.Buffered() > 0 {
		_, block := next()
		c.PutBlock(block)
	}
	for range 100 {
		b, block := next()
		if len(b) > BlockSize {
			t.Fatalf("a block of %d octets for what does not stream", len(b))
		}
		c.PutBlock(block)
	}
	streams = true
	for b, block = next(); len(b) <= BlockSize; b, block = next() {
		c.PutBlock(block)
	}
	c.Unread(b[len("tail"):])
	c.Close() // with a block that a panic has left where it was
	if wide.Load() != 0 || c.in.block != nil || c.in.lent != nil {
		t.Errorf("%d wide blocks are in use behind the end of the session", wide.Load())
	}
}

// What is no line is told apart, and a line that ends within is none.
func TestLinesThatAreNone(t *testing.T) {
	for _, tc := range []struct {
		sent string
		want error
	}{
		{"NOOP\n", smtp.ErrBareLF},
		{"NO\rOP\r\n", smtp.ErrBadOctet},
		{"NO\x00OP\r\n", smtp.ErrBadOctet},
		{strings.Repeat("x", LineLimit) + "\r\n", smtp.ErrLineTooLong},
		{"NOO", io.ErrUnexpectedEOF},
	} {
		c, client := pipe(t)
		go func() {
			_, _ = io.WriteString(client, tc.sent)
			_ = client.Close()
		}()
		err := c.WaitLine()
		if err == nil {
			_, err = c.ReadLine()
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%.20q: %v, want %v", tc.sent, err, tc.want)
		}
	}
	c, client := pipe(t)
	say(client, strings.Repeat("x", LineLimit-2)+"\r\n")
	if got := line(t, c); len(got) != LineLimit-2 {
		t.Errorf("the longest line has %d octets", len(got))
	}
}

// A deadline ends a wait at its time. Interrupt ends it at once, and what has come
// before is kept; after the end of the context no later deadline undoes that.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		server, client := net.Pipe()
		defer client.Close()
		c := begun(ctx, server)
		defer c.Close()
		waited := func(wait func() error) time.Duration {
			began := time.Now()
			if err := wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v", err)
			}
			return time.Since(began)
		}
		c.ReadBy(time.Now().Add(time.Minute))
		if d := waited(c.Wait); d != time.Minute {
			t.Errorf("waited %v", d)
		}
		say(client, "NO")
		c.ReadBy(time.Now().Add(time.Hour))
		time.AfterFunc(time.Second, c.Interrupt)
		if d := waited(c.WaitLine); d != time.Second || c.Buffered() != 2 {
			t.Errorf("waited %v for the rest of a line of which %d octets were there", d, c.Buffered())
		}
		say(client, "OP\r\n")
		c.ReadBy(time.Now().Add(time.Hour))
		if got := line(t, c); got != "NOOP" {
			t.Errorf("%q", got)
		}
		cancel()
		c.ReadBy(time.Now().Add(time.Hour))
		if d := waited(c.Wait); d != 0 {
			t.Errorf("waited %v after the end", d)
		}
	})
}

// Replies leave together, when they are flushed, and a client that does not read them
// has FlushWithin for it.
func TestReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t)
		if err := c.Flush(); err != nil {
			t.Error("nothing was said:", err)
		}
		ok := smtp.Reply{Code: 250, Enhanced: "1.0", Text: "OK"}
		c.Say(ok)
		c.Say(smtp.Reply{}) // is none
		c.Say(ok)
		if c.Full() {
			t.Error("two replies are not much")
		}
		got := make([]byte, 1000)
		read := make(chan int)
		go func() {
			n, _ := client.Read(got)
			read <- n
		}()
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := <-read; string(got[:n]) != "250 2.1.0 OK\r\n250 2.1.0 OK\r\n" {
			t.Errorf("in one piece came %q", got[:n])
		}
		for !c.Full() {
			c.Say(ok)
		}
		c.FlushWithin = 10 * time.Second
		began := time.Now()
		if err := c.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != c.FlushWithin {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A client may pause and may be slow for a while, and may not take for ever.
func TestPace(t *testing.T) {
	const block = 3 * time.Minute
	for _, tc := range []struct {
		name   string
		after  time.Duration // since the beginning
		octets int64         // that have come by then
		wait   time.Duration // what there is for the next ones
	}{
		{"at the beginning", 0, 0, block},
		{"nothing yet, within the first pause", block, 0, block},
		{"nothing yet, a moment later", block + time.Second, 0, 0},
		{"as slow as may be", block + 100*time.Second, 100 * minRate, block},
		{"slower than that", block + 100*time.Second, 100*minRate - 1, 0},
		{"near the ceiling", (dataCeiling-1)*block + time.Minute, 1 << 30, 2 * time.Minute},
		{"at the ceiling", dataCeiling * block, 1 << 30, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := pipe(t)
			p := NewPace(block)
			if p.IsZero() || !new(Pace).IsZero() {
				t.Error("which one has begun?")
			}
			time.Sleep(tc.after)
			p.Arm(c, tc.octets)
			began := time.Now()
			if err := c.Wait(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != tc.wait {
				t.Errorf("%s: %v after %v, want %v", tc.name, err, time.Since(began), tc.wait)
			}
		})
	}
}

// A handshake that fails ends within its time, and says what would have helped. What
// came in the clear is never read behind it.
func TestHandshake(t *testing.T) {
	t.Run("clear text before it", func(t *testing.T) {
		c, client := socketPair(t)
		say(client, "STARTTLS\r\nMAIL FROM:<injected@evil.example>\r\n")
		if got := line(t, c); got != "STARTTLS" {
			t.Fatalf("%q", got)
		}
		if _, _, err := c.Handshake(serverTLS(t), time.Minute, time.Now()); err == nil {
			t.Error("it was taken for a handshake, or left for later")
		}
	})
	t.Run("as it should be", func(t *testing.T) {
		c, client := socketPair(t)
		tc := tls.Client(client, &tls.Config{InsecureSkipVerify: true, ServerName: "mx.test"})
		go func() {
			if tc.Handshake() == nil {
				_, _ = io.WriteString(tc, "EHLO inside\r\n")
			}
		}()
		facts, advice, err := c.Handshake(serverTLS(t), time.Minute, time.Now())
		if err != nil || advice != "" || facts.Version != "1.3" || facts.Cipher == "" {
			t.Fatalf("%+v, %q, %v", facts, advice, err)
		}
		if got := line(t, c); got != "EHLO inside" || c.ServerName() != "mx.test" {
			t.Errorf("%q, for %q", got, c.ServerName())
		}
	})
	t.Run("a silent client", func(t *testing.T) {
		config := serverTLS(t)
		synctest.Test(t, func(t *testing.T) {
			c, _ := pipe(t)
			began := time.Now()
			_, _, err := c.Handshake(config, 30*time.Second, time.Now())
			if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 30*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
	for _, tc := range []struct {
		name   string
		client *tls.Config // nil: clear text
		server func(*tls.Config)
		advice string
	}{
		{"too old", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, nil, "nothing newer than TLS 1.1"},
		{"1.2 where 1.3 is asked for", &tls.Config{MaxVersion: tls.VersionTLS12}, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, "tls.min_version"},
		{"RSA suites, an ECDSA key", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}, nil, "a certificate with an RSA key"},
		{"no TLS", nil, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, client := socketPair(t)
			config := serverTLS(t)
			if tc.server != nil {
				tc.server(config)
			}
			if tc.client == nil {
				say(client, "EHLO client.example\r\n")
			} else {
				tc.client.InsecureSkipVerify = true
				go func() { _ = tls.Client(client, tc.client).Handshake() }()
			}
			_, advice, err := c.Handshake(config, time.Minute, time.Now())
			if err == nil || !strings.Contains(advice, tc.advice) || (advice == "") != (tc.advice == "") {
				t.Errorf("%v: %q, want %q", err, advice, tc.advice)
			}
		})
	}
}

// A client of another protocol is found out by its first octets, and one of ours is not
// made to wait for more of them.
func TestOtherProtocols(t *testing.T) {
	for _, tc := range []struct {
		sent []string
		want error
	}{
		{[]string{"EHLO x\r\n"}, nil},
		{[]string{"\r\n"}, nil},
		{[]string{"GET / HTTP/1.1\r\n"}, ErrHTTP},
		{[]string{"G", "ET", " /"}, ErrHTTP},
		{[]string{"post /x\r\n"}, ErrHTTP},
		{[]string{"PRI * HTTP/2.0\r\n"}, ErrHTTP},
		{[]string{"GETTING\r\n"}, nil},
		{[]string{"G\r\n"}, nil},
		{[]string{"\x16\x03\x01"}, ErrTLS},
	} {
		c, client := pipe(t)
		say(client, tc.sent...)
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := c.OtherProtocol(); !errors.Is(err, tc.want) {
			t.Errorf("%q: %v, want %v", tc.sent, err, tc.want)
		}
	}
	for line, want := range map[string]bool{
		"GET / HTTP/1.1": true, "OPTIONS * http/1.0 ": true, "MAIL FROM:<a@b>": false, "HTTP/1.1": false, "": false, "GET / HTTP/": false,
	} {
		if IsHTTP([]byte(line)) != want {
			t.Errorf("%q: want %v", line, want)
		}
	}
}

// A PROXY header of version 2 is known by its signature, in one piece or in several; an
// empty line is not taken for its beginning, nor is its client made to wait.
func TestProxySigned(t *testing.T) {
	for _, tc := range []struct {
		sent []string
		want bool
	}{
		{[]string{proxySignature}, true},
		{[]string{proxySignature[:5], proxySignature[5:]}, true},
		{[]string{proxySignature[:7], proxySignature[7:9], proxySignature[9:]}, true},
		{[]string{"\r\n"}, false},
		{[]string{"\r\n\r\n"}, false},
		{[]string{"\r\n\r\nNOOP\r\n"}, false},
		{[]string{"\r\n\r\n\x00\r\nQUITS"}, false},
		{[]string{"EHLO x\r\n"}, false},
	} {
		c, client := pipe(t)
		say(client, tc.sent...)
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := c.ProxySigned(); got != tc.want {
			t.Errorf("%q: %v", tc.sent, got)
		}
	}
}

// What a client has sent without waiting is seen before it is read, in the clear and
// inside TLS, and Drop reads it, so that a close does not take our last words along.
func TestAhead(t *testing.T) {
	for name, connect := range map[string]func(*testing.T) (*Conn, net.Conn){"socket": socketPair, "TLS": encrypted} {
		t.Run(name, func(t *testing.T) {
			c, client := connect(t)
			if c.Ahead() {
				t.Error("nothing was sent")
			}
			if _, err := io.WriteString(client, "Subject: sent too soon\r\n"); err != nil {
				t.Fatal(err)
			}
			if !c.Ahead() {
				t.Error("not seen")
			}
			c.Drop()
			if c.Ahead() || c.Buffered() > 0 {
				t.Error("still there")
			}
			c.Say(smtp.Reply{Code: 503, Text: "You did not wait"})
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			c.Cut()
			if got, err := io.ReadAll(client); !strings.HasPrefix(string(got), "503 ") {
				t.Errorf("the client hears %q, %v", got, err)
			}
		})
	}
}

// A client that gets no session hears why, and keeps nobody.
func TestTurnAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t)
		heard := make(chan string)
		go func() {
			b := make([]byte, 100)
			n, _ := client.Read(b)
			heard <- string(b[:n])
		}()
		c.TurnAway(smtp.Reply{Code: 421, Enhanced: "3.2", Text: "Service shutting down"})
		if got := <-heard; got != "421 4.3.2 Service shutting down\r\n" {
			t.Errorf("%q", got)
		}
		began := time.Now()
		c.TurnAway(smtp.Reply{Code: 421, Text: "Nobody reads this"})
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
