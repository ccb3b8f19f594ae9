package proxy

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/wire"
)

// oneConnection is a site whose MTA takes one connection at a time.
func oneConnection(o rigOptions) rigOptions {
	o.config = testTimes
	o.backend = func(b *configs.Backend) { b.Connections = 1 }
	if o.policy == nil {
		o.policy = &streamPolicy
	}
	return o
}

// TestSilentClientsKeepNobodyWaiting: a client that says nothing, at a point
// where the MTA has heard of no message, keeps its connection to the MTA from
// others for a few seconds only. It is told to come again when it speaks, and
// nothing is lost.
func TestSilentClientsKeepNobodyWaiting(t *testing.T) {
	hold := rigOptions{policy: &holdPolicy}
	for _, tt := range []struct {
		name    string
		options rigOptions
		tls     bool
		silent  func(c *client) // the way to the silence
		speaks  func(c *client) // what it says at last
		heard   string          // and what it hears to that
	}{
		{"behind RCPT", rigOptions{}, false, func(*client) {}, func(c *client) { c.send("DATA\r\n") }, "451 4.4.5 "},
		{"behind RCPT, in TLS", rigOptions{}, true, func(*client) {}, func(c *client) { c.send("DATA\r\n") }, "451 4.4.5 "},
		{"behind RCPT, with XCLIENT", rigOptions{identity: "xclient"}, false, func(*client) {}, func(c *client) { c.send("DATA\r\n") }, "451 4.4.5 "},
		{"before another RCPT", rigOptions{}, false, func(*client) {}, func(c *client) { c.send("RCPT TO:<second@local.example>\r\n") }, "451 4.4.5 "},
		{"before RSET", rigOptions{}, false, func(*client) {}, func(c *client) { c.send("RSET\r\n") }, "250 "},
		{"in a command", rigOptions{}, false, func(c *client) { c.send("DA") }, func(c *client) { c.send("TA\r\n") }, "451 4.4.5 "},
		{"in a command, in TLS", rigOptions{}, true, func(c *client) { c.send("DA") }, func(c *client) { c.send("TA\r\n") }, "451 4.4.5 "},
		{"behind DATA", rigOptions{}, false, func(c *client) { c.cmd("DATA", "354 ") }, func(c *client) { c.send(rigMessage + ".\r\n") }, "451 4.4.5 "},
		{"in the header", rigOptions{}, false, func(c *client) { c.cmd("DATA", "354 "); c.send("From: a") }, func(c *client) { c.send("@good.example\r\n\r\nx\r\n.\r\n") }, "451 4.4.5 "},
		{"in the header, in TLS", rigOptions{}, true, func(c *client) { c.cmd("DATA", "354 "); c.send("From: a") }, func(c *client) { c.send("@good.example\r\n\r\nx\r\n.\r\n") }, "451 4.4.5 "},
		{"in a message that is held", hold, false, func(c *client) { c.cmd("DATA", "354 "); c.send(rigMessage) }, func(c *client) { c.send("x\r\n.\r\n") }, "451 4.4.5 "},
		{"in a refused message", rigOptions{}, false, func(c *client) { c.cmd("DATA", "354 "); c.send(" white\r\n\r\n") }, func(c *client) { c.send("x\r\n.\r\n") }, "550 5.6.0 "},
		{"in a chunk", rigOptions{}, false, func(c *client) { c.send("BDAT 31 LAST\r\nFrom: a") }, func(c *client) { c.send("@good.example\r\n\r\nx\r\nxx\r\n") }, "451 4.4.5 "},
		{"between two chunks", rigOptions{}, false, func(c *client) { c.cmd("BDAT 9\r\nFrom: a", "250 ") }, func(c *client) { c.send("BDAT 5 LAST\r\n\r\nx\r\n") }, "451 4.4.5 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, oneConnection(tt.options))
				c := r.connect("192.0.2.1")
				c.ehlo()
				if tt.tls {
					c.cmd("STARTTLS", "220 ")
					if err := c.tls(); err != nil {
						t.Fatal(err)
					}
					c.ehlo()
				}
				c.cmd("MAIL FROM:<alice@good.example>", "250 ")
				c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
				tt.silent(c)

				start, other := time.Now(), r.connect("192.0.2.2")
				other.ehlo()
				if got := other.message("MAIL FROM:<bob@soft.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
					t.Fatal(got)
				}
				if d := time.Since(start); d > 4*time.Second {
					t.Errorf("the other one waited %v", d)
				}
				other.cmd("QUIT", "221 ")
				other.closed()

				// A minute later: the deadline is what it was before.
				time.Sleep(time.Minute)
				tt.speaks(c)
				c.expect(tt.heard)
				if rec := r.last(); strings.HasPrefix(tt.heard, "451") && tt.name != "before another RCPT" &&
					(rec.Outcome != journal.OutcomeFailed || rec.Facts.Mail.From != "alice@good.example" || !strings.HasPrefix(rec.Reply, "451 4.4.5 ") || rec.Error == "") {
					t.Errorf("record: %+v", rec)
				}
				// The same session goes on.
				c.cmd("RSET", "250 ")
				if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
					t.Error(got)
				}
				if n := len(r.sink.Messages()); n != 2 {
					t.Errorf("%d messages at the MTA", n)
				}
				_ = c.conn.Close()
				r.close()
			})
		})
	}
}

// TestLineWithoutEnd: who makes of a command more than one may be, and then says
// nothing, keeps nobody waiting either.
func TestLineWithoutEnd(t *testing.T) {
	for _, n := range []int{wire.LineLimit, 3000, 100_000} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, oneConnection(rigOptions{}))
			c := r.until("DATA")
			c.send(strings.Repeat("x", n))
			other := r.until("RCPT")
			start := time.Now()
			other.cmd("RCPT TO:<rcpt@local.example>", "250 ")
			if d := time.Since(start); d > 4*time.Second {
				t.Errorf("%d octets: after %v", n, d)
			}
			c.expect("421 4.4.2 ")
			c.closed()
			_ = other.conn.Close()
			r.close()
		})
	}
}

// TestWhoIsAtWorkKeepsItsConnection: a client whose message the MTA is hearing,
// or that is not silent for long, is not asked.
func TestWhoIsAtWorkKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, oneConnection(rigOptions{}))
		c := r.until("end")
		c.send(rigMessage)
		other := r.until("RCPT")
		start := time.Now()
		other.cmd("RCPT TO:<rcpt@local.example>", "451 4.4.1 ")
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
		c.send(".\r\n")
		c.expect("250 ")
		_ = c.conn.Close()
		_ = other.conn.Close()
		r.close()
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, oneConnection(rigOptions{}))
		c := r.until("DATA")
		other := r.until("RCPT")
		other.send("RCPT TO:<rcpt@local.example>\r\n")
		for range 5 {
			time.Sleep(2 * time.Second)
			c.cmd("RCPT TO:<another@local.example>", "250 ")
		}
		c.cmd("DATA", "354 ")
		c.send(rigMessage + ".\r\n")
		c.expect("250 ")
		_ = c.conn.Close()
		_ = other.conn.Close()
		r.close()
	})
}

// TestNobodyWaitsNobodyIsAsked: a slow client is served as long as it may be slow.
func TestNobodyWaitsNobodyIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, oneConnection(rigOptions{}))
		c := r.until("DATA")
		time.Sleep(3 * time.Minute)
		c.cmd("DATA", "354 ")
		time.Sleep(time.Minute)
		c.send(rigMessage + ".\r\n")
		c.expect("250 ")
		c.cmd("MAIL FROM:<alice@good.example>", "250 ")
		c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
		c.took(t, 5*time.Minute, "421 4.4.2 ")
		c.closed()
		r.close()
	})
}
