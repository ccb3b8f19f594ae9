package trial

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"

	"postern/proxy/smtp"
)

// Client is an SMTP client that does one thing at a time and writes down what was
// said: for test-session and the demo.
type Client struct {
	Conn  net.Conn
	in    *bufio.Reader
	heard bytes.Buffer // what in has read of the reply in hand
	said  []string     // "C: ..." and "S: ...", a line each
	tls   *tls.Config  // to say STARTTLS with; nil: not to
}

// NewClient is a client on a connection.
func NewClient(conn net.Conn) *Client {
	c := &Client{}
	c.on(conn)
	return c
}

// on goes on with another connection: the encrypted one.
func (c *Client) on(conn net.Conn) {
	c.Conn, c.in = conn, bufio.NewReader(io.TeeReader(conn, &c.heard))
}

// Mail is what a client wants to send.
type Mail struct {
	Helo       string
	From       string // empty: the null reverse-path
	Recipients []string
	Submitter  string // the mailbox, decoded; empty: none is named
	Message    []byte // lines end in CRLF
}

// Send speaks one session and returns the last reply to the mail: a refusal, or
// the answer to the message. An error means that the conversation broke.
func (c *Client) Send(m Mail) (smtp.Reply, error) {
	r, err := c.Read() // the greeting
	if err != nil || r.Code != 220 {
		return r, err
	}
	ehlo, err := c.Ask("EHLO " + m.Helo)
	if err != nil || !ehlo.Positive() {
		return ehlo, err
	}
	if c.tls != nil {
		if ehlo, err = c.startTLS(m.Helo); err != nil || !ehlo.Positive() {
			return ehlo, err
		}
	}
	command := "MAIL FROM:<" + m.From + ">"
	if m.Submitter != "" {
		command += " SUBMITTER=" + smtp.EncodeXtext(m.Submitter)
	}
	if needsUTF8(m) && ehlo.Offers("SMTPUTF8") {
		command += " SMTPUTF8"
	}
	if r, err = c.Ask(command); err != nil || !r.Positive() {
		return r, err
	}
	taken := 0
	for _, rcpt := range m.Recipients {
		if r, err = c.Ask("RCPT TO:<" + rcpt + ">"); err != nil {
			return r, err
		}
		if r.Positive() {
			taken++
		}
	}
	if taken == 0 {
		return r, nil
	}
	if r, err = c.Ask("DATA"); err != nil || !r.Intermediate() {
		return r, err
	}
	return c.text(m.Message)
}

// startTLS makes the session an encrypted one and says EHLO again (RFC 3207 §4.2).
func (c *Client) startTLS(helo string) (smtp.Reply, error) {
	if r, err := c.Ask("STARTTLS"); err != nil || r.Code != 220 {
		return r, err
	}
	conn := tls.Client(c.Conn, c.tls)
	if err := conn.Handshake(); err != nil {
		return smtp.Reply{}, err
	}
	c.on(conn)
	c.note("   ", "(TLS)")
	return c.Ask("EHLO " + helo)
}

// text sends the message. The answer may come before its end (too large, 421), so
// it is waited for meanwhile.
func (c *Client) text(message []byte) (smtp.Reply, error) {
	c.note("C: ", fmt.Sprintf("(a message of %d octets)", len(message)))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Conn.Write(stuffed(message))
		sent <- err
	}()
	r, err := c.Read()
	if err != nil {
		_ = c.Conn.Close() // wakes the writer
	}
	if werr := <-sent; err == nil && !r.IsZero() && werr != nil && !r.Transient() && !r.Permanent() {
		err = werr
	}
	return r, err
}

// stuffed is what goes after DATA (RFC 5321 §4.5.2). NOT: a smtp.DotWriter, which refuses
// text that no client should send; whoever tests a policy wants to see it refused by the proxy.
func stuffed(message []byte) []byte {
	text := bytes.ReplaceAll(append([]byte("\r\n"), message...), []byte("\r\n."), []byte("\r\n.."))[2:]
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\r\n")) {
		text = append(text, "\r\n"...)
	}
	return append(text, ".\r\n"...)
}

// Quit ends the session; what becomes of it does not matter any more.
func (c *Client) Quit() {
	_, _ = c.Ask("QUIT")
	_ = c.Conn.Close()
}

// Ask says a command and returns the reply to it.
func (c *Client) Ask(command string) (smtp.Reply, error) {
	c.note("C: ", command)
	if _, err := io.WriteString(c.Conn, command+"\r\n"); err != nil {
		return smtp.Reply{}, err
	}
	return c.Read()
}

// Read returns the next reply.
func (c *Client) Read() (smtp.Reply, error) {
	c.heard.Reset() // nothing was left over: the server waits for us
	r, err := smtp.ReadReply(c.in)
	for line := range strings.Lines(c.heard.String()) {
		c.note("S: ", strings.TrimRight(line, "\r\n"))
	}
	return r, err
}

func (c *Client) note(who, text string) { c.said = append(c.said, who+text) }

func needsUTF8(m Mail) bool {
	for _, s := range append([]string{m.From}, m.Recipients...) {
		for i := range len(s) {
			if s[i] >= 0x80 {
				return true
			}
		}
	}
	return false
}

// CRLF makes every line end in CRLF: what stands in a file has LF, mostly.
func CRLF(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
}
