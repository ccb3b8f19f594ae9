package policy

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

var update = flag.Bool("update", false, "rewrite the expected explanations in testdata")

// TestExplain compares explanations, as people and as tools read them, with
// testdata/explain-*; -update rewrites those.
func TestExplain(t *testing.T) {
	lists, err := NewLists([]configs.List{{Name: "forwarders", File: "forwarders.txt"}},
		readFile("203.0.113.0/24  # mail team, campus, until 2027-03-01\n*.example.org\nalice@example.com\n"),
		func() time.Time { return day("2027-01-01") })
	if err != nil {
		t.Fatal(err)
	}
	p := rules(
		`partner: trusted and "mx.partner.example" in tls.peer.names -> pass`,
		`forwarder: in_list("forwarders", client.ip) and dnsbl.score < 5 -> pass`,
		`doubtful: spf.result in ["softfail", "neutral"] -> tag X-Postern-Tag: spf-${spf.result}`,
		`spf-fail: spf.result == "fail" and (dkim.result != "pass" or len(mail.from) > 64) -> reject`,
		`last: lower(mail.domain) == "example.net" -> defer`,
	)
	p.Let = []configs.Let{{Name: "trusted", Is: "tls.peer.verified", IsPosition: configs.Position{File: "p.yaml", Line: 3, Column: 9}}}
	chain, err := Compile(p, lists)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		facts *Facts
	}{
		{"passed", known(nil)},
		{"tagged", known(func(f *Facts) { f.SPF.Result = SoftFail })},
		{"refused", known(func(f *Facts) { f.SPF.Result = Fail })},
		{"forwarded", known(func(f *Facts) { f.SPF.Result, f.Client.IP = Fail, "203.0.113.9" })},
		{"refused-twice", known(func(f *Facts) { f.SPF.Result, f.Mail.Domain = Fail, "example.net" })},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := chain.Explain(c.facts)
			data, err := json.MarshalIndent(e, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "explain-"+c.name+".json", append(data, '\n'))
			if v := chain.Decide(Message, c.facts); v.Rule != e.Rule || v.Disposition != e.Disposition {
				t.Errorf("%+v, explained %+v", v, e)
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s:\n got\n%s\n want\n%s", name, got, want)
	}
}

// TestSmallestChange: one fact where one is enough, two where it takes two.
func TestSmallestChange(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		facts func(*Facts)
		want  []Change
	}{
		{
			"one fact", []string{`a: spf.result == "fail" -> reject`}, func(f *Facts) { f.SPF.Result = Fail },
			[]Change{{Facts: []FactChange{{"spf.result", `"fail"`, []string{`"none"`, `"neutral"`, `"pass"`, `"softfail"`, `"temperror"`, `"permerror"`}}}, Becomes: DispositionPass}},
		},
		{
			"a threshold", []string{`a: dnsbl.score >= 7 -> reject`}, func(f *Facts) { f.DNSBL.Score = 9 },
			[]Change{{Facts: []FactChange{{"dnsbl.score", "9", []string{"6"}}}, Becomes: DispositionPass}},
		},
		{
			"a list", []string{`a: in_list("forwarders", client.ip) -> pass`, `b: true -> reject`}, nil,
			[]Change{{Facts: []FactChange{{`in_list("forwarders", client.ip)`, "false", []string{"true"}}}, Becomes: DispositionPass}},
		},
		{
			"a text", []string{`a: mail.domain == "example.com" -> reject`}, nil,
			[]Change{{Facts: []FactChange{{"mail.domain", `"example.com"`, []string{"anything else"}}}, Becomes: DispositionPass}},
		},
		{
			"two facts", []string{`a: tls.peer.verified and mail.domain == "partner.example" -> pass`, `b: true -> reject`}, nil,
			[]Change{{Facts: []FactChange{{"tls.peer.verified", "false", []string{"true"}}, {"mail.domain", `"example.com"`, []string{`"partner.example"`}}}, Becomes: DispositionPass}},
		},
		{
			"a number in a list", []string{`a: dnsbl.score in [-1, 4] or "x" in tls.peer.names -> reject`}, func(f *Facts) { f.DNSBL.Score = 4 },
			[]Change{{Facts: []FactChange{{"dnsbl.score", "4", []string{"-2", "0", "3", "5"}}}, Becomes: DispositionPass}},
		},
		{"nothing", []string{`a: true -> reject`}, nil, nil},
	} {
		f := known(c.facts)
		if got := compile(t, c.lines...).Explain(f).Changes; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
}

// TestPartsShowEveryKind of value.
func TestPartsShowEveryKind(t *testing.T) {
	e := compile(t, `a: tls.peer.verified == dns.healthy and client.port == message.size and mail.from in dkim.domains -> pass`).
		Explain(known(func(f *Facts) { f.DKIM.Domains = []string{"a.example", `b"`}; f.Client.Port = 25 }))
	var got []string
	for _, p := range e.Rules[0].Parts {
		for _, o := range p.Operands {
			got = append(got, o.Text+" = "+o.Value)
		}
	}
	want := []string{
		"tls.peer.verified = false", "dns.healthy = true", "client.port = 25", "message.size = 0",
		`mail.from = "alice@example.com"`, `dkim.domains = ["a.example", "b\""]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestExplainBuiltIn points into the file that the program carries.
func TestExplainBuiltIn(t *testing.T) {
	e := mustBuiltIn(t).Explain(known(func(f *Facts) { f.SPF.Result = Fail }))
	file, rest, _ := strings.Cut(e.Position, ":")
	if file != "builtin.yaml" || e.Rule != "spf-fail" {
		t.Fatalf("got %q by %s", e.Position, e.Rule)
	}
	var line int
	for i, l := range strings.Split(string(BuiltInYAML), "\n") {
		if strings.HasSuffix(l, "name: spf-fail") {
			line = i + 1
		}
	}
	if !strings.HasPrefix(rest, strconv.Itoa(line)+":") {
		t.Errorf("at %s, but the rule stands in line %d", e.Position, line)
	}
	for _, r := range e.Rules {
		for _, p := range r.Parts {
			if p.Position == "" || p.Text == "" {
				t.Errorf("%s: %+v", r.Rule, p)
			}
		}
	}
}
