package amtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"postern/policy"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// Guest is what a server does for one connection. The goroutine of the connection alone calls it. ctx ends with the
// server.
type Guest interface {
	// Login returns the address of a user. ErrCredentials: there is none of that name and password; any other error is
	// trouble of ours, and no try of the user's.
	Login(ctx context.Context, name, password string) (smtp.Path, error)
	// Recipient says whether the user's mail may go to an address: 250, 251, or why not.
	Recipient(ctx context.Context, to smtp.Path) smtp.Reply
	// Message takes a message of the user's and returns the last word on it.
	Message(ctx context.Context, m *Submission) smtp.Reply
	// Reset forgets the recipients: RSET came, or a message has ended.
	Reset()
	// Selo answers an announcement.
	Selo(ctx context.Context, a Announcement) smtp.Reply
	// Sema returns the mail that is asked for, or why there is none.
	Sema(ctx context.Context, c Claim) (Parcel, smtp.Reply)
	// End is called at the end of the connection.
	End()
}

// ErrCredentials is what Guest.Login returns for a user who is unknown.
var ErrCredentials = errors.New("amtp: wrong name or password")

// Submission is a message of a user.
type Submission struct {
	From smtp.Path
	To   []smtp.Path // those that Recipient took
	// Head is the header section (RFC 5322), the empty line at its end included, with From, Date, Message-ID and To.
	Head []byte
	// Body is what stands behind it, to be read to its end: io.EOF says that the whole came. With any other error there
	// is no message, and what Message returns is not said.
	Body io.Reader
}

// Parcel is a message that is handed over. Read returns it as it is in RFC 5322.
type Parcel interface {
	io.Reader
	// Answered is told what became of it; the zero Reply: the other side has not said. An error: it could not be noted.
	Answered(r smtp.Reply) error
	// Close lets go of it.
	Close() error
}

// Session is one connection, as Handler is told of it.
type Session struct {
	ID    string
	Peer  netip.AddrPort
	Local netip.AddrPort

	srv  *Server
	set  *Settings
	wire wire.Conn
	tls  *policy.TLS // nil: in the clear

	guest    Guest
	began    time.Time
	state    State
	awaits   bool // credentials
	tries    int
	user     smtp.Path
	rcpts    []smtp.Path
	head     smtp.Header // of HEAD
	hasHead  bool
	faults   int
	commands int // since the last mail
	messages int
	last     smtp.Reply // to the last fault
	result   string     // how the connection ended
	closing  bool

	mu      sync.Mutex
	waiting bool // for a command
}

// TLS is how the connection is encrypted; nil: in the clear.
func (s *Session) TLS() *policy.TLS { return s.tls }

// Server is where the session began.
func (s *Session) Server() *Server { return s.srv }

// wake makes a session that waits for a command look up. NOT: one within a message, which may come to its end.
func (s *Session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		s.wire.Interrupt()
	}
}

func (s *Session) setWaiting(waiting bool) {
	s.mu.Lock()
	s.waiting = waiting
	s.mu.Unlock()
}

// run is the whole session. A panic ends it and no other, and the other side hears a 421.
func (s *Session) run(ctx context.Context) {
	defer s.logConnection()
	defer s.wire.Close()
	defer func() {
		if p := recover(); p != nil {
			s.result = "panic"
			s.srv.Log.Error("panic in session", "session", s.ID, "panic", p, "stack", string(debug.Stack()))
			s.wire.Say(replyPanic)
			_ = s.wire.Flush()
		}
	}()
	if s.guest = s.srv.Handler.Begin(s); s.guest == nil {
		s.result = "shutdown"
		s.wire.TurnAway(replyShutdown)
		return
	}
	defer s.guest.End()
	s.wire.Say(smtp.Reply{Code: 220, Text: s.set.Hostname + " AMTP"})
	for !s.closing {
		line, err := s.nextLine()
		switch {
		case err == nil:
			s.line(ctx, line)
		case errors.Is(err, smtp.ErrLineTooLong):
			s.fault(replyLineTooLong)
		case errors.Is(err, smtp.ErrBadOctet):
			s.fault(replyBadOctet)
		default:
			s.readFailed(err)
			return
		}
		if s.wire.Full() && s.wire.Flush() != nil {
			return
		}
	}
	_ = s.wire.Flush()
}

// nextLine returns the next line without its CRLF. What was said leaves when no line is there any more.
func (s *Session) nextLine() ([]byte, error) {
	if !s.wire.HasLine() {
		if err := s.wire.Flush(); err != nil {
			return nil, err
		}
		limit := s.set.Timeouts.Command
		if s.commands == 0 && s.messages == 0 {
			limit = s.set.Timeouts.Greeting
		}
		s.wire.ReadBy(time.Now().Add(limit))
	}
	s.setWaiting(true)
	defer s.setWaiting(false)
	if s.srv.draining.Load() {
		s.wire.Interrupt()
	}
	if err := s.wire.Wait(); err != nil {
		return nil, err
	}
	return s.wire.ReadLine()
}

// readFailed answers a line that could not be read, if anybody is there to hear it.
func (s *Session) readFailed(err error) {
	switch {
	case errors.Is(err, smtp.ErrBareLF):
		s.result = "bare_lf"
		s.wire.Say(replyBareLF)
	case errors.Is(err, os.ErrDeadlineExceeded) && s.srv.draining.Load():
		s.result = "shutdown"
		s.wire.Say(replyShutdown)
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.result = "timeout"
		s.wire.Say(replyTimeout)
	default:
		return
	}
	_ = s.wire.Flush()
}

// line serves one line: credentials where they are awaited, or a command.
func (s *Session) line(ctx context.Context, line []byte) {
	if s.commands++; s.commands > idleCommands+s.set.Limits.Recipients {
		s.end("idle_talk", replyCommands)
		return
	}
	if s.awaits {
		if name, password, ok := parseCredentials(line); ok {
			s.login(ctx, name, password)
			return
		}
		// What has no blank is no name and password, and may be QUIT.
	}
	c, err := Parse(line)
	if s.awaits && (err != nil || transition(Identified, c.Verb) == nil) {
		s.unknownUser()
		return
	}
	var bad *smtp.SyntaxError
	if errors.As(err, &bad) {
		s.fault(bad.Reply)
		return
	}
	s.awaits = s.awaits && (c.Verb == Noop || c.Verb == Help)
	t := transition(s.state, c.Verb)
	if t == nil {
		r := replyLoggedIn
		if s.state == Identified {
			r = replyUserFirst
		}
		s.fault(r)
		return
	}
	if t.Needs == NeedsRecipients && len(s.rcpts) == 0 {
		r := replyNeedRcptTo
		if c.Verb == Data {
			r = replyNeedRcpt
		}
		s.fault(r)
		return
	}
	s.serve(ctx, t, &c)
}

// serve does what a command asks for, and takes the state of its row where it succeeds.
func (s *Session) serve(ctx context.Context, t *Transition, c *Command) {
	var r smtp.Reply
	switch c.Verb {
	case StartTLS:
		r = s.startTLS()
	case User:
		if r = s.userFirst(); r.IsZero() {
			s.awaits, r = true, replyReady
		}
	case Selo:
		r = s.guest.Selo(ctx, c.Announced)
	case Sema:
		r = s.sema(ctx, c.Claimed)
	case Rcpt, More:
		r = s.recipients(ctx, c.Recipients)
	case Head:
		r = s.readHead()
	case Data:
		r = s.readData(ctx)
	case Rset:
		s.reset()
		r = replyRset
	case Noop:
		r = replyNoop
	case Help:
		r = help(c.Arg)
	case Quit:
		s.end("quit", replyBye)
	}
	switch {
	case c.Verb == Quit:
		s.state = t.Then
	case r.IsZero(): // it was said, or the connection is lost
	case r.Positive():
		s.state = t.Then
		s.wire.Say(r)
	case r.Permanent() && (r.Code <= 504 || r.Code == 555 || c.Verb == Selo):
		s.fault(r)
	default:
		s.wire.Say(r)
	}
}

// end says the last reply and ends the session.
func (s *Session) end(result string, r smtp.Reply) {
	s.result, s.closing = result, true
	s.wire.Say(r)
}

// fault answers what the other side did wrong, and ends the session where it was too often.
func (s *Session) fault(r smtp.Reply) {
	s.faults++
	s.last = r
	s.wire.Say(r)
	if n := s.set.Limits.Errors; n > 0 && s.faults >= n && !s.closing {
		s.end("errors", replyErrors)
	}
}

// userFirst says why a user may not log in here: the password would be read on the way.
func (s *Session) userFirst() smtp.Reply {
	if s.tls == nil && !s.Peer.Addr().IsLoopback() {
		return replyTLSFirst
	}
	return smtp.Reply{}
}

// login asks for a user.
func (s *Session) login(ctx context.Context, name, password string) {
	s.awaits = false
	address, err := s.guest.Login(ctx, name, password)
	switch {
	case errors.Is(err, ErrCredentials):
		s.unknownUser()
	case err != nil:
		s.srv.Log.Warn("a user could not be looked up", "session", s.ID, "error", err.Error())
		s.wire.Say(replyBusy)
	default:
		s.user, s.state, s.commands = address, transition(Identified, Credentials).Then, 0
		s.wire.Say(smtp.Reply{Code: 250, Text: fmt.Sprintf("Welcome %s to the AMTP server.\nVersion: 2.0; SIZE %d; 8BITMIME; %d recipients", address, s.set.Limits.MessageSize, s.set.Limits.Recipients)})
	}
}

// unknownUser counts a try. The line behind USER may come again.
func (s *Session) unknownUser() {
	if s.tries++; s.tries >= Tries {
		s.end("errors", replyThirdTry)
		return
	}
	s.awaits = true
	s.fault(replyUnknownUser)
}

// recipients takes those of RCPT TO or MORE TO, and says what became of them in one reply: the first refusal, or that
// all were taken. The drafts have a list and one reply; who wants to know of each asks for each.
func (s *Session) recipients(ctx context.Context, list []smtp.Path) smtp.Reply {
	code, taken := 250, make([]string, 0, len(list))
	for _, to := range list {
		if len(s.rcpts) >= s.set.Limits.Recipients {
			return replyRecipients
		}
		r := s.guest.Recipient(ctx, to)
		if !r.Positive() {
			if len(list) > 1 && !r.IsZero() {
				r.Text = to.String() + ": " + r.Text
			}
			return r
		}
		code, taken = r.Code, append(taken, to.String())
		s.rcpts = append(s.rcpts, to)
	}
	return accepted(code, taken)
}

// reset forgets the message that is being made, and not the login.
func (s *Session) reset() {
	s.guest.Reset()
	s.rcpts, s.head, s.hasHead = nil, nil, false
}

// startTLS encrypts the connection (RFC 3207). What was said before is forgotten.
func (s *Session) startTLS() smtp.Reply {
	switch {
	case s.tls != nil:
		return replyTLSOn
	case s.set.TLS == nil:
		return replyNoTLS
	case s.wire.Buffered() > 0:
		// Octets behind STARTTLS came in the clear, from somebody who hopes that they are read as if they had been
		// encrypted (CVE-2011-0411).
		s.result, s.closing = "starttls_injection", true
		return replyInjected
	}
	s.wire.Say(replyTLS)
	if s.wire.Flush() != nil {
		s.closing = true
		return smtp.Reply{}
	}
	facts, _, err := s.wire.Handshake(s.set.TLS, s.set.Timeouts.TLSHandshake, time.Now())
	if err != nil {
		s.result, s.closing = "tls_failed", true
		s.srv.Metrics.TLSHandshake("", "error")
		s.srv.Log.Info("TLS handshake failed", "session", s.ID, "client", s.Peer.String(), "listener", s.srv.Name, "error", err.Error())
		return smtp.Reply{}
	}
	s.srv.Metrics.TLSHandshake(facts.Version, "ok")
	s.tls, s.awaits, s.tries = &facts, false, 0
	return smtp.Reply{}
}

// sema hands a message over and hears what became of it.
func (s *Session) sema(ctx context.Context, c Claim) smtp.Reply {
	if s.wire.Ahead() {
		// What is there already would be read as the last word on a message that nobody has seen.
		s.result, s.closing = "unsynchronized", true
		return replyAhead
	}
	parcel, r := s.guest.Sema(ctx, c)
	if parcel == nil {
		return r
	}
	defer func() { _ = parcel.Close() }()
	answer, err := s.handOver(parcel)
	if err != nil {
		// NOT: a reply. Without its end there is no message, and what is said now would be read as part of it.
		s.srv.Log.Warn("mail was not handed over", "session", s.ID, "client", s.Peer.String(), "error", err.Error())
		_ = parcel.Answered(smtp.Reply{})
		s.closing = true
		s.wire.Cut()
		return smtp.Reply{}
	}
	s.commands = 0
	s.messages++
	if answer.Code < 200 || answer.Intermediate() {
		_ = parcel.Answered(smtp.Reply{})
		return replyResult
	}
	if err := parcel.Answered(answer); err != nil {
		s.srv.Log.Error("what became of mail could not be noted", "session", s.ID, "error", err.Error())
		return replyTrouble
	}
	if answer.Positive() {
		return replyDelivered
	}
	return replyNoted
}

// handOver says 250 and the message, and waits for the other side's word on it.
func (s *Session) handOver(p Parcel) (smtp.Reply, error) {
	// Who reads a little now and then would keep the message, and a connection, for days.
	ceiling := time.AfterFunc(handOverBlocks*s.set.Timeouts.DataBlock, s.wire.Cut)
	defer ceiling.Stop()
	s.wire.Say(SemaAccepted)
	w := smtp.NewDotWriter(&s.wire)
	if err := Encode(w, p, s.set.Hostname, s.Local.Addr(), time.Now()); err != nil {
		return smtp.Reply{}, err
	}
	if err := w.Close(); err != nil {
		return smtp.Reply{}, err
	}
	ceiling.Stop() // what follows has a time of its own
	s.wire.ReadBy(time.Now().Add(s.set.Timeouts.EndOfData + answerMargin))
	return s.wire.ReadReply()
}

func (s *Session) logConnection() {
	version := ""
	if s.tls != nil {
		version = s.tls.Version
	}
	s.srv.Metrics.Connection(s.srv.Name, s.result)
	s.srv.Log.LogAttrs(context.Background(), slog.LevelInfo, "connection",
		slog.String("session", s.ID),
		slog.String("client", s.Peer.String()),
		slog.String("listener", s.srv.Name),
		slog.String("helo", ""),
		slog.String("tls", version),
		slog.String("result", s.result),
		slog.String("state", string(Logout)),
		slog.Int("transactions", s.messages),
		slog.Int("messages", s.messages),
		slog.Int("errors", s.faults),
		slog.String("last_error", s.last.String()),
		slog.Float64("took", time.Since(s.began).Seconds()),
	)
}

// local is the address that a peer reached us at; the zero one without a socket.
func local(conn net.Conn) netip.AddrPort { return wire.AddrPort(conn.LocalAddr()) }
