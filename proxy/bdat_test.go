package proxy

import (
	"fmt"
	"strings"
	"testing"
)

// TestChunksEndWithinLineEnding: a message by BDAT whose last octet is a CR is
// refused, and the backend must not have it all the same. It is longer than what
// is gathered before a write, so that it would have gone out at once.
func TestChunksEndWithinLineEnding(t *testing.T) {
	for _, chunking := range []bool{true, false} {
		r := newRig(t, rigOptions{policy: &openPolicy, sink: withoutIf(!chunking, "CHUNKING")})
		c := r.connect("192.0.2.1")
		c.ehlo()
		text := "From: a@good.example\r\n\r\n" + strings.Repeat("0123456789\r\n", 20000) + "end\r"
		for _, chunks := range [][]int{{len(text)}, {100000, len(text) - 100000}, {len(text), 0}, {len(text) - 1, 1}} {
			c.cmd("MAIL FROM:<alice@good.example>", "250 ")
			c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
			rest, got := text, ""
			for i, n := range chunks {
				last := ""
				if i == len(chunks)-1 {
					last = " LAST"
				}
				c.say(fmt.Sprintf("BDAT %d%s\r\n%s", n, last, rest[:n]))
				rest, got = rest[n:], c.hear()
			}
			if !strings.HasPrefix(got, "550 5.6.0 ") {
				t.Errorf("chunking %v, %v: %q", chunking, chunks, got)
			}
		}
		if n := len(r.sink.Messages()); n > 0 {
			t.Errorf("chunking %v: %d messages at the backend", chunking, n)
		}
		r.close()
	}
}

// TestChunksInThePipe: a client that has sent fifty chunks when the first is
// refused hears fifty answers, and is not sent away for fifty errors.
func TestChunksInThePipe(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.say("BDAT 6\r\na\nb\r\n\r" + strings.Repeat("BDAT 2\r\n\r\n", 49) + "BDAT 0 LAST\r\n")
	c.expect("550 5.6.0 ")
	for range 50 {
		c.expect("503 5.5.1 ")
	}
	if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
		t.Error(got)
	}
}

// TestBlanksInBDAT: one blank too many does not hide where the chunk ends.
func TestBlanksInBDAT(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.send("BDAT  2\r\n\r\n")
	c.expect("250 ")
	c.send("BDAT 6   last \r\nHello.")
	c.expect("250 ")
	c.send("BDAT 6 LAST x\r\nHello.")
	c.expect("501 ")
	c.closed()
}

// TestManyChunks: some senders send chunks of 8 KiB, and messages of many MiB.
func TestManyChunks(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.send("BDAT 26\r\nFrom: a@good.example\r\n\r\n\r\n")
	c.expect("250 ")
	chunk := strings.Repeat(strings.Repeat("x", 1022)+"\r\n", 8)
	for range 1500 {
		c.send(fmt.Sprintf("BDAT %d\r\n%s", len(chunk), chunk))
		c.expect("250 ")
	}
	c.cmd("BDAT 0 LAST", "250 ")
}
