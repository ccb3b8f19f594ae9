package proxy

import (
	"slices"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// TestCandidateSeesTheWholeMessage: the policy in force reads nothing of the
// message, so it would be streamed; the candidate reads DKIM and DMARC, and is
// told what they are. What it concludes changes nothing.
func TestCandidateSeesTheWholeMessage(t *testing.T) {
	const signed = "DKIM-Signature: v=1; a=rsa-sha256; d=good.example; s=x; h=from; bh=x; b=x\r\n" + rigMessage
	zone, err := dnstest.Parse(rigZone + "_dmarc.good.example. TXT \"v=DMARC1; p=reject\"\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, text, when string
		rcpt             string
		want             journal.Disposition
		ran              bool
	}{
		{name: "signed", text: signed, when: `dkim.result == "permerror"`, want: "reject", ran: true},
		{name: "unsigned", text: rigMessage, when: `dmarc.policy == "reject"`, want: "reject", ran: true},
		{name: "decided before", text: signed, rcpt: "postmaster@local.example", when: `dkim.result == "permerror"`, want: "pass"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: &openPolicy})
			candidate, err := policy.Compile(configs.Policy{Rules: []configs.Rule{
				{Name: "postmaster", When: `rcpt.address startsWith "postmaster@"`, Do: "pass"},
				{Name: "message", When: x.when, Do: "reject"},
			}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.set.Candidate = candidate
			r.set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: zone, Timeout: time.Second}, candidate.Needs)
			c := r.connect("192.0.2.1")
			c.ehlo()
			c.cmd("MAIL FROM:<alice@good.example>", "250 ")
			if x.rcpt == "" {
				x.rcpt = "rcpt@local.example"
			}
			c.cmd("RCPT TO:<"+x.rcpt+">", "250 ")
			c.cmd("DATA", "354 ")
			c.send(x.text + ".\r\n")
			c.expect("250 ")
			rec := r.last()
			if got := rec.Candidate; got == nil || got.Disposition != x.want {
				t.Errorf("the candidate said %+v, want %s", got, x.want)
			}
			ran := slices.ContainsFunc(rec.Checks, func(c journal.Check) bool { return c.Name == "dkim" })
			if ran != x.ran || rec.Disposition != "pass" {
				t.Errorf("dkim ran: %v; %s", ran, rec.Disposition)
			}
		})
	}
}
