package proxy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/milter"
	"postern/configs"
	"postern/policy"
)

// judged is a rig with one milter, and rules that read it.
func judged(t *testing.T, m checks.Milter, rules ...configs.Rule) *rig {
	t.Helper()
	zone, err := dnstest.Parse(rigZone)
	if err != nil {
		t.Fatal(err)
	}
	p := configs.Policy{Milters: []string{"m"}, Rules: rules}
	set := rigSettings(t, rigOptions{policy: &p})
	m.Name, m.Timeout = "m", 10*time.Second
	if m.Size == 0 {
		m.Size = 1 << 20
	}
	uses := checks.Journal
	if m.AddFields {
		uses |= checks.AddedFields
	}
	set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: zone, Uses: uses, Milters: []checks.Milter{m}}, set.Chain.Needs)
	return newRig(t, rigOptions{settings: set})
}

// says is a milter that gives a verdict, or has trouble.
func says(v milter.Verdict, err error) checks.Milter {
	return checks.Milter{Ask: func(context.Context, *milter.Message) (milter.Verdict, error) { return v, err }}
}

func (c *client) posts(rcpts, text string) string {
	c.t.Helper()
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example> SIZE=100", "250 ")
	for rcpt := range strings.FieldsSeq(rcpts) {
		c.cmd("RCPT TO:<"+rcpt+">", "250 ")
	}
	c.cmd("DATA", "354 ")
	c.send(text + ".\r\n")
	return c.reply()
}

var milterRules = []configs.Rule{
	{Name: "friend", When: `mail.from == "friend@good.example"`, Do: "pass"},
	{Name: "spam", When: `milter.m.action == "reject"`, Do: "reject", Reply: "550 5.7.1 ${milter.m.reply}"},
	{Name: "away", When: `milter.m.action == "temperror"`, Do: "defer"},
}

// A milter's verdict is a fact, and a rule makes something of it. Nothing of it happens by
// itself.
func TestMilterVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		verdict milter.Verdict
		err     error
		want    string
		action  policy.Result
	}{
		"none":       {milter.Verdict{Action: "none"}, nil, "250 ", "none"},
		"reject":     {milter.Verdict{Action: "reject", Reply: "554 5.7.1 Spam message rejected"}, nil, "550 5.7.1 Spam message rejected (", "reject"},
		"no reason":  {milter.Verdict{Action: "reject"}, nil, "550 5.7.1 Not accepted. (", "reject"},
		"discard":    {milter.Verdict{Action: "discard"}, nil, "250 ", "discard"},
		"quarantine": {milter.Verdict{Action: "quarantine", Reason: "a virus"}, nil, "250 ", "quarantine"},
		"trouble":    {milter.Verdict{}, errors.New("it hung up in the middle"), "451 4.3.0 Temporary failure in processing", "temperror"},
	} {
		t.Run(name, func(t *testing.T) {
			r := judged(t, says(c.verdict, c.err), milterRules...)
			if got := r.connect("192.0.2.1").posts("rcpt@local.example", rigMessage); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
			rec := r.last()
			if got := rec.Facts.Milter.Of("m"); got.Action != c.action || c.err != nil && got.Reason != c.err.Error() {
				t.Errorf("%+v", got)
			}
			if now, then := rec.Judge(r.set.Chain, 0, rec.Measured()), rec.Live(0); now.Differs(then) || !now.Known() {
				t.Errorf("then %+v, replayed %+v", then, now)
			}
		})
	}
}

// What a milter is told is what came: the envelope with the recipients that were taken, the
// header, and the body octet for octet.
func TestWhatAMilterIsTold(t *testing.T) {
	var got milter.Message
	var body string
	r := judged(t, checks.Milter{Ask: func(_ context.Context, m *milter.Message) (milter.Verdict, error) {
		octets, err := io.ReadAll(m.Body)
		got, body = *m, string(octets)
		return milter.Verdict{Action: "accept"}, err
	}}, milterRules...)
	text := "From: a@good.example\r\nSubject: one\r\n\ttwo\r\n\r\n..dot\r\n\r\nend\r\n"
	if reply := r.connect("192.0.2.1").posts("one@local.example two@local.example", text); !strings.HasPrefix(reply, "250 ") {
		t.Fatal(reply)
	}
	if body != ".dot\r\n\r\nend\r\n" {
		t.Errorf("body %q", body)
	}
	if want := []milter.Field{{Name: "From", Value: " a@good.example"}, {Name: "Subject", Value: " one\n\ttwo"}}; !slices.Equal(got.Header, want) {
		t.Errorf("header %q", got.Header)
	}
	if got.From != "alice@good.example" || !slices.Equal(got.FromArgs, []string{"SIZE=100"}) || len(got.Recipients) != 2 || got.Recipients[1].Address != "two@local.example" ||
		got.Name != "mail.good.example" || got.Client.String() != "192.0.2.1" || got.Hostname != "mx.test" || got.ID != r.last().Facts.ID {
		t.Errorf("%+v", got)
	}
}

// Fields that a milter adds stand below ours, in its order; none speaks in our name, takes the
// message's place, or comes where nobody wants them.
func TestFieldsOfAMilter(t *testing.T) {
	v := milter.Verdict{Action: "accept", Told: "all of it", Fields: []milter.Field{
		{Name: "X-Spam", Value: "Yes,\n\tscore=7"}, {Name: "Authentication-Results", Value: "mx.test; spf=pass"}, {Name: "Authentication-Results", Value: "filter.test; dkim=pass"},
		{Name: "Subject", Value: "[SPAM]"}, {Name: "Received", Value: "from nowhere"}, {Name: "X-Last", Value: "z"},
	}}
	m := says(v, nil)
	m.AddFields = true
	r := judged(t, m)
	if reply := r.connect("192.0.2.1").posts("rcpt@local.example", "From: a@good.example\r\nX-Spam: no\r\n\r\nx\r\n"); !strings.HasPrefix(reply, "250 ") {
		t.Fatal(reply)
	}
	r.quiet()
	messages := r.sink.Messages()
	if len(messages) != 1 {
		t.Fatalf("%d messages", len(messages))
	}
	got := string(messages[0].Text)
	if want := "X-Spam: Yes,\r\n\tscore=7\r\nAuthentication-Results: filter.test; dkim=pass\r\nX-Last: z\r\nFrom: a@good.example\r\nX-Spam: no\r\n\r\nx\r\n"; !strings.HasSuffix(got, want) {
		t.Errorf("%q, which does not end in %q", got, want)
	}
	if strings.Contains(got, "nowhere") || strings.Contains(got, "[SPAM]") || strings.Count(got, "Authentication-Results: mx.test") != 1 {
		t.Errorf("%q", got)
	}
	if told := r.last().Facts.Milter.Of("m").Told; told != "all of it" {
		t.Errorf("told %q", told)
	}
	if reason := r.last().Facts.Milter.Of("m").Reason; reason != "not added, since it is the message's or ours: Subject, Received" {
		t.Errorf("%q", reason)
	}
}

// A message too large for a milter is skipped there, one that is settled before it is not held
// for it, and one that is refused before the end is none of its business.
func TestWhenAMilterIsNotAsked(t *testing.T) {
	m := says(milter.Verdict{}, errors.New("asked"))
	m.Size = 1000
	r := judged(t, m, append([]configs.Rule{{Name: "early", When: `header.count > 5`, Do: "reject"}}, milterRules...)...)
	c := r.connect("192.0.2.1")
	if reply := c.posts("rcpt@local.example", "From: a@good.example\r\n\r\n"+strings.Repeat("x\r\n", 400)); !strings.HasPrefix(reply, "250 ") {
		t.Error(reply)
	}
	if got := r.last().Facts.Milter.Of("m"); got.Action != policy.Skipped || got.Reason != "the message has 1224 octets, and 1000 are its most" {
		t.Errorf("%+v", got)
	}
	c.cmd("MAIL FROM:<friend@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.cmd("DATA", "354 ")
	c.send(rigMessage + ".\r\n")
	c.expect("250 ")
	if rec := r.last(); rec.Facts.Milter != nil || rec.Rule != "friend" {
		t.Errorf("%+v by %s", rec.Facts.Milter, rec.Rule)
	}
	if reply := c.posts("rcpt@local.example", strings.Repeat("X: y\r\n", 6)+"\r\nx\r\n"); !strings.HasPrefix(reply, "550 ") || r.last().Facts.Milter != nil {
		t.Error(reply)
	}
}
