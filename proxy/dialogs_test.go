package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"postern/configs"
)

// dialogDeviations are the dialogues that expect otherwise than we do.
var dialogDeviations = map[string]string{
	"auth_multi_dialog":                         "AUTH is for submission; an MX takes no logins and says 502",
	"auth_not_tls":                              "likewise",
	"auth_too_many_failures":                    "likewise",
	"bad_data":                                  "a header line without a colon is the MTA's to judge (250)",
	"bad_data_dot":                              "a message with bare LF is refused at its end (550) and not by closing (521)",
	"bad_data_dot_2":                            "likewise",
	"bad_data_dot_on_message_too_big":           "likewise",
	"bad_mail_from":                             "MAIL without FROM: is a bad argument (501), not an unknown command (500)",
	"bad_rcpt_to":                               "RCPT without TO: is a bad argument (501), not an unknown command (500)",
	"line_too_long":                             "1300 octets are no line too long (SUBMITTER and DSN need 2048), but no HELO name either: 501",
	"wrong_proto":                               "a client that speaks HTTP hears 421 and is closed",
	"bracketed/bad_data":                        "a header line without a colon is the MTA's to judge: 250",
	"bracketed/bad_data_dot":                    "a message with bare LF is refused at its end (550) and not by closing (521)",
	"bracketed/bad_data_dot_2":                  "likewise",
	"bracketed/bad_data_dot_on_message_too_big": "likewise",
}

// TestSuiteDialogs plays the dialogues of another server's tests: what the
// client says, and the codes that come back. Those that name a recipient without
// brackets are played a second time with brackets, so that they come to their
// point.
func TestSuiteDialogs(t *testing.T) {
	files, err := filepath.Glob("testdata/smtp/dialogs/*.cmy")
	if err != nil || len(files) != 17 {
		t.Fatalf("%d dialogues, %v", len(files), err)
	}
	s := newScore(t, "dialogs", dialogDeviations)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		verify, err := os.ReadFile(file + ".verify")
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".cmy")
		s.count(name, playDialog(t, string(b), string(verify)))
		if bracketed := regexp.MustCompile(`RCPT TO: (\S+@\S+)`).ReplaceAllString(string(b), "RCPT TO:<$1>"); bracketed != string(b) {
			s.count("bracketed/"+name, playDialog(t, bracketed, string(verify)))
		}
	}
}

// playDialog says what is wrong, or nothing.
func playDialog(t *testing.T, text, verify string) string {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.MessageSize = configs.MiB }})
	defer r.close()
	var c *client
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		verb, rest, _ := strings.Cut(strings.TrimPrefix(line, "c "), " ")
		switch {
		case !strings.HasPrefix(line, "c "), verb == "close":
		case verb == "tcp_connect":
			c = r.dialFrom("192.0.2.1", Listener{Name: "mx", TLS: "starttls"})
		case verb == "tls_connect":
			c = r.dialFrom("192.0.2.1", Listener{Name: "mx", TLS: "implicit"})
			c.tls()
		case verb == "->":
			c.say(rest + "\r\n")
		case verb == "~>":
			c.say(pythonBytes(t, rest))
		case verb == "<...":
			for {
				if got := c.hear(); code(got) == code(rest) {
					break
				} else if got == "close" {
					return "closed, want " + rest
				}
			}
		case verb == "<-", verb == "<~":
			if got := c.hear(); code(got) != code(rest) {
				return fmt.Sprintf("got %q, want %q", got, rest)
			}
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	if verify == "" {
		return ""
	}
	ms := r.sink.Messages()
	if len(ms) != 1 {
		return fmt.Sprintf("%d messages at the backend", len(ms))
	}
	if _, rest := topFields(string(ms[0].Text)); rest != wireText(verify) {
		return fmt.Sprintf("the backend got %q, want %q", rest, verify)
	}
	return ""
}

var pythonTerm = regexp.MustCompile(`\(?'([^']*)'(?: \* (\d+))?(?: \+ '([^']*)')?\)?(?: \* (\d+))?`)

// pythonBytes reads the few forms that the dialogues have: 'a', 'a' * n + 'b',
// and that in brackets times n.
func pythonBytes(t *testing.T, s string) string {
	m := pythonTerm.FindStringSubmatch(s)
	if m == nil || m[0] != s {
		t.Fatalf("cannot read %q", s)
	}
	text := func(s string) string {
		u, err := strconv.Unquote(`"` + s + `"`)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	times := func(s string) int {
		if s == "" {
			return 1
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return strings.Repeat(strings.Repeat(text(m[1]), times(m[2]))+text(m[3]), times(m[4]))
}
