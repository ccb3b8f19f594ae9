package checks

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"postern/configs"
	"postern/policy"
	"postern/proxy/smtp"
)

// fields reads "Name: value | Name: value".
func fields(s string) smtp.Header {
	s = strings.ReplaceAll(s, "Rcvd", "Received: from a.example by b.example")
	s = strings.ReplaceAll(s, "(A)", "From: alice@example.com")
	return readHeader(strings.ReplaceAll(s, " | ", "\r\n") + "\r\n\r\nFrom: late@body.example\r\n")
}

func TestThePRAIsTheMailboxThatLastPutTheMessageIntoTheMail(t *testing.T) {
	for _, tc := range []struct{ header, want string }{
		{"(A)", "alice@example.com"},
		{"Sender: list@lists.example | (A)", "list@lists.example"},
		{"From: a@x.example, b@y.example", ""},
		{"From: a@x.example, b@y.example | Sender: c@z.example", "c@z.example"},
		{"(A) | From: b@y.example", ""},
		{"(A) | From: b@y.example | Sender: c@z.example", "c@z.example"},
		{"Sender: a@x.example | Sender: b@y.example | (A)", ""},
		{"Sender:    | (A)", "alice@example.com"},
		{"Resent-From: bob@fwd.example | Rcvd | Sender: c@z.example | (A)", "bob@fwd.example"},
		{"Resent-From: b@one.example | Resent-Sender: s@one.example | Rcvd | (A)", "s@one.example"},
		{"Resent-From: b@two.example | Rcvd | Resent-Sender: s@one.example | Resent-From: b@one.example | (A)", "b@two.example"},
		{"Resent-Sender: s@two.example | Rcvd | Resent-From: b@one.example | (A)", "s@two.example"},
		{"Resent-From: b@two.example | Return-Path: <x@y.example> | Resent-Sender: s@one.example | (A)", "b@two.example"},
		{"Resent-From: b@two.example | Received:    | Resent-Sender: s@one.example | (A)", "s@one.example"},
		{"Resent-From:    | Rcvd | Resent-Sender: s@one.example | (A)", "s@one.example"},
		{"Resent-From: a@x.example, b@y.example | (A)", ""}, // no falling back
		{"Resent-From: a@x.example, b@y.example | Resent-Sender: c@z.example | (A)", "c@z.example"},
		{"Resent-Sender: a@x.example, b@y.example | Resent-From: c@z.example | (A)", ""},
		{"From: alice", ""},
		{"From: alice@[192.0.2.1]", ""},
		{"From: Team: alice@example.com;", ""},
		{"From: undisclosed-recipients:;", ""},
		{`From: "Alice, CEO" <alice@example.com>`, "alice@example.com"},
		{`From: "bank@bank.example" <mallory@evil.example>`, "mallory@evil.example"},
		{"From: alice@example.com (Alice <x@evil.example>)", "alice@example.com"},
		{"FROM: Alice,\r\n\t<alice@example.com>", ""},
		{"FROM: Alice\r\n\t<alice@example.com>", "alice@example.com"},
		{"Subject: x", ""},
		{"From: <>", ""},
		{"To: b@example.net", ""},
		{"Resent-Sender: s2@two.example | Resent-Sender: s1@one.example | (A)", "s2@two.example"},
		{"Sender: not an address | (A)", ""},
		{"From : alice@example.com", "alice@example.com"}, // obsolete syntax hides nothing
		{"From : mallory@evil.example | (A)", ""},
	} {
		got, _, ok := FindPRA(fields(tc.header))
		if ok != (tc.want != "") || ok && got.String() != tc.want {
			t.Errorf("%s\n got %q, %v\nwant %q", tc.header, got, ok, tc.want)
		}
	}
}

func TestAMailboxHasOneReadingOrNone(t *testing.T) {
	for value, want := range map[string]string{
		"alice@example.com":                                "alice@example.com",
		" \t alice@example.com \t ":                        "alice@example.com",
		"<alice@example.com>":                              "alice@example.com",
		"Alice B. Carroll <alice@example.com>":             "alice@example.com",
		"[Team] News <news@example.com>":                   "news@example.com",
		"Andr\xe9 <andre@example.com>":                     "andre@example.com", // Latin-1, as people still send
		"=?utf-8?q?a=40b?= <alice@example.com>":            "alice@example.com",
		"(a (nested) comment) alice@example.com":           "alice@example.com",
		"alice(c)@(c)example.com":                          "alice@example.com",
		`"al\"ice"@example.com`:                            `"al\"ice"@example.com`,
		`"a b"@example.com`:                                `"a b"@example.com`,
		`"plain"@example.com`:                              "plain@example.com",
		"<@hop.example,@hop2.example:alice@example.com>":   "alice@example.com",
		"jörg@bücher.example":                              "jörg@bücher.example",
		"Alice\r\n Liddell\r\n\t<alice@example.com>":       "alice@example.com",
		"a+b=c@x_y.example":                                "a+b=c@x_y.example",
		"x <a@b.example> (said so)":                        "a@b.example",
		`(a \) quoted (nested) pair) alice@example.com`:    "alice@example.com",
		"(a folded\r\n comment) alice@example.com":         "alice@example.com",
		"(a\r\ncomment that ends badly) alice@example.com": "",
		"(a \x01 control) alice@example.com":               "",
		"(\\":                                              "",
		"<@hop.example:alice@example.com>":                 "alice@example.com",
		"<@hop.example,alice@example.com>":                 "",
		"<@hop..example:alice@example.com>":                "",
		"<@hop.example, :alice@example.com>":               "",
		`"ends in a backslash\`:                            "",
		"":                                                 "",
		"alice":                                            "",
		"alice@":                                           "",
		"@example.com":                                     "",
		"alice@example..com":                               "",
		".alice@example.com":                               "",
		"alice.@example.com":                               "",
		"a lice@example.com":                               "",
		"alice@example.com@evil.example":                   "",
		"alice@example.com bob@example.com":                "",
		"alice@example.com, ":                              "",
		"<alice@example.com> <mallory@evil.example>":       "",
		"<alice@example.com> x":                            "",
		"Alice <alice@example.com":                         "",
		"Alice alice@example.com>":                         "",
		"a@b <alice@example.com>":                          "", // which of the two?
		"alice@[192.0.2.1]":                                "",
		"Team: alice@example.com;":                         "",
		`"unclosed <alice@example.com>`:                    "",
		"(unclosed <alice@example.com>":                    "",
		"alice@example.com (":                              "",
		strings.Repeat("(", 40) + strings.Repeat(")", 40) + "a@b.example": "",
		"alice@example.com\r\nbob":                                        "",
		"alice\r@example.com":                                             "",
		"ali\x00ce@example.com":                                           "",
		"\"a\x00b\"@example.com":                                          "",
		"x\x00 <alice@example.com>":                                       "",
		"j\xf6rg@example.com":                                             "", // no UTF-8: who knows which address
		"\"j\xf6rg\"@example.com":                                         "",
		"alice@exa\xffmple.com":                                           "",
		strings.Repeat("a", 300) + "@example.com":                         "",
		"<@hop.example alice@example.com>":                                "",
		"<alice@example.com>,":                                            "",
		"alice@b!c.example":                                               "",
		"alice@" + strings.Repeat("x", 64) + ".example":                   "",
		"alice@\u202eexample.com":                                         "",
		"al\u0085ice@example.com":                                         "",
		"\"a\tb\"@example.com":                                            "",
		`al\ice@example.com`:                                              "",
	} {
		m, ok := parseMailbox(value)
		if got := m.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q\n got %q, %v\nwant %q", value, got, ok, want)
		}
	}
}

func TestThePRAIsAskedForOnceAndComparedWithSubmitter(t *testing.T) {
	const zone = `
good.example  TXT "v=spf1 ip4:192.0.2.1 -all"
bad.example   TXT "v=spf1 -all"
bad.example   TXT "spf2.0/pra ?all"
tmp.example   TXT "v=spf1 include:broken.example -all"
local.example TXT "v=spf1 exists:%{l}._at.%{d} -all"
alice._at.local.example A 127.0.0.2
; SERVFAIL broken.example
`
	for name, tc := range map[string]struct {
		submitter, from string
		match           string
		submitterResult policy.Result
		want            policy.PRA
	}{
		"the same mailbox": {
			"alice@good.example", "Alice <alice@GOOD.example>", "address", policy.Pass,
			policy.PRA{Result: policy.Pass, Address: "alice@good.example", Domain: "good.example", MatchesSubmitter: true, Reason: `"ip4:192.0.2.1" of good.example`},
		},
		"quotes do not matter": {
			`"alice"@good.example`, "alice@good.example", "address", policy.Pass,
			policy.PRA{Result: policy.Pass, Address: "alice@good.example", Domain: "good.example", MatchesSubmitter: true, Reason: `"ip4:192.0.2.1" of good.example`},
		},
		"letter case of the local part does": {
			"Alice@good.example", "alice@good.example", "address", policy.Pass,
			policy.PRA{Result: policy.Pass, Address: "alice@good.example", Domain: "good.example", Reason: `"ip4:192.0.2.1" of good.example`},
		},
		"match: domain": {
			"bounces@good.example", "alice@good.example", "domain", policy.Pass,
			policy.PRA{Result: policy.Pass, Address: "alice@good.example", Domain: "good.example", MatchesSubmitter: true, Reason: `"ip4:192.0.2.1" of good.example`},
		},
		"another domain": {
			"alice@good.example", "ceo@nx.example", "domain", policy.Pass,
			policy.PRA{Result: policy.Fail, Address: "ceo@nx.example", Domain: "nx.example", Reason: reasonNoDomain},
		},
		"a record may look at the local part": {
			"alice@local.example", "mallory@local.example", "domain", policy.Pass,
			policy.PRA{Result: policy.Fail, Address: "mallory@local.example", Domain: "local.example", MatchesSubmitter: true, Reason: reasonNotPermitted},
		},
		"spf2.0/pra displaces v=spf1": {
			"", "x@bad.example", "address", policy.None,
			policy.PRA{Result: policy.Neutral, Address: "x@bad.example", Domain: "bad.example", Reason: `"?all" of bad.example`},
		},
		"trouble is trouble": {
			"a@tmp.example", "a@tmp.example", "address", policy.TempError,
			policy.PRA{Result: policy.TempError, Address: "a@tmp.example", Domain: "tmp.example", MatchesSubmitter: true, Reason: "look-up failed: TXT broken.example"},
		},
		"a domain that nobody can publish for": {
			"", "root@localhost", "address", policy.None,
			policy.PRA{Result: policy.None, Address: "root@localhost", Domain: "localhost", Reason: reasonMalformed},
		},
		"no PRA": {
			"alice@good.example", "a@x.example, b@y.example", "address", policy.Pass,
			policy.PRA{Result: policy.PermError, Reason: "no Purported Responsible Address"},
		},
	} {
		z := parseZone(t, zone)
		set := only(Deps{Resolver: z, Config: configs.Checks{Submitter: configs.SubmitterCheck{Match: tc.match}}}, "submitter", "pra")
		f := transaction("192.0.2.1", "client.example", "")
		f.Submitter.Address = tc.submitter
		_, f.Submitter.Domain, _ = cutLast(tc.submitter, '@')
		set.Run(t.Context(), policy.Mail, f, Message{}, nil)
		asked := z.Queries()
		set.Run(t.Context(), policy.Header, f, Message{Header: readHeader("From: " + tc.from + "\r\n\r\n")}, nil)
		if f.Submitter.Result != tc.submitterResult || f.PRA != tc.want {
			t.Errorf("%s\n got %s, %+v\nwant %s, %+v", name, f.Submitter.Result, f.PRA, tc.submitterResult, tc.want)
		}
		if name == "the same mailbox" && z.Queries() != asked {
			t.Errorf("%s: asked again", name)
		}
	}
}

func TestHeaderFacts(t *testing.T) {
	for raw, want := range map[string]policy.HeaderSum{
		"From: A <a@EXAMPLE.com>\r\nTo: b@c.example\r\n":            {FromDomain: "example.com", Author: "one", FromCount: 1, Count: 2},
		"From: a@bücher.example\r\n":                                {FromDomain: "xn--bcher-kva.example", Author: "one", FromCount: 1, Count: 1},
		"From: a@x.example\r\nFrom: a@y.example\r\n":                {Author: "ambiguous", FromCount: 2, Count: 2},
		"From: a@x.example\r\nFrom : a@x.example\r\n":               {Author: "ambiguous", FromCount: 2, Count: 2},
		"From: a@x.example, b@x.example\r\nSender: c@z.example\r\n": {Author: "several", FromCount: 1, Count: 2},
		"Subject: none\r\n":                                         {Author: "none", Count: 1},
	} {
		if got := HeaderFacts(Message{Header: readHeader(raw), Section: []byte(raw)}); got != want {
			t.Errorf("%q: %+v, want %+v", raw, got, want)
		}
	}
}

// A PRA is never made up: it stands, octet by octet, in a field that RFC 4407
// looks at, and survives being written and read again.
func FuzzPRA(f *testing.F) {
	var suite struct{ Cases []struct{ Message string } }
	readJSON(f, "senderid/pra-dev.json", &suite)
	for _, c := range suite.Cases {
		f.Add([]byte(c.Message))
	}
	lines, err := os.ReadFile("testdata/headers/header-fuzz.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		var entry struct{ B64 []byte }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			f.Fatal(err)
		}
		f.Add(entry.B64)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, _ := smtp.ParseHeader(raw)
		m, field, ok := FindPRA(h)
		if !ok {
			if m != (smtp.Path{}) || field != "" {
				t.Fatalf("no PRA, and yet %v of %q", m, field)
			}
			return
		}
		var value string
		for _, x := range h {
			if fieldIs(x.Name, field) && !isBlank(x.Value) && strings.Contains(x.Value, m.Domain) {
				value = x.Value
			}
		}
		if m.Domain == "" || value == "" {
			t.Fatalf("%v is not in %q", m, raw)
		}
		switch strings.ToLower(field) {
		case "resent-sender", "resent-from", "sender", "from":
		default:
			t.Fatalf("PRA out of %q", field)
		}
		again, ok := parseMailbox(m.String())
		if !ok || again != m {
			t.Fatalf("%q reads as %q, then as %q", value, m, again)
		}
	})
}

func FuzzMailbox(f *testing.F) {
	for _, s := range []string{"alice@example.com", `"a b"@x.example (c)`, "A <@r.example:a@b.example>", "a, b", "Team: x@y.example;", "=?utf-8?q?x?= <a@b.example>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		m, ok := parseMailbox(value)
		if !ok {
			if m != (smtp.Path{}) {
				t.Fatalf("%q: refused, and yet %v", value, m)
			}
			return
		}
		if strings.ContainsAny(m.Domain, "\r\n\x00 <>@,;") || strings.ContainsAny(m.Local, "\r\n\x00") || !strings.Contains(value, m.Domain) {
			t.Fatalf("%q: %q", value, m)
		}
		if again, ok := parseMailbox(m.String()); !ok || again != m {
			t.Fatalf("%q reads as %q, then as %q", value, m, again)
		}
		// What is appended with a comma makes it a list.
		if m, ok := parseMailbox(value + ", mallory@evil.example"); ok {
			t.Fatalf("%q and another: %v", value, m)
		}
		mallory := smtp.Path{Local: "mallory", Domain: "evil.example"}
		if list, ok := parseMailboxes(value + ", mallory@evil.example"); !ok || !slices.Equal(list, []smtp.Path{m, mallory}) {
			t.Fatalf("%q and another: %v", value, list)
		}
	})
}
