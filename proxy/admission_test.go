package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
)

// admitted says whether a client is let in, and keeps it if so.
func (r *rig) admitted(ip string) bool {
	c := r.dialFrom(ip, Listener{Name: "mx", TLS: "starttls"})
	if got := c.hear(); !strings.HasPrefix(got, "220 ") {
		if !strings.HasPrefix(got, "421 4.7.0 ") {
			r.t.Errorf("%s: %q", ip, got)
		}
		c.closed()
		return false
	}
	return true
}

// TestNetworksCountTogether: two hundred /64 of one /48 have as much as four, and
// nobody else is the worse for it.
func TestNetworksCountTogether(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*configs.Limits)
	}{
		{"sessions", func(l *configs.Limits) { l.ConnectionsPerClient = 5 }},
		{"connections in a minute", func(l *configs.Limits) { l.ConnectionRate = 5 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, rigOptions{config: func(c *configs.Config) { tt.set(&c.Limits) }})
			in := 0
			for i := range 200 {
				if r.admitted(fmt.Sprintf("2001:db8:1:%x::25", i)) {
					in++
				}
			}
			if in != 20 {
				t.Errorf("%d sessions of one /48, want 20", in)
			}
			for _, other := range []string{"2001:db8:2::25", "192.0.2.1", "192.0.2.2"} {
				if !r.admitted(other) {
					t.Errorf("%s is not let in", other)
				}
			}
		})
	}
}

// TestMessageRateOfNetwork: what one /64 after the other sends is counted together.
func TestMessageRateOfNetwork(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.MessageRate = 2 }})
	sent := 0
	for i := range 20 {
		c := r.connect(fmt.Sprintf("2001:db8:1:%x::25", i))
		c.ehlo()
		if c.say("MAIL FROM:<a@a.example>\r\n"); code(c.hear()) == "250" {
			sent++
		}
	}
	if sent != 8 {
		t.Errorf("%d, want 8", sent)
	}
}

// TestLongestIdleGivesWay: where as many sessions are open as there may be, the one
// that has brought no message for longest ends, whatever else it says; never one
// that is in a message, or began a moment ago.
func TestLongestIdleGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.Connections = 4 }})
		inMessage := r.until("end")
		time.Sleep(time.Second)
		talker := r.connect("198.51.100.1")
		time.Sleep(time.Second)
		silent := r.connect("198.51.100.2")
		time.Sleep(time.Second)
		worker := r.connect("198.51.100.3")
		for range 3 {
			talker.cmd("NOOP", "250 ")
			time.Sleep(time.Second)
		}
		worker.ehlo()
		if got := worker.message("MAIL FROM:<a@a.example>", rigMessage); code(got) != "250" {
			t.Fatal(got)
		}

		honest := r.connect("192.0.2.10")
		talker.expect("421 4.3.2 ")
		talker.closed()
		time.Sleep(time.Second)
		another := r.connect("192.0.2.11")
		silent.expect("421 4.3.2 ")
		silent.closed()
		// All that are left have begun or brought a message less than five seconds ago.
		if r.admitted("192.0.2.12") {
			t.Error("let in, but for whom?")
		}
		for _, c := range []*client{honest, another} {
			c.ehlo()
			if got := c.message("MAIL FROM:<a@a.example>", rigMessage); code(got) != "250" {
				t.Error(got)
			}
		}
		worker.cmd("NOOP", "250 ")
		inMessage.send(rigMessage + ".\r\n")
		inMessage.expect("250 ")
		r.srv.mu.Lock()
		if n, giving := len(r.srv.sessions), r.srv.giving; n != 4 || giving != 0 {
			t.Errorf("%d sessions, %d give way", n, giving)
		}
		r.srv.mu.Unlock()
		for _, c := range r.clients {
			_ = c.conn.Close()
		}
		r.close()
	})
}

// TestGivesWayInTransaction: one that waits in the middle of a transaction hears it
// too, and nothing of it reaches the MTA.
func TestGivesWayInTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.Connections = 1 }})
		c := r.until("DATA")
		time.Sleep(giveWayAfter)
		other := r.connect("192.0.2.10")
		c.expect("421 4.3.2 ")
		c.closed()
		if rec := r.last(); rec.Outcome != "abandoned" {
			t.Errorf("%+v", rec)
		}
		_ = other.conn.Close()
		r.close()
		if n := len(r.sink.Messages()); n != 0 {
			t.Error(n)
		}
	})
}

// TestHonestBesideSevenSitters: seven addresses fill all the sessions that there
// are, and talk to keep them; others come in all the same.
func TestHonestBesideSevenSitters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.Connections, c.Limits.ConnectionsPerClient = 70, 10 }})
		defer r.close()
		for i := range 7 {
			for range 10 {
				defer r.connect(fmt.Sprintf("198.51.100.%d", i+1)).trickle("NOOP\r\n", 1500*time.Millisecond)()
			}
		}
		time.Sleep(time.Minute)
		for i := range 100 {
			c := r.connect(fmt.Sprintf("192.0.2.%d", i+10))
			c.ehlo()
			if got := c.message("MAIL FROM:<a@a.example>", rigMessage); code(got) != "250" {
				t.Fatal(got)
			}
			c.cmd("QUIT", "221 ")
		}
	})
}
