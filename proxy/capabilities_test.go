package proxy

import (
	"fmt"
	"strings"
	"testing"

	"postern/proxy/smtptest"
)

// TestEightBitByChunks: what DATA may not bring to a backend without 8BITMIME,
// BDAT may not either (RFC 6152 §3).
func TestEightBitByChunks(t *testing.T) {
	for _, without := range [][]string{{"8BITMIME"}, {"8BITMIME", "CHUNKING"}} {
		r := newRig(t, rigOptions{policy: &openPolicy, sink: smtptest.SinkOptions{Without: without}})
		c := r.connect("192.0.2.1")
		c.ehlo()
		for _, text := range []string{"Subject: \xc3\xa9\r\n\r\nx\r\n", "Subject: e\r\n\r\n\xc3\xa9\r\n"} {
			c.cmd("MAIL FROM:<alice@good.example>", "250 ")
			c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
			c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
			c.expect("554 5.6.3 ")
		}
		if n := len(r.sink.Messages()); n > 0 {
			t.Errorf("%d messages at the backend", n)
		}
	}
}

// TestNotifyToBackendWithoutDSN: DSN was announced, and the backend that answers
// has it no more. The client may try again; it was promised what it asks for.
func TestNotifyToBackendWithoutDSN(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, noIdle: true, sink: smtptest.SinkOptions{Script: func(st smtptest.Step) (a smtptest.Action) {
		if st.Verb == "EHLO" && st.Connection > 1 {
			a = smtptest.Action{Do: true, Reply: "250-mta.test\r\n250-8BITMIME\r\n250 PIPELINING\r\n"}
		}
		return a
	}}})
	c := r.connect("192.0.2.1")
	if got := c.ehlo(); !strings.Contains(got, "DSN") {
		t.Fatal(got)
	}
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example> NOTIFY=NEVER", "451 4.3.0 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
}

// TestWhatTheBackendLimits: a limit of the backend's is announced as it is, and
// BINARYMIME only where BODY can be said at all.
func TestWhatTheBackendLimits(t *testing.T) {
	for _, x := range []struct{ offers, want, not string }{
		{"LIMITS RCPTMAX=7 RCPTDOMAINMAX=3 MAILMAX=2", "LIMITS RCPTMAX=7 RCPTDOMAINMAX=3", "MAILMAX"},
		{"LIMITS RCPTMAX=100000", "LIMITS RCPTMAX=1000", "RCPTDOMAINMAX"},
		{"BINARYMIME", "CHUNKING", "BINARYMIME"},
		{"8BITMIME\r\n250-BINARYMIME", "BINARYMIME", "DSN"},
	} {
		r := newRig(t, rigOptions{policy: &openPolicy, sink: smtptest.SinkOptions{Script: func(st smtptest.Step) (a smtptest.Action) {
			if st.Verb == "EHLO" {
				a = smtptest.Action{Do: true, Reply: "250-mta.test\r\n250-CHUNKING\r\n250-" + x.offers + "\r\n250 PIPELINING\r\n"}
			}
			return a
		}}})
		got := r.connect("192.0.2.1").ehlo()
		if !strings.Contains(got+"\n", x.want+"\n") || strings.Contains(got, x.not) {
			t.Errorf("the backend offers %q, and EHLO says %q", x.offers, got)
		}
	}
}
