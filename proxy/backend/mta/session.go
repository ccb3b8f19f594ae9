package mta

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"postern/proxy/smtp"
)

// session is one connection.
type session struct {
	s   *Server
	seq int
	raw net.Conn
	nc  net.Conn
	br  *bufio.Reader
	out []byte

	tls      bool
	esmtp    bool
	helo     string
	proxy    netip.AddrPort
	xclient  map[string]string
	xforward map[string]string
	mail     *Envelope // the open transaction
	text     *incoming // the message that BDAT has begun
	bad      int       // refused commands since the last message
}

// result is what became of a command.
type result struct {
	reply smtp.Reply
	raw   string // in place of reply, if a script says so
	then  func() bool
	close bool
}

func say(code int, enhanced, text string) result {
	return result{reply: smtp.Reply{Code: code, Enhanced: enhanced, Text: text}}
}

// run is the life of a session.
func (c *session) run() {
	defer func() {
		if c.text != nil {
			c.text.discard()
		}
	}()
	if c.s.Proxy && !c.readProxy() {
		return
	}
	greeting := func() result {
		return say(220, "", c.s.Hostname+" ESMTP")
	}
	if !c.step(Step{Verb: "CONNECT"}, greeting) {
		return
	}
	for {
		c.deadline()
		line, err := smtp.ReadLine(c.br, maxLine)
		switch err {
		case nil:
		case smtp.ErrLineTooLong, smtp.ErrBadOctet:
			if !c.finish(say(500, "5.2", "Line too long, or not text.")) {
				return
			}
			continue
		case smtp.ErrBareLF:
			// Nobody knows what the peer takes for lines.
			r := say(500, "5.2", "Bare LF.")
			r.close = true
			c.finish(r)
			return
		default:
			c.flush()
			return
		}
		text := string(line)
		verb, arg, err := smtp.ParseCommand(line)
		if err != nil {
			verb = ""
		}
		if !c.step(Step{Verb: verb, Line: text}, func() result { return c.command(verb, arg) }) {
			return
		}
	}
}

func (c *session) deadline() {
	_ = c.nc.SetDeadline(time.Now().Add(or(c.s.Timeout, defaultTimeout)))
}

// step asks the script, does what is to be done, and answers. It says whether
// the session goes on.
func (c *session) step(at Step, do func() result) bool { return c.finish(c.ask(at, do)) }

// ask does what is to be done, unless the script has other ideas.
func (c *session) ask(at Step, do func() result) result {
	if c.s.Script == nil {
		return do()
	}
	at.Connection = c.seq
	a := c.s.Script(at)
	if a.Wait > 0 {
		time.Sleep(a.Wait)
	}
	if a.Stall {
		c.stall()
		return result{close: true}
	}
	var r result
	if a.Reply == "" && !a.Close || a.Do {
		r = do()
	}
	if a.Reply != "" {
		r.raw = a.Reply
	} else if a.Close {
		r.reply = smtp.Reply{}
	}
	r.close = r.close || a.Close
	return r
}

// stall reads and says nothing until the peer goes away, or the server ends.
func (c *session) stall() {
	c.flush()
	_ = c.nc.SetDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, c.br)
}

// finish answers. Replies are gathered while more commands are waiting (RFC
// 2920 §3.2).
func (c *session) finish(r result) bool {
	switch {
	case r.raw != "":
		c.out = append(c.out, r.raw...)
	case !r.reply.IsZero():
		c.out = smtp.AppendReply(c.out, r.reply)
		if r.reply.Code >= 400 {
			c.bad++
		}
	}
	if r.close || c.bad > maxBad {
		if c.bad > maxBad && !r.close {
			c.out = smtp.AppendReply(c.out, smtp.Reply{Code: 421, Enhanced: "7.0", Text: "Too many errors."})
		}
		c.flush()
		return false
	}
	if (c.br.Buffered() == 0 || r.then != nil) && !c.flush() {
		return false
	}
	return r.then == nil || r.then()
}

func (c *session) send(r smtp.Reply) {
	c.out = smtp.AppendReply(c.out, r)
	c.flush()
}

func (c *session) flush() bool {
	if len(c.out) == 0 {
		return true
	}
	c.deadline()
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err == nil
}

// readProxy takes the PROXY header that must come first.
func (c *session) readProxy() bool {
	c.deadline()
	h, err := proxyproto.Read(c.br)
	if err != nil {
		return false
	}
	if src, _, ok := h.TCPAddrs(); ok && h.Command == proxyproto.PROXY {
		c.proxy = src.AddrPort()
	}
	return true
}

func (c *session) offers(keyword string) bool {
	return slices.ContainsFunc(c.s.Keywords, func(k string) bool {
		k, _, _ = strings.Cut(k, " ")
		return k == keyword
	})
}

func (c *session) trusted() bool { return c.s.Trusted != nil && c.s.Trusted(c.raw.RemoteAddr()) }

// command does what a command asks for.
func (c *session) command(verb, arg string) result {
	switch verb {
	case "EHLO", "HELO":
		return c.hello(verb, arg)
	case "MAIL":
		return c.mailFrom(arg)
	case "RCPT":
		return c.rcptTo(arg)
	case "DATA":
		return c.data(arg)
	case "BDAT":
		return c.bdat(arg)
	case "RSET":
		c.reset()
		return say(250, "0.0", "OK")
	case "NOOP":
		return say(250, "0.0", "OK")
	case "QUIT":
		r := say(221, "0.0", "Bye")
		r.close = true
		return r
	case "VRFY":
		return say(252, "1.5", "Send some mail, it will be tried.")
	case "STARTTLS":
		return c.startTLS(arg)
	case "XCLIENT":
		return c.xClient(arg)
	case "XFORWARD":
		return c.xForward(arg)
	}
	return say(500, "5.2", "Unknown command.")
}

// reset ends the transaction.
func (c *session) reset() {
	if c.text != nil {
		c.text.discard()
	}
	c.mail, c.text, c.xforward = nil, nil, nil
}

var (
	// All that we know, in the order that Postfix has them.
	xclientNames  = []string{"NAME", "REVERSE_NAME", "ADDR", "PORT", "PROTO", "HELO", "DESTADDR", "DESTPORT"}
	xforwardNames = []string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "SOURCE"}
)

func (c *session) hello(verb, arg string) result {
	if arg == "" {
		return say(501, "5.4", "A name is missing.")
	}
	c.reset()
	c.helo, c.esmtp = arg, verb == "EHLO"
	if verb == "HELO" {
		return say(250, "", c.s.Hostname)
	}
	lines := append([]string{c.s.Hostname}, c.s.Keywords...)
	lines = append(lines, "SIZE "+strconv.FormatInt(or(c.s.MaxSize, defaultSize), 10))
	if c.s.TLS != nil && !c.tls {
		lines = append(lines, "STARTTLS")
	}
	if c.trusted() {
		lines = append(lines, "XCLIENT "+strings.Join(xclientNames, " "), "XFORWARD "+strings.Join(xforwardNames, " "))
	}
	return say(250, "", strings.Join(lines, "\n"))
}

func (c *session) startTLS(arg string) result {
	switch {
	case c.s.TLS == nil:
		return say(502, "5.1", "Not offered.")
	case arg != "":
		return say(501, "5.4", "No parameters, please.")
	case c.tls:
		return say(503, "5.1", "Encrypted already.")
	}
	if c.br.Buffered() > 0 {
		r := say(554, "5.1", "Nothing may follow STARTTLS.")
		r.close = true
		return r
	}
	r := say(220, "0.0", "Go ahead")
	r.then = func() bool {
		if !c.handshake() {
			return false
		}
		c.reset()
		c.tls, c.helo, c.xclient = true, "", nil
		return true
	}
	return r
}

// mailParams are the parameters that MAIL may have, each with the keyword that
// offers it.
var mailParams = map[string]string{
	"BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "SUBMITTER": "SUBMITTER",
	"RET": "DSN", "ENVID": "DSN", "REQUIRETLS": "REQUIRETLS",
}

var rcptParams = map[string]string{"NOTIFY": "DSN", "ORCPT": "DSN"}

func (c *session) known(ps []smtp.Param, table map[string]string) bool {
	for _, p := range ps {
		if k, ok := table[p.Key]; (!ok || !c.offers(k)) && p.Key != "SIZE" {
			return false
		}
	}
	return true
}

func (c *session) mailFrom(arg string) result {
	if c.helo == "" || c.mail != nil {
		return say(503, "5.1", "Not now.")
	}
	from, ps, err := smtp.ParseMail(arg)
	if err != nil {
		return syntax(err)
	}
	if !c.esmtp && len(ps) > 0 || !c.known(ps, mailParams) {
		return say(555, "5.4", "Unknown parameter.")
	}
	for _, p := range ps {
		switch {
		case p.Key == "BODY" && strings.EqualFold(p.Value, "BINARYMIME") && !c.offers("BINARYMIME"):
			return say(555, "5.4", "BINARYMIME is not offered.")
		case p.Key == "SIZE":
			if n, err := strconv.ParseUint(p.Value, 10, 63); err != nil {
				return say(501, "5.4", "That is no size.")
			} else if int64(n) > or(c.s.MaxSize, defaultSize) {
				return say(552, "3.4", "Too large.")
			}
		}
	}
	c.mail = &Envelope{
		Connection: c.seq, Peer: c.raw.RemoteAddr(), TLS: c.tls, ESMTP: c.esmtp, Helo: c.helo,
		XClient: c.xclient, XForward: c.xforward, Proxy: c.proxy, From: from, Params: ps,
	}
	return say(250, "1.0", "OK")
}

func syntax(err error) result {
	if e, ok := err.(*smtp.SyntaxError); ok {
		return result{reply: e.Reply}
	}
	return say(501, "5.4", "Syntax error.")
}

func (c *session) rcptTo(arg string) result {
	if c.mail == nil || c.text != nil {
		return say(503, "5.1", "Not now.")
	}
	utf8 := slices.ContainsFunc(c.mail.Params, func(p smtp.Param) bool { return p.Key == "SMTPUTF8" })
	to, ps, err := smtp.ParseRcpt(arg, utf8)
	switch {
	case err != nil:
		return syntax(err)
	case !c.known(ps, rcptParams) || !c.esmtp && len(ps) > 0:
		return say(555, "5.4", "Unknown parameter.")
	case len(c.mail.To) >= or(c.s.MaxRecipients, defaultRecipients):
		return say(452, "5.3", "Too many recipients.")
	}
	c.mail.To = append(c.mail.To, Recipient{to, ps})
	return say(250, "1.5", "OK")
}

// attributes reads NAME=xtext pairs.
func attributes(arg string, names []string) (map[string]string, bool) {
	m := map[string]string{}
	for f := range strings.FieldsSeq(arg) {
		name, value, ok := strings.Cut(f, "=")
		name = strings.ToUpper(name)
		text, err := smtp.DecodeXtext(value)
		if !ok || err != nil || !slices.Contains(names, name) {
			return nil, false
		}
		m[name] = text
	}
	return m, len(m) > 0
}

// told reads the attributes of XCLIENT and XFORWARD, which is refused to whom it is not for.
func (c *session) told(arg string, names []string) (m map[string]string, refusal result, ok bool) {
	if !c.trusted() {
		return nil, say(550, "7.0", "Not for you."), false
	}
	if c.mail != nil {
		return nil, say(503, "5.1", "Within a transaction."), false
	}
	if m, ok = attributes(arg, names); !ok {
		return nil, say(501, "5.4", "Bad attribute."), false
	}
	return m, result{}, true
}

// xClient takes over what the proxy says of its client, and starts the session
// again, as Postfix does.
func (c *session) xClient(arg string) result {
	m, refusal, ok := c.told(arg, xclientNames)
	if !ok {
		return refusal
	}
	all := map[string]string{}
	for _, from := range []map[string]string{c.xclient, m} {
		for k, v := range from {
			all[k] = v
		}
	}
	c.reset()
	c.xclient, c.helo = all, ""
	return say(220, "", c.s.Hostname+" ESMTP")
}

func (c *session) xForward(arg string) result {
	m, refusal, ok := c.told(arg, xforwardNames)
	if !ok {
		return refusal
	}
	if c.xforward == nil {
		c.xforward = map[string]string{}
	}
	for k, v := range m {
		c.xforward[k] = v
	}
	return say(250, "0.0", "OK")
}
