package proxy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/delegation"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// A policy service is asked about each recipient, its text is the reply, and the record has
// what it said of each: so that a replay comes to the same verdicts.
func TestServiceForEachRecipient(t *testing.T) {
	zone, err := dnstest.Parse(rigZone)
	if err != nil {
		t.Fatal(err)
	}
	p := configs.Policy{Services: []string{"grey"}, Rules: []configs.Rule{
		{Name: "grey", When: `service.grey.action == "defer_if_permit"`, Do: "defer", Reply: "450 4.7.1 ${service.grey.text}"},
		{Name: "away", When: `service.grey.action == "temperror"`, Do: "defer"},
	}}
	set := rigSettings(t, rigOptions{policy: &p})
	var asked []string
	set.Checks = checks.NewSet(checks.Deps{
		Hostname: "mx.test", Resolver: zone, Uses: checks.Journal,
		Services: []checks.Service{{Name: "grey", Timeout: time.Second, Ask: func(_ context.Context, request []delegation.Attribute) (delegation.Answer, error) {
			for _, a := range request {
				if a.Name == "recipient" {
					asked = append(asked, a.Value)
				}
				if want := map[string]string{"protocol_name": "ESMTP", "server_address": rigAddr.Addr().String(), "client_name": "mail.good.example"}[a.Name]; want != "" && a.Value != want {
					t.Errorf("%s=%s, want %s", a.Name, a.Value, want)
				}
			}
			switch rcpt := asked[len(asked)-1]; {
			case strings.HasPrefix(rcpt, "new"):
				return delegation.Answer{Action: "defer_if_permit", Text: "Greylisted, " + rcpt}, nil
			case strings.HasPrefix(rcpt, "lost"):
				return delegation.Answer{}, errors.New("no answer within 1s")
			}
			return delegation.Answer{Action: "dunno"}, nil
		}}},
	}, set.Chain.Needs)
	r := newRig(t, rigOptions{settings: set})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<old@local.example>", "250 ")
	c.cmd("RCPT TO:<new@local.example>", "450 4.7.1 Greylisted, new@local.example (")
	c.cmd("RCPT TO:<lost@local.example>", "451 4.3.0 ")
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
	rec := r.last()
	if got := strings.Join(asked, " "); got != "old@local.example new@local.example lost@local.example" {
		t.Errorf("asked about %s", got)
	}
	if got := rec.Facts.Service.Of("grey").Action; got != "dunno" {
		t.Errorf("the record says %s", got)
	}
	for i, want := range []policy.Result{"dunno", "defer_if_permit", policy.TempError} {
		about := rec.For(rec.Recipients[i].Address)
		if got := about.Facts.Service.Of("grey").Action; got != want {
			t.Errorf("of %s: %s, want %s", rec.Recipients[i].Address, got, want)
		}
		now, then := rec.Judge(set.Chain, i, rec.Measured()), rec.Live(i)
		if now.Differs(then) || !now.Known() {
			t.Errorf("of %s: then %+v, replayed %+v", rec.Recipients[i].Address, then, now)
		}
	}
	line, err := rec.Line()
	if err != nil || !strings.Contains(string(line), `"service":{"grey":{"action":"temperror","reason":"no answer within 1s"}}`) {
		t.Errorf("%s %v", line, err)
	}
	var read journal.Record
	var stats journal.Stats
	if !stats.Decode(line, &read) || read.For("new@local.example").Facts.Service.Of("grey").Text != "Greylisted, new@local.example" {
		t.Errorf("read back: %+v", read.Recipients)
	}
}
