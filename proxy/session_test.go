package proxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/smtptest"
)

const rigMessage = "From: Alice <alice@good.example>\r\nTo: rcpt@local.example\r\nSubject: hello\r\n\r\nHello.\r\n..stuffed\r\n"

func TestMessagePasses(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.connect("192.0.2.1")
	ehlo := c.ehlo()
	for _, k := range []string{"PIPELINING", "SIZE ", "STARTTLS", "ENHANCEDSTATUSCODES", "SUBMITTER", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING"} {
		if !strings.Contains(ehlo, k) {
			t.Errorf("EHLO lacks %s:\n%s", k, ehlo)
		}
	}
	if got := c.message("MAIL FROM:<alice@good.example> SUBMITTER=alice@good.example", rigMessage); !strings.HasPrefix(got, "250 2.6.0 ") {
		t.Fatal(got)
	}
	c.cmd("QUIT", "221 ")
	c.closed()

	ms := r.sink.Messages()
	if len(ms) != 1 {
		t.Fatalf("%d messages at the backend", len(ms))
	}
	text := string(ms[0].Text)
	if want := strings.ReplaceAll(rigMessage, "\r\n..", "\r\n."); !strings.HasSuffix(text, want) {
		t.Errorf("the message was changed:\n%s", text)
	}
	t.Log(text)
	rec := r.last()
	if rec.Outcome != journal.OutcomeDelivered || rec.Facts.SPF.Result != "pass" || !rec.Facts.PRA.MatchesSubmitter {
		t.Errorf("record: %+v", rec)
	}
}

// TestBackendConnectionIsKept: from one message to the next of one client, and
// through the pool to the next client.
func TestBackendConnectionIsKept(t *testing.T) {
	r := newRig(t, rigOptions{}) // which opens one itself, to learn what the MTA offers
	for range 2 {
		c := r.connect("192.0.2.1")
		c.ehlo()
		for range 3 {
			if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
				t.Fatal(got)
			}
		}
		c.cmd("QUIT", "221 ")
		c.closed()
	}
	if n := r.sink.Connections(); n != 1 {
		t.Errorf("%d connections to the MTA", n)
	}
	if n := len(r.sink.Messages()); n != 6 {
		t.Errorf("%d messages", n)
	}
}

// TestManyRecipients: as many as the limit allows, in one transaction.
func TestManyRecipients(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	for i := range r.set.Limits.Recipients {
		c.cmd(fmt.Sprintf("RCPT TO:<rcpt%d@local.example>", i), "250 ")
	}
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
}

// TestSubmitterBeforeSMTPUTF8: the order of parameters means nothing.
func TestSubmitterBeforeSMTPUTF8(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example> SUBMITTER=\xc3\xa9@good.example SMTPUTF8", "250 ")
}

// TestTooLargeAtMailIsRecorded: a refusal has a record, this one as well.
func TestTooLargeAtMailIsRecorded(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.MessageSize = 1000 }})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example> SIZE=2000", "552 5.3.4 ")
	if rec := r.last(); rec == nil || rec.Outcome != journal.OutcomeRefused || !strings.HasPrefix(rec.Reply, "552 5.3.4") || rec.Facts.Mail.From != "alice@good.example" {
		t.Errorf("record: %+v", rec)
	}
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
}

// TestBackendIsToldAnew: a kept connection serves another message only as long
// as what the backend was told about the client is true.
func TestBackendIsToldAnew(t *testing.T) {
	r := newRig(t, rigOptions{identity: "xclient"})
	c := r.connect("192.0.2.1")
	for _, hello := range []string{"EHLO client.example", "EHLO client.example", "HELO client.example", "HELO other.example"} {
		c.cmd(hello, "250")
		if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
			t.Fatal(got)
		}
	}
	var told []string
	for _, m := range r.sink.Messages() {
		told = append(told, m.XClient["PROTO"]+" "+m.XClient["HELO"])
	}
	if got, want := strings.Join(told, ", "), "ESMTP client.example, ESMTP client.example, SMTP client.example, SMTP other.example"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// TestObserveRecordsOnce: a rule on the connection, in a policy that only
// observes, stands in the record of the transaction and nowhere else.
func TestObserveRecordsOnce(t *testing.T) {
	p := configs.Policy{Mode: "observe", Rules: []configs.Rule{
		{Name: "there", When: `client.ip == "192.0.2.1"`, Do: "reject"},
		{Name: "name", When: `helo.name == "client.example"`, Do: "reject"},
	}}
	r := newRig(t, rigOptions{policy: &p})
	c := r.connect("192.0.2.1")
	c.ehlo()
	if got := c.message("MAIL FROM:<alice@good.example>", rigMessage); !strings.HasPrefix(got, "250 ") {
		t.Fatal(got)
	}
	c.cmd("QUIT", "221 ")
	c.closed()
	if n := r.count(); n != 1 {
		t.Errorf("%d records", n)
	}
	if rec := r.last(); rec.Rule != "there" || rec.Disposition != "reject" || !rec.Observed || rec.Outcome != journal.OutcomeDelivered {
		t.Errorf("%+v", rec)
	}
}

// TestLenientXtext: a sender that does not encode the mailbox is understood where
// the site says so, and the MTA gets the right form of it.
func TestLenientXtext(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	r.set.LenientXtext = true
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example> SUBMITTER=bob+0Ax", "501 5.1.7 ")
	for said, want := range map[string]string{
		"bob+list@good.example":   "bob+list@good.example",
		"bob+2Blist@good.example": "bob+list@good.example",
	} {
		if got := c.message("MAIL FROM:<alice@good.example> SUBMITTER="+said, rigMessage); code(got) != "250" {
			t.Fatal(got)
		}
		if got := r.last().Facts.Submitter.Address; got != want {
			t.Errorf("%s was read as %q", said, got)
		}
	}
	heard := 0
	for _, line := range r.sink.Commands() {
		if strings.HasPrefix(line, "MAIL ") && strings.Contains(line, " SUBMITTER=bob+2Blist@good.example") {
			heard++
		}
	}
	if heard != 2 {
		t.Errorf("the MTA heard %q", r.sink.Commands())
	}
}

// TestTurnedAwayAtTheEnd: who comes while the server shuts down hears why, and
// has a line in the log like every connection.
func TestTurnedAwayAtTheEnd(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy})
	var log bytes.Buffer
	r.srv.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := r.srv.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	c := r.dialFrom("192.0.2.1", Listener{Name: "mx"})
	c.expect("421 4.3.2 ")
	c.closed()
	if got := log.String(); strings.Count(got, "msg=connection") != 1 || !strings.Contains(got, "result=shutdown") {
		t.Error(got)
	}
}

// TestRefusedMail: an MTA that refuses MAIL answers 503 to the RCPT behind it.
// That is no trouble of ours, and the record names the refusal.
func TestRefusedMail(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, sink: smtptest.SinkOptions{Script: func(st smtptest.Step) (a smtptest.Action) {
		if st.Verb == "MAIL" {
			a.Reply = "552 5.3.4 too big for us\r\n"
		}
		return a
	}}})
	var log bytes.Buffer
	r.srv.log = slog.New(slog.NewTextHandler(&log, nil))
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<bob@local.example>", "552 5.3.4 too big for us")
	c.cmd("QUIT", "221 ")
	c.closed()
	if got := r.last().BackendReply; got != "552 5.3.4 too big for us" {
		t.Errorf("the record has %q", got)
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Error(log.String())
	}
}

// TestObserveJudgesEach: recipients that the rules treat apart come together
// where the policy only observes, and each has its own verdict in the record, on
// all that the rules want to know, as it would in a transaction of its own.
func TestObserveJudgesEach(t *testing.T) {
	p := configs.Policy{Mode: "observe", Rules: []configs.Rule{
		{Name: "exempt", When: `rcpt.address == "postmaster@local.example"`, Do: "pass"},
		{Name: "closed", When: `rcpt.address == "closed@local.example"`, Do: "reject"},
		{Name: "marked", When: `rcpt.domain == "marked.example" and header.count > 2`, Do: "tag", Header: "X-Marked: yes"},
		{Name: "partner", When: `rcpt.domain == "partner.example" and message.size > 50`, Do: "reject"},
	}}
	r := newRig(t, rigOptions{policy: &p})
	c := r.connect("192.0.2.1")
	if got := c.ehlo(); strings.Contains(got, "RCPTDOMAINMAX") {
		t.Error(got)
	}
	want := []journal.Opinion{
		{Disposition: "pass", Rule: "exempt"}, {Disposition: "pass"}, {Disposition: "tag", Rule: "marked"},
		{Disposition: "reject", Rule: "partner"}, {Disposition: "reject", Rule: "closed"},
	}
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	for _, to := range []string{"postmaster@local.example", "bob@local.example", "ann@marked.example", "carol@partner.example", "closed@local.example"} {
		c.cmd("RCPT TO:<"+to+">", "250 ")
	}
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
	rec := r.last()
	for i, w := range want {
		if got := rec.Live(i); got.Disposition != w.Disposition || got.Rule != w.Rule || got.TagsUnknown {
			t.Errorf("%s: %+v, want %+v", rec.Recipients[i].Address, got, w)
		}
		if got := rec.Judge(r.set.Chain, i, rec.Measured()); got.Disposition != w.Disposition || got.Rule != w.Rule {
			t.Errorf("%s, replayed: %+v, want %+v", rec.Recipients[i].Address, got, w)
		}
	}
	// The record is about the first that would have been refused.
	if rec.Disposition != "reject" || rec.Rule != "partner" || rec.Facts.Rcpt.Address != "carol@partner.example" || !rec.Observed || rec.Outcome != journal.OutcomeDelivered {
		t.Errorf("%+v", rec)
	}
	if ms := r.sink.Messages(); len(ms) != 1 || len(ms[0].To) != len(want) || !strings.Contains(string(ms[0].Text), "X-Marked: yes\r\n") {
		t.Errorf("%d messages", len(ms))
	}
}
