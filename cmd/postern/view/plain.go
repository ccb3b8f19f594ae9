package view

import (
	"fmt"
	"strings"
	"time"

	"postern/policy"
	"postern/policy/journal"
)

// Plain is a transaction for a colleague who knows no SMTP: the same verdict, checks and changes in
// whole sentences.
type Plain struct {
	Headline string       `json:"headline"`
	Tone     Tone         `json:"tone"`
	Path     []PlainStep  `json:"path"`
	Story    []string     `json:"story"`             // what happened, in its order
	Because  []string     `json:"because,omitempty"` // what the rule that decided went by
	Checks   []PlainCheck `json:"checks"`
	Changes  []string     `json:"changes,omitempty"` // what would have turned the verdict
	Advice   string       `json:"advice,omitempty"`  // what to tell who asks
}

// PlainCheck is what one check found.
type PlainCheck struct {
	Name   string `json:"name"`
	Title  string `json:"title"`
	Result string `json:"result"`
	Says   string `json:"says"`             // what that means
	Reason string `json:"reason,omitempty"` // the check's own words
	Took   string `json:"took,omitempty"`
	Tone   Tone   `json:"tone"`
}

// Tone is how something is to be shown: never by a colour alone.
type Tone string

// The tones.
const (
	Good    Tone = "good"
	Bad     Tone = "bad"     // refused, failed
	Waiting Tone = "waiting" // it comes again
	Neutral Tone = "neutral" // says nothing for or against
)

// toneOf is that of how a transaction ended.
func toneOf(r *journal.Record) Tone {
	switch {
	case r.Outcome == journal.OutcomeDelivered:
		return Good
	case r.Outcome == journal.OutcomeBackendRefused:
		return Bad
	case r.Outcome == journal.OutcomeAbandoned:
		return Neutral
	case r.Outcome != journal.OutcomeRefused, r.Disposition == journal.DispositionHold, r.Disposition == journal.DispositionDefer:
		return Waiting
	}
	return Bad
}

// Plain puts the transaction into sentences.
func (v Transaction) Plain() Plain {
	r := v.Record
	p := Plain{Headline: capital(outcomeWords(r)), Tone: toneOf(r), Path: v.way(), Checks: []PlainCheck{}}
	p.Story = append(p.Story, v.caller())
	if s := v.wanted(); s != "" {
		p.Story = append(p.Story, s)
	}
	p.Story = append(p.Story, v.ending())
	p.Story = append(p.Story, v.ruled()...)
	for i := range r.Checks {
		p.Checks = append(p.Checks, plainCheck(&r.Facts, &r.Checks[i]))
	}
	if v.Policy.Same && r.Rule == v.Explanation.Rule {
		p.Because = v.because()
	}
	for _, c := range v.Explanation.Changes {
		p.Changes = append(p.Changes, plainChange(c))
	}
	if p.Advice = v.advice(); v.Test {
		p.Headline, p.Advice = "Test: "+outcomeWords(r), ""
		if r.Outcome == journal.OutcomeDelivered {
			p.Headline = "Test: it would be let in"
		}
	}
	return p
}

// WriteStory prints the sentences: what happened, what the rule went by, and what to tell who asks.
func (v Transaction) WriteStory(b *strings.Builder) {
	p := v.Plain()
	for _, sentence := range p.Story {
		b.WriteString("  " + sentence + "\n")
	}
	if len(p.Because) > 0 {
		b.WriteString("  That rule went by this:\n")
		for _, sentence := range p.Because {
			b.WriteString("    " + sentence + "\n")
		}
	}
	if p.Advice != "" {
		b.WriteString("  To tell who asks: " + p.Advice + "\n")
	}
}

// caller says who came, and when.
func (v Transaction) caller() string {
	f := &v.Record.Facts
	s := "On " + Moment(v.Record.Time) + " the computer " + f.Client.IP
	if f.Client.Name != "" {
		s += " (" + brief(f.Client.Name) + ")"
	}
	switch {
	case f.Client.Fetched != "":
		return s + " had announced a message of " + quoted(brief(f.Client.Fetched)) + ", whose server it is, and Postern fetched it there (AMTP)."
	case f.Client.User != "":
		return s + " connected, and the user " + brief(f.Client.User) + " logged in with a password (AMTP)."
	}
	s += " connected"
	if f.Helo.Name != "" {
		s += " and called itself " + quoted(brief(f.Helo.Name))
	}
	return s + "."
}

// wanted says what it wanted; empty: it did not come to say it.
func (v Transaction) wanted() string {
	r := v.Record
	if reached, _ := policy.ParseStage(r.Reached); reached < policy.Mail && r.Facts.Mail.From == "" && len(r.Recipients) == 0 {
		return ""
	}
	s := "It wanted to hand over a message from " + brief(r.Facts.Mail.From)
	if r.Facts.Mail.From == "" {
		s = "It wanted to hand over a message without a sender, as notices of failure are,"
	}
	switch n := len(r.Recipients); {
	case n > 0 && v.Recipient != "" && n > 1:
		s += " to " + brief(v.Recipient) + " and " + Counted(n-1, "other")
	case n > 1:
		s += " to " + brief(r.Recipients[0].Address) + " and " + Counted(n-1, "other")
	case n == 1:
		s += " to " + brief(r.Recipients[0].Address)
	case r.Facts.Rcpt.Address != "":
		s += " to " + brief(r.Facts.Rcpt.Address)
	}
	s = strings.TrimSuffix(s, ",")
	if a := r.Facts.Submitter.Address; a != "" && a != r.Facts.Mail.From {
		s += ", and named " + brief(a) + " as responsible for sending it"
	}
	return s + "."
}

// heard is the reply that the client heard, in quotes; empty: there is none.
func heard(r *journal.Record) string {
	reply := refusalOf(r)
	if reply == "" {
		reply = r.Reply
	}
	if reply == "" {
		return ""
	}
	return ": " + quoted(brief(reply))
}

// ending says what became of it.
func (v Transaction) ending() string {
	r := v.Record
	switch r.Outcome {
	case journal.OutcomeDelivered:
		if v.Test {
			return "It would be let in. A test delivers nothing."
		}
		s := "It was let in, and " + behind(r) + " took the message"
		if refused := refusedSome(r); refused > 0 {
			s += ", but not for " + Counted(refused, "recipient")
		}
		return s + "."
	case journal.OutcomeBackendRefused:
		return "Postern let it in, and " + behind(r) + " refused it" + heard(r) + ". That was not Postern's decision."
	case journal.OutcomeAbandoned:
		return "The client went away, or began anew, before the message was complete. Nobody took or refused it."
	case journal.OutcomeUnknown:
		return "The whole message went to " + behind(r) + ", whose answer never came. The sender's server sends it again, so it may arrive twice."
	case journal.OutcomeFailed:
		return "It could not be handled at that moment" + heard(r) + ". The sender's server keeps the message, and tries again by itself."
	}
	switch r.Disposition {
	case journal.DispositionHold:
		return "It was asked to come again later" + heard(r) + ". The message waits at the sender's server, which tries again by itself."
	case journal.DispositionDefer:
		return "It was put off" + heard(r) + ". The sender's server keeps the message, and tries again by itself."
	case journal.DispositionReject:
		return "It was refused for good" + heard(r) + ". The sender's server does not try again, and tells the person who wrote."
	}
	if strings.HasPrefix(refusalOf(r), "4") {
		return "It was put off by a limit, not by a rule" + heard(r) + ". " + limitOf(r) + "The sender's server tries again by itself."
	}
	return strings.TrimSuffix("It was refused for its form or by a limit, not by a rule"+heard(r)+". "+limitOf(r), " ")
}

// limits say which limit a reply comes of, by its text.
var limits = []struct{ text, is string }{
	{"Message too large", "limits.message_size, or what the mail server behind takes, where that is less: EHLO says it behind SIZE"},
	{"Header section too large", "limits.header_size"},
	{"Too many header fields", "limits.header_fields"},
	{"Too many recipients in one transaction", "limits.recipients"},
	{"Too many messages, ", "limits.message_rate"},
	{"Too many errors", "limits.errors"},
	{"Cannot hold the message ", "limits.held or limits.held_per_client, or the disk has no room"},
}

// limitOf names the limit that was reached, as the configuration does; empty: it was none of them.
func limitOf(r *journal.Record) string {
	reply := refusalOf(r)
	for _, l := range limits {
		if strings.Contains(reply, " "+l.text) {
			return "The limit is " + l.is + ". "
		}
	}
	return ""
}

func behind(r *journal.Record) string {
	if r.Backend == "" {
		return "the mail server behind Postern"
	}
	return "the mail server behind Postern (" + brief(r.Backend) + ")"
}

func refusedSome(r *journal.Record) (n int) {
	for i := range r.Recipients {
		if s := r.Recipients[i].Reply; strings.HasPrefix(s, "4") || strings.HasPrefix(s, "5") {
			n++
		}
	}
	return n
}

// moments say when each stage is.
var moments = map[string]string{
	"connect": "when the client connected", "helo": "when the client had given its name", "mail": "when the sender was named",
	"rcpt": "when the recipient was named", "header": "when the header of the message had been read", "message": "when the whole message had been read",
}

// ruled says which rule decided, and what the rules of now say where they are others.
func (v Transaction) ruled() (all []string) {
	r, e := v.Record, v.Explanation
	did := map[journal.Disposition]string{
		journal.DispositionPass: "let it pass", journal.DispositionTag: "marked it for the reader and let it pass",
		journal.DispositionHold: "held it", journal.DispositionDefer: "put it off", journal.DispositionReject: "refused it",
	}[r.Disposition]
	switch {
	case r.Disposition == journal.NotAsked:
		all = append(all, "No rule was asked: the end came before.")
	case r.Undecided:
		all = append(all, "No rule had decided by then.")
	case r.Rule == "":
		all = append(all, "No rule matched, and what no rule refuses is let pass.")
	case r.Observed:
		all = append(all, fmt.Sprintf("The rule %q would have %s, but the policy only observes: it was not carried out.", r.Rule, did))
	default:
		all = append(all, fmt.Sprintf("The rule %q %s, %s.", r.Rule, did, moments[r.RuleStage]))
	}
	for _, t := range r.Tags {
		all = append(all, "The message was marked with "+quoted(brief(t))+".")
	}
	if v.Policy.Same || r.Disposition == journal.NotAsked {
		return all
	}
	now := "it would be undetermined, for want of " + strings.Join(e.Undetermined, ", ")
	if e.Undetermined == nil {
		now = "the verdict would be " + e.Disposition.String()
		if e.Rule != "" {
			now += " by the rule " + quoted(e.Rule)
		}
	}
	return append(all, "The rules have changed since. By those of now "+now+".")
}

// because says what the rule that decided went by: each part of its condition that held.
func (v Transaction) because() (all []string) {
	f := &v.Record.Facts
	if v.Recipient != "" {
		f = &v.Record.For(v.Recipient).Facts
	}
	seen := map[string]bool{}
	add := func(s string) {
		if !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	for _, rule := range v.Explanation.Rules {
		if rule.Rule != v.Record.Rule || rule.Outcome != "decided" && rule.Outcome != "matched" {
			continue
		}
		for _, part := range rule.Parts {
			if !part.Value || part.Unknown {
				continue
			}
			if check := checkIn(part); check != "" {
				add(Titled(check) + ": " + says(f, check, resultOf(v.Record, check)))
				continue
			}
			s := part.Text + " holds"
			for _, o := range part.Operands {
				if o.Text != part.Text {
					s += ": " + o.Text + " is " + o.Value
				}
			}
			add(brief(s) + named(part.Note, ", from ") + ".")
		}
	}
	return all
}

// checkIn is the check whose result a part of a condition reads; empty: none.
func checkIn(part policy.PartExplanation) string {
	for _, o := range part.Operands {
		if check, ok := strings.CutSuffix(o.Text, ".result"); ok {
			return check
		}
	}
	return ""
}

func resultOf(r *journal.Record, check string) policy.Result {
	for i := range r.Checks {
		if r.Checks[i].Name == check {
			return r.Checks[i].Result
		}
	}
	return ""
}

func plainCheck(f *policy.Facts, c *journal.Check) PlainCheck {
	return PlainCheck{
		Name: c.Name, Title: Titled(c.Name), Result: string(c.Result), Says: says(f, c.Name, c.Result),
		Reason: f.Reason(c.Name), Took: took(time.Duration(c.Took * float64(time.Second))), Tone: checkTone(c.Result),
	}
}

func checkTone(r policy.Result) Tone {
	switch r {
	case policy.Pass:
		return Good
	case policy.Fail, policy.PermError, policy.SoftFail:
		return Bad
	case policy.TempError:
		return Waiting
	}
	return Neutral
}

// plainChange says what would have been.
func plainChange(c policy.Change) string {
	var s string
	switch {
	case c.Undetermined != nil:
		s = "It would have gone on, and more would have been looked at,"
	case c.Becomes == policy.DispositionReject:
		s = "It would have been refused"
	case c.Becomes == policy.DispositionDefer:
		s = "It would have been put off"
	case c.Becomes == policy.DispositionHold:
		s = "It would have been held"
	case c.Becomes == policy.DispositionTag:
		s = "It would have been marked and let in"
	default:
		s = "It would have been let in"
	}
	for i, f := range c.Facts {
		word := " if "
		if i > 0 {
			word = " and "
		}
		name := f.Fact
		if check, ok := strings.CutSuffix(f.Fact, ".result"); ok {
			name = Titled(check) + " (" + f.Fact + ")"
		}
		s += word + name + " had been " + strings.Join(f.To, " or ") + ", not " + f.From
	}
	return s + "."
}

// advice is what to tell who asks.
func (v Transaction) advice() string {
	r := v.Record
	switch {
	case r.Outcome == journal.OutcomeDelivered:
		return "The message arrived at the mail server behind Postern. If the recipient does not find it, that server's log knows more; its answer was " + quoted(brief(r.BackendReply)) + "."
	case r.Outcome == journal.OutcomeBackendRefused:
		return "Ask who runs the mail server behind Postern: the answer in quotes is that server's."
	case r.Disposition == journal.DispositionReject && r.Outcome == journal.OutcomeRefused:
		return "The sender, or whoever runs the sender's mail, has to mend what is named here; sending again as it is will not help. If the mail is wanted all the same, the postmaster can write an override."
	case r.Disposition == journal.DispositionHold && r.Outcome == journal.OutcomeRefused:
		return "Nothing has to be done: it is let in when it comes again after its time. The postmaster can let it in sooner with postern release."
	case toneOf(r) == Waiting:
		return "Nothing has to be done: the sender's server tries again by itself, mostly within the hour. If it goes on for hours, the postmaster should look at what is in trouble."
	}
	return ""
}

// brief keeps a stranger's text from burying the sentence that it stands in: all of it is in the tables.
func brief(s string) string { return clip(oneLine(s), rowText) }

func quoted(s string) string { return "\u201c" + s + "\u201d" }

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// PlainStep is a piece of the way of a message.
type PlainStep struct {
	Title string `json:"title"`
	State string `json:"state"` // done, stopped, ahead
	Says  string `json:"says"`
	Tone  Tone   `json:"tone"`
}

// The states of a step.
const (
	stepDone    = "done"
	stepStopped = "stopped"
	stepAhead   = "ahead" // it did not come so far
)

// wayTitles are the stages, as somebody sees them who knows none.
var wayTitles = [...]string{"Connected", "Gave its name", "Named the sender", "Named who shall get it", "Header was read", "Message was read"}

// way is how far it came: the stages, and the mail server behind.
func (v Transaction) way() []PlainStep {
	r := v.Record
	at, ok := policy.ParseStage(r.Stage)
	if !ok {
		at = policy.Connect
	}
	last := int(at)
	if r.Outcome == journal.OutcomeDelivered || r.Outcome == journal.OutcomeUnknown || r.Outcome == journal.OutcomeBackendRefused && at == policy.Message {
		last = len(wayTitles) // the mail server had its say
	}
	var all []PlainStep
	for i := range len(wayTitles) + 1 {
		title := "Mail server took it"
		if i < len(wayTitles) {
			title = wayTitles[i]
		}
		s := PlainStep{Title: title, State: stepDone, Tone: Good}
		switch {
		case i == last && toneOf(r) != Good:
			s.State, s.Says, s.Tone = stepStopped, "ended here", toneOf(r)
		case i > last:
			s.State, s.Says, s.Tone = stepAhead, "not reached", Neutral
		}
		all = append(all, s)
	}
	return all
}
