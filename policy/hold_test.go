package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

// greylist holds what has no SPF, and refuses a list of clients.
func greylist(t *testing.T, for_ time.Duration) *Chain {
	t.Helper()
	c, err := Compile(configs.Policy{Rules: []configs.Rule{
		{Name: "first-contact", When: `spf.result == "none" or spf.result == "neutral"`, Do: "hold", For: for_},
		{Name: "below", When: `rcpt.address == "nobody@example.org"`, Do: "reject"},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHold(t *testing.T) {
	at := func(change func(*Facts)) Facts {
		f := Facts{}.Transaction("x")
		f.Client.IP, f.Mail = "192.0.2.1", MailFrom{From: "a@a.example", Domain: "a.example"}
		f.SPF.Result, f.Hold.Result = None, None
		f.Rcpt = RcptTo{Address: "b@example.org", Domain: "example.org"}
		change(&f)
		return f
	}
	for name, tt := range map[string]struct {
		change   func(*Facts)
		clock    string // with for: 10m
		operator string // without
	}{
		"the first time":          {func(*Facts) {}, "hold", "hold"},
		"too soon":                {func(f *Facts) { f.Hold = Hold{Result: Pass, Age: 599, Tries: 7} }, "hold", "hold"},
		"in time":                 {func(f *Facts) { f.Hold = Hold{Result: Pass, Age: 600, Tries: 1} }, "pass", "hold"},
		"released":                {func(f *Facts) { f.Hold = Hold{Result: Pass, Age: 1, Tries: 1, Released: true} }, "pass", "pass"},
		"rules below are read":    {func(f *Facts) { f.Hold = Hold{Result: Pass, Released: true}; f.Rcpt.Address = "nobody@example.org" }, "reject", "reject"},
		"nobody is told of that":  {func(f *Facts) { f.Rcpt.Address = "nobody@example.org" }, "hold", "hold"},
		"known by SPF":            {func(f *Facts) { f.SPF.Result = Pass }, "pass", "pass"},
		"the store cannot tell":   {func(f *Facts) { f.Hold.Result = TempError }, "pass", "pass"},
		"a bounce":                {func(f *Facts) { f.Mail = MailFrom{} }, "pass", "pass"},
		"postmaster":              {func(f *Facts) { f.Rcpt.Address = "PostMaster@example.org" }, "pass", "pass"},
		"postmaster, no domain":   {func(f *Facts) { f.Rcpt = RcptTo{Address: "postmaster"} }, "pass", "pass"},
		"abuse":                   {func(f *Facts) { f.Rcpt.Address = "abuse@example.org" }, "pass", "pass"},
		"somebody like abuse":     {func(f *Facts) { f.Rcpt.Address = "abused@example.org" }, "hold", "hold"},
		"neutral, which is an or": {func(f *Facts) { f.SPF.Result = Neutral; f.Hold = Hold{Result: Pass, Age: 600} }, "pass", "hold"},
	} {
		f := at(tt.change)
		for for_, want := range map[time.Duration]string{10 * time.Minute: tt.clock, 0: tt.operator} {
			c := greylist(t, for_)
			v := c.Decide(Rcpt, &f)
			if v.Disposition.String() != want || !v.Decided || v.Refuses() != (want != "pass") {
				t.Errorf("%s, for %v: %+v, want %s", name, for_, v, want)
			}
			if want == "hold" && (v.Reply.String() != "451 4.7.1 Held, please send it again." || v.Stage != Rcpt) {
				t.Errorf("%s: %+v", name, v)
			}
			if j := c.Judge(&f, Measured(&f, Rcpt)); !j.Determined() || j.Disposition != v.Disposition {
				t.Errorf("%s: a replay says %+v", name, j)
			}
		}
	}
	f := at(func(f *Facts) { f.Hold.Result = Skipped })
	if j := greylist(t, time.Hour).Judge(&f, Measured(&f, Rcpt)); j.Determined() {
		t.Errorf("what was never measured is judged: %+v", j)
	}
}

// An explanation says what would release it.
func TestHoldIsExplained(t *testing.T) {
	f := Facts{}.Transaction("x")
	f.Mail = MailFrom{From: "a@a.example", Domain: "a.example"}
	f.SPF.Result, f.Rcpt = None, RcptTo{Address: "b@example.org", Domain: "example.org"}
	f.Hold = Hold{Result: Pass, Age: 42, Tries: 2}
	e := greylist(t, 90*time.Second).ExplainMeasured(&f, Measured(&f, Rcpt))
	if e.Disposition != DispositionHold || e.Rule != "first-contact" {
		t.Errorf("%v by rule %q", e.Disposition, e.Rule)
	}
	if text := fmt.Sprint(e.Rules); !strings.Contains(text, "{hold.age 42}") {
		t.Errorf("the age is not in %s", text)
	}
	for _, want := range []Change{
		{Facts: []FactChange{{"hold.age", "42", []string{"90", "91"}}}, Becomes: DispositionPass},
		{Facts: []FactChange{{"hold.released", "false", []string{"true"}}}, Becomes: DispositionPass},
	} {
		if !slices.ContainsFunc(e.Changes, func(c Change) bool { return reflect.DeepEqual(c, want) }) {
			t.Errorf("%+v is not in\n%+v", want, e.Changes)
		}
	}
	plan := greylist(t, 90*time.Second).Plan()
	if plan[0].Do != "hold" || plan[0].Stage != Rcpt || !strings.Contains(plan[0].When, "and not hold_over_first_contact") {
		t.Errorf("%+v", plan[0])
	}
	if a, b := greylist(t, time.Hour).Fingerprint(), greylist(t, time.Minute).Fingerprint(); a == b {
		t.Error("for is no part of the fingerprint")
	}
}

func TestHoldFaults(t *testing.T) {
	at := func(line int) configs.Position { return configs.Position{File: "p.yaml", Line: line, Column: 7} }
	for name, tt := range map[string]struct {
		rules []configs.Rule
		want  string
	}{
		"too short": {
			[]configs.Rule{{Name: "h", When: "true", Do: "hold", For: 500 * time.Millisecond, Position: at(1), ForPosition: at(3)}},
			"p.yaml:3:7: for: 500ms is too short: the least is 1s; leave it out to hold until postern release",
		},
		"nothing at all": {
			[]configs.Rule{{Name: "h", When: "true", Do: "hold", Position: at(1), ForPosition: at(3)}},
			"p.yaml:3:7: for: 0s is too short: the least is 1s; leave it out to hold until postern release",
		},
		"longer than anybody waits": {
			[]configs.Rule{{Name: "h", When: "true", Do: "hold", For: 5 * 24 * time.Hour, Position: at(1), ForPosition: at(3)}},
			"p.yaml:3:7: for: 5d is too long: the most is 4d, since senders give up after four to five days (RFC 5321 §4.5.4.1)",
		},
		"of another word": {
			[]configs.Rule{{Name: "h", When: "true", Do: "defer", For: time.Minute, Position: at(1), ForPosition: at(3)}},
			"p.yaml:3:7: for says how long do: hold holds, and this rule's do is defer",
		},
		"reads the header": {
			[]configs.Rule{{Name: "h", When: "header.count > 3", Do: "hold", Position: at(1), WhenPosition: at(2), ForPosition: at(1)}},
			"p.yaml:2:7: do: hold is decided at rcpt at the latest, and this rule at header, since it reads header.count: read what is known before",
		},
		"moved later": {
			[]configs.Rule{{Name: "h", When: "true", Do: "hold", At: "message", Position: at(1), ForPosition: at(1)}},
			"p.yaml:1:7: do: hold is decided at rcpt at the latest, and this rule at message, as its at says: read what is known before",
		},
		"below a rule that waits": {
			[]configs.Rule{
				{Name: "signed", When: `dkim.result == "pass"`, Do: "pass", Position: at(1)},
				{Name: "h", When: "true", Do: "hold", Position: at(4), ForPosition: at(4)},
			},
			`p.yaml:4:7: do: hold is decided at rcpt at the latest, and this rule at message, after rule "signed" above: move it above that rule`,
		},
		"a header that tells": {
			[]configs.Rule{{Name: "h", When: "hold.tries > 3 and header.count > 1", Do: "tag", Header: "X-Tries: many", Position: at(1), WhenPosition: at(2)}},
			"p.yaml:2:7: hold.tries cannot be read at header, where one reply answers for all recipients: the rule is decided there since it reads header.count; leave the other fact to a rule of its own",
		},
		"a refusal for good": {
			[]configs.Rule{{Name: "h", When: "true", Do: "hold", Reply: "550 No", Position: at(1), ReplyPosition: at(5), ForPosition: at(1)}},
			"p.yaml:5:7: hold answers 4yz, but the reply's code is 550: write \"450\", or do: reject",
		},
	} {
		_, err := Compile(configs.Policy{Rules: tt.rules}, nil)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s:\n got  %v\n want %s", name, err, tt.want)
		}
	}
}
