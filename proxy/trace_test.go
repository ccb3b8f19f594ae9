package proxy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"postern/configs"
	"postern/policy"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
	"postern/proxy/wire"
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

// tagging has a tag for each recipient domain, and some for every message.
var tagging = configs.Policy{Rules: []configs.Rule{
	{Name: "a", When: "true", At: "rcpt", Do: "tag", Header: "X-A: ${rcpt.domain} of ${mail.from} by ${helo.name}, " + strings.Repeat("a", 300)},
	{Name: "b", When: "header.count >= 0", Do: "tag", Header: "X-B: ${helo.name} " + strings.Repeat("b", 500)},
	{Name: "c", When: "true", Do: "tag", Header: "X-C: " + strings.Repeat("c", 890)},
}}

// TestFieldsAreBounded: the fields on top are never more than we reckon with,
// whatever everybody has for a name.
func TestFieldsAreBounded(t *testing.T) {
	long := strings.Repeat(`"\`, 1000)
	result := policy.TempError
	for _, tags := range []*configs.Policy{&openPolicy, &tagging} {
		r := newRig(t, rigOptions{policy: tags, config: func(c *configs.Config) {
			c.Hostname = strings.Repeat("h", 63) + strings.Repeat("."+strings.Repeat("h", 63), 3)
		}})
		w := newCable(netip.MustParseAddrPort("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:40000"), rigAddr)
		s := newSession(r.srv, w.server, &Listener{})
		s.peer.esmtp = true
		tx := newTransaction(s, smtp.Path{}, nil)
		tx.rcpts.accepted = 1
		s.tx = tx
		f := &tx.facts
		f.ID, f.Mail.From, f.Mail.Domain, f.Mail.SMTPUTF8 = wire.NewID(), long+"@"+long, long, true
		f.Client.IP, f.Client.Name = s.peer.addr.Addr().String(), long
		f.Helo.Name, f.Helo.Domain, f.TLS.Cipher = strings.Repeat("?", 255), long, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
		f.SPF.Result, f.SPF.Reason, f.SPFHelo.Result, f.SPFHelo.Reason = result, long, result, long
		f.Iprev.Result, f.Iprev.Name = result, long
		f.Submitter.Address, f.Submitter.Result, f.Submitter.Reason = long, result, long
		f.PRA.Address, f.PRA.Result, f.PRA.Reason = long, result, long
		f.DMARC.Result, f.Header.FromDomain = result, long
		for range 8 {
			f.DKIM.Signatures = append(f.DKIM.Signatures, policy.DKIMSignature{Result: result, Domain: long, Selector: long, Reason: long})
		}
		rcpt := recipient{path: smtp.Path{Local: strings.Repeat("l", 1000), Domain: "local.example"}, taken: true}
		rcpt.address = smtp.Address(rcpt.path)
		f.Rcpt = policy.RcptTo{Address: long, Domain: long}
		rcpt.verdict = tx.rcpts.share(r.set.Chain.Decide(policy.Rcpt, f))
		tx.rcpts.list = []recipient{rcpt}
		f.Rcpt = policy.RcptTo{Address: "other" + long, Domain: long}
		tx.verdict = r.set.Chain.Decide(policy.Message, f)
		fields := tx.appendFields(nil)
		if most := s.set.addedSize(); int64(len(fields)) > most {
			t.Errorf("%d octets, of at most %d", len(fields), most)
		}
		for line := range strings.Lines(string(fields)) {
			if len(line) > 1000 {
				t.Errorf("a line of %d octets: %.80q", len(line), line)
			}
		}
		r.close()
	}
}

// TestTagsOfManyDomains: where every recipient domain earns a tag of its own, some of
// them come in another transaction, and the message never outgrows the SIZE that
// the backend was told.
func TestTagsOfManyDomains(t *testing.T) {
	r := newRig(t, rigOptions{policy: &tagging})
	c := r.connect("192.0.2.1")
	c.ehlo()
	text := strings.Repeat(rigMessage, 10)
	c.cmd(fmt.Sprintf("MAIL FROM:<alice@good.example> SIZE=%d", len(text)), "250 ")
	taken := 0
	for i := range 200 {
		c.send(fmt.Sprintf("RCPT TO:<rcpt@local%d.example>\r\n", i))
		switch got := c.reply(); {
		case strings.HasPrefix(got, "250 "):
			taken++
		case !strings.HasPrefix(got, "452 4.5.3 "):
			t.Fatal(got)
		}
	}
	c.cmd("DATA", "354 ")
	c.send(text + ".\r\n")
	c.expect("250 ")
	ms := r.sink.Messages()
	if len(ms) != 1 || len(ms[0].To) != taken || taken < 5 || taken > 50 {
		t.Fatalf("%d messages, %d taken", len(ms), taken)
	}
	if n := strings.Count(string(ms[0].Text), "\r\nX-A: "); n != taken {
		t.Errorf("%d tags of %d recipients", n, taken)
	}
	if said := sizeOf(t, ms[0]); len(ms[0].Text) > said {
		t.Errorf("%d octets, and the backend was told %d", len(ms[0].Text), said)
	}
}

// sizeOf is the SIZE of a message that the backend was told.
func sizeOf(t *testing.T, m smtptest.Message) int {
	for _, p := range m.Params {
		if p.Key == "SIZE" {
			n, err := strconv.Atoi(p.Value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no SIZE")
	return 0
}
