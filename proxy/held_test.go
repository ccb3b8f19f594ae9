package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/share"
)

// spoolOf fills a spool for a client until it has size octets.
func spoolOf(h *held, address string, l configs.Limits, size int) (*spool, error) {
	sp := &spool{room: h.roomFor(share.Of(netip.MustParseAddr(address)), l)}
	block := bytes.Repeat([]byte("x"), 10_000)
	for size > 0 {
		n, err := sp.Write(block[:min(size, len(block))])
		if err != nil {
			return sp, err
		}
		size -= n
	}
	return sp, nil
}

// What is held is bounded in all and for one client, comes out as it went in, and
// is given back, all of it.
func TestRoomForHeldMessages(t *testing.T) {
	limits := configs.Limits{Held: 16 * configs.MiB, HeldPerClient: 5 * configs.MiB, MessageSize: configs.MiB}
	var h held
	var spools []*spool
	count := func(address func(i int) string) (n int) {
		for i := range 30 {
			sp, err := spoolOf(&h, address(i), limits, 1<<20)
			if spools = append(spools, sp); err == nil {
				n++
			} else if !errors.Is(err, errNoRoom) {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := sp.bodyTo(&b); err != nil || int64(b.Len()) != sp.size {
				t.Fatalf("%d octets of %d: %v", b.Len(), sp.size, err)
			}
		}
		return n
	}
	if n := count(func(int) string { return "192.0.2.1" }); n != 5 {
		t.Errorf("one client holds %d, want 5", n)
	}
	if n := count(func(i int) string { return fmt.Sprintf("2001:db8:1:%x::1", i) }); n != 11 {
		t.Errorf("a /48 holds %d, want the 11 that are left", n)
	}
	for _, sp := range spools {
		sp.close()
		sp.close()
	}
	if h.octets.Used() != 0 || h.memory.Used() != 0 {
		t.Errorf("%d octets, %d in memory are still taken", h.octets.Used(), h.memory.Used())
	}
}

// Where memory is short, what would fit in there goes to the disk: nobody is refused.
func TestHeldMemoryIsBounded(t *testing.T) {
	var h held
	limits := configs.Limits{Held: configs.GiB, HeldPerClient: configs.GiB}
	for i := range 300 { // 75 MiB, were all in memory
		sp, err := spoolOf(&h, fmt.Sprintf("192.0.2.%d", i%10), limits, spoolMemory)
		if err != nil {
			t.Fatal(err)
		}
		defer sp.close()
		if i == 9 && sp.file != nil {
			t.Error("there was memory for it")
		}
	}
	if used := h.memory.Used(); used > spoolShare || used < spoolShare-10*spoolMemory {
		t.Errorf("%d octets in memory, of %d", used, spoolShare)
	}
	if n := h.memory.By(share.Of(netip.MustParseAddr("192.0.2.1"))); n > spoolShare/heldShares {
		t.Errorf("one client has %d", n)
	}
}

// Nothing said: a half of what is free, and for one client an eighth, but one
// message at the least.
func TestHeldDefaults(t *testing.T) {
	h := held{looked: time.Now().Add(time.Hour), free: 16 << 30}
	l := configs.Default().Limits
	if got := h.limits(l); got.All != 8<<30 || got.Each != 1<<30 {
		t.Errorf("got %+v", got)
	}
	h.free = 100 << 20
	if got := h.limits(l); got.All != 50<<20 || got.Each != int64(l.MessageSize+l.HeaderSize) {
		t.Errorf("got %+v", got)
	}
	h.free = 0
	if got := h.limits(l); got.All != 1 {
		t.Errorf("a full disk: %+v", got)
	}
	if got := new(held).limits(l); got.All < 2 {
		t.Errorf("of this disk: %+v", got)
	}
}

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
				ends = append(ends, c.trickle(strings.Repeat("x", 998)+"\r\n", 2*time.Second))
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if used := r.srv.held.octets.Used(); used > 7<<20 || used < 3<<20 {
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
		if rec := r.last(); rec.Outcome != journal.OutcomeFailed || rec.Error != errNoRoom.Error() {
			t.Errorf("%q %q", rec.Outcome, rec.Error)
		}
		c.send(".\r\n")
		c.expect("250 ")
		if got := other.message("MAIL FROM:<alice@good.example>", text); code(got) != "250" {
			t.Error(got)
		}
		for _, end := range ends {
			end()
		}
		r.quiet()
		if h := &r.srv.held; h.octets.Used() != 0 || h.memory.Used() != 0 {
			t.Errorf("%d octets, %d in memory are still taken", h.octets.Used(), h.memory.Used())
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
