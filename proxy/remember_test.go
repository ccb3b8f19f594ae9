package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/memory"
	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

// remembering makes settings whose checks ask a memory of this process.
func remembering(t *testing.T, o rigOptions) (*Settings, *memory.Memory) {
	t.Helper()
	m := memory.New(memory.NewProcess(time.Now), memory.Options{Timeout: time.Minute})
	t.Cleanup(func() { _ = m.Close() })
	set := rigSettings(t, o)
	zone, err := dnstest.Parse(rigZone)
	if err != nil {
		t.Fatal(err)
	}
	set.Checks = checks.NewSet(checks.Deps{Hostname: set.Hostname, Resolver: zone, Memory: m, Uses: checks.Journal}, set.Chain.Needs)
	set.Memory = m
	return set, m
}

// settled waits until the memory holds what the sessions so far add to it. A session
// counts a transaction behind the reply that ends it, so the client may be ahead of it.
func settled(t *testing.T, r *rig, m *memory.Memory) {
	t.Helper()
	r.quiet()
	if err := m.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// knowsNobody is an MTA whose recipients are those that begin with b.
var knowsNobody = smtptest.SinkOptions{Script: func(st smtptest.Step) (a smtptest.Action) {
	if st.Verb == "RCPT" && !strings.Contains(st.Line, "<b") {
		a.Reply = "550 5.1.1 User unknown\r\n"
	}
	return a
}}

// What comes of a transaction is remembered by who the sender proved to be, and by its
// client, and nothing is that the sender is to send again.
func TestWhatATransactionAddsToTheMemory(t *testing.T) {
	const send = "DATA\r\n" + rigMessage + ".\r\n"
	for _, x := range []struct {
		name, lines string
		mode        string
		client      string
		want        memory.Event
	}{
		{name: "delivered", lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + send, client: "192.0.2.1", want: memory.Event{Delivered: 1, Rate: memory.Rate{Messages: 1}}},
		{name: "delivered to some", lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nRCPT TO:<x@local.example>\r\nRCPT TO:<y@local.example>\r\n" + send, client: "192.0.2.1", want: memory.Event{Delivered: 1, Rate: memory.Rate{Messages: 1, Unknown: 2}}},
		{name: "probed", lines: "MAIL FROM:<a@none.example>\r\nRCPT TO:<x@local.example>\r\nRSET\r\n", client: "192.0.2.9", want: memory.Event{Rate: memory.Rate{Messages: 1, Unknown: 1}}},
		{name: "probed beside one that is known", lines: "MAIL FROM:<a@none.example>\r\nRCPT TO:<b@local.example>\r\nRCPT TO:<x@local.example>\r\nRSET\r\n", client: "192.0.2.9", want: memory.Event{Rate: memory.Rate{Unknown: 1}}},
		{name: "thought better of", lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nRSET\r\n", client: "192.0.2.1"},
		{name: "refused by a rule", lines: "MAIL FROM:<refused@good.example>\r\n", client: "192.0.2.1", want: memory.Event{Rate: memory.Rate{Messages: 1, Refused: 1}}},
		{name: "refused at the header", lines: "MAIL FROM:<late@good.example>\r\nRCPT TO:<b@local.example>\r\n" + send, client: "192.0.2.1", want: memory.Event{Rate: memory.Rate{Messages: 1, Refused: 1}}},
		{name: "refused, were it enforced", mode: "observe", lines: "MAIL FROM:<refused@good.example>\r\nRCPT TO:<b@local.example>\r\n" + send, client: "192.0.2.1", want: memory.Event{Delivered: 1, Rate: memory.Rate{Messages: 1}}},
		{name: "deferred by a rule", lines: "MAIL FROM:<deferred@good.example>\r\n", client: "192.0.2.1", want: memory.Event{Rate: memory.Rate{Messages: 1}}},
		{name: "refused for what is remembered", lines: "MAIL FROM:<new@good.example>\r\n", client: "192.0.2.1", want: memory.Event{Rate: memory.Rate{Messages: 1}}},
		{name: "refused for its form", lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nDATA\r\nA: b\nC: d\r\n\r\n.\r\n", client: "192.0.2.1", want: memory.Event{Rate: memory.Rate{Messages: 1}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := rigOptions{sink: knowsNobody, policy: &configs.Policy{Mode: x.mode, Rules: []configs.Rule{
				{Name: "refused", When: `mail.from == "refused@good.example"`, Do: "reject"},
				{Name: "deferred", When: `mail.from == "deferred@good.example"`, Do: "defer"},
				{Name: "new", When: `mail.from == "new@good.example" and past.delivered == 0`, Do: "reject"},
				{Name: "late", When: `mail.from == "late@good.example" and header.count > 0`, Do: "reject"},
			}}}
			var m *memory.Memory
			o.settings, m = remembering(t, o)
			r := newRig(t, o)
			c := r.connect(x.client)
			c.ehlo()
			for line := range strings.SplitAfterSeq(x.lines, "\r\n") {
				c.send(line)
				switch verb, _, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), " "); verb {
				case "MAIL", "RCPT", "RSET", "DATA", ".":
					c.reply()
				}
			}
			c.cmd("QUIT", "221")
			settled(t, r, m)
			got, err := m.Store().Recall(context.Background(), memory.Keys{Client: memory.ClientKey(netip.MustParseAddr(x.client)), Who: memory.DomainKey("good.example"), Domain: memory.DomainKey("good.example")})
			if err != nil {
				t.Fatal(err)
			}
			domain := x.want.Messages
			if x.client != "192.0.2.1" {
				domain = 0
			}
			if got.Client != x.want.Rate || got.Past.Delivered != x.want.Delivered || got.Past.Refused != x.want.Refused || got.Domain != domain {
				t.Errorf("remembered %+v, want %+v", got, x.want)
			}
		})
	}
}

// A ban by unknown recipients begins with the next transaction and does not feed
// itself; it is the client's, and another one hears nothing of it.
func TestABanForUnknownRecipients(t *testing.T) {
	o := rigOptions{sink: knowsNobody, policy: &configs.Policy{Rules: []configs.Rule{{Name: "ban", When: `rate.unknown > 2`, Do: "defer"}}}}
	var m *memory.Memory
	o.settings, m = remembering(t, o)
	r := newRig(t, o)
	c := r.connect("192.0.2.9")
	c.ehlo()
	say := func(c *client, line string) string {
		c.send(line + "\r\n")
		reply := c.reply()
		settled(t, r, m)
		return reply
	}
	say(c, "MAIL FROM:<a@none.example>")
	for range 3 {
		if got := say(c, "RCPT TO:<x@local.example>"); !strings.HasPrefix(got, "550 5.1.1") {
			t.Fatal(got)
		}
	}
	say(c, "RSET")
	for range 5 {
		if got := say(c, "MAIL FROM:<a@none.example>"); !strings.HasPrefix(got, "451 4.7.1 Not accepted now") {
			t.Fatal(got)
		}
	}
	c.cmd("QUIT", "221")
	other := r.connect("192.0.2.8")
	other.ehlo()
	if got := say(other, "MAIL FROM:<a@none.example>"); !strings.HasPrefix(got, "250 ") {
		t.Error(got)
	}
	other.cmd("QUIT", "221")
	rec := r.last()
	if rec.State != journal.StateEmail || rec.Facts.Identity.Level != "none" || rec.Facts.Rate.Result != "none" {
		t.Errorf("state %s, identity %+v, rate %+v", rec.State, rec.Facts.Identity, rec.Facts.Rate)
	}
	got, err := m.Store().Recall(context.Background(), memory.Keys{Client: memory.ClientKey(netip.MustParseAddr("192.0.2.9"))})
	if err != nil || got.Client != (memory.Rate{Messages: 6, Unknown: 3}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Which answers of an MTA say that it does not know a recipient.
func TestUnknownRecipient(t *testing.T) {
	for text, want := range map[string]bool{
		"550 5.1.1 <x@local.example>: Recipient address rejected: User unknown": true, // Postfix
		"550 Unrouteable address":                          true, // Exim
		"550 5.1.10 RESOLVER.ADR.RecipientNotFound":        true, // Exchange
		"550 Invalid recipient: <x@local.example>":         true, // OpenSMTPD
		"553 5.1.3 Bad address":                            true,
		"550 5.7.1 Not for you":                            false, // policy
		"554 5.7.1 <x@other.example>: Relay access denied": false,
		"552 5.2.2 Mailbox full":                           false,
		"450 4.1.1 Not yet known":                          false, // it is to come again
		"250 2.1.5 OK":                                     false,
	} {
		r, err := smtp.ReadReply(bufio.NewReader(strings.NewReader(text + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		if got := unknownRecipient(r); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// brokenStore tells nothing.
type brokenStore struct{ memory.Store }

func (brokenStore) Recall(context.Context, memory.Keys) (memory.Recalled, error) {
	return memory.Recalled{}, errors.New("broken")
}

// Whatever the store told, or did not tell: a replay of the record, as the journal keeps
// it, comes to the verdict that the client heard; and it judges what was known then, not
// what is known now.
func TestReplayWithWhatWasRemembered(t *testing.T) {
	rules := []configs.Rule{
		{Name: "ban", When: `rate.unknown > 2 and identity.level == "none"`, Do: "defer"},
		{Name: "first", When: `past.delivered == 0 and rate.messages >= 0`, Do: "tag", Header: "X-First: ${identity.level}"},
		{Name: "friend", When: `past.delivered > 1 or not state.healthy and mail.domain == "bad.example"`, Do: "pass"},
		{Name: "stranger", When: `not (past.delivered > 0) and mail.domain == "bad.example"`, Do: "reject"},
	}
	seen := map[string]int{}
	for _, broken := range []bool{false, true} {
		o := rigOptions{sink: knowsNobody, policy: &configs.Policy{Rules: rules}}
		set, m := remembering(t, o)
		if broken {
			b := memory.New(brokenStore{memory.NewProcess(time.Now)}, memory.Options{Timeout: time.Minute})
			t.Cleanup(func() { _ = b.Close() })
			zone, err := dnstest.Parse(rigZone)
			if err != nil {
				t.Fatal(err)
			}
			set.Checks = checks.NewSet(checks.Deps{Hostname: set.Hostname, Resolver: zone, Memory: b, Uses: checks.Journal}, set.Chain.Needs)
		}
		o.settings = set
		r := newRig(t, o)
		for _, mail := range []struct{ client, from, to string }{
			{"192.0.2.1", "a@good.example", "b"}, {"192.0.2.1", "a@good.example", "b"}, {"192.0.2.1", "a@good.example", "b"},
			{"192.0.2.77", "x@bad.example", "b"}, {"192.0.2.9", "y@none.example", "x"}, {"192.0.2.9", "y@none.example", "x"},
			{"192.0.2.9", "y@none.example", "x"}, {"192.0.2.9", "y@none.example", "b"},
		} {
			c := r.connect(mail.client)
			c.ehlo()
			c.send("MAIL FROM:<" + mail.from + ">\r\n")
			if strings.HasPrefix(c.reply(), "250") {
				c.send("RCPT TO:<" + mail.to + "@local.example>\r\n")
				if strings.HasPrefix(c.reply(), "250") {
					c.cmd("DATA", "354")
					c.send(rigMessage + ".\r\n")
					c.reply()
				}
			}
			c.cmd("QUIT", "221")
			settled(t, r, m)
			text, err := json.Marshal(r.last())
			if err != nil {
				t.Fatal(err)
			}
			var rec journal.Record
			if err := json.Unmarshal(text, &rec); err != nil {
				t.Fatal(err)
			}
			live, again := rec.Live(0), rec.Judge(set.Chain, 0, rec.Measured())
			seen[string(live.Disposition)+" "+live.Rule]++
			if !again.Known() || live.Disposition != again.Disposition || live.Rule != again.Rule {
				t.Errorf("%+v, broken %v: live %+v, again %+v\n%+v %+v", mail, broken, live, again, rec.Facts.Past, rec.Facts.Rate)
			}
		}
	}
	for _, want := range []string{"defer ban", "tag first", "pass friend", "reject stranger", "pass "} {
		if seen[want] == 0 {
			t.Errorf("never %q: %v", want, seen)
		}
	}
}
