package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/policy/expr"
)

// at is where the rules of these tests stand: their condition starts at 3:11.
var at = configs.Position{File: "p.yaml", Line: 3, Column: 11}

// testLists are the lists of these tests.
func testLists(t testing.TB) *Lists {
	t.Helper()
	lists, err := NewLists([]configs.List{{Name: "forwarders", Entries: []string{"192.0.2.0/24"}}}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return lists
}

// faults returns the faults of an error that Compile made.
func faults(t *testing.T, err error) []*configs.Fault {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("not a joined error: %v", err)
	}
	var all []*configs.Fault
	for _, e := range joined.Unwrap() {
		var f *configs.Fault
		if !errors.As(e, &f) {
			t.Fatalf("not a fault: %v", e)
		}
		all = append(all, f)
	}
	return all
}

const resultWords = "none, neutral, pass, fail, softfail, temperror, permerror or skipped"

// TestWrongConditions is what an operator is told about conditions that cannot
// be meant. The ^ of each stands below the octet that the fault points at.
func TestWrongConditions(t *testing.T) {
	for _, c := range []struct{ when, caret, want string }{
		// Names.
		{`spf.reslt == "fail"`, `    ^`, "spf has no reslt (did you mean spf.result?); there is spf.domain, spf.explanation, spf.identity, spf.reason or spf.result"},
		{`sfp.result == "fail"`, `^`, "unknown name sfp.result (did you mean spf.result?)"},
		{`true and spf == "fail"`, `         ^`, "spf is a group of facts, not a fact: read spf.domain, spf.explanation, spf.identity, spf.reason or spf.result"},
		{`fail == spf.result`, `^`, `unknown name fail: a text stands in quotes, as in "fail"`},
		{`id == "x"`, `^`, `unknown name id: a text stands in quotes, as in "id"`},
		{`submitter.reason == "x"`, `          ^`, "submitter has no reason; there is submitter.address, submitter.domain or submitter.result"},
		{`client.ip.v4 == "x"`, `          ^`, "client.ip is a fact and has no v4"},
		{`client.ip() == "x"`, `       ^`, "client.ip is no function: facts are read without parentheses"},
		{`lower(mail.from).domain == "x"`, `                 ^`, "lower(mail.from) is no group of facts and has no domain"},
		{`mail.from`, `^`, `mail.from is a text, not a condition: compare it, as in mail.from == "..."`},
		{`mail.from[0] == "x"`, `         ^`, "mail.from[0]: elements of a list are read with in, any, all and none"},
		// Result words and other closed sets.
		{`spf.result == "fial"`, `              ^`, `spf.result is never "fial" (did you mean fail?): it is ` + resultWords},
		{`"Fail" == spf.result`, `^`, `spf.result is never "Fail" (did you mean fail?): it is ` + resultWords},
		{`iprev.result == "softfail"`, `                ^`, `iprev.result is never "softfail": it is pass, fail, temperror, permerror or skipped`},
		{`mx.result == "neutral"`, `             ^`, `mx.result is never "neutral": it is none, pass, fail, temperror, permerror or skipped`},
		{`mx.reason == "null MX"`, `   ^`, "mx has no reason; there is mx.result"},
		{`spf.result in ["fail", "softfial"]`, `                       ^`, `spf.result is never "softfial" (did you mean softfail?): it is ` + resultWords},
		{`dmarc.policy == "rejct"`, `                ^`, `dmarc.policy is never "rejct" (did you mean reject?): it is none, quarantine, reject or ""`},
		{`tls.version == "TLSv1.3"`, `               ^`, `tls.version is never "TLSv1.3": it is 1.2, 1.3 or ""`},
		// Types.
		{`spf.result == 5`, `           ^`, "spf.result is a text and 5 is a number: they are never equal"},
		{`dnsbl.score == "3"`, `            ^`, `dnsbl.score is a number and "3" is a text: they are never equal`},
		{`tls.peer.verified != "true"`, `                  ^`, `tls.peer.verified is yes or no and "true" is a text: they are never equal`},
		{`tls.peer.names == "mx.example.org"`, `               ^`, `tls.peer.names is a list of texts and "mx.example.org" is a text: they are never equal; use in`},
		{`tls.peer.names == dkim.domains`, `               ^`, "lists are not compared: use in, any, all and none"},
		{`mail.size > "10"`, `          ^`, `> compares numbers, "10" is a text`},
		{`spf.result`, `^`, `spf.result is a text, not a condition: compare it, as in spf.result == "none"`},
		{`dnsbl.score`, `^`, "dnsbl.score is a number, not a condition"},
		{`spf.result == "fail" or "softfail"`, `                        ^`, `or joins conditions, "softfail" is a text: each side of it is a whole comparison, as in a == "x" or a == "y"; or write a in ["x", "y"]`},
		{`not spf.result == "fail"`, `^`, "not wants a condition, spf.result is a text; not binds tighter than ==, so write not (a == b) or a != b"},
		{`client.port in ["25"]`, `            ^`, `client.port is a number and ["25"] is a list of texts: it is never in it`},
		{`client.port in [25, "587"]`, `                    ^`, `"587" is a text, but the list starts with a number`},
		{`spf.result in "fail"`, `           ^`, `in wants a list on its right, "fail" is a text: write in ["fail"], or contains for a part of a text`},
		{`spf.result in tls.peer.verified`, `           ^`, `in wants a list on its right, tls.peer.verified is yes or no`},
		{`spf.result in []`, `              ^`, "the list is empty, so nothing is in it"},
		{`spf.result in [mail.from]`, `               ^`, "mail.from cannot stand in a list: a list holds written texts or written numbers"},
		{`tls.peer.names contains "x"`, `               ^`, `tls.peer.names is a list: write "x" in tls.peer.names, or any(tls.peer.names, # contains "x")`},
		{`mail.from startsWith "a somewhat longer text" == (helo.name endsWith "another one of that kind") == 5`, strings.Repeat(" ", 97) + "^", `mail.from startsWith "a somewhat longer text" == (helo.name endsWith "another... is yes or no and 5 is a number: they are never equal`},
		{`dnsbl.score startsWith "1"`, `            ^`, "startsWith wants texts, dnsbl.score is a number"},
		{`mail.from == nil`, `             ^`, `nil: a fact always has a value; one that is missing is "", 0 or false`},
		{`dnsbl.score == -"x"`, `               ^`, "- stands before a written number only"},
		// What a fact cannot be by its form.
		{`client.ip == "192.0.2.0/24"`, `             ^`, `client.ip is one address and never equals a network: write client.ip in ["192.0.2.0/24"]`},
		{`client.ip in ["192.0.2.0/33"]`, `              ^`, `"192.0.2.0/33" is no network: write it as 192.0.2.0/24 or 2001:db8::/32`},
		{`client.ip != "192.0.2.999"`, `             ^`, `"192.0.2.999" is no IP address; client.ip is one`},
		{`mail.domain == "Example.org"`, `               ^`, `mail.domain is in lower case and never "Example.org": write "example.org"`},
		{`mail.domain == "example.org."`, `               ^`, `mail.domain ends without a dot and is never "example.org."`},
		{`mail.from == "<>"`, `             ^`, `mail.from of the null reverse-path is empty: write ""`},
		{`rcpt.address in ["a@b.example", "<c@d.example>"]`, `                                ^`, `rcpt.address has no angle brackets and is never "<c@d.example>": write "c@d.example"`},
		{`pra.address != "Ann@B.Example"`, `               ^`, `pra.address has its domain in lower case and is never "Ann@B.Example": write "Ann@b.example"`},
		{`submitter.address == "ann@bücher.example"`, `                     ^`, `submitter.address has A-labels (xn--...) and is never "ann@bücher.example"`},
		{`any(dkim.domains, # == "A.example")`, `                       ^`, `dkim.domains is in lower case and never "A.example": write "a.example"`},
		{`none(tls.peer.names, # in ["a.example", "b.example."])`, `                                        ^`, `tls.peer.names ends without a dot and is never "b.example."`},
		{`mail.domain == "bücher.example"`, `               ^`, `mail.domain has A-labels (xn--...) and is never "bücher.example"`},
		{`"mx.Partner.example" in tls.peer.names`, `^`, `tls.peer.names is in lower case and never "mx.Partner.example": write "mx.partner.example"`},
		// Functions and lists.
		{`inlist("forwarders", client.ip)`, `^`, "unknown function inlist (did you mean in_list?); there is all, any, in_list, len, lower, none or upper"},
		{`filter(tls.peer.names, true)`, `^`, "unknown function filter; there is all, any, in_list, len, lower, none or upper"},
		{`len() > 2`, `^`, "len takes 1: len(text or list)"},
		{`len(dnsbl.score) > 2`, `    ^`, "dnsbl.score is a number: len(text or list)"},
		{`lower(tls.peer.names) == "x"`, `      ^`, "tls.peer.names is a list of texts: lower(text)"},
		{`in_list("forwrders", client.ip)`, `        ^`, `unknown list "forwrders" (did you mean forwarders?); there is forwarders`},
		{`in_list(client.ip, "forwarders")`, `        ^`, `in_list wants the list's written name first: in_list("name", text)`},
		{`in_list("forwarders", tls.peer.names)`, `                      ^`, `in_list looks up a text, tls.peer.names is a list of texts: write any(tls.peer.names, in_list("forwarders", #))`},
		{`any(mail.from, # == "x")`, `    ^`, "any goes through a list of texts, mail.from is a text"},
		{`all(tls.peer.names, #)`, `                    ^`, "# is a text, not a condition"},
		{`any(tls.peer.names, any(dkim.domains, # == "x"))`, `                    ^`, "any goes through a list for each element of another one: take it out of the inner condition"},
		{`any(tls.peer.names, #index == 1)`, `                    ^`, "#index is unknown: # is the element in question"},
		{`mail.from matches "("`, `                  ^`, "the pattern is wrong: missing closing ): `(`"},
		{`mail.from matches "` + strings.Repeat("x", 1<<10+1) + `"`, `                  ^`, "the pattern is longer than 1024 octets"},
		{`len(sfp.result) > 1`, `    ^`, "unknown name sfp.result (did you mean spf.result?)"},
		{`in_list("forwarders", sfp.result)`, `                      ^`, "unknown name sfp.result (did you mean spf.result?)"},
		{`mail.from matches helo.name`, `                  ^`, "matches wants a written pattern on its right, so that it can be checked now"},
		{`dnsbl.score matches "x"`, `            ^`, "matches wants a text on its left, dnsbl.score is a number"},
		// What the language leaves out.
		{`dnsbl.score + 1 > 2`, `            ^`, "+ has no place in a rule: rules compare, they do not calculate"},
		{`dnsbl.score in 1..5`, `                ^`, "a range has no place in a rule: write x >= 1 and x <= 5"},
		{`dnsbl.score > 1.5`, `              ^`, "1.5: numbers in rules are whole"},
		{`spf?.result == "fail"`, `     ^`, "?. has no place in a rule: every fact has a value, write ."},
		{`if true {true} else {false}`, `^`, "a choice (? : or if) has no place in a rule: write two rules, or use and, or"},
		{`let a = 1; a == 1`, `    ^`, "let stands beside the rules, not in an expression: policy.let: [{name: a, is: ...}]"},
		{`mail.from[1:2] == "x"`, `         ^`, "a piece [:] has no place in a rule: use startsWith, endsWith, contains or matches"},
		{`true; false`, `      ^`, "; has no place in a rule: a rule is one condition"},
		{`{"a": 1} == 1`, `^`, "{a: 1} has no place in a rule"},
		// Slips of the pen.
		{`spf.result = "fail"`, `           ^`, "= does not compare: write =="},
		{`spf.result <> "fail"`, `            ^`, "> is not expected here; for unequal write !="},
		{`tls.peer.verified & true`, `                  ^`, "& is no operator: write and"},
		{`tls.peer.verified AND true`, `                  ^`, `"AND" is not expected here: operators are written in lower case`},
		{`(spf.result == "fail"`, `                    ^`, "the expression ends too early"},
		{`spf.result == "fail`, `                   ^`, "a text is not closed: its last quote is missing"},
		{` `, `^`, "the expression is empty; write true for a rule that always applies"},
		{"spf.result == \"\xff\"", `^`, "the expression is not valid UTF-8"},
		{`"` + strings.Repeat("x", expr.MaxLength) + `" == mail.from`, `^`, "the expression is longer than 8192 octets: move addresses and domains into a list and read it with in_list"},
		{strings.Repeat("not ", 50) + "dnsbl.listed", strings.Repeat(" ", 4*50) + "^", "the expression is nested more than 50 deep: give parts of it names with let"},
		{`mail.from in [` + strings.Repeat(`"x",`, 1000) + `"y"]`, strings.Repeat(" ", 4005) + "^", "the expression has more than 1000 parts: move addresses and domains into a list and read it with in_list"},
	} {
		_, err := Compile(configs.Policy{Rules: []configs.Rule{{Name: "r", When: c.when, Do: "pass", WhenPosition: at}}}, testLists(t))
		got := faults(t, err)
		if len(got) != 1 {
			t.Errorf("%s\n got %d faults: %v", c.when, len(got), err)
			continue
		}
		column := at.Column + len(c.caret) - 1
		if p := got[0].Position; got[0].Text != c.want || p.Line != at.Line || p.Column != column || p.File != at.File {
			t.Errorf("%.80s\n%s\n got  %v\n want p.yaml:3:%d: %s", c.when, c.caret, got[0], column, c.want)
		}
	}
}

// doubling returns lets each of which is twice the one before.
func doubling(n int) []configs.Let {
	lets := []configs.Let{{Name: "twice0", Is: "dnsbl.listed"}}
	for i := 1; i < n; i++ {
		before := lets[i-1].Name
		lets = append(lets, configs.Let{Name: fmt.Sprint("twice", i), Is: before + " and " + before})
	}
	return lets
}

// TestWrongPolicies is what an operator is told about all else in a policy.
func TestWrongPolicies(t *testing.T) {
	rule := func(change func(*configs.Rule)) configs.Policy {
		r := configs.Rule{
			Name: "r", When: `spf.result == "fail"`, Do: "reject",
			Position:       configs.Position{File: "p.yaml", Line: 2, Column: 5},
			WhenPosition:   at,
			ReplyPosition:  configs.Position{File: "p.yaml", Line: 4, Column: 11},
			HeaderPosition: configs.Position{File: "p.yaml", Line: 5, Column: 11},
		}
		change(&r)
		return configs.Policy{Rules: []configs.Rule{r}}
	}
	reply := func(do, text string) configs.Policy {
		return rule(func(r *configs.Rule) { r.Do, r.Reply = do, text })
	}
	header := func(text string) configs.Policy {
		return rule(func(r *configs.Rule) { r.Do, r.Header = "tag", text })
	}
	for _, c := range []struct {
		name   string
		policy configs.Policy
		want   []string
	}{
		{"no name", rule(func(r *configs.Rule) { r.Name = "" }), []string{"p.yaml:2:5: the rule has no name: logs, metrics and explain speak of it by its name"}},
		{"a name that breaks lines", rule(func(r *configs.Rule) { r.Name = "a\nb" }), []string{`p.yaml:2:5: rule "a\nb": a name is at most 64 characters of ASCII, without quotes`}},
		{"two rules of one name", configs.Policy{Rules: []configs.Rule{
			rule(func(*configs.Rule) {}).Rules[0],
			rule(func(r *configs.Rule) { r.Position.Line = 9 }).Rules[0],
		}}, []string{`p.yaml:9:5: there is already a rule "r": the name stands in logs and metrics, so it must tell which rule it was`}},
		{"no do", rule(func(r *configs.Rule) { r.Do = "" }), []string{"p.yaml:2:5: the rule has no do: it is reject, defer, hold, tag or pass"}},
		{"an unknown do", rule(func(r *configs.Rule) { r.Do = "rejct" }), []string{"p.yaml:2:5: do: rejct is unknown (did you mean reject?): it is reject, defer, hold, tag or pass"}},
		{"an unknown stage", rule(func(r *configs.Rule) { r.At = "rctp" }), []string{"p.yaml:2:5: at: rctp is no stage (did you mean rcpt?): it is connect, helo, mail, rcpt, header or message"}},
		{"an earlier stage", rule(func(r *configs.Rule) { r.At = "helo" }), []string{"p.yaml:2:5: at: helo is too early: the rule is decided at mail, since it reads spf.result; at may move it later, never earlier"}},
		{"a stage before that of a rule above", configs.Policy{Rules: []configs.Rule{
			{Name: "signed", When: `dkim.result == "pass"`, Do: "pass", WhenPosition: at},
			rule(func(r *configs.Rule) { r.At = "mail" }).Rules[0],
		}}, []string{`p.yaml:2:5: at: mail is too early: the rule is decided at message, after rule "signed" above; at may move it later, never earlier`}},

		{"a reply without code", reply("reject", "Go away."), []string{`p.yaml:4:11: the reply starts with "Go", not with a code of three digits, as in "550 5.7.23 SPF validation failed."`}},
		{"a 4yz reply to reject", reply("reject", "450 Go away."), []string{`p.yaml:4:11: reject answers 5yz, but the reply's code is 450: write "550", or do: defer`}},
		{"a 5yz reply to defer", reply("defer", "550 Go away."), []string{`p.yaml:4:11: defer answers 4yz, but the reply's code is 550: write "450", or do: reject`}},
		{"a 2yz reply", reply("reject", "250 OK"), []string{`p.yaml:4:11: reject answers 5yz, but the reply's code is 250: write "550", or do: pass`}},
		{"a code that there is not", reply("reject", "599 Go away."), []string{"p.yaml:4:11: 599 is no reply code (RFC 5321 §4.2)"}},
		{"421", reply("defer", "421 4.7.0 Bye."), []string{"p.yaml:4:11: 421 announces that the connection is closed (RFC 5321 §3.8), which no rule does: write 450 or 451"}},
		{"codes that disagree", reply("reject", "550 4.7.1 Go away."), []string{"p.yaml:4:15: the code 550 and the enhanced status code 4.7.1 disagree: write 5.7.1 (RFC 2034 §4)"}},
		{"a wrong enhanced code", reply("reject", "550 5.7.1234 Go away."), []string{"p.yaml:4:15: 5.7.1234 is no enhanced status code: that is 5.subject.detail, each of one to three digits (RFC 3463 §2)"}},
		{"two lines", reply("reject", "550 5.7.1 Go\r\n250 OK"), []string{`p.yaml:4:23: the reply has a control character ('\r'): it must be one line`}},
		{"an umlaut", reply("reject", "550 5.7.1 Grüße"), []string{"p.yaml:4:23: the reply has a character that is not ASCII: clients may not be able to show it"}},
		{"a long reply", reply("reject", "550 "+strings.Repeat("x", maxReplyText+1)), []string{"p.yaml:4:15: the reply is longer than 400 octets"}},
		{"an unknown fact", reply("reject", "550 5.7.1 No ${spf.resullt} for ${mail}"), []string{
			`p.yaml:4:24: unknown fact "spf.resullt" (did you mean spf.result?)`,
			"p.yaml:4:43: ${mail} is a group of facts: write one of mail.domain, mail.from, mail.requiretls, mail.size or mail.smtputf8",
		}},
		{"an open ${", reply("reject", "550 5.7.1 No ${spf.result"), []string{"p.yaml:4:24: ${ without its }"}},
		{"a fact of a later stage", reply("reject", "550 5.7.1 ${pra.address}"), []string{"p.yaml:4:21: ${pra.address} is known at header, but the rule is decided at mail: leave it out, or add at: header"}},
		{"a reply to pass", reply("pass", "550 Go away."), []string{"p.yaml:4:11: do: pass gives no reply: only reject, defer and hold do"}},

		{"tag without header", header(""), []string{`p.yaml:2:5: do: tag adds a header field, and the rule has none: header: "X-Postern-Tag: r"`}},
		{"a header of reject", rule(func(r *configs.Rule) { r.Header = "X-Spam: yes" }), []string{"p.yaml:5:11: do: reject adds no header field: only tag does"}},
		{"a long name", header("X-" + strings.Repeat("x", maxHeaderName) + ": yes"), []string{"p.yaml:5:11: the field name is longer than 76 octets"}},
		{"no field", header("spam"), []string{`p.yaml:5:11: the header is not "Name: value", as in "X-Postern-Tag: r"`}},
		{"a space in the name", header("X Spam: yes"), []string{`p.yaml:5:11: "X Spam" is no field name: printable ASCII without spaces (RFC 5322 §2.2)`}},
		{"a fact in the name", header("X-${spf.result}: yes"), []string{`p.yaml:5:11: "X-${spf.result}": a fact may stand in a field's value, not in its name`}},
		{"no value", header("X-Spam:  "), []string{"p.yaml:5:11: the field X-Spam has no value"}},
		{"From", header("from: x@example.org"), []string{"p.yaml:5:11: a rule must not write from, which belongs to the message or to Postern itself: choose a name such as X-Postern-Tag"}},
		{"Authentication-Results", header("Authentication-Results: mx; spf=pass"), []string{"p.yaml:5:11: a rule must not write Authentication-Results, which belongs to the message or to Postern itself: choose a name such as X-Postern-Tag"}},
		{"Resent-From", header("Resent-From: x@example.org"), []string{"p.yaml:5:11: a rule must not write Resent-From, which belongs to the message or to Postern itself: choose a name such as X-Postern-Tag"}},
		{"two fields", header("X-Spam: yes\r\nFrom: x"), []string{`p.yaml:5:22: the header has a control character ('\r'): it must be one line`}},
		{"a recipient shown to the others", rule(func(r *configs.Rule) { r.Do, r.At, r.Header = "tag", "rcpt", "X-To: ${rcpt.address}" }), []string{"p.yaml:5:17: rcpt.address in a header would show one recipient to the others"}},

		{"rcpt.address with a fact of the header", rule(func(r *configs.Rule) { r.When = `pra.address == "" and rcpt.address != "x"` }), []string{
			"p.yaml:3:33: rcpt.address cannot be read at header, where one reply answers for all recipients: the rule is decided there since it reads pra.address; read rcpt.domain instead, or leave the other fact to a rule of its own",
		}},
		{"rcpt.address below a rule on the message", configs.Policy{Rules: []configs.Rule{
			{Name: "signed", When: `dkim.result == "pass"`, Do: "pass", WhenPosition: at},
			rule(func(r *configs.Rule) { r.When = `rcpt.address == "x"` }).Rules[0],
		}}, []string{
			`p.yaml:3:11: rcpt.address cannot be read at message, where one reply answers for all recipients: the rule is decided there after rule "signed" above; move it above rule "signed", or read rcpt.domain instead`,
		}},
		{"rcpt.address, moved too late", rule(func(r *configs.Rule) { r.When, r.At = `rcpt.address == "x"`, "header" }), []string{
			"p.yaml:3:11: rcpt.address cannot be read at header, where one reply answers for all recipients: the rule is decided there as its at says; read rcpt.domain instead, or leave the other fact to a rule of its own",
		}},
		{"rcpt.address in a late reply", rule(func(r *configs.Rule) { r.When, r.Reply = `pra.address == ""`, "550 5.7.1 Not to ${rcpt.address}" }), []string{
			"p.yaml:4:21: rcpt.address cannot be read at header, where one reply answers for all recipients: the rule is decided there since it reads pra.address; read rcpt.domain instead, or leave the other fact to a rule of its own",
		}},

		{"lets", configs.Policy{Let: []configs.Let{
			{Name: "a-b", Is: "true", Position: configs.Position{File: "p.yaml", Line: 1, Column: 1}},
			{Name: "spf", Is: "true", Position: configs.Position{File: "p.yaml", Line: 2, Column: 1}},
			{Name: "in", Is: "true", Position: configs.Position{File: "p.yaml", Line: 3, Column: 1}},
			{Name: "later", Is: "trusted", IsPosition: configs.Position{File: "p.yaml", Line: 4, Column: 9}},
			{Name: "trusted", Is: `client.ip == "x"`, IsPosition: configs.Position{File: "p.yaml", Line: 5, Column: 9}},
			{Name: "trusted", Is: "true", Position: configs.Position{File: "p.yaml", Line: 6, Column: 1}},
		}, Rules: []configs.Rule{{Name: "r", When: "trusted or trustd", Do: "pass", WhenPosition: at}}}, []string{
			`p.yaml:1:1: "a-b" is no name for a let: letters, digits and _, not starting with a digit`,
			"p.yaml:2:1: let spf: this is the name of a fact",
			"p.yaml:3:1: let in: this is a word of the language",
			`p.yaml:4:9: unknown name trusted: a text stands in quotes, as in "trusted"`,
			`p.yaml:5:22: "x" is no IP address; client.ip is one`,
			"p.yaml:6:1: there is already a let trusted",
			"p.yaml:3:22: unknown name trustd (did you mean trusted?)",
		}},
		{"lets that loop, lets that grow", configs.Policy{
			Let:   append([]configs.Let{{Name: "signed", Is: `any(dkim.domains, # endsWith ".example")`}}, doubling(14)...),
			Rules: []configs.Rule{{Name: "r", When: "any(tls.peer.names, signed)", Do: "pass", WhenPosition: at}},
		}, []string{
			"let twice12:1:13: the expression has more than 10000 parts, those of its lets counted in",
			"p.yaml:3:31: signed goes through a list for each element of this one: take it out of the inner condition",
		}},
		{"every fault of every rule", configs.Policy{Rules: []configs.Rule{
			{Name: "a", When: `spf.result == "fial" and sfp.result == "pass"`, Do: "reject", Reply: "250", WhenPosition: at, ReplyPosition: at},
			{Name: "b", When: "true", Do: "drop", Position: at},
		}}, []string{
			`p.yaml:3:25: spf.result is never "fial" (did you mean fail?): it is ` + resultWords,
			"p.yaml:3:36: unknown name sfp.result (did you mean spf.result?)",
			`p.yaml:3:11: reject answers 5yz, but the reply's code is 250: write "550", or do: pass`,
			"p.yaml:3:11: do: drop is unknown: it is reject, defer, hold, tag or pass",
		}},
		{"a block scalar", rule(func(r *configs.Rule) { r.When = "tls.peer.verified and\nspf.result == \"fial\"\n" }), []string{
			`p.yaml:4:25: spf.result is never "fial" (did you mean fail?): it is ` + resultWords,
		}},
		{"rules made in Go", configs.Policy{Rules: []configs.Rule{{Name: "made", When: "spf", Do: "pass"}}}, []string{
			`rule "made":1:1: spf is a group of facts, not a fact: read spf.domain, spf.explanation, spf.identity, spf.reason or spf.result`,
		}},
		{"no lists", rule(func(r *configs.Rule) { r.When = `in_list("x", client.ip)` }), []string{`p.yaml:3:19: unknown list "x"; no lists are defined`}},
	} {
		_, err := Compile(c.policy, nil)
		got := faults(t, err)
		if len(got) != len(c.want) {
			t.Errorf("%s: got %d faults, want %d: %v", c.name, len(got), len(c.want), err)
			continue
		}
		for i, f := range got {
			if f.Error() != c.want[i] {
				t.Errorf("%s:\n got  %s\n want %s", c.name, f, c.want[i])
			}
		}
	}
}
