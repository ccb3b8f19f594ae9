package proxy

import (
	"errors"
	"strings"
	"time"

	"postern/checks/dnscache"
	"postern/policy"
	"postern/proxy/esmtp"
	"postern/proxy/share"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// command is one row of the command table. Handlers return a reply, or none where it
// comes later or they have said it themselves, as that to a message. They never close the
// connection: closing tells the loop to.
type command struct {
	run func(s *session, arg string) smtp.Reply
	// needs is what must have happened before: needsNothing, needsHello or
	// needsMail.
	needs need
	// pipelined: the command need not wait for the answers to earlier ones (RFC 2920
	// §3.1). Before any other command runs, every earlier reply is settled.
	pipelined bool
	// waits: the client must hear the answer before it goes on, be it yes or no.
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
	"HELO":     {run: helo},
	"STARTTLS": {run: (*session).startTLS},
	"MAIL":     {run: (*session).mail, needs: needsHello},
	"RCPT":     {run: rcpt, needs: needsMail, pipelined: true},
	"DATA":     {run: (*session).data, needs: needsMail, waits: true},
	"BDAT":     {run: (*session).bdat}, // checks for itself: its octets must be read first
	"RSET":     {run: rset},
	"NOOP":     {run: noop},
	"VRFY":     {run: vrfy},
	"HELP":     {run: help},
	"QUIT":     {run: quit},
	// Known to SMTP and not served here: 502, not 500 (RFC 5321 §4.2.4).
	"EXPN": {run: notImplemented},
	"TURN": {run: notImplemented},
	"ATRN": {run: notImplemented},
	"ETRN": {run: notImplemented},
	"SEND": {run: notImplemented},
	"SOML": {run: notImplemented},
	"SAML": {run: notImplemented},
	"AUTH": {run: notImplemented},
	// A PROXY header of version 1, from a peer that should send none.
	"PROXY": {run: unexpectedProxyHeader},
	// NOT: passed on. Whoever may say XCLIENT to the backend may be anybody.
	"XCLIENT":  {run: notImplemented},
	"XFORWARD": {run: notImplemented},
}

// command runs one command line.
func (s *session) command(line []byte) {
	s.manners.commands++
	verb, arg, err := smtp.ParseCommand(line)
	c, ok := commands[verb]
	if (err != nil || !ok) && wire.IsHTTP(line) {
		s.misplaced(wire.ErrHTTP)
		return
	}
	if err != nil {
		s.tx.settle()
		s.fault(syntaxReply(err))
		return
	}
	if !ok {
		s.tx.settle()
		s.fault(smtp.Reply{Code: 500, Enhanced: "5.2", Text: "Command not recognized"})
		return
	}
	if !c.pipelined {
		s.tx.settle()
	}
	if c.waits && (s.wire.Buffered() > 0 || verb == "DATA" && s.wire.Ahead()) {
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
	if c.needs >= needsHello && !s.peer.greeted {
		s.fault(smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say EHLO first"})
		return
	}
	if c.needs == needsMail && s.tx == nil {
		r := smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say MAIL first"}
		if s.manners.mailRefused {
			s.wire.Say(r) // NOT: a fault. It was in the pipe when MAIL was refused.
		} else {
			s.fault(r)
		}
		return
	}
	if s.manners.commands > idleCommandLimit+s.set.Limits.Recipients {
		s.tx.settle()
		s.result = endedIdleTalk
		s.closing = true
		s.wire.Say(s.refuse(421, "7.0", "Too many commands without a message, closing connection"))
		return
	}
	r := c.run(s, arg)
	s.manners.served = s.manners.served || r.Positive()
	s.manners.mailRefused = verb == "MAIL" && s.tx == nil
	if r.Permanent() && clientFault(r) {
		s.fault(r)
		return
	}
	s.wire.Say(r)
}

// clientFault tells replies to bad syntax or order from refusals.
func clientFault(r smtp.Reply) bool { return r.Code <= 504 || r.Code == 555 }

// fault answers what the client did wrong: late, if it does so often, and
// with a 421 in the end.
func (s *session) fault(r smtp.Reply) {
	s.manners.faults++
	if !s.manners.served {
		s.manners.early++
	}
	s.manners.last = r
	if d := s.set.Limits.Tarpit; d > 0 && s.manners.faults > freeErrors {
		// A client that is made to wait must not make others wait for its connection.
		giveUpFor(&s.loan, s.tx, errPenalty, "given up: a client that is made to wait keeps no connection")
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-s.srv.ctx.Done():
			t.Stop()
		}
	}
	s.wire.Say(r)
	enough := s.set.Limits.Errors > 0 && s.manners.faults+s.manners.early >= s.set.Limits.Errors
	if !s.srv.rates.Take(s.peer.who, share.PerError, s.set.Limits.ErrorRate, s.srv.now()) {
		enough = true
	}
	if enough && !s.closing {
		s.result = endedErrors
		s.closing = true
		s.wire.Say(s.refuse(421, "7.0", "Too many errors, closing connection"))
	}
}

func syntaxReply(err error) smtp.Reply {
	var se *smtp.SyntaxError
	if errors.As(err, &se) {
		return se.Reply
	}
	return smtp.Reply{Code: 501, Enhanced: "5.2", Text: "Syntax error"}
}

func (s *session) ehlo(arg string) smtp.Reply {
	if r := s.hello(arg, true); !r.IsZero() {
		return r
	}
	caps := s.set.Backends.Capabilities()
	s.peer.offered = esmtp.OfferOf(caps, s.peer.tls != nil)
	return smtp.Reply{Code: 250, Text: s.set.Hostname + " greets " + s.peer.helo.Name +
		s.peer.offered.Keywords(s.set.sizeLimit(caps), s.peer.mayStartTLS(s.listener, s.set)) +
		"\n" + esmtp.Limits(s.set.Limits.Recipients, s.set.Chain.OneDomain() && !s.set.Observe, caps.Limits)}
}

func helo(s *session, arg string) smtp.Reply {
	if r := s.hello(arg, false); !r.IsZero() {
		return r
	}
	// RFC 5321 §4.1.1.1: no extensions after HELO. SIZE is taken all the same, as MTAs
	// do: it tells us something and asks for nothing.
	s.peer.offered = esmtp.Offer{Size: true}
	return smtp.Reply{Code: 250, Text: s.set.Hostname}
}

// hello is what EHLO and HELO have in common. A refused one leaves the state
// as it was (RFC 5321 §4.1.4).
func (s *session) hello(arg string, extended bool) smtp.Reply {
	name, _, _ := strings.Cut(arg, " ")
	name, ok := esmtp.HeloName(name)
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
		return v.Reply.WithID(id)
	}
	s.abandon() // RFC 5321 §4.1.4: as if by RSET
	s.peer.helo, s.peer.greeted, s.peer.esmtp = helo, true, extended
	s.expect()
	return smtp.Reply{}
}

// expect asks ahead for what the first message will want to know.
func (s *session) expect() {
	next := s.awaited()
	if next == nil {
		next = s.peer.asking()
		next.since = s.srv.now()
	}
	if s.set.Checks.Expect(dnscache.WithTransaction(s.srv.ctx, &next.asks), s.peer.client) {
		s.next = next
	}
}

// aheadFor is for how long an answer that is for one use, and was asked ahead, stands for the
// first message: a client that has said EHLO may take its time.
const aheadFor = 10 * time.Second

// awaited is s.next while it is fresh; else nil.
func (s *session) awaited() *asking {
	if s.next != nil && s.srv.now().Sub(s.next.since) > aheadFor {
		s.next = nil
	}
	return s.next
}

func (s *session) startTLS(arg string) smtp.Reply {
	switch {
	case arg != "":
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "STARTTLS takes no parameter"}
	case s.peer.tls != nil:
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "TLS is already on"}
	case !s.peer.mayStartTLS(s.listener, s.set):
		return smtp.Reply{Code: 502, Enhanced: "5.1", Text: "STARTTLS is not offered here"}
	case s.wire.Buffered() > 0:
		// STARTTLS must end a pipelined group (RFC 3207 §4). Octets already
		// here came in the clear from someone who could not wait: a broken
		// client, or a man in the middle hoping that we read them after the
		// handshake as if they had been encrypted (CVE-2011-0411). Dropping
		// them in silence would leave the two sides out of step and the log
		// without a trace, so we say no and hang up.
		s.peer.client.Unsynchronized = true
		s.closing = true
		s.result = endedStartTLSInjection
		return s.refuse(503, "5.0", "Plaintext behind STARTTLS, closing connection")
	}
	s.wire.Say(smtp.Reply{Code: 220, Enhanced: "0.0", Text: "Ready to start TLS"})
	if s.wire.Flush() != nil || !s.handshake() {
		s.closing = true
		return smtp.Reply{}
	}
	// RFC 3207 §4.2: all that the client said before is forgotten.
	s.abandon()
	s.peer.helo, s.peer.greeted, s.peer.esmtp, s.peer.offered = policy.HeloName{}, false, false, esmtp.Offer{}
	return smtp.Reply{}
}

func rset(s *session, arg string) smtp.Reply {
	if arg != "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "RSET takes no parameter"}
	}
	s.abandon()
	return smtp.Reply{Code: 250, Enhanced: "0.0", Text: "OK"}
}

func noop(*session, string) smtp.Reply {
	return smtp.Reply{Code: 250, Enhanced: "0.0", Text: "OK"}
}

// vrfy tells nothing about the backend's users (RFC 5321 §7.3).
func vrfy(_ *session, arg string) smtp.Reply {
	if arg == "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "VRFY needs an address"}
	}
	return smtp.Reply{Code: 252, Enhanced: "1.5", Text: "Send some mail, it will be tried"}
}

func help(*session, string) smtp.Reply {
	return smtp.Reply{Code: 214, Enhanced: "0.0", Text: "EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"}
}

func quit(s *session, arg string) smtp.Reply {
	if arg != "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "QUIT takes no parameter"}
	}
	s.closing = true
	if s.result == endedLost {
		s.result = endedQuit
	}
	return smtp.Reply{Code: 221, Enhanced: "0.0", Text: s.set.Hostname + " closing connection"}
}

func notImplemented(*session, string) smtp.Reply {
	return smtp.Reply{Code: 502, Enhanced: "5.1", Text: "Command not implemented"}
}

// handshake puts TLS on the connection. NOT: going on in plaintext when it fails; what
// the peer then sends is anybody's.
func (s *session) handshake() bool {
	if s.set.TLS == nil {
		s.result = endedNoCertificate
		s.closing = true
		return false
	}
	facts, advice, err := s.wire.Handshake(s.set.TLS, s.set.Timeouts.TLSHandshake, s.srv.now())
	if err != nil {
		s.result = endedTLSFailed
		s.srv.metrics.TLSHandshake("", "error")
		args := []any{"session", s.id, "client", s.peer.addr.String(), "listener", s.listener.Name, "error", err.Error()}
		if advice != "" {
			args = append(args, "advice", advice)
		}
		s.srv.log.Info("TLS handshake failed", args...)
		return false
	}
	s.peer.tls = &facts
	s.srv.metrics.TLSHandshake(facts.Version, "ok")
	return true
}
