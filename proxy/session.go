package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"postern/checks"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/amtp"
	"postern/proxy/relay"
	"postern/proxy/reuse"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

const (
	// freeErrors is how many errors of a session are answered at once; later ones wait as
	// limits.tarpit says.
	freeErrors = 3
	// idleCommandLimit ends a session that talks without ever sending mail: so
	// many commands since the last message, and as many more as a message may
	// have recipients.
	idleCommandLimit = 1000
	// idleChunk is what a BDAT must bring, in octets, not to count among them.
	// There are senders whose chunks have no more than 8 KiB.
	idleChunk = 1 << 10
)

// session is one SMTP connection: the loop that reads commands, and the owners of what
// it has. One goroutine runs it at a time, half duplex. What others call of it (wake, abort,
// and what makeRoom asks) touches what idle and loan guard with locks of their own.
type session struct {
	// Immutable.
	srv      *Server
	listener *Listener
	origin   *amtp.Origin // of mail that did not come by SMTP; nil: it did
	id       string
	began    time.Time

	// Owners of their own state.
	wire wire.Conn  // the conversation, as octets
	loan relay.Loan // the backend connection
	idle idle       // the wait for a command

	// Of the loop.
	set          *Settings // the newest, taken at each MAIL
	peer         peer
	manners      manners
	tx           *transaction // nil: none
	next         *asking      // of the first one, where something was asked ahead for it; see awaited
	barred       bool         // refused at connect: only QUIT is served (RFC 5321 §3.1)
	closing      bool
	result       ending // how the connection ended, for its log line
	transactions int
	messages     int
}

func newSession(srv *Server, conn net.Conn, l *Listener) *session {
	s := &session{srv: srv, set: srv.settings.Load(), listener: l, id: wire.NewID(), began: srv.now(), result: endedLost}
	s.wire.Open(conn, wire.Options{Context: srv.ctx, Session: s.id, Log: srv.log, Metrics: srv.metrics})
	s.wire.FlushWithin = s.set.Timeouts.Command
	s.peer.addr = wire.AddrPort(conn.RemoteAddr())
	s.loan.Begin(&s.wire)
	s.idle.wire, s.idle.srv, s.idle.lastMessage = &s.wire, srv, s.began
	return s
}

// wake makes a session that waits for a command look up, parked or not. Any goroutine
// may call it.
func (s *session) wake() {
	s.idle.wake()
	s.srv.parking.unpark(s)
}

// abort makes the session end whatever it is doing: both its conversations fail
// from now on, and it has the time to tell the client so. The server's context
// must have ended before. Any goroutine may call it.
func (s *session) abort() {
	s.loan.Abort()
	s.wire.Interrupt()
}

// run is the whole session, or what comes until it is parked and, resumed, what
// comes from there. A panic ends this session and no other, and the client hears
// a 421.
func (s *session) run(resumed bool) {
	for s.serve(resumed) {
		if s.srv.parking.park(s) {
			return // NOT: another look at s. It may run already.
		}
		resumed = true
	}
	s.end()
	s.srv.leave(s)
	s.srv.metrics.SessionEnded()
	if s.idle.done != nil {
		s.idle.done()
	}
}

// serve runs the session until its end, or until the client has been silent for
// so long that the session should be parked.
func (s *session) serve(resumed bool) (silent bool) {
	defer func() {
		if p := recover(); p != nil {
			s.result = endedPanic
			s.srv.logPanic(s.id, p)
			s.survive(s.apologise)
		}
	}()

	if !resumed && !s.open() {
		return false
	}
	for !s.closing {
		line, err := s.nextLine(resumed)
		resumed = false
		switch {
		case errors.Is(err, errSilent):
			return true
		case err == nil:
			s.command(line)
		case errors.Is(err, smtp.ErrLineTooLong):
			s.tx.settle()
			s.fault(smtp.Reply{Code: 500, Enhanced: "5.2", Text: "Line too long"})
		case errors.Is(err, smtp.ErrBadOctet):
			s.tx.settle()
			s.fault(smtp.Reply{Code: 500, Enhanced: "5.2", Text: "Bare CR or NUL in a command line"})
		default:
			s.readFailed(err)
			return false
		}
		if s.wire.Full() {
			s.tx.settle()
			if s.wire.Flush() != nil {
				return false
			}
		}
	}
	s.tx.settle()
	_ = s.wire.Flush()
	return false
}

// survive runs f and says whether it came to its end. A panic in it ends f and
// nothing else: where one has been before, another one is likely, and none may
// reach the process, which is everybody's.
func (s *session) survive(f func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.result = endedPanic
			s.srv.logPanic(s.id, p)
		}
	}()
	f()
	return true
}

// apologise ends the session after a panic: with what was said before, perhaps
// a 250 to a message, and a 421. The transaction has failed.
func (s *session) apologise() {
	r := s.refuse(421, "3.0", "Internal error, closing connection")
	s.wire.Say(r)
	_ = s.wire.Flush()
	tx := s.tx
	if tx == nil {
		s.loan.Drop()
		return
	}
	tx.reply = r
	outcome := journal.OutcomeFailed
	if tx.relay.Panicked() {
		outcome = journal.OutcomeUnknown
	}
	if tx.message != nil {
		tx.message.close()
	}
	s.tx = nil
	tx.record(s.id, outcome) // NOT: released. What has panicked may have left others at work on it.
}

// open does what comes before the first command: the PROXY header, the limits,
// implicit TLS, the verdict on the connection and the greeting.
func (s *session) open() bool {
	deadline := time.Now().Add(s.set.Timeouts.Greeting)
	s.wire.SetDeadline(deadline)
	s.wire.Begin()
	if s.origin != nil {
		return s.greet()
	}
	if err := s.peer.readProxyHeader(&s.wire, s.listener.ProxyProtocol); err != nil {
		s.badProxyHeader(err)
		return false
	}
	s.peer.client.IP, s.peer.client.Port = s.peer.addr.Addr().String(), int(s.peer.addr.Port())
	if why := s.srv.admit(s, s.set.Limits); why != "" {
		s.result = why
		s.wire.Say(s.refuse(421, "7.0", "Too many connections, try again later"))
		_ = s.wire.Flush()
		return false
	}
	if s.peer.addr.Addr().Unmap().Is6() && !s.peer.unrationed && !s.set.Backends.TakesIPv6() {
		// At RCPT it would come again by IPv6, for days. Here it takes our other address.
		s.result = endedIPv6
		s.wire.Say(s.refuse(421, "3.5", "No mail by IPv6 here at the moment, use our IPv4 address"))
		_ = s.wire.Flush()
		return false
	}
	if s.listener.TLS == "implicit" && !s.handshake() {
		return false
	}
	if !s.peer.pregreet(&s.wire, s.listener.Pregreet) {
		return false
	}
	return s.greet()
}

// greet judges the connection and says the greeting.
func (s *session) greet() bool {
	if v, id := s.refused(policy.Connect, policy.HeloName{}); id != "" {
		s.wire.Say(v.Reply.WithID(id))
		s.barred = true
		if s.result = endedRefused; v.Disposition == policy.DispositionDefer {
			s.result = endedDeferred
			s.closing = true
		}
		return true
	}
	s.wire.Say(smtp.Reply{Code: 220, Text: s.set.Hostname + " ESMTP"})
	return true
}

// refused judges the connection, or HELO, before there is a transaction. With a
// refusal comes the id under which it was recorded; without an id nothing stands
// in the way.
//
// A policy that only observes says here what it will say of each transaction,
// whose record has it: nothing is refused yet, so nothing is recorded.
func (s *session) refused(st policy.Stage, helo policy.HeloName) (v policy.Verdict, id string) {
	f := earlyFacts.Take()
	s.peer.begin(f, s.listener.Name, helo)
	if st == policy.Connect && s.set.Checks.HasStage(st) {
		s.set.Checks.Run(s.srv.ctx, st, f, checks.Message{}, nil)
		s.peer.client, s.peer.network = f.Client, f.Network // for the transactions to come
	}
	if v = s.set.Chain.Decide(st, f); v.Refuses() && !s.set.Observe {
		if st == policy.Connect {
			// RFC 5321 §3.1 knows two refusals in place of the greeting: 421, and
			// 554, after which only QUIT is served, so that the client does not take
			// us for broken.
			v.Reply.Code = 554
			if v.Disposition == policy.DispositionDefer {
				v.Reply.Code = 421
			}
		}
		id = f.ID
		s.srv.recordRefusal(s.set, s.id, f, v)
	}
	*f = policy.Facts{}
	earlyFacts.Put(f)
	return v, id
}

// earlyFacts are zero. Nobody keeps them: a record has a copy.
var earlyFacts reuse.Pool[policy.Facts]

// nextLine returns the next command line without its CRLF. Everything said so
// far leaves when no whole command is there any more: not sooner, since replies that are
// ready together travel together (RFC 2920 §3.2), and not later. A session that
// was parked goes on waiting.
func (s *session) nextLine(resumed bool) ([]byte, error) {
	if !resumed && !s.wire.HasLine() {
		// NOT: only where nothing is buffered. Half a command may be, and its
		// client waits for us; the deadline that is set is that of the message
		// before, and has passed while the backend thought.
		s.tx.settle()
		if err := s.wire.Flush(); err != nil {
			return nil, err
		}
		limit := s.set.Timeouts.Command
		if s.manners.commands == 0 && s.transactions == 0 {
			limit = s.set.Timeouts.Greeting
		}
		s.idle.deadline = time.Now().Add(limit)
		s.wire.ReadBy(s.idle.deadline)
	}
	// Between two chunks of a message the client is in the message.
	s.idle.setWaiting(s.tx == nil || s.tx.message == nil)
	if s.idle.mustEnd() {
		s.wake()
	}
	err := s.idle.wait(s.tx, &s.loan, s.set.Timeouts.Command)
	if !errors.Is(err, errSilent) { // a session that is parked waits on
		s.idle.setWaiting(false)
	}
	if err != nil {
		return nil, err
	}
	if !s.peer.greeted && s.peer.tls == nil && s.wire.ProxySigned() {
		return nil, wire.ErrProxyHeader
	}
	if !s.manners.served {
		if err := s.wire.OtherProtocol(); err != nil {
			return nil, err
		}
	}
	return s.wire.ReadLine()
}

// readFailed answers a line that could not be read, if anybody is there to
// hear it.
func (s *session) readFailed(err error) {
	switch {
	case errors.Is(err, smtp.ErrBareLF):
		// What follows a bare LF might be meant as a command or not: two
		// parsers would differ, and that is what smuggling lives on. So the
		// session ends here.
		s.result = endedBareLF
		s.tx.settle()
		s.wire.Say(s.refuse(500, "5.2", "Bare LF is no line ending, closing connection"))
	case errors.Is(err, wire.ErrProxyHeader):
		s.tx.settle()
		s.wire.Say(unexpectedProxyHeader(s, ""))
	case errors.Is(err, wire.ErrHTTP), errors.Is(err, wire.ErrTLS):
		s.misplaced(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.tx.settle()
		switch {
		case s.srv.draining.Load():
			s.result = endedShutdown
			s.wire.Say(s.refuse(421, "3.2", "Service shutting down, closing connection"))
		case s.idle.givesWay.Load():
			s.result = endedGaveWay
			s.wire.Say(s.refuse(421, "3.2", "Too many connections, closing one without a message"))
		default:
			s.result = endedTimeout
			s.wire.Say(s.refuse(421, "4.2", "Timeout, closing connection"))
		}
	case errors.Is(err, io.EOF):
		if s.result == endedLost && s.tx == nil && s.messages > 0 {
			s.result = endedClosed
		}
		return
	default:
		return
	}
	_ = s.wire.Flush()
}

// refuse makes a reply of ours that bears an id: the transaction's, or that of
// the session where there is none.
func (s *session) refuse(code int, enhanced, text string) smtp.Reply {
	id := s.id
	if s.tx != nil {
		id = s.tx.facts.ID
	}
	return smtp.Reply{Code: code, Enhanced: enhanced, Text: text}.WithID(id)
}

// abandon ends the transaction without a message: RSET, EHLO, STARTTLS, QUIT or
// a client that went away.
func (s *session) abandon() {
	tx := s.tx
	if tx == nil {
		return
	}
	if tx.message != nil {
		tx.message.close()
	}
	if tx.awaitsBackend() || tx.message != nil && tx.message.out.Begun() {
		s.loan.Drop() // replies are still due, or a message: out of step
	}
	s.loan.Release()
	s.finish(tx.abandonedOutcome())
}

// end closes the session and writes its log line. Whatever panics on the way,
// what is behind it is done all the same: no slot of a backend stays taken, and
// no socket open.
func (s *session) end() {
	if !s.survive(s.abandon) {
		s.survive(s.loan.Drop)
	}
	s.survive(s.loan.Release)
	s.survive(s.wire.Close)
	s.survive(s.logConnection)
}

func (s *session) logConnection() {
	if s.origin != nil {
		return // whoever has the connection itself tells of it
	}
	version := ""
	if s.peer.tls != nil {
		version = s.peer.tls.Version
	}
	s.srv.metrics.Connection(s.listener.Name, string(s.result))
	s.srv.log.LogAttrs(s.srv.ctx, slog.LevelInfo, "connection",
		slog.String("session", s.id),
		slog.String("client", s.peer.addr.String()),
		slog.String("listener", s.listener.Name),
		slog.String("helo", s.peer.helo.Name),
		slog.String("tls", version),
		slog.String("result", string(s.result)),
		slog.String("state", string(journal.StateLogout)),
		slog.Int("transactions", s.transactions),
		slog.Int("messages", s.messages),
		slog.Int("errors", s.manners.faults),
		slog.String("last_error", s.manners.last.String()),
		slog.Float64("took", time.Since(s.began).Seconds()),
	)
}
