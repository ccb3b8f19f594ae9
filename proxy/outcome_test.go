package proxy

import (
	"strings"
	"testing"

	"postern/configs"
	"postern/policy/journal"
	"postern/proxy/smtptest"
)

// TestHowATransactionEnds: the record has the stage at which it ended, whoever ended
// it; a disposition where the policy was asked, and none where it was not; and a word
// for what became of it. What we refuse ends in the id by which the record is found.
func TestHowATransactionEnds(t *testing.T) {
	open := openPolicy
	header := configs.Policy{Rules: []configs.Rule{{Name: "long", When: `header.count > 0`, Do: "reject"}}}
	message := configs.Policy{Rules: []configs.Rule{{Name: "large", When: `message.size > 0`, Do: "reject"}}}
	refuses := func(verb, reply string) smtptest.SinkOptions {
		return smtptest.SinkOptions{Script: func(st smtptest.Step) (a smtptest.Action) {
			if st.Verb == verb {
				a.Reply = reply + "\r\n"
			}
			return a
		}}
	}
	const data = "DATA\r\n"
	for _, x := range []struct {
		name    string
		policy  *configs.Policy
		sink    smtptest.SinkOptions
		lines   string // behind EHLO, with the message; the session ends with them
		reply   string // the last one before 221
		ours    bool   // it bears the id
		stage   string
		rule    string // with its stage
		verdict journal.Disposition
		outcome journal.Outcome
	}{
		{name: "delivered", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data + rigMessage + ".\r\n", reply: "250 2.6.0 ", stage: "message", rule: " message", verdict: "pass", outcome: journal.OutcomeDelivered},
		{name: "a size that is declared", policy: &open, lines: "MAIL FROM:<a@good.example> SIZE=99999999999\r\n", reply: "552 5.3.4 Message too large (", ours: true, stage: "mail", rule: " ", verdict: "none", outcome: journal.OutcomeRefused},
		{name: "policy, at RCPT", lines: "MAIL FROM:<a@bad.example> SUBMITTER=a@bad.example\r\nRCPT TO:<b@local.example>\r\n", reply: "550 5.7.1 Submitter not allowed. (", ours: true, stage: "rcpt", rule: "submitter-fail rcpt", verdict: "reject", outcome: journal.OutcomeRefused},
		{name: "policy, by the header", policy: &header, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data + rigMessage + ".\r\n", reply: "550 5.7.1 Not accepted. (", ours: true, stage: "header", rule: "long header", verdict: "reject", outcome: journal.OutcomeRefused},
		{name: "policy, by the message", policy: &message, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data + rigMessage + ".\r\n", reply: "550 5.7.1 Not accepted. (", ours: true, stage: "message", rule: "large message", verdict: "reject", outcome: journal.OutcomeRefused},
		{name: "a bare LF in the header", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data + "A: b\nC: d\r\n\r\n.\r\n", reply: "550 5.6.0 Message contains a bare LF (", ours: true, stage: "header", rule: " message", verdict: "pass", outcome: journal.OutcomeRefused},
		{name: "white space first", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data + " x\r\n\r\n.\r\n", reply: "550 5.6.0 Message begins with white space (", ours: true, stage: "header", rule: " message", verdict: "pass", outcome: journal.OutcomeRefused},
		{name: "a loop", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data + strings.Repeat("Received: x\r\n", 101) + "\r\n.\r\n", reply: "554 5.4.6 Too many Received fields: mail loop (", ours: true, stage: "header", rule: " message", verdict: "pass", outcome: journal.OutcomeRefused},
		{name: "NUL in the header, by BDAT", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nBDAT 11 LAST\r\nA: \x00\r\n\r\nx\r\n", reply: "550 5.6.0 Message contains NUL (", ours: true, stage: "header", rule: " message", verdict: "pass", outcome: journal.OutcomeRefused},
		{name: "NUL behind it, in a BDAT of its own", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nBDAT 8\r\nA: b\r\n\r\nBDAT 4 LAST\r\n\x00x\r\n", reply: "550 5.6.0 Message contains NUL (", ours: true, stage: "message", rule: " message", verdict: "pass", outcome: journal.OutcomeRefused},
		{name: "nobody left", policy: &open, sink: refuses("RCPT", "550 5.1.1 Unknown"), lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n" + data, reply: "554 5.5.1 No valid recipients (", ours: true, stage: "rcpt", rule: " message", verdict: "pass", outcome: journal.OutcomeBackendRefused},
		{name: "the MTA refuses the recipient", policy: &open, sink: refuses("RCPT", "550 5.1.1 Unknown"), lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n", reply: "550 5.1.1 Unknown", stage: "rcpt", rule: " message", verdict: "pass", outcome: journal.OutcomeBackendRefused},
		{name: "the client thinks better of it after MAIL", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRSET\r\n", reply: "250 2.0.0 OK", stage: "mail", rule: " message", verdict: "pass", outcome: journal.OutcomeAbandoned},
		{name: "and after RCPT", policy: &open, lines: "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nRSET\r\n", reply: "250 2.0.0 OK", stage: "rcpt", rule: " message", verdict: "pass", outcome: journal.OutcomeAbandoned},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: x.policy, sink: x.sink, allChecks: true})
			c := r.connect("192.0.2.9")
			c.ehlo()
			last := ""
			for line := range strings.SplitAfterSeq(x.lines, "\r\n") {
				verb, _, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), " ")
				if line == "" {
					continue
				}
				c.send(line)
				switch verb {
				case "MAIL", "RCPT", "RSET", "DATA", ".":
					last = c.reply()
				}
			}
			for range strings.Count(x.lines, "BDAT ") {
				last = c.reply()
			}
			if !strings.HasPrefix(last, x.reply) {
				t.Fatalf("%q, not %q", last, x.reply)
			}
			c.cmd("QUIT", "221 ")
			<-c.done
			rec := r.last()
			if rec == nil || r.count() != 1 {
				t.Fatalf("%d records", r.count())
			}
			if ours := strings.HasSuffix(last, " ("+rec.ID+")"); ours != x.ours {
				t.Errorf("%q bears the id %s: %v", last, rec.ID, ours)
			}
			ruleStage := x.rule
			if strings.HasPrefix(x.rule, " ") && x.verdict != "none" {
				ruleStage = " " + rec.RuleStage // no rule matched: where the last one stands
			}
			if rec.Stage != x.stage || rec.Rule+" "+rec.RuleStage != ruleStage || rec.Disposition != x.verdict || rec.Outcome != x.outcome {
				t.Errorf("ended at %s by rule %q of %s: %s, %s", rec.Stage, rec.Rule, rec.RuleStage, rec.Disposition, rec.Outcome)
			}
		})
	}
}

// Nobody who did not say SUBMITTER is told of Sender ID, unless the site goes by it.
func TestSenderIDIsToldToThoseWhoAsk(t *testing.T) {
	after := func(when string) *configs.Policy {
		return &configs.Policy{BuiltIn: configs.BuiltInAfter, Rules: []configs.Rule{{Name: "own", When: when, Do: "tag", Header: "X-Own: yes"}}}
	}
	for _, x := range []struct {
		name      string
		policy    *configs.Policy
		submitter string
		want      []string
	}{
		{"nobody asked", nil, "", []string{"mailfrom", "helo"}},
		{"an own rule about something else", after(`spf.result == "fail"`), "", []string{"mailfrom", "helo"}},
		{"the client said SUBMITTER", nil, " SUBMITTER=alice@good.example", []string{"mailfrom", "helo", "submitter", "pra"}},
		{"an own rule reads pra", after(`pra.result == "fail"`), "", []string{"mailfrom", "helo", "pra"}},
		{"an own rule reads submitter", after(`submitter.address == "x@good.example"`), "", []string{"mailfrom", "helo", "pra"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: x.policy, allChecks: true})
			c := r.connect("192.0.2.1")
			c.ehlo()
			if got := c.message("MAIL FROM:<alice@good.example>"+x.submitter, "From: <alice@good.example>\r\n\r\nHello.\r\n"); !strings.HasPrefix(got, "250 ") {
				t.Fatal(got)
			}
			r.quiet()
			var got []string
			text := string(r.sink.Messages()[0].Text)
			for _, part := range strings.Split(text, "identity=")[1:] {
				word, _, _ := strings.Cut(part, ";")
				got = append(got, word)
			}
			if strings.Join(got, " ") != strings.Join(x.want, " ") {
				t.Errorf("%q, not %q, in\n%s", got, x.want, text)
			}
		})
	}
}
