package policy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"postern/configs"
)

// served compiles one rule of a policy with the services grey and spf.
func served(do, when string, more ...configs.Rule) (*Chain, error) {
	rule := configs.Rule{Name: "a", When: when, Do: do, Position: configs.Position{File: "postern.yaml", Line: 7, Column: 5}}
	return Compile(configs.Policy{Services: []string{"grey", "spf"}, Rules: append([]configs.Rule{rule}, more...)}, nil)
}

func TestRulesReadServices(t *testing.T) {
	for when, want := range map[string]bool{
		`service.grey.action == "defer_if_permit"`:                                         true,
		`service.spf.action == "defer_if_permit"`:                                          false,
		`service.spf.action == "skipped" and service.spf.text == ""`:                       true,
		`service.grey.text contains "Greylisted" and not (service.spf.action == "reject")`: true,
		`service.grey.action in ["reject", "temperror"]`:                                   false,
	} {
		c, err := served("reject", when)
		if err != nil {
			t.Fatal(err)
		}
		f := Facts{Recipient: Recipient{Service: Services{{Name: "grey", Action: "defer_if_permit", Text: "Greylisted for 300 seconds"}}}}
		f.Begin("x")
		if v := c.Decide(Rcpt, &f); v.Refuses() != want || v.Stage != Rcpt || !v.Decided {
			t.Errorf("%s: %+v", when, v)
		}
		if !c.Needs("service.grey") && strings.Contains(when, "grey") || c.Needs("service.other") || c.Needs("spf") {
			t.Errorf("%s: the wrong ones are asked", when)
		}
	}
}

// What a service has not been asked is not known, and a replay does not guess it.
func TestServicesThatWereNotAsked(t *testing.T) {
	c, err := served("reject", `service.grey.action == "reject" and service.spf.action != "temperror"`)
	if err != nil {
		t.Fatal(err)
	}
	f := Facts{Recipient: Recipient{Service: Services{{Name: "grey", Action: "reject"}}}}
	f.Begin("x")
	j := c.Judge(&f, Measured(&f, Message))
	if got := j.Missing.Names(); !slices.Equal(got, []string{"service.grey.action", "service.spf.action"}) && !slices.Equal(got, []string{"service.spf.action"}) {
		t.Errorf("%+v misses %q", j, got)
	}
	f.Service = append(f.Service, Service{Name: "spf", Action: "dunno"})
	if j := c.Judge(&f, Measured(&f, Message)); !j.Determined() || !j.Refuses() {
		t.Errorf("%+v misses %q", j, j.Missing.Names())
	}
	f.Service[0].Action = "dunno"
	f.Service[1].Action = Skipped
	if j := c.Judge(&f, Measured(&f, Message)); !j.Determined() || j.Refuses() {
		t.Errorf("one answer is enough: %+v misses %q", j, j.Missing.Names())
	}
}

func TestFaultsOfRulesThatReadServices(t *testing.T) {
	for when, want := range map[string]string{
		`service.gray.action == "reject"`:                        `postern.yaml:7:5: unknown name service.gray.action`,
		`service.grey.verdict == "reject"`:                       `service.grey has no verdict`,
		`service.grey == "reject"`:                               `service.grey is a group of facts, not a fact: read service.grey.action or service.grey.text`,
		`service.grey.action == "rejct"`:                         `service.grey.action is never "rejct"`,
		`service.grey.action == "reject" and header.count > 100`: `service.grey.action cannot be read at header`,
	} {
		if _, err := served("reject", when); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", when, err, want)
		}
	}
}

// The text of a service can be the reply, and a rule that defers for want of an answer does not
// speak of the DNS.
func TestRepliesOfServices(t *testing.T) {
	f := Facts{Recipient: Recipient{Service: Services{{Name: "grey", Action: "defer_if_permit", Text: "Greylisted\r\n250 OK"}, {Name: "spf", Action: TempError}}}}
	f.Begin("x")
	c, err := served("pass", "false", configs.Rule{Name: "b", Do: "defer", When: `service.grey.action == "defer_if_permit"`, Reply: "451 4.7.1 ${service.grey.text}"})
	if err != nil {
		t.Fatal(err)
	}
	if v := c.Decide(Rcpt, &f); v.Reply.String() != "451 4.7.1 Greylisted??250 OK" {
		t.Errorf("%q", v.Reply)
	}
	c, err = served("defer", `service.spf.action == "temperror"`)
	if err != nil {
		t.Fatal(err)
	}
	if v := c.Decide(Rcpt, &f); v.Reply.String() != "451 4.3.0 Temporary failure in processing, please try again later." {
		t.Errorf("%q", v.Reply)
	}
}

// A rule says what becomes of a word that it names, and of all that are not the ones it names.
func TestWhichWordsARuleAnswers(t *testing.T) {
	for when, want := range map[string][]string{ // of grey
		`service.spf.action == "temperror"`:                                               {},
		`service.grey.action == "reject"`:                                                 {"reject"},
		`service.grey.action in ["reject", "defer"]`:                                      {"reject", "defer"},
		`service.grey.action != "dunno"`:                                                  {"reject", "defer", "temperror", "dunno"},
		`not (service.grey.action in ["dunno", "reject"]) and mail.size > 10`:             {"reject", "defer", "temperror", "dunno"},
		`service.grey.action == "reject" or spf.result == "fail"`:                         {"reject"},
		`service.grey.action != "reject" and service.grey.action == "defer"`:              {"reject", "defer"},
		`service.grey.text contains "Greylisted"`:                                         {},
		`service.grey.text contains "Greylisted" and service.grey.action != "temperror"`:  {"reject", "defer", "temperror", "dunno"},
		`spf.result == "fail" and helo.name == "x" and not (service.grey.action == "ok")`: {"reject", "defer", "temperror", "dunno"},
	} {
		c, err := served("reject", when)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"reject", "defer", "temperror", "dunno"} {
			if got := c.Answers("service.grey.action", word); got != slices.Contains(want, word) {
				t.Errorf("%s: %s is %v", when, word, got)
			}
		}
	}
	c, err := served("pass", "false", configs.Rule{Name: "t", Do: "tag", When: `service.grey.action == "reject"`, Header: "X-Grey: yes"})
	if err != nil || c.Answers("service.grey.action", "reject") {
		t.Error("a tag decides nothing", err)
	}
}

// What would have to be otherwise is found for services too, and the facts stay as they are.
func TestExplainServices(t *testing.T) {
	c, err := served("reject", `service.grey.action == "reject"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Facts{{}, {Recipient: Recipient{Service: Services{{Name: "grey", Action: "dunno"}}}}} {
		f.Begin("x")
		before := slices.Clone(f.Service)
		e := c.Explain(&f)
		if len(e.Changes) != 1 || e.Changes[0].Facts[0].Fact != "service.grey.action" || !slices.Contains(e.Changes[0].Facts[0].To, `"reject"`) {
			t.Errorf("%+v", e.Changes)
		}
		if !reflect.DeepEqual(f.Service, before) {
			t.Errorf("the facts are %+v", f.Service)
		}
	}
	if w := c.Warnings(); w != nil {
		t.Errorf("%v", w)
	}
}

func TestServicesInJSON(t *testing.T) {
	f := Facts{Recipient: Recipient{Service: Services{{Name: "spf", Action: "dunno"}, {Name: "grey", Action: TempError, Reason: "no answer within 5s"}}}}
	text, err := json.Marshal(&f)
	if err != nil || !strings.Contains(string(text), `"service":{"grey":{"action":"temperror","reason":"no answer within 5s"},"spf":{"action":"dunno"}}`) {
		t.Errorf("%s %v", text, err)
	}
	var g Facts
	if err := json.Unmarshal(text, &g); err != nil || len(g.Service) != 2 || g.Service[0] != f.Service[1] || g.Service[1] != f.Service[0] {
		t.Errorf("%+v %v", g.Service, err)
	}
	if text, _ := json.Marshal(&Facts{}); strings.Contains(string(text), `"service"`) {
		t.Errorf("where nobody was asked: %s", text)
	}
}

// The facts of as many services as may be configured fit.
func TestRoomForServices(t *testing.T) {
	if need := configs.MaxFilters * (len(words.Prototypes(services)) + len(words.Prototypes(milters))); words.Room() < need {
		t.Errorf("there is room for %d facts, and %d may come", words.Room(), need)
	}
	t.Logf("room for %d facts", words.Room())
}

func TestServicesInAPolicy(t *testing.T) {
	p := configs.Policy{
		Let:   []configs.Let{{Name: "grey", Is: `service.grey.action == "defer"`}},
		Rules: []configs.Rule{{When: `grey or service.spf.action == "reject"`}, {When: `service.spf.text == "" or service.x.nothing or spf.result == "fail"`}},
	}
	if got, judging := FiltersIn(p); !slices.Equal(got, []string{"grey", "spf"}) || judging != nil {
		t.Errorf("%q %q", got, judging)
	}
}
