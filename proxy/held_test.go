package proxy

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/hold"
)

// TestHonestBesideSevenHolders: seven addresses hold all that they are let, with
// messages that never end. They hear 452, and what others send is held and served.
func TestHonestBesideSevenHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &holdPolicy, config: func(c *configs.Config) {
			testTimes(c)
			c.Limits.Held, c.Limits.MessageSize = 8*configs.MiB, configs.MiB-c.Limits.HeaderSize
		}})
		defer r.close()
		var ends []func()
		for i := range 7 {
			for range 10 {
				c := r.connect(fmt.Sprintf("198.51.100.%d", i+1))
				c.ehlo()
				c.cmd("MAIL FROM:<alice@none.example>", "250 ")
				c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
				c.cmd("DATA", "354 ")
				c.send(rigMessage + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 500))
				time.Sleep(time.Millisecond) // no two of them at the same moment, or both are refused the last of the room
				ends = append(ends, c.trickle(strings.Repeat("x", 998)+"\r\n", 2*time.Second))
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if used, _ := r.srv.held.Used(); used > 7<<20 || used < 3<<20 {
			t.Errorf("the greedy hold %d octets", used)
		}
		for i := range 20 {
			c := r.connect(fmt.Sprintf("192.0.2.%d", i+10))
			c.ehlo()
			if got := c.message("MAIL FROM:<bob@soft.example>", rigMessage+strings.Repeat(strings.Repeat("x", 998)+"\r\n", 500)); code(got) != "250" {
				t.Fatal(got)
			}
			c.cmd("QUIT", "221 ")
		}
		// One that is too much is told so at its end, and can come again.
		text := rigMessage + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 600)
		c := r.until("end")
		c.send(text)
		synctest.Wait()
		other := r.connect("192.0.2.1")
		other.ehlo()
		if got := other.message("MAIL FROM:<alice@good.example>", text); !strings.HasPrefix(got, "452 4.3.1 ") {
			t.Error(got)
		}
		if rec := r.last(); rec.Outcome != journal.OutcomeFailed || rec.Error != hold.ErrNoRoom.Error() {
			t.Errorf("%q %q", rec.Outcome, rec.Error)
		}
		c.send(".\r\n")
		c.expect("250 ")
		synctest.Wait() // the reply leaves before the room is given back
		if got := other.message("MAIL FROM:<alice@good.example>", text); code(got) != "250" {
			t.Error(got)
		}
		for _, end := range ends {
			end()
		}
		r.quiet()
		if held, memory := r.srv.held.Used(); held != 0 || memory != 0 {
			t.Errorf("%d octets, %d in memory are still taken", held, memory)
		}
	})
}

// A header section is bounded by the number of its fields as well.
func TestHeaderFields(t *testing.T) {
	for n, want := range map[int]string{999: "250 ", 1000: "552 5.3.4 ", 60_000: "552 5.3.4 "} {
		r := newRig(t, rigOptions{policy: &streamPolicy})
		c := r.connect("192.0.2.1")
		c.ehlo()
		got := c.message("MAIL FROM:<alice@good.example>", "From: alice@good.example\r\n"+strings.Repeat("x:\r\n", n)+"\r\nx\r\n")
		if !strings.HasPrefix(got, want) {
			t.Errorf("%d fields: %q", n+1, got)
		}
		r.close()
	}
}

// Recipients are bounded by what is kept of them: a thousand of usual length are not
// too many, nor a hundred of the longest.
func TestRecipientsAreBoundedByOctets(t *testing.T) {
	long := strings.Repeat("x", 200) + "%d@" + strings.Repeat("d.", 100) + "example"
	for _, tt := range []struct {
		format, reply string
		least, most   int
	}{
		{"user-%d@local.example", "250 ", 1000, 1000},
		{long, "250 ", 100, 400},
	} {
		r := newRig(t, rigOptions{policy: &streamPolicy})
		c := r.connect("192.0.2.1")
		c.ehlo()
		c.cmd("MAIL FROM:<alice@good.example>", "250 ")
		n := 0
		for ; n < 1000; n++ {
			c.send("RCPT TO:<" + fmt.Sprintf(tt.format, n) + ">\r\n")
			if got := c.reply(); !strings.HasPrefix(got, tt.reply) {
				if !strings.HasPrefix(got, "452 4.5.3 ") {
					t.Error(got)
				}
				break
			}
		}
		if n < tt.least || n > tt.most {
			t.Errorf("%s: %d recipients", tt.format, n)
		}
		c.cmd("DATA", "354 ")
		c.send(rigMessage + ".\r\n")
		c.expect("250 ")
		if rec := r.last(); len(rec.Recipients) != n {
			t.Errorf("%d in the record", len(rec.Recipients))
		}
		r.close()
	}
}

// plainMTA takes everything and keeps nothing.
func plainMTA(conn io.ReadWriter) {
	say := func(s string) { _, _ = io.WriteString(conn, s+"\r\n") }
	say("220 mta")
	line, b := make([]byte, 0, 2048), make([]byte, 512)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		for _, o := range b[:n] {
			if o != '\n' {
				line = append(line, o)
				continue
			}
			switch {
			case bytes.HasPrefix(line, []byte("EHLO")):
				say("250-mta\r\n250-PIPELINING\r\n250 8BITMIME")
			case bytes.HasPrefix(line, []byte("RCPT TO:<x")):
				say("550 5.1.1 <" + strings.Repeat("x", 400) + ">: Recipient address rejected: User unknown in virtual mailbox table")
			default:
				say("250 2.0.0 OK")
			}
			line = line[:0]
		}
	}
}

// heapAndStacks is what the process has in use, in octets.
func heapAndStacks() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
