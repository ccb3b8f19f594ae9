//go:build e2e

package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// A session of each look-alike of the end of data, before a real Postfix: what
// Postfix received, by its log and its mailbox. Never a message that was text of
// another. (Behind "\r\r\n.\r\n" the data has truly ended, and the client has gone on with
// commands: that is a message of its own, and judged as one.)
func TestE2ESmuggling(t *testing.T) {
	var suite struct {
		Cases []struct {
			ID, Sequence, Data string
			Segments           []string
			Expect             struct {
				Messages json.RawMessage `json:"messages_at_backend"`
			}
		}
	}
	if err := json.Unmarshal(readFile(t, "../../proxy/smtp/testdata/smuggling-dev.json"), &suite); err != nil {
		t.Fatal(err)
	}
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	// Names that this Postfix and this DNS know, so that what is smuggled would arrive.
	known := strings.NewReplacer("local.example", "example.org", "a.example", "plain.example")
	octets := func(s string) []byte { // each code point stands for one octet
		var b []byte
		for _, r := range known.Replace(s) {
			b = append(b, byte(r))
		}
		return b
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nvariant\tsequence\treplies from the end of data on\tPostfix received")
	for _, c := range suite.Cases {
		before := len(mta.mailbox("raw"))
		logged := logSize(t, mta)
		s, conn := dial(t, p.addr(), honest)
		s.say("250", "EHLO mx.sender.example")
		s.say("250 ", "MAIL FROM:<outer@plain.example>")
		s.say("250 ", "RCPT TO:<raw@example.org>")
		s.say("354 ", "DATA")
		segments := c.Segments
		if len(segments) == 0 {
			segments = []string{c.Data}
		}
		for _, segment := range segments {
			if _, err := s.w.Write(octets(strings.ReplaceAll(segment, "rcpt@local.example", "raw@example.org"))); err != nil {
				break // the session may have been ended for good reason
			}
		}
		_, _ = io.WriteString(s.w, "\r\n.\r\nQUIT\r\n") // the true end, in case that the data had none
		var replies []string
		for {
			line, err := s.r.ReadString('\n')
			if err != nil {
				break
			}
			if len(line) > 3 && line[3] == ' ' {
				replies = append(replies, line[:3])
			}
		}
		if len(replies) == 0 {
			t.Errorf("%s: no reply", c.ID)
			continue
		}
		p.logged(t, "the end of the session", func(line string, entry map[string]any) bool {
			return entry["msg"] == "connection" && strings.Contains(line, conn.LocalAddr().String())
		})
		allowed := allowedMessages(t, c.Expect.Messages)
		log := func() []byte { return readFile(t, mta.dir+"/maillog")[logged:] }
		// What we accepted must arrive before anything is counted: the message,
		// and another where a true end of data let the client say DATA again.
		accepted := 0
		for i, r := range replies {
			if r == "250" && (i == 0 || replies[i-1] == "354") {
				accepted++
			}
		}
		eventually(t, "the messages of "+c.ID, func() bool { return len(mta.mailbox("raw")) >= before+accepted })
		// qmgr names the sender of each message that Postfix took to its end.
		received := []string{}
		for _, m := range regexp.MustCompile(`qmgr\[\d+\]: \w+: from=<(\S*)>`).FindAllSubmatch(log(), -1) {
			received = append(received, string(m[1]))
		}
		arrived := len(mta.mailbox("raw")) - before
		if arrived != accepted {
			t.Errorf("%s: %d messages arrived, %d were accepted", c.ID, arrived, accepted)
		}
		if !slices.Contains(allowed, arrived) || len(received) > slices.Max(allowed) {
			t.Errorf("%s: %d messages arrived (from %v), want %v", c.ID, arrived, received, allowed)
		}
		if slices.ContainsFunc(received, func(from string) bool { return strings.HasPrefix(from, "smuggled@") }) && slices.Max(allowed) < 2 {
			t.Errorf("%s: the smuggled message arrived", c.ID)
		}
		what := "nothing"
		if arrived > 0 {
			what = fmt.Sprintf("%d: from %s", arrived, strings.Join(received, ", "))
		}
		fmt.Fprintf(w, "%s\t%q\t%s\t%s\n", c.ID, c.Sequence, strings.Join(replies, " "), what)
	}
	for _, file := range mta.mailbox("raw") {
		if b := readFile(t, file); bytes.ContainsAny(b, "\r\x00") {
			t.Errorf("a bare CR or NUL reached Postfix: %q", b)
		}
	}
	w.Flush()
	t.Logf("%d variants%s", len(suite.Cases), table.String())
}

// allowedMessages reads how many messages may arrive: a number, or a list of them.
func allowedMessages(t *testing.T, raw json.RawMessage) []int {
	t.Helper()
	var many []int
	if json.Unmarshal(raw, &many) == nil {
		return many
	}
	var one int
	if err := json.Unmarshal(raw, &one); err != nil {
		t.Fatal(err)
	}
	return []int{one}
}

func logSize(t *testing.T, mta *postfix) int64 {
	t.Helper()
	var size int64
	eventually(t, "Postfix to log", func() bool { // which a process of its own does
		info, err := os.Stat(mta.dir + "/maillog")
		if err == nil {
			size = info.Size()
		}
		return err == nil
	})
	return size
}
