package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"postern/proxy/smtp"
)

// client is an SMTP client that does one thing at a time and writes down what was
// said: for test-session and the demo.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	said []string    // "C: ..." and "S: ...", a line each
	tls  *tls.Config // to say STARTTLS with; nil: not to
}

func newClient(conn net.Conn) *client { return &client{conn: conn, in: bufio.NewReader(conn)} }

// mail is what a client wants to send.
type mail struct {
	helo       string
	from       string // empty: the null reverse-path
	recipients []string
	submitter  string // the mailbox, decoded; empty: none is named
	message    []byte // lines end in CRLF
}

// send speaks one session and returns the last reply to the mail: a refusal, or
// the answer to the message. An error means that the conversation broke.
func (c *client) send(m mail) (smtp.Reply, error) {
	r, err := c.read() // the greeting
	if err != nil || r.Code != 220 {
		return r, err
	}
	ehlo, err := c.ask("EHLO " + m.helo)
	if err != nil || !ehlo.Positive() {
		return ehlo, err
	}
	if c.tls != nil {
		if ehlo, err = c.startTLS(m.helo); err != nil || !ehlo.Positive() {
			return ehlo, err
		}
	}
	command := "MAIL FROM:<" + m.from + ">"
	if m.submitter != "" {
		command += " SUBMITTER=" + smtp.EncodeXtext(m.submitter)
	}
	if needsUTF8(m) && offers(ehlo, "SMTPUTF8") {
		command += " SMTPUTF8"
	}
	if r, err = c.ask(command); err != nil || !r.Positive() {
		return r, err
	}
	taken := 0
	for _, rcpt := range m.recipients {
		if r, err = c.ask("RCPT TO:<" + rcpt + ">"); err != nil {
			return r, err
		}
		if r.Positive() {
			taken++
		}
	}
	if taken == 0 {
		return r, nil
	}
	if r, err = c.ask("DATA"); err != nil || !r.Intermediate() {
		return r, err
	}
	return c.text(m.message)
}

// startTLS makes the session an encrypted one and says EHLO again (RFC 3207 §4.2).
func (c *client) startTLS(helo string) (smtp.Reply, error) {
	if r, err := c.ask("STARTTLS"); err != nil || r.Code != 220 {
		return r, err
	}
	conn := tls.Client(c.conn, c.tls)
	if err := conn.Handshake(); err != nil {
		return smtp.Reply{}, err
	}
	c.conn, c.in = conn, bufio.NewReader(conn)
	c.note("   ", "(TLS)")
	return c.ask("EHLO " + helo)
}

// text sends the message. The answer may come before its end (too large, 421), so
// it is waited for meanwhile.
func (c *client) text(message []byte) (smtp.Reply, error) {
	c.note("C: ", fmt.Sprintf("(a message of %d octets)", len(message)))
	sent := make(chan error, 1)
	go func() {
		w := smtp.NewDotWriter(c.conn)
		_, err := w.Write(message)
		sent <- errors.Join(err, w.Close())
	}()
	r, err := c.read()
	if err != nil {
		_ = c.conn.Close() // wakes the writer
	}
	if werr := <-sent; err == nil && !r.IsZero() && werr != nil && !r.Transient() && !r.Permanent() {
		err = werr
	}
	return r, err
}

// quit ends the session; what becomes of it does not matter any more.
func (c *client) quit() {
	_, _ = c.ask("QUIT")
	_ = c.conn.Close()
}

func (c *client) ask(command string) (smtp.Reply, error) {
	c.note("C: ", command)
	if _, err := io.WriteString(c.conn, command+"\r\n"); err != nil {
		return smtp.Reply{}, err
	}
	return c.read()
}

// read returns the next reply, its lines joined by \n. Enhanced stays part of the text.
func (c *client) read() (smtp.Reply, error) {
	var r smtp.Reply
	var lines []string
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return smtp.Reply{}, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		c.note("S: ", line)
		if len(line) < 3 {
			return smtp.Reply{}, fmt.Errorf("%q is no reply", line)
		}
		if _, err := fmt.Sscanf(line[:3], "%d", &r.Code); err != nil {
			return smtp.Reply{}, fmt.Errorf("%q is no reply", line)
		}
		text := line[3:]
		if text != "" {
			lines = append(lines, text[1:])
		}
		if !strings.HasPrefix(text, "-") {
			r.Text = strings.Join(lines, "\n")
			return r, nil
		}
	}
}

func (c *client) note(who, text string) { c.said = append(c.said, who+text) }

// offers says whether an EHLO reply lists a keyword.
func offers(ehlo smtp.Reply, keyword string) bool {
	for line := range strings.SplitSeq(ehlo.Text, "\n") {
		if word, _, _ := strings.Cut(line, " "); strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

func needsUTF8(m mail) bool {
	for _, s := range append([]string{m.from}, m.recipients...) {
		for i := range len(s) {
			if s[i] >= 0x80 {
				return true
			}
		}
	}
	return false
}

// crlf makes every line end in CRLF: what stands in a file has LF, mostly.
func crlf(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
}
