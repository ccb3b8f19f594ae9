package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

// phases is where an MTA may say something odd.
var phases = []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", ".", "RSET"}

type replySample struct {
	Name string
	B64  []byte
}

func replySamples(t testing.TB) (all []replySample) {
	b, err := os.ReadFile("smtp/testdata/backend-replies-fuzz.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var s replySample
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// TestSuiteBackendReplies: whatever an MTA answers, at whatever command, the
// session lives on, what the client hears are replies, and a message is taken
// only if the MTA has taken it.
func TestSuiteBackendReplies(t *testing.T) {
	s := newScore(t, "backend-replies-fuzz", nil)
	samples := replySamples(t)
	var mu sync.Mutex
	wrong := make(map[string]string)
	t.Run("phases", func(t *testing.T) {
		set := rigSettings(t, rigOptions{policy: &streamPolicy})
		for _, phase := range phases {
			t.Run(phase, func(t *testing.T) {
				t.Parallel()
				for _, x := range samples {
					for _, hangUp := range []bool{false, true} {
						if w := oddReply(t, set, phase, x.B64, hangUp); w != "" {
							mu.Lock()
							wrong[x.Name] = fmt.Sprintf("at %s, then a close: %v: %s", phase, hangUp, w)
							mu.Unlock()
						}
					}
				}
			})
		}
	})
	for _, x := range samples {
		s.count(x.Name, wrong[x.Name])
	}
}

var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9][ -][^\x00-\x1f\x7f]*$`)

// oddReply makes an MTA answer one command by odd octets, in a bubble of its
// own, and says what is wrong with what came of it.
func oddReply(t *testing.T, set *Settings, phase string, odd []byte, hangUp bool) (wrong string) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		armed := false
		o := rigOptions{settings: set, sink: withoutIf(true, "CHUNKING")}
		o.sink.Script = func(st smtptest.Step) (a smtptest.Action) {
			mu.Lock()
			defer mu.Unlock()
			if armed && st.Verb == phase {
				armed = false
				a.Reply, a.Close, a.Do = string(odd), hangUp, phase == "RSET"
			}
			return a
		}
		o.noIdle = phase == "CONNECT" || phase == "EHLO"
		r := newRig(t, o)
		defer r.close()
		synctest.Wait()
		mu.Lock()
		armed = true
		mu.Unlock()
		c := r.connect("192.0.2.1")
		hear := func(line string) string {
			c.send(line)
			got := c.reply()
			for l := range strings.SplitSeq(got, "\n") {
				if !replyLine.MatchString(l) || l[:3] != got[:3] {
					wrong = fmt.Sprintf("%q was answered by %q", line, got)
				}
			}
			return got
		}
		hear("EHLO client.example\r\n")
		if phase == "RSET" {
			hear("MAIL FROM:<alice@good.example>\r\n")
			hear("RCPT TO:<rcpt@local.example>\r\n")
			hear("RSET\r\n")
		}
		hear("MAIL FROM:<alice@good.example>\r\n")
		hear("RCPT TO:<rcpt@local.example>\r\n")
		if got := hear("DATA\r\n"); code(got) == "354" {
			got = hear("From: alice@good.example\r\n\r\ntext\r\n.\r\n")
			said, err := smtp.ReadReply(bufio.NewReader(bytes.NewReader(odd)))
			saidYes := phase == "." && err == nil && said.Positive()
			if got[0] == '2' && len(r.sink.Messages()) != 1 && !saidYes {
				wrong = fmt.Sprintf("the message was taken (%q), and the MTA has it not", got)
			}
		}
		for _, line := range []string{"RSET\r\n", "NOOP\r\n"} {
			if got := hear(line); code(got) != "250" {
				wrong = fmt.Sprintf("%q was answered by %q", line, got)
			}
		}
	})
	return wrong
}

// TestNoFaultOfTheSender: an MTA that wants another command first, TLS, or none
// such, says so of us, wherever it says it: the client comes again.
func TestNoFaultOfTheSender(t *testing.T) {
	for _, reply := range []string{"502 5.5.1 Not implemented", "503 5.5.1 RCPT first", "530 5.7.0 STARTTLS first", "538 5.7.11 Encryption required"} {
		for _, tt := range []struct{ at, message string }{
			{"MAIL", ""}, {"RCPT", ""},
			{"DATA", "DATA\r\n"}, {".", "DATA\r\n"},
			{"BDAT", "BDAT 6\r\nA: b\r\nBDAT 5 LAST\r\n\r\nc\r\n"},
			{"BDAT", "BDAT 11 LAST\r\nA: b\r\n\r\nc\r\n"},
		} {
			o := rigOptions{policy: &streamPolicy, sink: withoutIf(tt.at != "BDAT", "CHUNKING")}
			o.sink.Script = func(st smtptest.Step) (a smtptest.Action) {
				if st.Verb == tt.at {
					a.Reply = reply + "\r\n"
				}
				return a
			}
			r := newRig(t, o)
			c := r.connect("192.0.2.1")
			c.ehlo()
			c.cmd("MAIL FROM:<alice@good.example>", "250 ")
			if tt.message == "" {
				c.cmd("RCPT TO:<rcpt@local.example>", "451 4.3.0 ")
				continue
			}
			c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
			c.send(tt.message)
			got := c.reply()
			if strings.HasPrefix(got, "354") {
				c.send("A: b\r\n\r\nc\r\n.\r\n")
				got = c.reply()
			}
			if code(got) == "250" {
				got = c.reply() // to the second chunk
			}
			if !strings.HasPrefix(got, "451 4.3.0 ") {
				t.Errorf("%s at %s: %q", reply, tt.at, got)
			}
			if rec := r.last(); !strings.HasPrefix(rec.BackendReply, reply) {
				t.Errorf("%s at %s: the record has %q", reply, tt.at, rec.BackendReply)
			}
		}
	}
}
