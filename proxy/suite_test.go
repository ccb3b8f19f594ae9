package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/policy"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

// score counts the cases of a suite and prints one line of a fixed shape.
type score struct {
	t                        *testing.T
	suite                    string
	cases, passed, deviating int
	deviations               map[string]string // case: why it is answered otherwise
}

func newScore(t *testing.T, suite string, deviations map[string]string) *score {
	s := &score{t: t, suite: suite, deviations: deviations}
	t.Cleanup(func() {
		t.Logf("conformance: %s cases=%d passed=%d deviations=%d", s.suite, s.cases, s.passed, s.deviating)
	})
	return s
}

// count takes the result of a case: empty, or what is wrong. A deviation that is
// listed must be one.
func (s *score) count(id, wrong string) {
	s.t.Helper()
	s.cases++
	reason, listed := s.deviations[id]
	switch {
	case wrong == "" && listed:
		s.t.Errorf("%s %s is listed as a deviation (%s), and passes", s.suite, id, reason)
	case wrong == "":
		s.passed++
	case listed:
		s.deviating++
		s.t.Logf("%s %s deviates: %s; because: %s", s.suite, id, wrong, reason)
	default:
		s.t.Errorf("%s %s: %s", s.suite, id, wrong)
	}
}

// readSuite reads a suite of ours, or of the grammar's tests.
func readSuite(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// octets undoes the notation of the suites: a code point is an octet.
func octets(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// codes is a list of acceptable replies, or a single one; "close" is one too.
type codes []string

func (c *codes) UnmarshalJSON(b []byte) error {
	var one json.RawMessage
	var many []json.RawMessage
	if json.Unmarshal(b, &many) != nil {
		many = []json.RawMessage{b}
	}
	for _, one = range many {
		*c = append(*c, strings.Trim(string(one), `"`))
	}
	return nil
}

// hear reads one reply; "close" if there is none to come.
func (c *client) hear() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Minute))
	defer func() { _ = c.conn.SetReadDeadline(time.Time{}) }()
	var lines []string
	for {
		line, err := c.br.ReadString('\n')
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Fatalf("for a minute neither a reply nor a close, after %q", lines)
		}
		if err != nil {
			if len(lines) == 0 {
				return "close"
			}
			return strings.Join(lines, "\n")
		}
		lines = append(lines, strings.TrimSuffix(line, "\r\n"))
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

// say sends octets and does not mind that nobody reads them.
func (c *client) say(s string) {
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(c.conn, s)
	_ = c.conn.SetWriteDeadline(time.Time{})
}

func code(reply string) string {
	if reply == "close" || len(reply) < 3 {
		return reply
	}
	return reply[:3]
}

// openPolicy lets everything pass: for suites that are about SMTP.
var openPolicy = configs.Policy{Mode: "enforce"}

func TestSuiteCommands(t *testing.T) {
	var f struct {
		Cases []struct {
			ID, State, Line string
			Expect          codes
		}
	}
	readSuite(t, "smtp/testdata/commands-dev.json", &f)
	s := newScore(t, "commands-dev", map[string]string{"http": "a client that speaks HTTP hears 421 and is closed at its first line"})
	for _, tt := range f.Cases {
		r := newRig(t, rigOptions{policy: &openPolicy})
		c := r.connect("192.0.2.1")
		steps := map[string]int{"connected": 0, "ehlo": 1, "in-transaction": 2, "after-rcpt": 3}
		for _, line := range []string{"EHLO client.example", "MAIL FROM:<a@a.example>", "RCPT TO:<rcpt@local.example>"}[:steps[tt.State]] {
			c.cmd(line, "250")
		}
		line := strings.ReplaceAll(octets(tt.Line), "{X}", strings.Repeat("x", 1<<20))
		c.say(line)
		got, wrong := c.hear(), ""
		if !slices.Contains(tt.Expect, code(got)) {
			wrong = fmt.Sprintf("got %q, want %v", got, tt.Expect)
		}
		// One reply for the line, whatever its length: nothing of it was run.
		if wrong == "" && code(got) != "close" && code(got) != "221" {
			c.say("NOOP\r\n")
			if next := c.hear(); code(next) != "250" && next != "close" {
				wrong = fmt.Sprintf("got %q, and then to NOOP %q", got, next)
			}
		}
		s.count(tt.ID, wrong)
		r.close()
	}
}

// TestSuiteAddresses: a server may take less than the grammar allows, but what
// it takes comes out at the backend as the same address.
func TestSuiteAddresses(t *testing.T) {
	var f struct {
		Cases []struct{ ID, Address, Category string }
	}
	readSuite(t, "smtp/testdata/addresses-dev.json", &f)
	long := "more than the 64 octets of local part that every server must take: VERP and SRS send such, and the MTA behind takes them"
	lenient := "no address by the grammar, but MTAs take it and it can be read in one way only: it comes out in its canonical form"
	s := newScore(t, "addresses-dev", map[string]string{"39": long, "59": long, "15": lenient, "35": lenient, "158": lenient})
	r := newRig(t, rigOptions{policy: &openPolicy})
	taken := 0
	for _, tt := range f.Cases {
		c := r.connect("192.0.2.1")
		c.ehlo()
		c.say("MAIL FROM:<" + tt.Address + ">\r\n")
		mail := c.hear()
		for range strings.Count(tt.Address, "\r\n") {
			c.hear() // the rest of the address was a line of its own
		}
		wrong := ""
		if code(mail) == "250" {
			c.say("RCPT TO:<rcpt@local.example>\r\n")
			if got := c.hear(); code(got) != "250" {
				wrong = fmt.Sprintf("MAIL %q, RCPT %q", mail, got)
			} else if got := lastLine(r.sink, "MAIL"); !sameAddress(got, tt.Address) {
				wrong = fmt.Sprintf("came out as %s", got)
			}
			c.say("RSET\r\n")
			c.hear()
		}
		c.say("MAIL FROM:<s@good.example>\r\n")
		c.hear()
		c.say("RCPT TO:<" + tt.Address + ">\r\n")
		rcpt := c.hear()
		if wrong == "" && code(rcpt) == "250" {
			if got := lastLine(r.sink, "RCPT"); !sameAddress(got, tt.Address) {
				wrong = fmt.Sprintf("as recipient it came out as %s", got)
			}
		}
		_ = c.conn.Close()
		<-c.done
		if code(mail) == "250" {
			taken++
		}
		bad := tt.Category == "ISEMAIL_ERR" || tt.Category == "ISEMAIL_RFC5322" || tt.Category == "ISEMAIL_CFWS" || tt.Category == "ISEMAIL_DEPREC"
		null := tt.Address == "" // <> is the null reverse-path, and good
		switch {
		case wrong != "":
		case bad && !null && code(mail) == "250", bad && code(rcpt) == "250":
			wrong = fmt.Sprintf("%s %q was taken: %q, %q", tt.Category, tt.Address, mail, rcpt)
		case code(mail)[0] == '4' || code(rcpt)[0] == '4':
			wrong = fmt.Sprintf("%q: %q, %q", tt.Address, mail, rcpt)
		}
		s.count(tt.ID, wrong)
	}
	if taken < 20 {
		t.Errorf("only %d addresses were taken", taken)
	}
}

// lastLine is the last command line of that verb that the backend heard.
func lastLine(s *smtptest.Sink, verb string) string {
	lines := s.Commands()
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], verb) {
			return lines[i]
		}
	}
	return ""
}

// sameAddress compares the path in a command line with an address, as they are
// or by what they mean: quoting that says nothing may go.
func sameAddress(line, address string) bool {
	_, path, _ := strings.Cut(line, "<")
	i := strings.LastIndexByte(path, '>')
	if i < 0 {
		return false
	}
	path = path[:i]
	if path == address {
		return true
	}
	a, err1 := smtp.ParseMailbox(path, true)
	b, err2 := smtp.ParseMailbox(address, true)
	return err1 == nil && err2 == nil && a == b
}

// submitterSuite is senderid/submitter-dev.json.
type submitterSuite struct {
	Zone      map[string]json.RawMessage
	Parameter []struct {
		ID, Greeting, After, Line string
		Expect                    codes
		Submitter                 *string
	}
	Transaction []struct {
		ID, Mail, Message string
		Final             struct {
			Code codes
			Text string
		}
	}
}

// zone writes the suite's zone as a zone file.
func (f *submitterSuite) zone(t *testing.T) string {
	var b strings.Builder
	for name, data := range f.Zone {
		var word string
		var txt []string
		if json.Unmarshal(data, &word) == nil {
			fmt.Fprintf(&b, "; %s %s\n", word, name)
			continue
		}
		if err := json.Unmarshal(data, &txt); err != nil {
			t.Fatal(err)
		}
		for _, s := range txt {
			fmt.Fprintf(&b, "%s. TXT %s\n", name, strconv.Quote(s))
		}
	}
	return b.String()
}

// submitterPolicy is the one that the suite assumes.
func submitterPolicy() configs.Policy {
	p := policy.BuiltIn()
	p.Rules = append(p.Rules, configs.Rule{
		Name: "no-pra-at-all", When: `pra.address == ""`, Do: "reject", Reply: "554 5.7.7 Cannot verify submitter address.",
	})
	return p
}

func TestSuiteSubmitterParameter(t *testing.T) {
	var f submitterSuite
	readSuite(t, "smtp/testdata/submitter-dev.json", &f)
	s := newScore(t, "submitter-dev/parameter", nil)
	p := submitterPolicy()
	p.Mode = "observe" // what is asked is the syntax; 127.0.0.1 may not send for all of them
	for _, offered := range []bool{true, false} {
		r := newRig(t, rigOptions{zone: f.zone(t), policy: &p, sink: withoutIf(!offered, "SUBMITTER")})
		for _, tt := range f.Parameter {
			c := r.connect("127.0.0.1")
			c.cmd(tt.Greeting, "250")
			if tt.After != "" {
				c.cmd(tt.After, "250")
			}
			c.say(octets(tt.Line) + "\r\n")
			got, wrong := c.hear(), ""
			if !slices.Contains(tt.Expect, code(got)) {
				wrong = fmt.Sprintf("got %q, want %v", got, tt.Expect)
			}
			if wrong == "" && code(got) == "250" {
				c.cmd("RCPT TO:<bob@local.example>", "250")
				at := lastLine(r.sink, "MAIL")
				if has := strings.Contains(at, "SUBMITTER="); has != offered {
					wrong = fmt.Sprintf("the backend, which offers it: %v, heard %q", offered, at)
				}
				if before, _, _ := strings.Cut(octets(tt.Line), ">"); !strings.HasPrefix(at, before+">") {
					wrong = fmt.Sprintf("the reverse-path was changed: %q", at)
				}
				c.cmd("RSET", "250")
				if heard := r.last().Facts.Submitter.Address; tt.Submitter != nil && heard != *tt.Submitter {
					wrong = fmt.Sprintf("submitter %q, want %q", heard, *tt.Submitter)
				}
			}
			_ = c.conn.Close()
			<-c.done
			if offered {
				s.count(tt.ID, wrong)
			} else if wrong != "" {
				t.Errorf("%s, backend without SUBMITTER: %s", tt.ID, wrong)
			}
		}
		r.close()
	}
}

func withoutIf(yes bool, keyword string) (o smtptest.SinkOptions) {
	if yes {
		o.Without = []string{keyword}
	}
	return o
}

func TestSuiteSubmitterTransaction(t *testing.T) {
	var f submitterSuite
	readSuite(t, "smtp/testdata/submitter-dev.json", &f)
	s := newScore(t, "submitter-dev/transaction", nil)
	p := submitterPolicy()
	for _, tt := range f.Transaction {
		r := newRig(t, rigOptions{zone: f.zone(t), policy: &p})
		c := r.connect("127.0.0.1")
		c.ehlo()
		got := ""
		for _, step := range []string{octets(tt.Mail) + "\r\n", "RCPT TO:<bob@local.example>\r\n", "DATA\r\n", octets(tt.Message) + ".\r\n"} {
			c.say(step)
			if got = c.hear(); got[0] > '3' {
				break
			}
		}
		wrong := ""
		if !slices.Contains(tt.Final.Code, code(got)) || tt.Final.Text != "" && !strings.HasPrefix(got[4:], tt.Final.Text) {
			wrong = fmt.Sprintf("got %q, want %v %q", got, tt.Final.Code, tt.Final.Text)
		}
		if n := len(r.sink.Messages()); (n == 1) != (got[0] == '2') || n > 1 {
			wrong = fmt.Sprintf("%q, and %d messages at the backend", got, n)
		}
		s.count(tt.ID, wrong)
		r.close()
	}
}
