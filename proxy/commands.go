package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"postern/policy"
	"postern/proxy/backend"
	"postern/proxy/fields"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// command is one row of the command table. Handlers return a reply, or none
// where the reply comes later; the loop alone writes, counts and closes.
type command struct {
	run func(s *session, arg string) smtp.Reply
	// needs is what must have happened before: needsNothing, needsHello or
	// needsMail.
	needs need
	// pipelined commands need not wait for the answers of those before
	// (RFC 2920 §3.1); all others see every earlier reply settled.
	pipelined bool
	// waits: the client must hear the answer before it goes on, whatever that is.
	waits bool
}

type need int

const (
	needsNothing need = iota
	needsHello        // EHLO or HELO
	needsMail         // a transaction
)

var commands = map[string]command{
	"EHLO":     {run: (*session).ehlo, waits: true},
	"HELO":     {run: (*session).helo},
	"STARTTLS": {run: (*session).startTLS},
	"MAIL":     {run: (*session).mail, needs: needsHello},
	"RCPT":     {run: (*session).rcpt, needs: needsMail, pipelined: true},
	"DATA":     {run: (*session).data, needs: needsMail, waits: true},
	"BDAT":     {run: (*session).bdat}, // checks for itself: its octets must be read first
	"RSET":     {run: (*session).rset},
	"NOOP":     {run: (*session).noop},
	"VRFY":     {run: (*session).vrfy},
	"HELP":     {run: (*session).help},
	"QUIT":     {run: (*session).quit},
	// Known to SMTP and not served here: 502, not 500 (RFC 5321 §4.2.4).
	"EXPN": {run: (*session).notImplemented},
	"TURN": {run: (*session).notImplemented},
	"ATRN": {run: (*session).notImplemented},
	"ETRN": {run: (*session).notImplemented},
	"SEND": {run: (*session).notImplemented},
	"SOML": {run: (*session).notImplemented},
	"SAML": {run: (*session).notImplemented},
	"AUTH": {run: (*session).notImplemented},
	// From whom no header is expected: see unexpectedProxyHeader.
	"PROXY": {run: (*session).unexpectedProxyHeader},
	// NOT: passed on. Whoever may say XCLIENT to the backend may be anybody.
	"XCLIENT":  {run: (*session).notImplemented},
	"XFORWARD": {run: (*session).notImplemented},
}

// command runs one command line.
func (s *session) command(line []byte) {
	s.commands++
	verb, arg, err := smtp.ParseCommand(line)
	c, ok := commands[verb]
	if (err != nil || !ok) && isHTTP(line) {
		s.misplaced(errHTTP)
		return
	}
	if err != nil {
		s.settle()
		s.fault(syntaxReply(err))
		return
	}
	if !ok {
		s.settle()
		s.fault(smtp.Reply{Code: 500, Enhanced: "5.2", Text: "Command not recognized"})
		return
	}
	if !c.pipelined {
		s.settle()
	}
	if c.waits && (s.in.buffered() > 0 || verb == "DATA" && s.ahead()) {
		// At EHLO it is what came in the same piece. DATA is answered late, and what
		// has come by then was sent without an answer too.
		if r := s.outOfTurn(verb); !r.IsZero() {
			s.fault(r)
			return
		}
	}
	if s.barred && verb != "QUIT" {
		s.fault(smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Only QUIT is served here"})
		return
	}
	if c.needs >= needsHello && !s.greeted {
		s.fault(smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say EHLO first"})
		return
	}
	if c.needs == needsMail && s.tx == nil {
		r := smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say MAIL first"}
		if s.mailRefused {
			s.say(r) // NOT: a fault. It was in the pipe when MAIL was refused.
		} else {
			s.fault(r)
		}
		return
	}
	if s.commands > idleCommandLimit+s.set.Limits.Recipients {
		s.settle()
		s.result = endedIdleTalk
		s.closing = true
		s.say(s.refuse(421, "7.0", "Too many commands without a message, closing connection"))
		return
	}
	r := c.run(s, arg)
	s.manners.served = s.manners.served || r.Positive()
	s.mailRefused = verb == "MAIL" && s.tx == nil
	if r.Permanent() && clientFault(r) {
		s.fault(r)
		return
	}
	s.say(r)
}

// clientFault tells replies to bad syntax or order from refusals.
func clientFault(r smtp.Reply) bool { return r.Code <= 504 || r.Code == 555 }

// fault answers what the client did wrong: late, if it does so often, and
// with a 421 in the end.
func (s *session) fault(r smtp.Reply) {
	s.errors++
	if !s.manners.served {
		s.manners.early++
	}
	s.lastFault = r
	if d := s.set.Limits.Tarpit; d > 0 && s.errors > freeErrors {
		// Who is made to wait makes nobody else wait.
		s.giveUpFor(errPenalty, "given up: a client that is made to wait keeps no connection")
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-s.srv.ctx.Done():
			t.Stop()
		}
	}
	s.say(r)
	enough := s.set.Limits.Errors > 0 && s.errors+s.manners.early >= s.set.Limits.Errors
	if !s.srv.rates.Take(s.who, share.PerError, s.set.Limits.ErrorRate, s.srv.now()) {
		enough = true
	}
	if enough && !s.closing {
		s.result = endedErrors
		s.closing = true
		s.say(s.refuse(421, "7.0", "Too many errors, closing connection"))
	}
}

func syntaxReply(err error) smtp.Reply {
	var se *smtp.SyntaxError
	if errors.As(err, &se) {
		return se.Reply
	}
	return smtp.Reply{Code: 501, Enhanced: "5.2", Text: "Syntax error"}
}

// offer is what an EHLO reply announced beyond what is always there; parameters
// of what was not offered are unknown (RFC 5321 §4.1.1.11).
type offer struct {
	eightBit, utf8, dsn, size, submitter, binary, requireTLS bool
}

func (s *session) ehlo(arg string) smtp.Reply {
	if r := s.hello(arg, true); !r.IsZero() {
		return r
	}
	caps := s.set.Backends.Capabilities()
	o := offer{eightBit: caps.EightBitMIME, utf8: caps.SMTPUTF8 && caps.EightBitMIME, dsn: caps.DSN, size: true, submitter: true}
	// BODY is the parameter of 8BITMIME (RFC 6152 §2): without that there is
	// nothing to say BINARYMIME with.
	o.binary = caps.BinaryMIME && caps.Chunking && caps.EightBitMIME
	// RFC 8689 §2: both legs must keep the promise, and ours to the client is
	// only a promise once TLS is on.
	o.requireTLS = s.tls != nil && caps.RequireTLS && caps.TLS && caps.Verified
	s.offered = o
	var b strings.Builder
	b.WriteString(s.set.Hostname + " greets " + s.heloName.Name)
	b.WriteString("\nPIPELINING")
	fmt.Fprintf(&b, "\nSIZE %d", s.sizeLimit(caps))
	if s.canStartTLS() {
		b.WriteString("\nSTARTTLS")
	}
	b.WriteString("\nENHANCEDSTATUSCODES")
	b.WriteString("\nSUBMITTER")
	b.WriteString("\nCHUNKING")
	if o.binary {
		b.WriteString("\nBINARYMIME")
	}
	if o.eightBit {
		b.WriteString("\n8BITMIME")
	}
	if o.utf8 {
		b.WriteString("\nSMTPUTF8")
	}
	if o.dsn {
		b.WriteString("\nDSN")
	}
	if o.requireTLS {
		b.WriteString("\nREQUIRETLS")
	}
	b.WriteString("\n" + s.limitsKeyword(caps))
	return smtp.Reply{Code: 250, Text: b.String()}
}

// limitsKeyword announces what would otherwise be found out by trying
// (RFC 9422).
func (s *session) limitsKeyword(caps backend.Capabilities) string {
	var b strings.Builder
	n := s.set.Limits.Recipients
	if theirs := caps.Limits.RcptMax; theirs > 0 {
		n = min(n, theirs)
	}
	b.WriteString(" RCPTMAX=" + strconv.Itoa(n))
	domains := caps.Limits.RcptDomainMax
	if s.set.Chain.OneDomain() && !s.set.Observe {
		domains = 1
	}
	if domains > 0 {
		b.WriteString(" RCPTDOMAINMAX=" + strconv.Itoa(domains))
	}
	// NOT: the backend's MAILMAX. Its connections are ours, and more than one may
	// serve a session.
	return "LIMITS" + b.String()
}

// sizeLimit is the largest message that we and the backend take.
func (s *session) sizeLimit(caps backend.Capabilities) int64 {
	limit := int64(s.set.Limits.MessageSize)
	if caps.HasSize && caps.Size > 0 {
		limit = min(limit, max(caps.Size-s.addedSize(), 1))
	}
	return limit
}

// addedSize is how many octets the fields on top of a message may come to: the
// SIZE that is announced leaves them room below the backend's, and the one that
// the backend is told of a message counts them. It is a bound, or the backend
// would refuse for good what we have announced to take.
func (s *session) addedSize() int64 {
	tags := s.set.Chain.TagsSize()
	return int64(fields.TraceSize + tags + recipientTags(tags))
}

func (s *session) helo(arg string) smtp.Reply {
	if r := s.hello(arg, false); !r.IsZero() {
		return r
	}
	// RFC 5321 §4.1.1.1: no extensions after HELO. SIZE is taken all the same, as MTAs
	// do: it tells us something and asks for nothing.
	s.offered = offer{size: true}
	return smtp.Reply{Code: 250, Text: s.set.Hostname}
}

// hello is what EHLO and HELO have in common. A refused one leaves the state
// as it was (RFC 5321 §4.1.4).
func (s *session) hello(arg string, esmtp bool) smtp.Reply {
	name, _, _ := strings.Cut(arg, " ")
	name, ok := heloName(name)
	if !ok {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "A domain or an address literal is needed"}
	}
	helo := policy.HeloName{Name: name}
	if smtp.IsDomain(name) {
		if d, err := smtp.ASCIIDomain(name); err == nil {
			helo.Domain = d
		}
	}
	if v, id := s.refused(policy.Helo, helo); id != "" {
		return withID(v.Reply, id)
	}
	s.abandon() // RFC 5321 §4.1.4: as if by RSET
	s.heloName, s.greeted, s.esmtp = helo, true, esmtp
	return smtp.Reply{}
}

// heloName takes any printable name: the grammar is not enforced, since half of the
// world's clients break it, and the name is evidence, not an address (RFC 5321
// §4.1.4). What would mean something in a header field becomes "?", as it does in
// Postfix, and so the name goes on.
func heloName(name string) (string, bool) {
	if name == "" || len(name) > 255 {
		return "", false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f {
			return "", false
		}
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`()<>",;\`, r) {
			return '?'
		}
		return r
	}, name), true
}

func (s *session) canStartTLS() bool {
	return s.listener.TLS == "starttls" && s.tls == nil && s.set.TLS != nil
}

func (s *session) startTLS(arg string) smtp.Reply {
	switch {
	case arg != "":
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "STARTTLS takes no parameter"}
	case s.tls != nil:
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "TLS is already on"}
	case !s.canStartTLS():
		return smtp.Reply{Code: 502, Enhanced: "5.1", Text: "STARTTLS is not offered here"}
	case s.in.buffered() > 0:
		// STARTTLS must end a pipelined group (RFC 3207 §4). Octets already
		// here came in the clear from someone who could not wait: a broken
		// client, or a man in the middle hoping that we read them after the
		// handshake as if they had been encrypted (CVE-2011-0411). Dropping
		// them in silence would leave the two sides out of step and the log
		// without a trace, so we say no and hang up.
		s.client.Unsynchronized = true
		s.closing = true
		s.result = endedStartTLSInjection
		return s.refuse(503, "5.0", "Plaintext behind STARTTLS, closing connection")
	}
	s.say(smtp.Reply{Code: 220, Enhanced: "0.0", Text: "Ready to start TLS"})
	if s.flush() != nil || !s.handshake(s.conn) {
		s.closing = true
		return smtp.Reply{}
	}
	// RFC 3207 §4.2: all that the client said before is forgotten.
	s.abandon()
	s.heloName, s.greeted, s.esmtp, s.offered = policy.HeloName{}, false, false, offer{}
	return smtp.Reply{}
}

// handshake puts TLS on conn, which is the session's. NOT: going on in plaintext
// when it fails; what the peer then sends is anybody's.
func (s *session) handshake(conn net.Conn) bool {
	if s.set.TLS == nil {
		s.result = endedNoCertificate
		s.closing = true
		return false
	}
	offered := &helloConn{Conn: conn}
	tc := tls.Server(offered, s.set.TLS)
	_ = s.conn.SetDeadline(time.Now().Add(s.set.Timeouts.TLSHandshake))
	err := tc.HandshakeContext(s.srv.ctx)
	if err != nil {
		s.result = endedTLSFailed
		s.srv.metrics.TLSHandshake("", "error")
		args := []any{"session", s.id, "client", s.addr.String(), "listener", s.listener.Name, "error", err.Error()}
		if advice := offered.advice(s.set.TLS); advice != "" {
			args = append(args, "advice", advice)
		}
		s.srv.log.Info("TLS handshake failed", args...)
		return false
	}
	offered.hello = nil
	_ = s.conn.SetDeadline(time.Time{})
	state := tc.ConnectionState()
	facts := tlsFacts(&state, s.set.TLS.ClientCAs, s.srv.now())
	s.tls = &facts
	s.w = tc
	s.in.reset(tc)
	s.srv.metrics.TLSHandshake(facts.Version, "ok")
	return true
}

func (s *session) rset(arg string) smtp.Reply {
	if arg != "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "RSET takes no parameter"}
	}
	s.abandon()
	return smtp.Reply{Code: 250, Enhanced: "0.0", Text: "OK"}
}

func (s *session) noop(string) smtp.Reply {
	return smtp.Reply{Code: 250, Enhanced: "0.0", Text: "OK"}
}

// vrfy tells nothing about the backend's users (RFC 5321 §7.3).
func (s *session) vrfy(arg string) smtp.Reply {
	if arg == "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "VRFY needs an address"}
	}
	return smtp.Reply{Code: 252, Enhanced: "1.5", Text: "Send some mail, it will be tried"}
}

func (s *session) help(string) smtp.Reply {
	return smtp.Reply{Code: 214, Enhanced: "0.0", Text: "EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"}
}

func (s *session) quit(arg string) smtp.Reply {
	if arg != "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "QUIT takes no parameter"}
	}
	s.closing = true
	if s.result == endedLost {
		s.result = endedQuit
	}
	return smtp.Reply{Code: 221, Enhanced: "0.0", Text: s.set.Hostname + " closing connection"}
}

func (s *session) notImplemented(string) smtp.Reply {
	return smtp.Reply{Code: 502, Enhanced: "5.1", Text: "Command not implemented"}
}

// context is what the checks of the current transaction run under.
func (s *session) context() context.Context { return s.srv.ctx }
