//go:build e2e

package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// message is a message that tempts everything on its way to change something:
// odd header layout, a forged Authentication-Results of ours, one of somebody
// else's, 8-bit text, dots, From at the start of a line, white space at the end
// of lines, a line beyond every limit for text lines, and empty last lines.
// sender stands in From, mark makes it recognizable.
func message(sender, mark string) []byte {
	return []byte(strings.Join([]string{
		"Received: from inner.sender.example (inner.sender.example [192.0.2.99])",
		"\tby mx.sender.example with ESMTP id 4711; Sat, 21 Nov 2026 12:00:00 +0000",
		"Authentication-Results: other.example; spf=pass smtp.mailfrom=sender.example",
		"subject:    oddly   spaced,",
		"   folded\tand  lower case",
		"From: Alice <" + sender + ">",
		"TO: undisclosed-recipients:;",
		"Date: Sat, 21 Nov 2026 12:00:00 +0000",
		"Message-ID: <" + mark + "@sender.example>",
		"X-Empty:",
		"MIME-Version: 1.0",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: 8bit",
		"",
		"gr\xc3\xbc\xc3\x9fe, and an octet that is no UTF-8: \xff",
		".",
		"..",
		".leading dot",
		"From here on nothing may be quoted",
		"trailing white space \t ",
		strings.Repeat("a line of 5000 octets ", 228)[:5000],
		"",
		"",
		"",
	}, "\r\n"))
}

// forgery is the field that message-with-forgery bears and nobody may see.
const forgery = "Authentication-Results: mx.example.org; spf=pass\r\n\tsmtp.mailfrom=bank.example\r\n"

// onDisk is how Postfix writes the message into a Maildir: LF for CRLF.
func onDisk(message []byte) []byte { return bytes.ReplaceAll(message, []byte("\r\n"), []byte("\n")) }

// onWire is the message as it follows DATA: dots stuffed, and the end mark.
func onWire(message []byte) []byte {
	b := bytes.ReplaceAll(message, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(b, []byte(".")) {
		b = append([]byte("."), b...)
	}
	return append(b, ".\r\n"...)
}

// dialogue is one side of an SMTP session, over whatever carries it.
type dialogue struct {
	t *testing.T
	r *bufio.Reader
	w io.Writer
}

// patientConn waits for each read and each write, and not for all of them together.
type patientConn struct{ net.Conn }

func (c patientConn) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(2 * patience))
	return c.Conn.Read(p)
}

func (c patientConn) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(2 * patience))
	return c.Conn.Write(p)
}

// dial connects from a loopback address of the test's choice and reads the greeting.
func dial(t *testing.T, addr, source string) (*dialogue, net.Conn) {
	t.Helper()
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	tcp, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	conn := patientConn{tcp}
	s := &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
	s.expect("220 ")
	return s, conn
}

// reply reads a reply, its lines joined by LF.
func (s *dialogue) reply() string {
	s.t.Helper()
	var lines []string
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the server hung up (%v) after %q", err, lines)
		}
		line, crlf := strings.CutSuffix(line, "\r\n")
		if !crlf || len(line) < 3 {
			s.t.Fatalf("no reply line: %q", line)
		}
		lines = append(lines, line)
		if len(line) == 3 || line[3] == ' ' {
			return strings.Join(lines, "\n")
		}
	}
}

func (s *dialogue) expect(prefix string) string {
	s.t.Helper()
	r := s.reply()
	if !strings.HasPrefix(r, prefix) {
		s.t.Fatalf("got %q, want %q", r, prefix)
	}
	return r
}

func (s *dialogue) send(format string, args ...any) {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.w, format+"\r\n", args...); err != nil {
		s.t.Fatal(err)
	}
}

// say sends a command and expects its reply to start with prefix.
func (s *dialogue) say(prefix, format string, args ...any) string {
	s.t.Helper()
	s.send(format, args...)
	return s.expect(prefix)
}

// attempt is one try to deliver a message.
type attempt struct {
	source    string // client address
	hello     string // EHLO unless said otherwise
	from      string
	submitter string // as on the wire, xtext
	to        string
	message   []byte
}

// run goes through the session until something is refused, and returns the
// refusal, or else the reply to the message.
func (a attempt) run(t *testing.T, addr string) string {
	t.Helper()
	if a.hello == "" {
		a.hello = "EHLO"
	}
	s, _ := dial(t, addr, a.source)
	s.say("250", "%s mx.sender.example", a.hello)
	mail := "MAIL FROM:<" + a.from + ">"
	if a.submitter != "" {
		mail += " SUBMITTER=" + a.submitter
	}
	for _, command := range []string{mail, "RCPT TO:<" + a.to + ">", "DATA"} {
		s.send("%s", command)
		if r := s.reply(); r[0] > '3' {
			s.say("221 ", "QUIT")
			return r
		}
	}
	if _, err := s.w.Write(onWire(a.message)); err != nil {
		t.Fatal(err)
	}
	r := s.reply()
	s.say("221 ", "QUIT")
	return r
}

var idAtEnd = regexp.MustCompile(` \(([^() ]+)\)$`)

// splitID cuts the transaction id off a refusal.
func splitID(reply string) (text, id string) {
	m := idAtEnd.FindStringSubmatch(reply)
	if m == nil {
		return reply, ""
	}
	return strings.TrimSuffix(reply, m[0]), m[1]
}

// tool runs an outside program to its end and returns what it printed.
func tool(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	needs(t, name)
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}
