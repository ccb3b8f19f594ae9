package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// smugglingCase is one look-alike of the end of data.
type smugglingCase struct {
	ID, Sequence, Data string
	Segments           []string
	Expect             struct {
		EndOfData any             `json:"end_of_data"`
		Messages  json.RawMessage `json:"messages_at_backend"`
		Line      string          `json:"backend_text_has_line"`
	}
}

// messages is how many messages the backend may get.
func (tt *smugglingCase) messages(t *testing.T) []int {
	var many []int
	if json.Unmarshal(tt.Expect.Messages, &many) != nil {
		var one int
		if err := json.Unmarshal(tt.Expect.Messages, &one); err != nil {
			t.Fatal(err)
		}
		many = []int{one}
	}
	return many
}

// TestSuiteSmuggling: each look-alike in one write, octet by octet, and cut at
// each position around it; to a backend that gets BDAT, and to one that gets
// DATA. All invariants of the suite each time.
func TestSuiteSmuggling(t *testing.T) {
	var f struct{ Cases []smugglingCase }
	readSuite(t, "smtp/testdata/smuggling-dev.json", &f)
	s := newScore(t, "smuggling-dev", nil)
	sessions := 0
	for _, tt := range f.Cases {
		wrong := ""
		for _, chunking := range []bool{true, false} {
			r := newRig(t, rigOptions{policy: &openPolicy, sink: withoutIf(!chunking, "CHUNKING")})
			first := ""
			try := func(how string, segments []string) {
				if wrong != "" {
					return
				}
				sessions++
				result, w := r.smuggle(t, &tt, segments)
				if first == "" {
					first = result
				}
				switch {
				case w != "":
					wrong = how + ": " + w
				case result != first:
					wrong = fmt.Sprintf("%s: %s, but in one write: %s", how, result, first)
				}
			}
			data := octets(tt.Data)
			if len(tt.Segments) > 0 {
				data = octets(strings.Join(tt.Segments, ""))
			}
			try("one write", []string{data})
			if len(tt.Segments) > 0 {
				segments := make([]string, len(tt.Segments))
				for i, seg := range tt.Segments {
					segments[i] = octets(seg)
				}
				try("segments", segments)
			}
			try("octet by octet", strings.Split(data, ""))
			at := strings.Index(data, octets(tt.Sequence))
			if at < 0 {
				t.Fatalf("%s: the data does not have the sequence", tt.ID)
			}
			for i := max(at-2, 1); i <= min(at+len(octets(tt.Sequence))+2, len(data)-1); i++ {
				try(fmt.Sprintf("cut at %d", i), []string{data[:i], data[i:]})
			}
			r.close()
		}
		s.count(tt.ID, wrong)
	}
	t.Logf("%d sessions", sessions)
}

// smuggle sends one case in a session of its own. It says how that ended, and
// what is wrong with it.
func (r *rig) smuggle(t *testing.T, tt *smugglingCase, segments []string) (result, wrong string) {
	before, transactions := len(r.sink.Messages()), r.count()
	heard := len(r.sink.Commands())
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<outer@a.example>", "250")
	c.cmd("RCPT TO:<rcpt@local.example>", "250")
	c.cmd("DATA", "354")
	for _, seg := range segments {
		c.say(seg)
	}
	c.say("\r\n.\r\nQUIT\r\n") // the true end, in case that the data had none
	var replies []string
	for {
		got := c.hear()
		if got == "close" {
			break
		}
		replies = append(replies, code(got))
	}
	_ = c.conn.Close()
	<-c.done

	messages := r.sink.Messages()[before:]
	mails := 0
	for _, line := range r.sink.Commands()[heard:] {
		if strings.HasPrefix(line, "MAIL") {
			mails++
		}
	}
	fits := false
	for _, n := range tt.messages(t) {
		fits = fits || n == len(messages)
	}
	refused := replies[0][0] != '2'
	switch {
	case !fits:
		wrong = fmt.Sprintf("%d messages at the backend, want %s", len(messages), tt.Expect.Messages)
	case mails > r.count()-transactions:
		wrong = fmt.Sprintf("the backend heard %d transactions, we know of %d", mails, r.count()-transactions)
	case refused && replies[0][0] != '4' && replies[0][0] != '5':
		wrong = fmt.Sprintf("replies %v", replies)
	case refused && len(messages) > 0 && tt.Expect.EndOfData == false:
		wrong = fmt.Sprintf("refused (%v), and a message at the backend", replies)
	}
	for _, m := range messages {
		if !m.Chunked && hasBare(m.Raw) || hasBare(m.Text) {
			wrong = fmt.Sprintf("bare octets reached the backend: %q", m.Text)
		}
		if m.From.Local == "smuggled" && tt.Expect.EndOfData == false {
			wrong = "the smuggled message arrived as one"
		}
		if tt.Expect.Line != "" && !bytes.Contains(m.Text, []byte("\r\n"+tt.Expect.Line+"\r\n")) {
			wrong = fmt.Sprintf("no line %q in %q", tt.Expect.Line, m.Text)
		}
	}
	// Where the look-alike may end the data, the rest are commands, and a DATA among
	// them has its text right behind it: a client that did not wait for its 354.
	// Whether we see that (503) or hear the text only later (354) hangs on when the
	// network brings it, and so does all that follows: how the session ends is
	// the same for all ways of writing up to there.
	if tt.Expect.EndOfData == "either" && len(replies) > 3 {
		return fmt.Sprintf("replies %v, then DATA", replies[:3]), wrong
	}
	return fmt.Sprintf("replies %v, %d messages", replies, len(messages)), wrong
}

// hasBare says whether there is a bare CR, a bare LF or a NUL in b.
func hasBare(b []byte) bool {
	rest := bytes.ReplaceAll(b, []byte("\r\n"), nil)
	return bytes.ContainsAny(rest, "\r\n\x00")
}
