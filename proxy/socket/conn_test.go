package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair is a TCP connection by both its ends.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// Whatever happens to a connection, a Conn returns what net's own connection does: as many octets,
// and an error of the same words.
func TestConnIsAsThatOfNet(t *testing.T) {
	past := time.Unix(1, 0)
	much := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than the buffers of a connection take
	read := func(c net.Conn, n int) (int, error) { return c.Read(make([]byte, n)) }
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, c, far net.Conn) (int, error)
	}{
		{"read", func(_ *testing.T, c, far net.Conn) (int, error) {
			_, _ = far.Write([]byte("xyz"))
			return read(c, 2)
		}},
		{"read nothing", func(_ *testing.T, c, _ net.Conn) (int, error) { return c.Read(nil) }},
		{"read waits", func(t *testing.T, c, far net.Conn) (int, error) {
			go far.Write([]byte("xyz")) // before or behind the read
			return read(c, 5)
		}},
		{"end", func(_ *testing.T, c, far net.Conn) (int, error) {
			far.Close()
			return read(c, 5)
		}},
		{"reset", func(t *testing.T, c, far net.Conn) (int, error) {
			if err := far.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			far.Close()
			return read(c, 5)
		}},
		{"read too late", func(_ *testing.T, c, _ net.Conn) (int, error) {
			c.SetReadDeadline(past)
			return read(c, 5)
		}},
		{"read interrupted", func(_ *testing.T, c, _ net.Conn) (int, error) {
			go c.SetReadDeadline(past)
			return read(c, 5)
		}},
		{"read of what is closed", func(_ *testing.T, c, _ net.Conn) (int, error) {
			c.Close()
			return read(c, 5)
		}},
		{"write", func(_ *testing.T, c, _ net.Conn) (int, error) { return c.Write([]byte("xyz")) }},
		{"write nothing", func(_ *testing.T, c, _ net.Conn) (int, error) { return c.Write(nil) }},
		{"write waits", func(t *testing.T, c, far net.Conn) (int, error) {
			got := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(far)
				got <- b
			}()
			n, err := c.Write(much)
			c.Close()
			if b := <-got; !bytes.Equal(b, much) {
				t.Errorf("%d octets came, of %d, or others", len(b), len(much))
			}
			return n, err
		}},
		{"write too late", func(_ *testing.T, c, _ net.Conn) (int, error) {
			c.SetWriteDeadline(past)
			return c.Write([]byte("xyz"))
		}},
		{"write interrupted", func(_ *testing.T, c, far net.Conn) (int, error) {
			go func() {
				_, _ = read(far, 1)
				c.SetWriteDeadline(past)
			}()
			n, err := c.Write(much)
			return min(n, 1), err // some of it was taken
		}},
		{"write of what is closed", func(_ *testing.T, c, _ net.Conn) (int, error) {
			c.Close()
			return c.Write([]byte("xyz"))
		}},
		{"write after a reset", func(t *testing.T, c, far net.Conn) (int, error) {
			if err := far.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			far.Close()
			_, _ = read(c, 5)
			return c.Write([]byte("xyz"))
		}},
		{"two pieces", func(_ *testing.T, c, far net.Conn) (int, error) {
			if n, err := (&net.Buffers{[]byte("ab"), []byte("cd")}).WriteTo(c); n != 4 || err != nil {
				return int(n), err
			}
			return io.ReadFull(far, make([]byte, 4))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			do := func(quick bool) (n int, text string, err error) {
				near, far := pair(t)
				c := near
				if quick {
					if c = Quick(near); c == near {
						t.Fatal("no Conn")
					}
				}
				n, err = tc.do(t, c, far)
				text = "no error"
				if err != nil {
					text = strings.NewReplacer(near.LocalAddr().String(), "near", near.RemoteAddr().String(), "far").Replace(err.Error())
				}
				return n, text, err
			}
			wantN, wantText, wantErr := do(false)
			n, text, err := do(true)
			if n != wantN || text != wantText {
				t.Errorf("%d octets, %s; net: %d, %s", n, text, wantN, wantText)
			}
			for _, kind := range []error{io.EOF, os.ErrDeadlineExceeded, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
				if errors.Is(err, kind) != errors.Is(wantErr, kind) {
					t.Errorf("%v is %v: %v, with net %v", err, kind, errors.Is(err, kind), errors.Is(wantErr, kind))
				}
			}
		})
	}
}

// One goroutine may read while another one writes, and neither call is garbage.
func TestConnReadsAndWritesAtATime(t *testing.T) {
	near, far := pair(t)
	c := Quick(near)
	go io.Copy(far, far)
	const rounds = 1000
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range rounds {
			_, _ = c.Write([]byte{byte(i), byte(i >> 8)})
		}
	})
	b := make([]byte, 2*rounds)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		if b[2*i] != byte(i) || b[2*i+1] != byte(i>>8) {
			t.Fatalf("%d: % x", i, b[2*i:2*i+2])
		}
	}
	writer.Wait()
	if n := testing.AllocsPerRun(100, func() {
		_, _ = c.Write(b[:10])
		_, _ = io.ReadFull(c, b[:10])
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// What is no TCP connection stays what it is.
func TestQuickOfOthers(t *testing.T) {
	a, _ := net.Pipe()
	if Quick(a) != a {
		t.Error("a pipe is a Conn")
	}
}
