package proxy

import (
	"strings"
	"testing"

	"postern/configs"
)

// TestTraceToTheLetter: the order of the clauses of Received (RFC 5321 §4.4:
// additional ones last), and an address that is no dot-atom (RFC 7208 §9.1).
func TestTraceToTheLetter(t *testing.T) {
	r := newRig(t, rigOptions{zone: "good.example. TXT \"v=spf1 ip6:2001:db8::/32 -all\"\n"})
	c := r.connect("2001:db8::1")
	c.ehlo()
	c.cmd("STARTTLS", "220 ")
	if err := c.tls(); err != nil {
		t.Fatal(err)
	}
	c.ehlo()
	if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
		t.Fatal(got)
	}
	text := string(r.sink.Messages()[0].Text)
	received, rest, _ := strings.Cut(text, "Authentication-Results:")
	if f, c := strings.Index(received, "\tfor <rcpt@local.example>\r\n"), strings.Index(received, "\ttls TLS_"); f < 0 || c < f {
		t.Error(received)
	}
	if !strings.Contains(rest, `client-ip="2001:db8::1";`) || !strings.Contains(rest, `policy.iprev="2001:db8::1"`) {
		t.Error(rest)
	}
}

// TestForgedResultsWithoutOurs: a site that wants no Authentication-Results of
// ours has an MTA that writes its own, and whoever believes that one believes a
// forged one too.
func TestForgedResultsWithoutOurs(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) {
		c.Headers = configs.Headers{}
	}})
	c := r.connect("192.0.2.1")
	c.ehlo()
	const theirs = "Authentication-Results: relay.example; dkim=pass\r\n"
	if got := c.message("MAIL FROM:<alice@good.example>", "Authentication-Results: mx.test; dkim=pass\r\n"+theirs+rigMessage); !strings.HasPrefix(got, "250 ") {
		t.Fatal(got)
	}
	want := theirs + strings.ReplaceAll(rigMessage, "\r\n..", "\r\n.")
	if got := string(r.sink.Messages()[0].Text); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
