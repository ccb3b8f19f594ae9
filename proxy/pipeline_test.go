package proxy

import (
	"fmt"
	"strings"
	"testing"

	"postern/configs"
)

// TestPipelineLongerThanTheBuffer: a client may have any number of messages in
// the pipe (RFC 3030 §4.2), more than a buffer of commands holds. None of their
// octets gets lost where one message ends and the next begins.
func TestPipelineLongerThanTheBuffer(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	c := r.connect("192.0.2.1")
	c.ehlo()
	const messages = 60
	var b strings.Builder
	for i := range messages {
		text := fmt.Sprintf("From: a@good.example\r\nSubject: %d\r\n\r\n%s\r\n", i, strings.Repeat("x", 10*i))
		fmt.Fprintf(&b, "MAIL FROM:<alice@good.example>\r\nRCPT TO:<rcpt@local.example>\r\nBDAT %d LAST\r\n%s", len(text), text)
	}
	go c.say(b.String() + "QUIT\r\n")
	for i := range messages {
		for range 3 {
			if got := c.hear(); code(got) != "250" {
				t.Fatalf("message %d: %q", i, got)
			}
		}
	}
	c.expect("221 ")
	if n := len(r.sink.Messages()); n != messages {
		t.Errorf("%d messages at the backend", n)
	}
}

// TestPipelinedBehindRefusedMail: who has pipelined thirty recipients behind a
// MAIL that is deferred has made no mistake, and is not sent away for thirty.
func TestPipelinedBehindRefusedMail(t *testing.T) {
	r := newRig(t, rigOptions{policy: &configs.Policy{Rules: []configs.Rule{{Name: "later", When: `mail.domain == "later.example"`, Do: "defer"}}}})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.say("MAIL FROM:<alice@later.example>\r\n" + strings.Repeat("RCPT TO:<rcpt@local.example>\r\n", 30) + "DATA\r\n")
	c.expect("451 ")
	for range 31 {
		c.expect("503 5.5.1 ")
	}
	if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
		t.Error(got)
	}
}
