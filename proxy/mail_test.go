package proxy

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/configs"
)

// mailFile is one message of the corpus.
type mailFile struct{ name, text string }

// corpus reads testdata/mail.
func corpus(t testing.TB) (all []mailFile) {
	root := filepath.Join("testdata", "mail")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "INDEX.tsv" {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		all = append(all, mailFile{filepath.ToSlash(name), string(b)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wireText is a stored message as it is sent: every LF that stands alone
// becomes CRLF.
func wireText(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// holdPolicy makes every message be held until its end.
var holdPolicy = configs.Policy{Mode: "enforce", Rules: []configs.Rule{
	{Name: "huge", When: "message.size > 900000000", Do: "reject"},
}}

// TestSuiteMail: the messages of the corpus come out byte for byte below our
// fields, but for an mbox line on top and for results of nobody's, by DATA and by BDAT in one and in many chunks, to a backend that has
// CHUNKING and to one that has not, streamed and held. Those with bare CR, bare LF or
// NUL, or whose first line would continue our last field, are refused, and
// nothing of them arrives.
func TestSuiteMail(t *testing.T) {
	all := corpus(t)
	if len(all) != 314 {
		t.Fatalf("%d messages in the corpus", len(all))
	}
	type variant struct {
		by             string
		chunking, hold bool
	}
	for _, v := range []variant{
		{"DATA", true, false}, {"DATA", false, false}, {"DATA", true, true}, {"DATA", false, true},
		{"BDAT", true, false}, {"BDAT", false, false}, {"BDAT", true, true}, {"BDAT", false, true},
		{"chunks", true, false}, {"chunks", false, false}, {"chunks", true, true}, {"chunks", false, true},
	} {
		name := v.by + "-to-DATA"
		if v.chunking {
			name = v.by + "-to-BDAT"
		}
		if v.hold {
			name += "-held"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScore(t, "mail/"+name, nil)
			o := rigOptions{policy: &openPolicy, sink: withoutIf(!v.chunking, "CHUNKING")}
			if v.hold {
				o.policy = &holdPolicy
			}
			r := newRig(t, o)
			c := r.connect("192.0.2.1")
			c.ehlo()
			refused := 0
			for _, m := range all {
				texts := []string{wireText(m.text)}
				if texts[0] != m.text && strings.Contains(m.text, "\r\n") {
					texts = append(texts, m.text) // mixed line ends: raw as well
				}
				wrong := ""
				for _, text := range texts {
					got, w := r.passes(c, v.by, text)
					if w != "" {
						wrong = w
					}
					if got[0] == '5' {
						refused++
					}
				}
				s.count(m.name, wrong)
			}
			t.Logf("%d refused", refused)
		})
	}
}

// passes sends one message and says how it was answered, and what is wrong.
func (r *rig) passes(c *client, by, text string) (got, wrong string) {
	before := len(r.sink.Messages())
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	switch by {
	case "DATA":
		c.cmd("DATA", "354 ")
		c.say(stuff(text) + ".\r\n")
		got = c.hear()
	case "BDAT":
		c.say(fmt.Sprintf("BDAT %d LAST\r\n", len(text)) + text)
		got = c.hear()
	default:
		// The chunks are pipelined; after one that is refused the others are too.
		const size = 37
		var b strings.Builder
		n := 0
		for rest := text; rest != ""; n++ {
			k := min(size<<min(n, 8), len(rest)) // growing, so that it ends some time
			fmt.Fprintf(&b, "BDAT %d\r\n%s", k, rest[:k])
			rest = rest[k:]
		}
		c.say(b.String() + "BDAT 0 LAST\r\n")
		for i := range n + 1 {
			reply := c.hear()
			switch {
			case got == "" || code(got) == "250" && i <= n:
				got = reply
			case code(reply) != "503":
				return got, fmt.Sprintf("after %q a chunk was answered by %q", got, reply)
			}
		}
	}
	messages := r.sink.Messages()[before:]
	bad := hasBare([]byte(text)) || strings.HasPrefix(text, " ") || strings.HasPrefix(text, "\t")
	if bad {
		if !strings.HasPrefix(got, "550 5.6.0 ") || len(messages) > 0 {
			wrong = fmt.Sprintf("a message that must be refused: %q, %d messages at the backend", got, len(messages))
		}
		return got, wrong
	}
	if code(got) != "250" || len(messages) != 1 {
		return got, fmt.Sprintf("%q, %d messages at the backend", got, len(messages))
	}
	m := messages[0]
	want := asPassedOn(text)
	if by == "DATA" || !m.Chunked {
		if !strings.HasSuffix(want, "\r\n") && want != "" {
			want += "\r\n"
		}
	}
	above, ok := bytes.CutSuffix(m.Text, []byte(want))
	if !ok {
		return got, fmt.Sprintf("sent %d octets, got %q", len(want), first(m.Text, 300))
	}
	if _, rest := topFields(string(above)); rest != "" {
		return got, fmt.Sprintf("%q stands above the message", rest)
	}
	if !m.Chunked && string(m.Raw) != string(above)+stuff(want) {
		return got, "what went over the wire is not what it should be stuffed"
	}
	return got, ""
}

// The Authentication-Results of the corpus that bear no authserv-id, or have no
// semicolon behind it.
var nobodysResults = regexp.MustCompile(`(?im)^Authentication-Results: (spf=none|mta1007\.mail\.sp2\.yahoo\.com  from=).*\r\n([ \t].*\r\n)*`)

var mailboxLine = regexp.MustCompile(`^From +[^ :]`)

// asPassedOn is a message of the corpus as the backend should have it.
func asPassedOn(text string) string {
	if mailboxLine.MatchString(text) {
		text = "X-Mailbox-Line: " + text
	}
	head, body, ok := strings.Cut(text, "\r\n\r\n")
	if !ok {
		return text
	}
	return strings.TrimSuffix(nobodysResults.ReplaceAllString(head+"\r\n", ""), "\r\n") + "\r\n\r\n" + body
}

func first(b []byte, n int) []byte { return b[:min(n, len(b))] }
