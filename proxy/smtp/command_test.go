package smtp

import (
	"errors"
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	for _, tt := range []struct{ story, line, verb, arg string }{
		{"a bare verb", "QUIT", "QUIT", ""},
		{"verbs are case-insensitive (RFC 5321 §2.4)", "mAiL FROM:<a@b>", "MAIL", "FROM:<a@b>"},
		{"the argument keeps its case", "EHLO Client.Example", "EHLO", "Client.Example"},
		{"so is a tab behind the verb", "MAIL\tFROM:<a@b>", "MAIL", "FROM:<a@b>"},
		{"trailing white space is tolerated (RFC 5321 §4.1.1)", "NOOP \t ", "NOOP", ""},
		{"blanks between verb and argument", "RCPT   TO:<a@b>", "RCPT", "TO:<a@b>"},
		{"blanks within the argument stay", "NOOP a  b", "NOOP", "a  b"},
		{"octets above 127 in the argument", "MAIL FROM:<\xc3\xbc@b> SMTPUTF8", "MAIL", "FROM:<\xc3\xbc@b> SMTPUTF8"},
		{"a verb nobody knows", "xyzzy foo", "XYZZY", "foo"},
		{"one longer than any known", "abracadabra", "ABRACADABRA", ""},
		{"HTTP", "GET / HTTP/1.1", "GET", "/ HTTP/1.1"},
		{"one of eight letters", "starttls", "STARTTLS", ""},
	} {
		verb, arg, err := ParseCommand([]byte(tt.line))
		if verb != tt.verb || arg != tt.arg || err != nil {
			t.Errorf("%s: ParseCommand(%q) = %q, %q, %v; want %q, %q", tt.story, tt.line, verb, arg, err, tt.verb, tt.arg)
		}
	}
}

func TestParseCommandRefuses(t *testing.T) {
	for _, tt := range []struct {
		story, line string
		code        int
	}{
		{"an empty line", "", 500},
		{"blanks alone", "  ", 500},
		{"a blank before the verb", " NOOP", 500},
		{"8-bit in the verb", "N\xc3\x96OP", 500},
		{"a control character in the verb", "NO\x07OP", 500},
		{"a TLS handshake on the plain port", "\x16\x03\x01\x02", 500},
		{"a NUL in the argument", "MAIL FROM:<a\x00b@c>", 501},
		{"a tab within the argument", "MAIL FROM:\t<a@b>", 501},
		{"a DEL in the argument", "EHLO a\x7fb", 501},
	} {
		_, _, err := ParseCommand([]byte(tt.line))
		if got := replyCode(err); got != tt.code {
			t.Errorf("%s: ParseCommand(%q): %v; want %d", tt.story, tt.line, err, tt.code)
		}
	}
}

// replyCode returns the code of a SyntaxError, 250 for no error, 0 for another.
func replyCode(err error) int {
	var se *SyntaxError
	switch {
	case err == nil:
		return 250
	case errors.As(err, &se):
		return se.Reply.Code
	}
	return 0
}

func TestSyntaxErrorShowsItsReply(t *testing.T) {
	_, _, err := ParseCommand(nil)
	if want := "smtp: 500 5.5.2 Command syntax error."; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestKnownVerbsDoNotAllocate(t *testing.T) {
	for _, v := range []string{
		"EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "STARTTLS", "VRFY", "EXPN", "HELP", "AUTH", "ETRN",
	} {
		line := []byte(strings.ToLower(v))
		if verb, _, err := ParseCommand(line); verb != v || err != nil {
			t.Errorf("%s is %q, %v", v, verb, err)
		}
		if n := testing.AllocsPerRun(100, func() { ParseCommand(line) }); n != 0 {
			t.Errorf("%s: %v allocations", v, n)
		}
	}
}

// TestCommandSuite runs the cases of the suite that the grammar decides: what
// it refuses must be refusable, and what must be taken must parse. The
// sequence of commands is the session's to test.
func TestCommandSuite(t *testing.T) {
	var suite struct {
		Cases []struct {
			ID, Line string
			Expect   []any
		}
	}
	readJSON(t, "commands-dev.json", &suite)
	run := 0
	for _, c := range suite.Cases {
		line := strings.ReplaceAll(octetString(c.Line), "{X}", strings.Repeat("x", 1<<20))
		raw, err := ReadLine(reader([]byte(line), 4096, 4096), 2048)
		code := 500
		if err == nil {
			verb, arg, err := ParseCommand(raw)
			switch {
			case err != nil:
			case verb == "MAIL":
				_, _, err = ParseMail(arg)
			case verb == "RCPT":
				_, _, err = ParseRcpt(arg, false)
			}
			code = replyCode(err)
		}
		onlyGood := len(c.Expect) == 1 && c.Expect[0] == 250.
		listed := false
		for _, e := range c.Expect {
			listed = listed || e == float64(code)
		}
		run++
		switch {
		case code != 250 && !listed:
			t.Errorf("%s: %.80q refused with %d, want %v", c.ID, line, code, c.Expect)
		case code != 250 && onlyGood:
			t.Errorf("%s: %.80q refused with %d", c.ID, line, code)
		}
		// Those that no state of the session could make good.
		switch c.ID {
		case "nul-in-command", "bare-lf-command", "line-1MiB", "mail-no-close", "mail-no-at", "mail-utf8-no-param", "rcpt-null":
			if code == 250 {
				t.Errorf("%s: %.80q was taken", c.ID, line)
			}
		}
	}
	if run < 42 {
		t.Errorf("only %d cases", run)
	}
	logConformance(t, "commands-dev", run, 0)
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"EHLO client.example", "mail FROM:<a@b> SIZE=1", "NOOP \t", " ", "\xff", "BDAT 10 LAST"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		verb, arg, err := ParseCommand(line)
		if err != nil {
			if code := replyCode(err); code != 500 && code != 501 {
				t.Fatalf("%q: error without its reply: %v", line, err)
			}
			return
		}
		if verb == "" || verb != strings.ToUpper(verb) {
			t.Fatalf("%q: verb %q", line, verb)
		}
		if arg != strings.Trim(arg, " ") || strings.ContainsFunc(arg, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("%q: argument %q", line, arg)
		}
		again := verb
		if arg != "" {
			again += " " + arg
		}
		if v, a, err := ParseCommand([]byte(again)); v != verb || a != arg || err != nil {
			t.Fatalf("%q parsed as %q, and that as %q %q %v", line, again, v, a, err)
		}
	})
}
