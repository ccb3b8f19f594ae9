package proxy

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

const (
	// lineLimit bounds a command line, CRLF included: the 512 octets of
	// RFC 5321 §4.5.3.1.4 and what the extensions add to MAIL, SUBMITTER with
	// every octet encoded among them.
	lineLimit = 2048
	// freeErrors are answered at once, those after them as limits.tarpit says.
	freeErrors = 3
	// idleCommandLimit ends a session that talks without ever sending mail: so
	// many commands since the last message, and as many more as a message may
	// have recipients.
	idleCommandLimit = 1000
	// idleChunk is what a BDAT must bring, in octets, not to count among them.
	// There are senders whose chunks have no more than 8 KiB.
	idleChunk = 1 << 10
	// outLimit is where replies leave although more commands are there.
	outLimit = 4 << 10
)

// session is one SMTP connection. One goroutine at a time, half duplex, no
// locks: only wake and abort may be called from elsewhere.
type session struct {
	srv      *Server
	set      *Settings
	listener *Listener
	conn     net.Conn // as accepted
	in       *input
	w        net.Conn // conn, or the TLS session on it
	out      *[]byte  // replies not yet sent; nil if there are none

	id      string
	began   time.Time
	client  policy.Client // what facts say of it at connect
	addr    netip.AddrPort
	who     share.Client // as one that has a share; zero while not known
	counted bool         // against the limits
	// unrationed: it counts against the number of all connections and no other
	// limit.
	unrationed bool

	greeted   bool // EHLO or HELO was accepted
	esmtp     bool // by EHLO
	heloName  policy.HeloName
	tls       *policy.TLS // nil: in the clear
	offered   offer       // what the last EHLO reply announced
	barred    bool        // refused at connect: only QUIT is served (RFC 5321 §3.1)
	closing   bool
	result    ending // how the connection ended, for its log line
	errors    int    // faults of the client
	manners   manners
	lastFault smtp.Reply // to the last of them: who says a wrong MAIL has no transaction whose record would tell
	commands  int        // since the last message

	tx           *transaction
	bc           *backend.Conn // the backend connection, kept from one transaction to the next
	mailRefused  bool          // the last command was a MAIL that started none
	transactions int
	messages     int

	done     func()    // called at the end; nil: Handle waits for it, so that it cannot be parked
	deadline time.Time // of the command that is waited for
	place    parkedAt  // while it is parked

	givesWay atomic.Bool // to another session

	wakeMu      sync.Mutex
	waiting     bool      // for a command
	lastMessage time.Time // when the last one ended, or the session began
	asked       bool      // to give bc up
	gone        bool      // abort was called
}

func newSession(srv *Server, conn net.Conn, l *Listener) *session {
	s := &session{
		srv: srv, set: srv.settings.Load(), listener: l,
		conn: conn, w: conn, id: newID(), began: srv.now(), lastMessage: srv.now(), result: endedLost, addr: addrPort(conn.RemoteAddr()),
	}
	return s
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns twelve characters that nobody has to spell twice: no i, l, o
// or u, and sixty random bits, so that an id is never given out again.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return idEncoding.EncodeToString(b[:])[:12]
}

// wake makes a session that waits for a command look up. NOT: any session, for
// in the middle of a message the deadline is that of the message, and who
// shuts down lets it be finished.
func (s *session) wake() {
	s.wakeMu.Lock()
	if s.waiting {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	}
	s.wakeMu.Unlock()
	s.srv.parking.unpark(s)
}

// setWaiting says whether the session waits for a command.
func (s *session) setWaiting(waiting bool) {
	s.wakeMu.Lock()
	s.waiting = waiting
	s.wakeMu.Unlock()
}

// hadMessage notes that a message has ended.
func (s *session) hadMessage() {
	s.wakeMu.Lock()
	s.lastMessage = s.srv.now()
	s.wakeMu.Unlock()
}

// abort makes the session end whatever it is doing: both its conversations fail
// from now on, and it has the time to tell the client so. The server's context
// must have ended before.
func (s *session) abort() {
	s.wakeMu.Lock()
	s.gone = true
	bc := s.bc
	s.wakeMu.Unlock()
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	if bc != nil {
		bc.Abort()
	}
}

// abortBackend ends the conversation with the backend, from another goroutine.
func (s *session) abortBackend() {
	s.wakeMu.Lock()
	bc := s.bc
	s.wakeMu.Unlock()
	if bc != nil {
		bc.Abort()
	}
}

// readBy sets the deadline for what is read of the client. Once the server's
// context has ended it is over: whoever sets it meanwhile must not undo what
// abort did.
func (s *session) readBy(t time.Time) {
	_ = s.conn.SetReadDeadline(t)
	if s.srv.ctx.Err() != nil {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// setBackend changes s.bc under the lock that abort takes.
func (s *session) setBackend(bc *backend.Conn) {
	s.wakeMu.Lock()
	s.bc = bc
	gone := s.gone
	s.wakeMu.Unlock()
	if gone && bc != nil {
		bc.Abort()
	}
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
	if s.done != nil {
		s.done()
	}
}

// serve runs the session until its end, or until the client has been silent for
// so long that the session should be parked.
func (s *session) serve(resumed bool) (silent bool) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
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
			s.settle()
			s.fault(smtp.Reply{Code: 500, Enhanced: "5.2", Text: "Line too long"})
		case errors.Is(err, smtp.ErrBadOctet):
			s.settle()
			s.fault(smtp.Reply{Code: 500, Enhanced: "5.2", Text: "Bare CR or NUL in a command line"})
		default:
			s.readFailed(err)
			return false
		}
		if s.out != nil && len(*s.out) > outLimit {
			s.settle()
			if s.flush() != nil {
				return false
			}
		}
	}
	s.settle()
	_ = s.flush()
	return false
}

// survive runs f and says whether it came to its end. A panic in it ends f and
// nothing else: where one has been before, another one is likely, and none may
// reach the process, which is everybody's.
func (s *session) survive(f func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
		}
	}()
	f()
	return true
}

// panicked notes a panic; to be called where it was recovered.
func (s *session) panicked(p any) {
	s.result = endedPanic
	defer func() { _ = recover() }() // it may be the log that panics, and then there is nobody to tell
	s.srv.log.Error("panic in session", "session", s.id, "panic", p, "stack", string(debug.Stack()))
}

// apologise ends the session after a panic: with what was said before, perhaps
// a 250 to a message, and a 421. The transaction has failed.
func (s *session) apologise() {
	r := s.refuse(421, "3.0", "Internal error, closing connection")
	s.say(r)
	_ = s.flush()
	tx := s.tx
	sent := tx != nil && tx.mailSent && s.bc != nil && s.bc.EndSent()
	s.dropBackend()
	if tx == nil {
		return
	}
	tx.reply, tx.broken = r, "panic"
	outcome := journal.OutcomeFailed
	if sent {
		s.unknown()
		outcome = journal.OutcomeUnknown
	}
	if tx.relay != nil {
		tx.relay.close()
	}
	s.finish(outcome)
}

// open does what comes before the first command: the PROXY header, the limits,
// implicit TLS, the verdict on the connection and the greeting.
func (s *session) open() bool {
	deadline := time.Now().Add(s.set.Timeouts.Greeting)
	_ = s.conn.SetDeadline(deadline)
	s.in = newInput(s.conn)
	if !s.readProxyHeader() {
		return false
	}
	s.client.IP, s.client.Port = s.addr.Addr().String(), int(s.addr.Port())
	if why := s.srv.admit(s, s.set.Limits); why != "" {
		s.result = why
		s.say(s.refuse(421, "7.0", "Too many connections, try again later"))
		_ = s.flush()
		return false
	}
	if s.addr.Addr().Unmap().Is6() && !s.unrationed && !s.set.Backends.TakesIPv6() {
		// At RCPT it would come again by IPv6, for days. Here it takes our other address.
		s.result = "ipv6"
		s.say(s.refuse(421, "3.5", "No mail by IPv6 here at the moment, use our IPv4 address"))
		_ = s.flush()
		return false
	}
	if s.listener.TLS == "implicit" && !s.handshake(s.behindProxyHeader()) {
		return false
	}
	if !s.pregreet() {
		return false
	}
	if v, id := s.refused(policy.Connect, policy.HeloName{}); id != "" {
		s.say(withID(v.Reply, id))
		s.barred = true
		if s.result = endedRefused; v.Disposition == policy.DispositionDefer {
			s.result = endedDeferred
			s.closing = true
		}
		return true
	}
	s.say(smtp.Reply{Code: 220, Text: s.set.Hostname + " ESMTP"})
	return true
}

// pregreet finds out whether the client talks before it is greeted. It must not
// (RFC 5321 §3.1); spamware that writes its whole dialogue at once does. That is
// a fact for rules, and the same session goes on. Where the listener does not wait for
// it, what is there already tells.
func (s *session) pregreet() bool {
	if s.listener.Pregreet <= 0 {
		s.client.Pregreet = s.ahead()
		return true
	}
	s.readBy(time.Now().Add(s.listener.Pregreet))
	switch err := s.in.wait(); {
	case err == nil:
		s.client.Pregreet = true
	case errors.Is(err, os.ErrDeadlineExceeded):
	default:
		return false
	}
	return true
}

// refused judges the connection, or HELO, before there is a transaction. With a
// refusal comes the id under which it was recorded; without an id nothing stands
// in the way.
//
// A policy that only observes says here what it will say of each transaction,
// whose record has it: nothing is refused yet, so nothing is recorded.
func (s *session) refused(st policy.Stage, helo policy.HeloName) (v policy.Verdict, id string) {
	f := earlyFacts.Get().(*policy.Facts)
	s.begin(f, helo)
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
		s.recordRefusal(f, v)
	}
	*f = policy.Facts{}
	earlyFacts.Put(f)
	return v, id
}

// earlyFacts are zero. Nobody keeps them: a record has a copy.
var earlyFacts = sync.Pool{New: func() any { return new(policy.Facts) }}

// begin makes f, which is zero, the facts of a new transaction of a client that
// said helo. An idle session holds none.
func (s *session) begin(f *policy.Facts, helo policy.HeloName) {
	f.Client, f.Listener, f.Helo = s.client, s.listener.Name, helo
	if s.tls != nil {
		f.TLS = *s.tls
	}
	f.Begin(newID())
}

// nextLine returns the next command line without its CRLF. Everything said so
// far leaves when no whole command is there any more: not sooner, since replies that are
// ready together travel together (RFC 2920 §3.2), and not later. A session that
// was parked goes on waiting.
func (s *session) nextLine(resumed bool) ([]byte, error) {
	if !resumed && !s.in.hasLine() {
		// NOT: only where nothing is buffered. Half a command may be, and its
		// client waits for us; the deadline that is set is that of the message
		// before, and has passed while the backend thought.
		s.settle()
		if err := s.flush(); err != nil {
			return nil, err
		}
		limit := s.set.Timeouts.Command
		if s.commands == 0 && s.transactions == 0 {
			limit = s.set.Timeouts.Greeting
		}
		s.deadline = time.Now().Add(limit)
		s.readBy(s.deadline)
	}
	// Between two chunks of a message the client is in the message.
	s.setWaiting(s.tx == nil || s.tx.relay == nil)
	if s.mustEnd() {
		s.wake()
	}
	err := s.waitForCommand()
	if !errors.Is(err, errSilent) { // one that is parked waits on
		s.setWaiting(false)
	}
	if err != nil {
		return nil, err
	}
	if !s.greeted && s.tls == nil && s.proxySigned() {
		return nil, errProxyHeader
	}
	if !s.manners.served {
		if err := s.otherProtocol(); err != nil {
			return nil, err
		}
	}
	return smtp.ReadLine(s.in.br, lineLimit)
}

// idleBackend is how long a client that has nothing to say may keep a backend
// connection to itself. Between the messages of one client it is worth
// keeping: taking another costs at least the XCLIENT.
const idleBackend = 3 * time.Second

// parkAfter is how long a client may be silent before its session is parked:
// longer than the way to it and back, nearly always.
const parkAfter = 150 * time.Millisecond

// errSilent ends the wait for a command of a session that should be parked.
var errSilent = errors.New("proxy: the client is silent")

// waitForCommand waits for the first octet of a command, until s.deadline; for
// the whole of it where the session has a connection to the backend that others
// may come to want.
func (s *session) waitForCommand() error {
	parkable := canPark && s.done != nil && s.tx == nil && s.in.buffered() == 0
	if s.in.hasLine() || s.mustEnd() || s.bc == nil && !parkable {
		return s.in.wait()
	}
	patient := s.deadline
	if s.tx == nil {
		p := time.Now().Add(parkAfter)
		if s.bc != nil {
			// NOT: from now. A client that says NOOP every second or two would keep
			// the connection for as long as it likes.
			p = s.bc.LastUsed().Add(idleBackend)
		}
		if p.Before(patient) {
			patient = p
		}
	}
	s.waitBy(patient)
	wait, spare := s.in.wait, s.spare()
	if spare {
		wait = s.in.waitLine
	}
	err := wait()
	asked, late := spare && s.wanted(), errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case s.mustEnd():
	case late && (asked || patient.Before(s.deadline)):
		s.giveUp()
		s.waitBy(s.deadline)
		if parkable && s.in.buffered() == 0 {
			return errSilent
		}
		return s.in.wait()
	case spare && err == nil && !s.in.hasLine():
		// More than a line may be: it is read to its end, and that must come soon.
		s.waitBy(time.Now().Add(min(idleBackend, s.set.Timeouts.Command)))
	case asked, err == nil && !s.in.hasLine():
		s.waitBy(s.deadline) // for the rest of it, if there is one
	}
	return err
}

// spare says whether the session could do without its connection to the backend
// while it waits for its client, and tells the pool so: the backend has no answer
// to give, and has heard of no message, or of one that comes too slowly. To be
// ended by wanted.
func (s *session) spare() bool {
	if s.bc == nil {
		return false
	}
	if tx := s.tx; tx != nil && (len(tx.pending) > 0 || tx.mailDue) {
		return false
	}
	s.wakeMu.Lock()
	s.asked = false
	s.wakeMu.Unlock()
	s.bc.Spare(s)
	return true
}

// Asked makes a session that waits for its client look up, since others wait for
// the connection that it could do without (backend.Borrower).
func (s *session) Asked() {
	s.wakeMu.Lock()
	s.asked = true
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	s.wakeMu.Unlock()
}

// wanted ends what spare began, and says whether the session was asked to give
// its connection up. If it was, the deadline for what is read has passed.
func (s *session) wanted() bool {
	if s.bc == nil {
		return false
	}
	s.bc.Wanted()
	s.wakeMu.Lock()
	defer s.wakeMu.Unlock()
	return s.asked
}

// gaveUp ends spare where octets of a message were waited for: it says whether
// there were none, but somebody who got the connection, and the client is to be
// waited for again.
func (s *session) gaveUp(spare bool, err error) bool {
	if !spare || !s.wanted() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	s.giveUp()
	return true
}

// giveUp lets go of the connection to the backend. Between two transactions that
// costs nothing. A client that is silent in the middle of one, while others wait,
// is told to come again. NOT: what it has been told so far said again later, on
// another connection; there may be none then, and the backend may think otherwise.
func (s *session) giveUp() {
	s.giveUpFor(errSlow, "given up for others: the client was silent or slow while they waited for a connection")
}

// giveUpFor is giveUp, with what the client is told and the record says. A message
// that has begun is cut: without its end the backend has none.
func (s *session) giveUpFor(r smtp.Reply, why string) {
	if tx := s.tx; tx != nil && s.bc != nil {
		tx.broken, tx.gaveUp = why, r
		if tx.relay != nil {
			tx.relay.discard(s.unserved(), journal.OutcomeFailed)
		}
	}
	s.releaseBackend()
}

// waitBy is readBy for a session that waits for a command: it does not undo what
// wake did.
func (s *session) waitBy(t time.Time) {
	s.readBy(t)
	if s.mustEnd() {
		s.wake()
	}
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
		s.settle()
		s.say(s.refuse(500, "5.2", "Bare LF is no line ending, closing connection"))
	case errors.Is(err, errProxyHeader):
		s.settle()
		s.say(s.unexpectedProxyHeader(""))
	case errors.Is(err, errHTTP), errors.Is(err, errTLS):
		s.misplaced(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.settle()
		switch {
		case s.srv.draining.Load():
			s.result = endedShutdown
			s.say(s.refuse(421, "3.2", "Service shutting down, closing connection"))
		case s.givesWay.Load():
			s.result = endedGaveWay
			s.say(s.refuse(421, "3.2", "Too many connections, closing one without a message"))
		default:
			s.result = endedTimeout
			s.say(s.refuse(421, "4.2", "Timeout, closing connection"))
		}
	case errors.Is(err, io.EOF):
		if s.result == endedLost && s.tx == nil && s.messages > 0 {
			s.result = endedClosed
		}
		return
	default:
		return
	}
	_ = s.flush()
}

// say queues a reply.
func (s *session) say(r smtp.Reply) {
	if r.IsZero() {
		return
	}
	if s.out == nil {
		s.out = outs.Get().(*[]byte)
	}
	*s.out = smtp.AppendReply(*s.out, r)
	s.srv.metrics.Reply(r.Code, r.Enhanced)
	if s.srv.log.Enabled(s.srv.ctx, slog.LevelDebug) {
		s.srv.log.Debug("reply", "session", s.id, "reply", r.String())
	}
}

// outs are buffers for what is small and soon sent: replies, and the fields on
// top of a message. They are empty.
var outs = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// putOut gives a buffer back, unless it has grown too large to keep.
func putOut(b *[]byte) {
	if cap(*b) <= 2*outLimit {
		*b = (*b)[:0]
		outs.Put(b)
	}
}

// flush sends what was said.
func (s *session) flush() error {
	if s.out == nil {
		return nil
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.set.Timeouts.Command))
	_, err := s.w.Write(*s.out)
	putOut(s.out)
	s.out = nil
	return err
}

// turnAway is for a connection that gets no session. It has its log line all the
// same.
func (s *session) turnAway(result ending, r smtp.Reply) {
	s.result = result
	_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = s.conn.Write(smtp.AppendReply(nil, r))
	s.srv.metrics.Reply(r.Code, r.Enhanced)
	s.end()
}

// refuse makes a reply of ours that bears an id: the transaction's, or that of
// the session where there is none.
func (s *session) refuse(code int, enhanced, text string) smtp.Reply {
	id := s.id
	if s.tx != nil {
		id = s.tx.facts.ID
	}
	return withID(smtp.Reply{Code: code, Enhanced: enhanced, Text: text}, id)
}

// withID ends a reply with the id under which the log and the journal know it.
func withID(r smtp.Reply, id string) smtp.Reply {
	r.Text += " (" + id + ")"
	return r
}

// end closes the session and writes its log line. Whatever panics on the way,
// what is behind it is done all the same: no slot of a backend stays taken, and
// no socket open.
func (s *session) end() {
	if !s.survive(s.abandon) {
		s.survive(s.dropBackend)
	}
	s.survive(s.releaseBackend)
	s.survive(s.hangUp)
	s.survive(s.logConnection)
}

func (s *session) hangUp() {
	defer s.conn.Close()
	if s.in != nil {
		s.in.release()
	}
	_ = s.w.Close()
}

func (s *session) logConnection() {
	version := ""
	if s.tls != nil {
		version = s.tls.Version
	}
	s.srv.metrics.Connection(s.listener.Name, string(s.result))
	s.srv.log.LogAttrs(s.srv.ctx, slog.LevelInfo, "connection",
		slog.String("session", s.id),
		slog.String("client", s.addr.String()),
		slog.String("listener", s.listener.Name),
		slog.String("helo", s.heloName.Name),
		slog.String("tls", version),
		slog.String("result", string(s.result)),
		slog.Int("transactions", s.transactions),
		slog.Int("messages", s.messages),
		slog.Int("errors", s.errors),
		slog.String("last_error", s.lastFault.String()),
		slog.Float64("took", time.Since(s.began).Seconds()),
	)
}
