package backend

import (
	"bufio"
	"context"
	"net"
	"os"
	"strings"
	"testing"

	"postern/configs"
)

// quick is a server that answers without looking closely, so that what is
// measured is our half. The message must come by BDAT LAST.
func quick(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serveQuick(c)
		}
	}()
	return ln.Addr().String()
}

func serveQuick(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	out := []byte("220 mta\r\n")
	for {
		if br.Buffered() == 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
		line, err := br.ReadSlice('\n')
		if err != nil {
			return
		}
		switch line[0] {
		case 'E':
			out = append(out, "250-mta\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-XFORWARD NAME ADDR PORT PROTO HELO SOURCE\r\n250 XCLIENT NAME ADDR PORT PROTO HELO\r\n"...)
			continue
		case 'X':
			if line[1] == 'C' {
				out = append(out, "220 mta\r\n"...)
				continue
			}
		case 'B':
			n := 0
			for _, d := range line[len("BDAT "):] {
				if d < '0' || d > '9' {
					break
				}
				n = 10*n + int(d-'0')
			}
			if _, err := br.Discard(n); err != nil {
				return
			}
		case 'D':
			out = append(out, "354 Go\r\n"...)
			if _, err := c.Write(out); err != nil {
				return
			}
			out = out[:0]
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					return
				}
				if string(line) == ".\r\n" {
					break
				}
			}
		}
		out = append(out, "250 2.0.0 OK\r\n"...)
	}
}

// counted counts reads and writes, which are what a mail costs.
type counted struct {
	net.Conn
	reads, writes *int
}

func (c counted) Read(p []byte) (int, error)  { *c.reads++; return c.Conn.Read(p) }
func (c counted) Write(p []byte) (int, error) { *c.writes++; return c.Conn.Write(p) }

// BenchmarkTransaction is an envelope and a message of 4 KiB on a connection
// from the pool. With POSTERN_BENCH_BACKEND set it goes to that address
// instead, so that the system calls of our half can be counted alone.
func BenchmarkTransaction(b *testing.B) {
	for _, identity := range []string{identityNone, identityXForward, identityXClient} {
		for _, chunked := range []bool{false, true} {
			name := identity + "/DATA"
			if chunked {
				name = identity + "/BDAT"
			}
			b.Run(name, func(b *testing.B) { benchTransaction(b, identity, chunked) })
		}
	}
}

func benchTransaction(b *testing.B, identity string, chunked bool) {
	addr := os.Getenv("POSTERN_BENCH_BACKEND")
	if addr == "" {
		addr = quick(b)
	}
	var reads, writes int
	o := Options{Hostname: "mx.test", MaxUses: 1 << 30, MaxAge: 1 << 60, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, address)
		return counted{nc, &reads, &writes}, err
	}}
	s, err := New([]configs.Backend{backendAt(identity, addr)}, nil, o)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	text := []byte(strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64))
	one := func() {
		c, err := s.pools[0].Open(context.Background(), alice)
		if err != nil {
			b.Fatal(err)
		}
		c.QueueMail(sender, nil)
		c.QueueRcpt(recipient, nil)
		if chunked {
			c.QueueBdat(int64(len(text)), true)
			_, _ = c.Write(text)
		} else {
			c.QueueData()
		}
		for range 3 {
			if r, err := c.Reply(); err != nil || r.Code >= 400 {
				b.Fatal(r, err)
			}
		}
		if !chunked {
			_, _ = c.Write(text)
			_, _ = c.Write([]byte(".\r\n"))
			if r, err := c.FinalReply(); err != nil || r.Code != 250 {
				b.Fatal(r, err)
			}
		}
		c.Release()
	}
	one()
	reads, writes = 0, 0
	b.ReportAllocs()
	for b.Loop() {
		one()
	}
	b.ReportMetric(float64(reads)/float64(b.N), "reads/op")
	b.ReportMetric(float64(writes)/float64(b.N), "writes/op")
}

// BenchmarkBody is a message of 50 MiB in pieces of 32 KiB.
func BenchmarkBody(b *testing.B) {
	s, err := New([]configs.Backend{backendAt(identityNone, quick(b))}, nil, Options{Hostname: "mx.test"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	block := []byte(strings.Repeat(strings.Repeat("x", 510)+"\r\n", 64))
	const blocks = 50 << 20 / (32 << 10)
	b.SetBytes(int64(blocks * len(block)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := s.pools[0].Open(context.Background(), alice)
		if err != nil {
			b.Fatal(err)
		}
		c.QueueMail(sender, nil)
		c.QueueRcpt(recipient, nil)
		c.QueueBdat(int64(blocks*len(block)), true)
		for range blocks {
			if _, err := c.Write(block); err != nil {
				b.Fatal(err)
			}
		}
		for range 3 {
			if _, err := c.Reply(); err != nil {
				b.Fatal(err)
			}
		}
		c.Release()
	}
}
