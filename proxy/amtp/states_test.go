package amtp_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"postern/policy/journal"
	"postern/proxy/amtp"
	"postern/proxy/etrn"
	"postern/proxy/smtp"
)

// held is the way of mail that a rule holds, and of what a host keeps that the configuration names: what SMTP and ETRN do in
// the five states.
var held = []struct {
	from          amtp.State
	command, says string
	then          amtp.State
}{
	{amtp.Identified, "SMTP: `EHLO`", "250", amtp.Identified},
	{amtp.Identified, "SMTP: `MAIL`", "250", amtp.Email},
	{amtp.Email, "SMTP: `RCPT`", "250", amtp.Email},
	{amtp.Email, "SMTP: `RCPT`, where a rule holds", "451", amtp.Information},
	{amtp.Information, "SMTP: `RCPT` again, once it is released", "250", amtp.Retrieved},
	{amtp.Information, "`ETRN` from us to a host of `retrieve`", "250 to 253", amtp.Retrieved},
	{amtp.Retrieved, "SMTP: `DATA`, `BDAT`", "250", amtp.Retrieved},
	{amtp.Email, "SMTP: `DATA`, `BDAT`", "250", amtp.Identified},
}

// The table of states in the reference is that of the code. With -update it is written anew.
func TestStatesAreDocumented(t *testing.T) {
	const file, begin, end = "../../configs/README.md", "<!-- states -->\n", "<!-- /states -->"
	var b strings.Builder
	b.WriteString("| state | command | what must have been | replies | state then |\n|---|---|---|---|---|\n")
	everywhere := map[amtp.Verb][]amtp.State{}
	for _, tr := range amtp.Transitions {
		if tr.From == tr.Then && slices.Contains([]amtp.Verb{amtp.Rset, amtp.Noop, amtp.Help}, tr.Verb) {
			everywhere[tr.Verb] = append(everywhere[tr.Verb], tr.From)
			continue
		}
		verb := "`" + string(tr.Verb) + "`"
		fmt.Fprintf(&b, "| %s | AMTP: %s | %s | %s | %s |\n", tr.From, verb, tr.Needs, tr.Says, tr.Then)
	}
	for _, verb := range []amtp.Verb{amtp.Rset, amtp.Noop, amtp.Help} {
		if len(everywhere[verb]) != 4 {
			t.Errorf("%s is served in %v", verb, everywhere[verb])
		}
	}
	b.WriteString("| any | AMTP: `RSET`, `NOOP`, `HELP` |  | 250 (`HELP`: 211, 214) | the same |\n")
	for _, h := range held {
		fmt.Fprintf(&b, "| %s | %s |  | %s | %s |\n", h.from, h.command, h.says, h.then)
	}
	b.WriteString("| any | SMTP: `QUIT` |  | 221 | logout |\n")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	was, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if was == b.String() {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+b.String()+end+after), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table of %s is not that of the code; write it with -update. It should be:\n%s", file, b.String())
}

// The states are those of records and log lines, by the same words.
func TestStatesAreThoseOfRecords(t *testing.T) {
	for a, j := range map[amtp.State]journal.State{
		amtp.Identified: journal.StateIdentified, amtp.Email: journal.StateEmail, amtp.Information: journal.StateInformation,
		amtp.Retrieved: journal.StateRetrieved, amtp.Logout: journal.StateLogout,
	} {
		if string(a) != string(j) {
			t.Errorf("%s and %s", a, j)
		}
	}
	for code := range 600 {
		if got, want := etrn.Begun(smtp.Reply{Code: code}), code >= 250 && code <= 253; got != want {
			t.Errorf("%d begins a retrieval: %v", code, got)
		}
	}
}
