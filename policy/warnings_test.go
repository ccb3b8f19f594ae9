package policy

import (
	"fmt"
	"strings"
	"testing"
)

// TestWarnings is what an operator hears about rules that are legal and hardly
// meant.
func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  []string // without position
	}{
		{"nothing to say", []string{
			`a: spf.result == "pass" and in_list("forwarders", client.ip) -> pass`,
			`b: spf.result == "fail" -> reject`,
			`c: spf.result in ["fail", "softfail"] -> tag X-Postern-Tag: x`,
			`d: dnsbl.score > 3 or dnsbl.listed -> defer`,
		}, nil},
		{"never", []string{`a: false -> reject`}, []string{`rule "a" can never match: its condition is false whatever the facts are`}},
		{"a contradiction", []string{`a: spf.result == "pass" and spf.result == "fail" -> reject`}, []string{`rule "a" can never match: its condition is false whatever the facts are`}},
		{"a contradiction of numbers", []string{`a: dnsbl.score > 5 and dnsbl.score < 3 -> reject`}, []string{`rule "a" can never match: its condition is false whatever the facts are`}},
		{"a gap between numbers is none", []string{`a: dnsbl.score > 3 and dnsbl.score < 5 -> reject`}, nil},
		{"a contradiction of parts", []string{`a: in_list("forwarders", client.ip) and not in_list("forwarders", client.ip) -> reject`}, []string{`rule "a" can never match: its condition is false whatever the facts are`}},
		{"or for and", []string{`a: spf.result != "pass" or spf.result != "none" -> reject`}, []string{`rule "a" always matches: its condition is true whatever the facts are; if that is meant, write true`}},
		{"every word", []string{`a: iprev.result in ["pass", "fail", "temperror", "permerror", "skipped"] -> pass`}, []string{`rule "a" always matches: its condition is true whatever the facts are; if that is meant, write true`}},
		{"true is meant", []string{`a: true -> pass`}, nil},
		{"below all", []string{`a: true -> pass`, `b: spf.result == "fail" -> reject`, `c: true -> tag X-Postern-Tag: x`}, []string{
			`rule "b" never gets its turn: rule "a" above (p.yaml:10:5) matches whatever it would match`,
			`rule "c" never gets its turn: rule "a" above (p.yaml:10:5) matches whatever it would match`,
		}},
		{"the same again", []string{`a: spf.result == "fail" and client.ip != "192.0.2.1" -> pass`, `b: client.ip != "192.0.2.1" and "fail" == spf.result -> reject`}, []string{
			`rule "b" never gets its turn: rule "a" above (p.yaml:10:5) matches whatever it would match`,
		}},
		{"a part of what is above", []string{`a: spf.result == "fail" or mail.from startsWith "x" -> reject`, `b: spf.result == "fail" and dnsbl.listed -> defer`}, []string{
			`rule "b" never gets its turn: rule "a" above (p.yaml:10:5) matches whatever it would match`,
		}},
		{"taken piece by piece", []string{
			`a: spf.result == "fail" -> reject`,
			`b: spf.result in ["softfail", "permerror"] -> defer`,
			`c: spf.result in ["fail", "softfail"] -> tag X-Postern-Tag: x`,
		}, []string{`rule "c" never gets its turn: the rules above match whatever it would match ("a", "b")`}},
		{"tags take nothing", []string{`a: true -> tag X-Postern-Tag: x`, `b: true -> reject`}, nil},
		{"too much to try", []string{
			`a: false and (dnsbl.score in [1, 3, 5, 7, 9, 11, 13, 15] or client.port in [1, 3, 5, 7, 9, 11, 13, 15] or mail.size in [1, 3, 5, 7, 9, 11, 13, 15] or header.count in [1, 3, 5, 7, 9, 11]) -> reject`,
		}, nil},
	} {
		got := compile(t, c.lines...).Warnings()
		if len(got) != len(c.want) {
			t.Errorf("%s: got %v", c.name, got)
			continue
		}
		for i, w := range got {
			if w.Text != c.want[i] || w.Position.Column != 13 || w.Position.File != "p.yaml" {
				t.Errorf("%s:\n got  %s\n want %s", c.name, w.Error(), c.want[i])
			}
		}
	}
	if w := mustBuiltIn(t).Warnings(); len(w) != 0 {
		t.Errorf("the built-in policy: %v", w)
	}
	chain, _ := fiftyRules(t)
	if w := chain.Warnings(); len(w) == 0 || !strings.Contains(w[0].Text, "never gets its turn") {
		t.Errorf("fifty rules, some of them the same: %v", w)
	}
}

// Two thousand rules are looked at in no time, and some hundreds that all match the same message nearly so. In minutes would
// be too late: a proxy that starts looks at them too.
func TestWarningsOfManyRules(t *testing.T) {
	for _, c := range []struct {
		rules int
		rule  string // with the rule's number
		first string // in place of rule r0
		want  int
	}{
		{2000, `mail.domain == "partner-%d.example" and spf.result == "fail" and not in_list("forwarders", client.ip)`, "", 1},
		{500, `spf.result == "fail" and not (mail.domain startsWith "partner-%d")`, "", 1},
		{500, `spf.result == "fail" and dkim.result == "fail" and dmarc.result == "fail" and not (mail.domain startsWith "partner-%[1]d" or mail.domain endsWith "-%[1]d.example")`, "", 1},
		{500, `spf.result == "fail" or (mail.domain startsWith "a%[1]d" and mail.domain startsWith "b%[1]d" and mail.domain startsWith "c%[1]d" and mail.domain startsWith "d%[1]d" and mail.domain startsWith "e%[1]d")`, "true", 500},
	} {
		var lines []string
		for i := range c.rules {
			lines = append(lines, fmt.Sprintf(`r%d: %s -> reject`, i, fmt.Sprintf(c.rule, i)))
		}
		lines = append(lines, strings.Replace(lines[17], "r17:", "again:", 1))
		why := `rule "again" never gets its turn: rule "r17" above`
		if c.first != "" {
			lines[0], why = "r0: "+c.first+" -> reject", `rule "again" never gets its turn: rule "r0" above`
		}
		w := compile(t, lines...).Warnings()
		if len(w) != c.want || !strings.Contains(w[len(w)-1].Text, why) {
			t.Errorf("%s: %d warnings, want %d, the last with %s: %v", c.rule, len(w), c.want, why, w)
		}
	}
}

func mustBuiltIn(t testing.TB) *Chain {
	t.Helper()
	chain, err := Compile(BuiltIn(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}
