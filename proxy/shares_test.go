package proxy

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
)

// trickle sends s over and over, an interval apart, and does not hear what it is
// told. The function that it returns ends it, and the connection.
func (c *client) trickle(s string, every time.Duration) (end func()) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, c.br) })
	wg.Go(func() {
		for {
			time.Sleep(every)
			if _, err := io.WriteString(c.conn, s); err != nil {
				return
			}
		}
	})
	return func() {
		_ = c.conn.Close()
		wg.Wait()
	}
}

// TestBusyForNothing: a client that keeps talking, and brings no message or hardly
// any of it, keeps a connection to the MTA no longer than a silent one does.
func TestBusyForNothing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy *configs.Policy
		begin  func(c *client)
		say    string
		every  time.Duration
		within time.Duration
	}{
		{"NOOP behind RCPT", nil, func(*client) {}, "NOOP\r\n", 1500 * time.Millisecond, 4 * time.Second},
		{"HELP behind RCPT", nil, func(*client) {}, "HELP\r\n", time.Second, 4 * time.Second},
		{"a header that trickles", nil, func(c *client) { c.send("DATA\r\n") }, "X: y\r\n", 1500 * time.Millisecond, 4 * time.Second},
		{"a held message that trickles", &holdPolicy, func(c *client) { c.send("DATA\r\n" + rigMessage) }, strings.Repeat("x", 500) + "\r\n", 1500 * time.Millisecond, 4 * time.Second},
		{"a command that trickles", nil, func(*client) {}, "x", 1500 * time.Millisecond, 4 * time.Second},
		{"chunks without an end of the header", nil, func(*client) {}, "BDAT 6\r\nX: y\r\n", 1500 * time.Millisecond, 4 * time.Second},
		{"a message that trickles", nil, func(c *client) { c.send("DATA\r\n" + rigMessage) }, strings.Repeat("x", 500) + "\r\n", 1500 * time.Millisecond, 40 * time.Second},
		{"chunks that trickle", nil, func(c *client) { c.send(fmt.Sprintf("BDAT %d\r\n%s", len(rigMessage), rigMessage)) }, "BDAT 3\r\nx\r\n", 1500 * time.Millisecond, 40 * time.Second},
		{"recipients one by one", nil, func(*client) {}, "RCPT TO:<rcpt@local.example>\r\n", 1500 * time.Millisecond, 65 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := oneConnection(rigOptions{policy: tt.policy})
				times := o.config
				o.config = func(c *configs.Config) { times(c); c.Timeouts.BackendConnect = 2 * time.Minute }
				r := newRig(t, o)
				c := r.until("DATA")
				tt.begin(c)
				defer r.close()
				defer c.trickle(tt.say, tt.every)()

				start, other := time.Now(), r.connect("192.0.2.2")
				other.ehlo()
				if got := other.message("MAIL FROM:<bob@soft.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
					t.Fatal(got)
				}
				if d := time.Since(start); d > tt.within {
					t.Errorf("the other one waited %v", d)
				}
				_ = other.conn.Close()
				if n := len(r.sink.Messages()); n != 1 {
					t.Errorf("%d messages at the MTA: part of one is none", n)
				}
			})
		})
	}
}

// TestNoopBetweenMessages: nor does one that has had its message, be there a limit
// of connections or not.
func TestNoopBetweenMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{config: testTimes, policy: &streamPolicy})
		c := r.connect("192.0.2.1")
		c.ehlo()
		if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
			t.Fatal(got)
		}
		for range 3 {
			time.Sleep(1500 * time.Millisecond)
			c.cmd("NOOP", "250 ")
		}
		r.quiet()
		if s := r.session(); s.loan.Conn() != nil {
			t.Error("the connection is still lent")
		}
		_ = c.conn.Close()
		r.close()
	})
}

// TestTarpitHoldsNoConnection: who is made to wait for errors lets go first.
func TestTarpitHoldsNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := oneConnection(rigOptions{})
		times := o.config
		o.config = func(c *configs.Config) { times(c); c.Limits.Tarpit = time.Minute }
		r := newRig(t, o)
		c := r.until("DATA")
		for range freeErrors {
			c.cmd("XYZZY", "500 ")
		}
		c.send("XYZZY\r\n")
		synctest.Wait()
		other := r.connect("192.0.2.2")
		other.ehlo()
		start := time.Now()
		if got := other.message("MAIL FROM:<bob@soft.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
			t.Fatal(got)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("the other one waited %v", d)
		}
		c.expect("500 ")
		c.cmd("DATA", "451 4.7.0 ")
		c.cmd("RSET", "250 ")
		_ = c.conn.Close()
		_ = other.conn.Close()
		r.close()
	})
}

// TestHonestBesideSevenGreedy: seven addresses take of the MTA's connections all
// that they get, and would keep them for good; others are served all the same, at
// once.
func TestHonestBesideSevenGreedy(t *testing.T) {
	// Slowly, and fast enough never to be silent for three seconds.
	for _, every := range []time.Duration{25 * time.Second, 2500 * time.Millisecond} {
		honestBesideSevenGreedy(t, every)
	}
}

func honestBesideSevenGreedy(t *testing.T, every time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{config: testTimes, policy: &streamPolicy, backend: func(b *configs.Backend) { b.Connections = 20 }})
		defer r.close()
		for i := range 7 {
			for range 10 {
				c := r.connect(fmt.Sprintf("198.51.100.%d", i+1))
				c.ehlo()
				c.cmd("MAIL FROM:<alice@none.example>", "250 ")
				c.send("RCPT TO:<rcpt@local.example>\r\nDATA\r\n" + rigMessage)
				defer c.trickle(strings.Repeat(strings.Repeat("x", 998)+"\r\n", 33), every)()
			}
		}
		time.Sleep(2 * time.Minute)
		for i := range 20 {
			c := r.connect(fmt.Sprintf("192.0.2.%d", i+10))
			c.ehlo()
			start := time.Now()
			if got := c.message("MAIL FROM:<bob@soft.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
				t.Fatal(got)
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("it waited %v", d)
			}
			c.cmd("QUIT", "221 ")
		}
	})
}
