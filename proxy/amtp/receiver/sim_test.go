package receiver_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/smtp"
)

// cut is a connection that breaks once so many octets have gone one way.
type cut struct {
	net.Conn
	mu    sync.Mutex
	write bool // counts what is written, else what is read
	left  int
}

func (c *cut) spend(n int) (allowed int, broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n <= c.left {
		c.left -= n
		return n, false
	}
	n, c.left = c.left, 0
	return n, true
}

func (c *cut) Write(p []byte) (int, error) {
	if !c.write {
		return c.Conn.Write(p)
	}
	n, broken := c.spend(len(p))
	if !broken {
		return c.Conn.Write(p)
	}
	if n > 0 {
		_, _ = c.Conn.Write(p[:n])
	}
	_ = c.Conn.Close()
	return n, io.ErrClosedPipe
}

func (c *cut) Read(p []byte) (int, error) {
	if c.write {
		return c.Conn.Read(p)
	}
	c.mu.Lock()
	left := c.left
	c.mu.Unlock()
	if left == 0 {
		_ = c.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	n, err := c.Conn.Read(p[:min(len(p), left)])
	c.mu.Lock()
	c.left -= n
	c.mu.Unlock()
	return n, err
}

// The connection on which mail is announced, and that on which it is fetched, break behind every octet of either way. The
// holder announces what nobody has told it the last word on. No message is lost, none is delivered twice, and a last word is said of each.
func TestSimulation(t *testing.T) {
	faults := 0
	for _, way := range []string{"announcing, what is said", "announcing, what is heard", "fetching, what is said", "fetching, what is heard"} {
		for n := 0; ; n++ {
			broke := false
			synctest.Test(t, func(t *testing.T) { broke = simulate(t, way, n) })
			if !broke {
				break
			}
			faults++
		}
	}
	if faults < 500 {
		t.Errorf("only %d faults were tried", faults)
	}
	t.Logf("%d faults, lost 0, delivered twice 0", faults)
}

// simulate breaks a connection behind n octets; false: it has not that many.
func simulate(t *testing.T, way string, n int) (broke bool) {
	r := newRig(t, nil)
	r.holder.keep("bob@rcpt.example", "77", letter)
	fetching, write := strings.HasPrefix(way, "fetching"), strings.HasSuffix(way, "said")
	var fault *cut
	if fetching {
		r.holder.wrap = func(c net.Conn) net.Conn {
			if fault != nil {
				return c // one fault
			}
			fault = &cut{Conn: c, write: write, left: n}
			return fault
		}
	}
	for try := range 5 {
		client, server := net.Pipe()
		conn := client
		if !fetching && try == 0 {
			fault = &cut{Conn: client, write: write, left: n}
			conn = fault
		}
		r.done.Go(func() { r.server.Handle(&placed{server, addr(peer + ":4000"), addr("198.51.100.1:26")}) })
		speak(conn, "SELO sender.example 77 bob@rcpt.example")
		_ = client.Close()
		time.Sleep(30 * time.Minute) // and the proxy tries what it has noted
		synctest.Wait()
		if r.settled("bob@rcpt.example:77") {
			break
		}
	}
	if !r.settled("bob@rcpt.example:77") {
		t.Fatalf("%s, %d: the holder was never told; %s", way, n, r.log.String())
	}
	if got := len(r.sink.Messages()); got != 1 {
		t.Fatalf("%s, %d: delivered %d times; %s", way, n, got, r.log.String())
	}
	r.close()
	fault.mu.Lock()
	defer fault.mu.Unlock()
	return fault.left == 0
}

// settled says whether the holder was told that a message was delivered.
func (r *rig) settled(claim string) bool {
	r.holder.mu.Lock()
	defer r.holder.mu.Unlock()
	for _, w := range r.holder.words[claim] {
		if w.Positive() {
			return true
		}
	}
	return false
}

// speak says a line behind the greeting, and QUIT, as far as the connection goes.
func speak(conn net.Conn, line string) {
	br := newReader(conn)
	for _, l := range []string{"", line, "QUIT"} {
		if l != "" {
			if _, err := fmt.Fprintf(conn, "%s\r\n", l); err != nil {
				return
			}
		}
		if _, err := smtp.ReadReply(br); err != nil {
			return
		}
	}
}
