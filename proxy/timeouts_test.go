package proxy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/smtptest"
)

// The times of the tests below, all different, so that each is seen for itself.
func testTimes(c *configs.Config) {
	c.Timeouts = configs.Timeouts{
		Greeting: 30 * time.Second, Command: 5 * time.Minute, DataBlock: 3 * time.Minute, EndOfData: 8 * time.Minute,
		BackendConnect: 10 * time.Second, BackendCommand: 4 * time.Minute, TLSHandshake: 20 * time.Second, Drain: 30 * time.Second,
	}
}

// took expects a reply, or the close, after that time and not before.
func (c *client) took(t *testing.T, want time.Duration, prefix string) {
	t.Helper()
	start, got := time.Now(), ""
	if prefix == "close" {
		if b, err := c.br.ReadByte(); err == nil {
			t.Errorf("still open, and says %q", b)
		}
		got = "close"
	} else {
		got = c.reply()
	}
	if d := time.Since(start); d < want || d > want+time.Second || !strings.HasPrefix(got, prefix) {
		t.Errorf("%q after %v, want %q after %v", got, d, prefix, want)
	}
}

// inTime runs a story in a bubble, where five minutes take none.
func inTime(t *testing.T, name string, o rigOptions, story func(t *testing.T, r *rig)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if o.policy == nil {
				o.policy = &streamPolicy
			}
			o.config = testTimes
			r := newRig(t, o)
			story(t, r)
			r.close()
		})
	})
}

// until brings a client to a point in its session.
func (r *rig) until(point string) *client {
	c := r.connect("192.0.2.1")
	for _, step := range []struct{ line, reply string }{
		{"EHLO client.example", "250"}, {"MAIL FROM:<alice@good.example>", "250 "},
		{"RCPT TO:<rcpt@local.example>", "250 "}, {"DATA", "354 "},
	} {
		if strings.HasPrefix(step.line, point) {
			break
		}
		c.cmd(step.line, step.reply)
	}
	return c
}

func TestClientTimeouts(t *testing.T) {
	inTime(t, "greeting", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.connect("192.0.2.1")
		c.took(t, 30*time.Second, "421 4.4.2 ")
		c.closed()
	})
	inTime(t, "command", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("MAIL")
		c.took(t, 5*time.Minute, "421 4.4.2 ")
		c.closed()
	})
	inTime(t, "a command octet by octet", rigOptions{}, func(t *testing.T, r *rig) {
		// A whole command has a limit, not each of its octets.
		c := r.until("MAIL")
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 300 {
				time.Sleep(2 * time.Second)
				c.say("x")
			}
		})
		c.took(t, 5*time.Minute, "421 4.4.2 ")
		c.closed()
		wg.Wait()
	})
	inTime(t, "data block", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("end")
		c.say("From: alice@good.example\r\n\r\nHalf of a")
		c.took(t, 3*time.Minute, "421 4.4.2 ")
		c.closed()
		if n := len(r.sink.Messages()); n > 0 || r.last().Outcome != journal.OutcomeAbandoned {
			t.Errorf("%d messages, %s", n, r.last().Outcome)
		}
	})
	inTime(t, "chunk", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("DATA")
		c.say("BDAT 1000 LAST\r\nFrom: alice@good.example\r\n\r\nHalf of a")
		c.took(t, 3*time.Minute, "421 4.4.2 ")
		c.closed()
		if n := len(r.sink.Messages()); n > 0 {
			t.Errorf("%d messages", n)
		}
	})
	inTime(t, "minimum rate", rigOptions{}, func(t *testing.T, r *rig) {
		// Never silent for three minutes, and far too slow all the same.
		c := r.until("end")
		var wg sync.WaitGroup
		wg.Go(func() {
			c.say("From: alice@good.example\r\n\r\n")
			for i := 0; i < 100; i++ {
				time.Sleep(10 * time.Second)
				c.say(fmt.Sprintf("line %d\r\n", i))
			}
		})
		start := time.Now()
		c.expect("421 4.4.2 ")
		if d := time.Since(start); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("after %v", d)
		}
		c.closed()
		wg.Wait()
	})
	inTime(t, "ceiling", rigOptions{}, func(t *testing.T, r *rig) {
		// Fast enough, and without an end.
		c := r.until("end")
		var wg sync.WaitGroup
		wg.Go(func() {
			c.say("From: alice@good.example\r\n\r\n")
			line := strings.Repeat("x", 510) + "\r\n"
			for range 3000 {
				time.Sleep(1900 * time.Millisecond)
				c.say(line)
			}
		})
		start := time.Now()
		c.expect("421 4.4.2 ")
		if d := time.Since(start); d < 59*time.Minute || d > 61*time.Minute {
			t.Errorf("after %v", d)
		}
		c.closed()
		wg.Wait()
	})
	inTime(t, "TLS handshake", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("MAIL")
		c.cmd("STARTTLS", "220 ")
		c.took(t, 20*time.Second, "close")
		<-c.done
	})
	inTime(t, "implicit TLS", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.dialFrom("192.0.2.1", Listener{Name: "mx", TLS: "implicit"})
		c.took(t, 20*time.Second, "close")
		<-c.done
	})
	inTime(t, "a client that reads nothing", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("MAIL")
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 5000 { // far more than the socket buffer holds in replies
				if _, err := c.conn.Write([]byte(strings.Repeat("HELP\r\n", 20))); err != nil {
					return
				}
			}
		})
		start := time.Now()
		<-c.done
		if d := time.Since(start); d > 11*time.Minute {
			t.Errorf("kept for %v", d)
		}
		wg.Wait()
	})
}

// TestBackendTimeouts: an MTA that says nothing, at each point.
func TestBackendTimeouts(t *testing.T) {
	for _, tt := range []struct {
		at, point string
		without   string
		after     time.Duration
		reply     string
	}{
		{"CONNECT", "RCPT", "", 10 * time.Second, "451 4.4.1 "},
		{"EHLO", "RCPT", "", 4 * time.Minute, "451 4.4.1 "},
		{"MAIL", "RCPT", "", 4 * time.Minute, "451 4.4.1 "},
		{"RCPT", "RCPT", "", 4 * time.Minute, "451 4.4.1 "},
		{"DATA", "dot", "CHUNKING", 4 * time.Minute, "451 4.4.1 "},
		{".", "dot", "CHUNKING", 8 * time.Minute, "451 4.4.2 "},
		{".", "dot", "", 8 * time.Minute, "451 4.4.2 "},
	} {
		var mu sync.Mutex
		armed := false
		o := rigOptions{noIdle: true, sink: withoutIf(tt.without != "", tt.without)}
		o.sink.Script = func(st smtptest.Step) (a smtptest.Action) {
			mu.Lock()
			defer mu.Unlock()
			a.Stall = armed && st.Verb == tt.at
			return a
		}
		inTime(t, tt.at+" "+tt.without, o, func(t *testing.T, r *rig) {
			synctest.Wait()
			mu.Lock()
			armed = true
			mu.Unlock()
			c := r.until(tt.point)
			if tt.point == "dot" {
				c.say(rigMessage + ".\r\n")
			} else {
				c.say("RCPT TO:<rcpt@local.example>\r\n")
			}
			c.took(t, tt.after, tt.reply)
			c.cmd("NOOP", "250 ")
			c.cmd("RSET", "250 ")
			want := journal.OutcomeFailed
			if tt.at == "." {
				want = journal.OutcomeUnknown
			}
			if rec := r.last(); rec == nil || rec.Outcome != want || rec.Error == "" {
				t.Errorf("record %+v, want %s", rec, want)
			}
			mu.Lock()
			armed = false
			mu.Unlock()
			if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
				t.Errorf("afterwards: %q", got)
			}
		})
	}
}

// TestEndOfDataBudget: all that comes between the client's dot and our reply has
// one budget, however the MTA spreads it.
func TestEndOfDataBudget(t *testing.T) {
	o := rigOptions{policy: &holdPolicy, noIdle: true, sink: withoutIf(true, "CHUNKING")}
	o.sink.Script = func(st smtptest.Step) (a smtptest.Action) {
		switch st.Verb {
		case "DATA":
			a.Wait = 3*time.Minute + 30*time.Second
		case ".":
			a.Wait = 7 * time.Minute
		}
		return a
	}
	inTime(t, "held", o, func(t *testing.T, r *rig) {
		c := r.until("end")
		c.say(rigMessage + ".\r\n")
		c.took(t, 8*time.Minute, "451 4.4.2 ")
		if rec := r.last(); rec.Outcome != journal.OutcomeUnknown {
			t.Errorf("%s", rec.Outcome)
		}
	})
}

// TestShutdown: who waits for a command is told 421 4.3.2 at once, who is in
// DATA may finish, and who never finishes is cut when the time is up.
func TestShutdown(t *testing.T) {
	inTime(t, "idle and in DATA", rigOptions{}, func(t *testing.T, r *rig) {
		idle, open, busy := r.until("MAIL"), r.until("DATA"), r.until("end")
		busy.say("From: alice@good.example\r\n\r\nfirst half, ")
		synctest.Wait()
		r.srv.wg.Go(func() { <-busy.done }) // as Serve would
		ended := make(chan error, 1)
		go func() { ended <- r.srv.Shutdown(t.Context()) }()
		for _, c := range []*client{idle, open} {
			c.took(t, 0, "421 4.3.2 ")
			c.closed()
		}
		time.Sleep(time.Minute)
		select {
		case err := <-ended:
			t.Fatalf("shut down with a message on its way: %v", err)
		default:
		}
		busy.say("second half\r\n.\r\n")
		busy.expect("250 ")
		busy.took(t, 0, "421 4.3.2 ")
		busy.closed()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := len(r.sink.Messages()); n != 1 {
			t.Errorf("%d messages", n)
		}
		if late := r.dialFrom("192.0.2.1", Listener{Name: "mx"}); !strings.HasPrefix(late.reply(), "421 4.3.2 ") {
			t.Error("a late client was served")
		}
	})
	inTime(t, "never finishes", rigOptions{}, func(t *testing.T, r *rig) {
		busy := r.until("end")
		busy.say("From: alice@good.example\r\n\r\nfirst half, ")
		r.srv.wg.Go(func() { <-busy.done })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start := time.Now()
		if err := r.srv.Shutdown(ctx); err == nil {
			t.Error("no error")
		}
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("after %v", d)
		}
		<-busy.done
		if n := len(r.sink.Messages()); n != 0 {
			t.Errorf("%d messages", n)
		}
	})
}

// TestSmallMessageEndTimeout: the time that the client waits for us begins with
// its dot, and not with ours: a small message is all there before the backend
// has heard DATA.
func TestSmallMessageEndTimeout(t *testing.T) {
	slow := func(st smtptest.Step) (a smtptest.Action) {
		switch {
		case st.Connection == 1: // the look at what it offers
		case st.Verb == "DATA":
			a.Wait = 230 * time.Second
		case st.Verb == ".":
			a.Wait = 400 * time.Second
		}
		return a
	}
	inTime(t, "DATA", rigOptions{noIdle: true, sink: smtptest.SinkOptions{Without: []string{"CHUNKING"}, Script: slow}}, func(t *testing.T, r *rig) {
		c := r.until("text")
		c.send(rigMessage + ".\r\n")
		c.took(t, 8*time.Minute, "451 4.4.2 ")
	})
	inTime(t, "BDAT", rigOptions{noIdle: true, sink: smtptest.SinkOptions{Without: []string{"CHUNKING"}, Script: slow}}, func(t *testing.T, r *rig) {
		c := r.until("DATA")
		text := "From: a@good.example\r\n\r\nx\r\n"
		c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
		c.took(t, 8*time.Minute, "451 4.4.2 ")
	})
}

// TestHalfACommandBehindTheMessage: while the backend thinks, the time in which
// the client must go on with its message passes; that for its next command
// begins afterwards, also where half of it is there already.
func TestHalfACommandBehindTheMessage(t *testing.T) {
	slow := func(st smtptest.Step) (a smtptest.Action) {
		if st.Verb == "." {
			a.Wait = 4 * time.Minute
		}
		return a
	}
	inTime(t, "rest", rigOptions{sink: smtptest.SinkOptions{Script: slow}}, func(t *testing.T, r *rig) {
		c := r.until("text")
		c.send(rigMessage + ".\r\nMAIL FR")
		c.took(t, 4*time.Minute, "250 2.6.0 ")
		time.Sleep(time.Minute)
		c.cmd("OM:<alice@good.example>", "250 2.1.0 ")
	})
}

// TestSlowChunks: a message in chunks has to come at a pace as one by DATA has,
// whatever time there is between two commands.
func TestSlowChunks(t *testing.T) {
	inTime(t, "octets", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("DATA")
		c.send("BDAT 12\r\nSubject: x\r\n")
		c.expect("250 ")
		time.Sleep(4 * time.Minute)
		c.send("BDAT 1\r\n")
		c.took(t, 0, "421 4.4.2 ")
		c.closed()
	})
}

// TestShutdownBetweenChunks: a message on its way is finished, also while its
// client is between two chunks.
func TestShutdownBetweenChunks(t *testing.T) {
	inTime(t, "two", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("DATA")
		c.send("BDAT 14\r\nSubject: x\r\n\r\n")
		c.expect("250 ")
		r.srv.wg.Go(func() { <-c.done }) // as Serve would
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = r.srv.Shutdown(ctx)
		})
		time.Sleep(5 * time.Second)
		c.send("BDAT 3 LAST\r\nx\r\n")
		c.expect("250 2.6.0 ")
		c.expect("421 4.3.2 ")
		c.closed()
		wg.Wait()
	})
}

// TestAnswersBeforeChunk: a client that wants to hear of its recipients before
// it sends the octets of its chunk hears of them.
func TestAnswersBeforeChunk(t *testing.T) {
	inTime(t, "replies", rigOptions{}, func(t *testing.T, r *rig) {
		c := r.until("MAIL")
		text := "From: a@good.example\r\n\r\nx\r\n"
		c.send(fmt.Sprintf("MAIL FROM:<alice@good.example>\r\nRCPT TO:<rcpt@local.example>\r\nBDAT %d LAST\r\n", len(text)))
		c.took(t, 0, "250 2.1.0 ")
		c.took(t, 0, "250 2.1.5 ")
		c.send(text)
		c.expect("250 2.6.0 ")
	})
}

// TestSlowHeldMessage: the backend has heard RCPT and hears DATA only when the
// whole message is there. It does not lose patience meanwhile.
func TestSlowHeldMessage(t *testing.T) {
	p := configs.Policy{Rules: []configs.Rule{{Name: "signed", When: `dkim.result == "pass"`, Do: "reject"}}}
	inTime(t, "ten minutes", rigOptions{policy: &p}, func(t *testing.T, r *rig) {
		c := r.until("text")
		c.send("DKIM-Signature: v=1; a=rsa-sha256; d=good.example; s=x; h=from; bh=AA==; b=AA==\r\nFrom: a@good.example\r\n\r\n")
		for range 20 {
			time.Sleep(30 * time.Second)
			c.send(strings.Repeat("0123456789\r\n", 3000))
		}
		c.send(".\r\n")
		c.expect("250 2.6.0 ")
	})
}
