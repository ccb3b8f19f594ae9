package smtptest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"postern/configs"
)

// Story is one transcript: what DNS and the configuration say, what client and
// server say to each other, and what the MTA gets of it. It is a txtar file
// with the sections zone, config, dialogue and backend; what stands above the
// first section says what the story is about.
//
// The dialogue has a line for each line of the protocol:
//
//	C: EHLO client.example      the client says this and CRLF
//	C:raw "a\nb\r\n.\r\n"       the client sends these octets (Go syntax) and no more
//	S: 250 2.1.0 OK             a line of a reply of the server
//	TLS                         the client begins a handshake, and any certificate will do
//	EOF                         the server closes the connection
//	CLOSE                       the client does
//	# a comment
//
// What the client says before the server has its turn again is sent in one
// write: lines of C: one below the other are pipelined. The server is asked for as
// many replies as there are in the story, whatever their number of lines.
//
// The backend section has the octets that the MTA got, line by line; a line
// that has other than printable characters, or does not end in CRLF, is
// written as raw "...".
//
// In replies and in what the backend got, transaction ids and dates are
// written as ID and (DATE).
type Story struct {
	Name    string // of the file, without folder and .txt
	Comment string

	Zone, Config      string
	Dialogue, Backend string
}

// patience is how long a step of a dialogue may take. Under testing/synctest
// it takes no time.
const patience = time.Minute

// Run plays the stories in the files that match the pattern, each as a subtest. start brings up what the
// story needs: client is connected to the server; backend is called when the
// dialogue has ended and client was closed, waits for the server to be done with
// the session, and returns all octets that the MTA got.
//
// If the test binary has a flag -update, and it is set, the files are rewritten
// with what was said and got.
func Run(t *testing.T, pattern string, start func(t *testing.T, s *Story) (client net.Conn, backend func() []byte)) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no story matches %s (%v)", pattern, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := newStory(name, archive)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			client, backend := start(t, s)
			dialogue, err := Play(client, s.Dialogue)
			_ = client.Close() // perhaps again
			got := FormatOctets(backend())
			if err != nil {
				t.Fatalf("%s: %v; the dialogue was:\n%s", file, err, dialogue)
			}
			if updating() {
				set(archive, "dialogue", dialogue)
				set(archive, "backend", got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := firstDifference(s.Dialogue, dialogue); d != "" {
				t.Errorf("%s: dialogue, %s", file, d)
			}
			if d := firstDifference(s.Backend, got); d != "" {
				t.Errorf("%s: backend, %s", file, d)
			}
		})
	}
}

// updating says whether -update was given. The flag belongs to the test that
// plays stories, since a package may have other golden files as well.
func updating() bool {
	f := flag.Lookup("update")
	return f != nil && f.Value.String() == "true"
}

func newStory(name string, a *txtar.Archive) (*Story, error) {
	s := &Story{Name: name, Comment: string(a.Comment)}
	for _, f := range a.Files {
		switch f.Name {
		case "zone":
			s.Zone = string(f.Data)
		case "config":
			s.Config = string(f.Data)
		case "dialogue":
			s.Dialogue = string(f.Data)
		case "backend":
			s.Backend = string(f.Data)
		default:
			return nil, fmt.Errorf("there is no section %q", f.Name)
		}
	}
	return s, nil
}

// set replaces a section or adds it.
func set(a *txtar.Archive, name, data string) {
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(data)
			return
		}
	}
	a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(data)})
}

// Play plays the client's part of a dialogue and returns the dialogue with what
// the server said. The error is a line that is none of a dialogue's, or a server
// that is silent; a server that says something else is none.
func Play(client net.Conn, dialogue string) (said string, err error) {
	p := player{conn: client, in: bufio.NewReader(client)}
	defer func() {
		p.flush()
		p.wait()
	}()
	for line := range strings.Lines(dialogue) {
		line = strings.TrimSuffix(line, "\n")
		if reply, ok := strings.CutPrefix(line, "S:"); ok {
			p.flush()
			if reply = strings.TrimPrefix(reply, " "); len(reply) < 4 || reply[3] != '-' {
				if err := p.reply(); err != nil {
					return p.said.String(), err
				}
			}
			continue
		}
		if line == "EOF" && p.ended {
			continue // it showed when a reply was due
		}
		if err := p.step(line); err != nil {
			return p.said.String(), err
		}
		fmt.Fprintln(&p.said, line)
	}
	return p.said.String(), nil
}

// player is a dialogue in progress.
type player struct {
	conn net.Conn
	in   *bufio.Reader
	said strings.Builder

	out     []byte        // not yet sent
	writing chan struct{} // closed when what is being sent was; nil: nothing is
	ended   bool          // the server has closed
}

// step does what a line other than a reply says.
func (p *player) step(line string) error {
	switch {
	case strings.HasPrefix(line, "C:raw "):
		octets, err := strconv.Unquote(strings.TrimSpace(line[len("C:raw "):]))
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		p.out = append(p.out, octets...)
	case strings.HasPrefix(line, "C:"):
		p.out = append(p.out, strings.TrimPrefix(line[len("C:"):], " ")+"\r\n"...)
	case line == "TLS":
		return p.handshake()
	case line == "EOF":
		return p.eof()
	case line == "CLOSE":
		p.flush()
		p.wait()
		return p.conn.Close()
	case line != "" && !strings.HasPrefix(line, "#"):
		return fmt.Errorf("not a line of a dialogue: %q", line)
	}
	return nil
}

// flush sends what the client has said. It does not wait: on an in-memory
// connection a server that answers pipelined commands one by one waits for its
// answers to be read. Errors show when they are.
func (p *player) flush() {
	if len(p.out) == 0 {
		return
	}
	p.wait()
	out, done := p.out, make(chan struct{})
	p.out, p.writing = nil, done
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	go func() {
		defer close(done)
		_, _ = p.conn.Write(out)
	}()
}

func (p *player) wait() {
	if p.writing != nil {
		<-p.writing
		p.writing = nil
	}
}

// reply reads one reply, all its lines. A server that is gone says EOF, once.
func (p *player) reply() error {
	for {
		line, err := p.readLine()
		switch {
		case isTimeout(err):
			return fmt.Errorf("no reply: %w", err)
		case err != nil && line == "":
			if !p.ended {
				fmt.Fprintln(&p.said, "EOF")
			}
			p.ended = true
			return nil
		}
		fmt.Fprintln(&p.said, formatReply(line))
		if err != nil || len(line) < 4 || line[3] != '-' {
			return nil
		}
	}
}

// eof reads until the server closes; what else it says shows in the dialogue.
func (p *player) eof() error {
	p.flush()
	for {
		line, err := p.readLine()
		if line != "" {
			fmt.Fprintln(&p.said, formatReply(line))
		}
		if isTimeout(err) {
			return fmt.Errorf("the server does not close: %w", err)
		}
		if err != nil {
			p.ended = true
			return nil
		}
	}
}

func (p *player) readLine() (string, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	return p.in.ReadString('\n')
}

func isTimeout(err error) bool {
	var te net.Error
	return errors.As(err, &te) && te.Timeout()
}

// handshake goes on in TLS. What the server sent ahead of it in the clear is
// lost, as it should be.
func (p *player) handshake() error {
	p.flush()
	p.wait()
	_ = p.conn.SetDeadline(time.Now().Add(patience))
	c := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true}) // the certificate is made for the test, and is not what is tested
	if err := c.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	p.conn, p.in = c, bufio.NewReader(c)
	return nil
}

func formatReply(line string) string {
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok || !printable(text) {
		return "S:raw " + strconv.Quote(line)
	}
	return "S: " + normalize(text)
}

// FormatOctets writes octets as the backend section of a story has them.
func FormatOctets(b []byte) string {
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		text, ok := strings.CutSuffix(line, "\r\n")
		marker := strings.HasPrefix(text, "-- ") && strings.HasSuffix(text, " --") // of a section
		if ok && !marker && printable(text) && !strings.HasPrefix(text, `raw "`) {
			fmt.Fprintln(&out, normalize(text))
		} else {
			fmt.Fprintf(&out, "raw %q\n", line)
		}
	}
	return out.String()
}

// printable says whether s can stand in a text file and be read there.
func printable(s string) bool {
	for _, r := range s {
		if r != '\t' && (!configs.IsShown(r) || r == '\uFFFD') {
			return false
		}
	}
	return true
}

var (
	// An id ends a reply in brackets, and stands behind "id" in Received and
	// IDENT= in XFORWARD.
	idPattern   = regexp.MustCompile(`(\(|\bid |\bIDENT=)[0-9a-hjkmnp-tv-z]{12}\b`)
	datePattern = regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}`)
)

// normalize takes out what is different each time.
func normalize(s string) string {
	return datePattern.ReplaceAllString(idPattern.ReplaceAllString(s, "${1}ID"), "(DATE)")
}

// firstDifference tells where got differs from want, with the lines above; ""
// if it does not.
func firstDifference(want, got string) string {
	if want == got {
		return ""
	}
	w, g := strings.SplitAfter(want, "\n"), strings.SplitAfter(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	end := func(lines []string) string { return strings.Join(lines[i:min(i+5, len(lines))], "") }
	return fmt.Sprintf("line %d:\n%s--- want\n%s\n--- got\n%s", i+1, strings.Join(w[max(0, i-3):i], ""), end(w), end(g))
}
