package proxy

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"postern/checks"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/fields"
	"postern/proxy/hold"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// receivedLimit is where a message counts as going round (RFC 5321 §6.3).
const receivedLimit = 100

// The refusals of a message for what it is.
var (
	errBareCR       = smtp.Reply{Code: 550, Enhanced: "6.0", Text: "Message contains a bare CR"}
	errBareLF       = smtp.Reply{Code: 550, Enhanced: "6.0", Text: "Message contains a bare LF"}
	errNUL          = smtp.Reply{Code: 550, Enhanced: "6.0", Text: "Message contains NUL"}
	errContinuation = smtp.Reply{Code: 550, Enhanced: "6.0", Text: "Message begins with white space"}
	errHeaderSize   = smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Header section too large"}
	errHeaderFields = smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Too many header fields"}
	errLoop         = smtp.Reply{Code: 554, Enhanced: "4.6", Text: "Too many Received fields: mail loop"}
	errEightBit     = smtp.Reply{Code: 554, Enhanced: "6.3", Text: "The mail server behind us takes no 8-bit text"}
	errSpool        = smtp.Reply{Code: 452, Enhanced: "3.1", Text: "Cannot hold the message at the moment, try again later"}
	errSlow         = smtp.Reply{Code: 451, Enhanced: "4.5", Text: "Too slow while others waited for the mail server behind us, try again later"}
	errPenalty      = smtp.Reply{Code: 451, Enhanced: "7.0", Text: "Too many errors in this transaction, try again later"}
	errUnknown      = smtp.Reply{Code: 451, Enhanced: "4.2", Text: "The mail server behind us did not confirm the message, try again later"}
)

// message is one message on its way from the client to the backend.
//
// It is a state machine that octets are pushed into, since DATA and BDAT bring
// them in different ways. First it gathers the header section; when that is
// complete it is judged, and only then does the backend hear DATA or BDAT. From
// there the octets stream, or, where a rule needs the whole message, are held.
// A message that was refused is read to its end all the same: before the end no
// reply is allowed (RFC 5321 §3.3). How it goes to the backend is for outgoing.
type message struct {
	tx    *transaction
	state messageState

	// How it comes.
	raw    bool // by BDAT: not dot-stuffed
	binary bool // BODY=BINARYMIME: no lines either
	seven  bool // the backend takes no 8-bit text; looked after here for BDAT, in receive for DATA
	whole  bool // what is pushed next is the rest of the message
	text   smtp.TextScanner
	pace   wire.Pace // of the client, over all its BDATs
	limit  int64     // octets of the whole message, by BDAT
	left   int64     // octets of the client's BDAT still to come
	last   bool      // it is the last one

	// What is kept of it.
	head    []byte      // the header section and what came with its end, while gathered
	room    hold.Room   // for that
	body    int         // where in head the body begins, once that is known
	hold    *hold.Spool // the message, not dot-stuffed, where it must be held
	unstuff smtp.Unstuffer
	scratch []byte // what was unstuffed last

	// Where it goes.
	out  outgoing
	fate fate // why it is discarded
}

// fate is what became of a message: what the client is told, and what the record says.
// The zero fate is not known yet.
type fate struct {
	reply   smtp.Reply
	outcome journal.Outcome
}

// sealed says whether the fate is known.
func (f fate) sealed() bool { return f.outcome != "" }

type messageState int

const (
	gathering messageState = iota
	streaming
	holding
	discarding
)

func newMessage(tx *transaction) *message {
	m := &message{tx: tx}
	m.out.tx = tx
	tx.message = m
	return m
}

// push takes the next good octets of the message, as they stand on the wire.
// It cannot fail: what goes wrong is kept until the end.
func (m *message) push(b []byte) {
	if m.state == gathering || m.state == holding {
		m.keepAlive()
	}
	switch m.state {
	case gathering:
		m.gather(b)
	case streaming:
		m.send(b)
	case holding:
		m.spool(b)
	case discarding:
	}
}

// keepAliveEvery is how long the backend may have to wait for DATA without a
// word from us. With the longest pause that a client may make (three minutes)
// it stays below the five that MTAs wait for a command.
const keepAliveEvery = time.Minute

// keepAlive tells the backend, which has heard RCPT and not yet DATA, that we
// are still there. A client on a slow line takes longer over a message that is
// held than MTAs wait; it would be told to come again, each time.
func (m *message) keepAlive() {
	now := time.Now()
	if m.out.spoken.IsZero() {
		m.out.spoken = now
	}
	if now.Sub(m.out.spoken) < keepAliveEvery {
		return
	}
	tx := m.tx
	m.out.spoken = now
	if tx.loan.bc == nil {
		return
	}
	tx.loan.bc.QueueNoop()
	if !tx.skipReply() && !m.out.again {
		tx.broken = "" // see present: it has lost nothing but an envelope
		return
	}
	if tx.loan.bc == nil {
		m.discard(tx.failed())
		return
	}
	m.out.spoken = time.Now()
}

// gather collects the header section, up to and including the empty line.
func (m *message) gather(b []byte) {
	seen := len(m.head)
	borrowed := len(m.head) == 0
	if borrowed {
		m.head = b // most header sections come in one piece
	} else {
		m.head = append(m.head, b...)
	}
	switch _, body := smtp.HeaderEndFrom(m.head, seen); {
	case body >= 0:
		m.body = body
	case m.whole:
		m.body = len(m.head) // no empty line: all of it is header
	case len(m.head) > int(m.tx.set.Limits.HeaderSize):
		m.tx.srv.metrics.LimitReached("header_size")
		m.refuse(errHeaderSize)
		return
	default:
		if borrowed {
			m.head = append(make([]byte, 0, max(2*len(b), 4<<10)), b...)
		}
		m.roomForHeader(cap(m.head))
		return
	}
	if m.roomForHeader(len(m.head)) {
		m.judgeHeader()
	}
	m.head = nil
	m.room.Close()
}

// smallHeader is how large a header section may be, in octets, without counting
// against what is for all: most are, and those of many idle clients cost little.
const smallHeader = 16 << 10

// roomForHeader takes memory for a large header section, of which there is a copy
// while it is judged.
func (m *message) roomForHeader(octets int) bool {
	if octets <= smallHeader {
		return true
	}
	tx := m.tx
	if m.room == (hold.Room{}) {
		m.room = tx.srv.held.RoomFor(tx.peer.who, tx.set.Limits)
	}
	if m.room.InMemory(2*int64(octets), hold.Memory) {
		return true
	}
	tx.srv.metrics.LimitReached("held_memory")
	m.cannotHold(hold.ErrNoRoom)
	return false
}

// judgeHeader decides on the header section and begins to pass the message on.
func (m *message) judgeHeader() {
	tx := m.tx
	start := time.Now()
	head, rest := m.head[:m.body], m.head[m.body:]
	if m.body > int(tx.set.Limits.HeaderSize) {
		m.tx.srv.metrics.LimitReached("header_size")
		m.refuse(errHeaderSize)
		return
	}
	if m.binary {
		// The header section of a binary message is text like any (RFC 3030 §3).
		var text smtp.TextScanner
		err := text.Scan(head)
		if err == nil {
			err = text.Close()
		}
		if err != nil {
			m.refuse(badOctets(err))
			return
		}
	}
	if !m.raw {
		head = smtp.Restuff(head) // or ".From: x" would be a field to the MTA and none to us
	}
	if smtp.FirstLineContinues(head) {
		m.refuse(errContinuation)
		return
	}
	if smtp.CountFields(head) > tx.set.Limits.HeaderFields {
		tx.srv.metrics.LimitReached("header_fields")
		m.refuse(errHeaderFields)
		return
	}
	head, ok := m.nameMailboxLines(head)
	if !ok {
		return
	}
	h, bad := smtp.ParseHeader(head)
	if countReceived(h) > receivedLimit {
		m.refuse(errLoop)
		return
	}
	tx.facts.Rcpt = tx.firstTaken()
	msg := checks.Message{Header: h, Section: head}
	tx.facts.Header = checks.HeaderFacts(msg)
	tx.runChecks(policy.Header, msg)
	refusal := tx.judge(policy.Header)
	tx.time("header", start)
	if !refusal.IsZero() {
		m.discard(fate{refusal, journal.OutcomeRefused})
		return
	}
	if tx.set.Chain.HoldsMessage() && !tx.settled(policy.Header) || tx.candidateWaits() {
		if checks.Signed(h) || tx.set.Chain.HoldsUnsigned() {
			m.state = holding
			m.hold = tx.srv.held.Spool(tx.peer.who, tx.set.Limits)
			m.spool(head)
			if m.state == holding {
				m.hold.EndHead()
				m.spool(rest)
			}
			return
		}
		// Nobody signed it, so the rest of it would tell nothing new: the last
		// stage can be judged now, and the message streams.
		start := time.Now()
		tx.runChecks(policy.Message, msg)
		refusal := tx.judge(policy.Message)
		tx.time("message", start)
		if !refusal.IsZero() {
			m.discard(fate{refusal, journal.OutcomeRefused})
			return
		}
	}
	ours := wire.TakeBuffer()
	defer wire.PutBuffer(ours)
	*ours = tx.appendFields(*ours)
	kept := fields.WithoutForged(head, h, bad, tx.set.Hostname, tx.set.Chain.TagNames())
	if !m.begin(int64(len(*ours)+len(kept)+len(rest)) + m.left) {
		return
	}
	m.state = streaming
	m.send(*ours)
	m.send(kept)
	m.send(rest)
}

// nameMailboxLines makes fields of the "From " lines that an mbox file has above a
// message. What may not continue our last field may not continue them either.
func (m *message) nameMailboxLines(head []byte) (named []byte, ok bool) {
	named, rest := smtp.NameMailboxLines(head)
	switch {
	case rest == 0:
	case len(named) > int(m.tx.set.Limits.HeaderSize):
		m.refuse(errHeaderSize)
		return nil, false
	case smtp.FirstLineContinues(named[rest:]):
		m.refuse(errContinuation)
		return nil, false
	}
	return named, true
}

func countReceived(h smtp.Header) (n int) {
	for i := range h {
		if strings.EqualFold(h[i].Name, "Received") {
			n++
		}
	}
	return n
}

// begin tells the backend that the message comes; size is how many octets are
// sure to follow, where the octets come by BDAT, and where all are in hand how
// many there are at the most.
func (m *message) begin(size int64) bool {
	if !m.out.present(m.hold != nil) {
		m.discard(m.tx.failed())
		return false
	}
	if m.out.choose(m) {
		// We said so at MAIL, from what the backend offered then.
		m.discard(m.tx.failed())
		return false
	}
	f := m.out.framing.begin(&m.out, size, m.last || m.hold != nil)
	if f.sealed() {
		m.discard(f)
	}
	return !f.sealed()
}

// send passes octets on to the backend.
func (m *message) send(b []byte) {
	if len(b) == 0 || m.state == discarding {
		return
	}
	if f := m.out.framing.send(&m.out, b); f.sealed() {
		m.discard(f)
	}
}

// discard makes the message a refused one. The rest of it is read and dropped.
// The first reason stands.
func (m *message) discard(f fate) {
	if m.state == discarding {
		return
	}
	tx := m.tx
	tx.ended = m.stage(tx.reached)
	m.state, m.fate = discarding, f
	m.close()
	if m.out.begun {
		tx.loan.drop() // NOT: a dot. DATA cannot be taken back but by a close.
	}
	tx.loan.release() // the client may take an hour for the rest, and others need it
}

// stage is that at which the message is, where reached was judged last.
func (m *message) stage(reached policy.Stage) policy.Stage {
	if m.state == gathering {
		return max(policy.Header, reached)
	}
	return policy.Message
}

// refuse is discard for what the message is: too large, or not fit to go on.
func (m *message) refuse(reply smtp.Reply) { m.discard(m.tx.refusal(reply)) }

// chunkPart takes octets of the BDAT announced.
func (m *message) chunkPart(b []byte) {
	if m.state == discarding {
		return
	}
	if !m.binary {
		if err := m.text.Scan(b); err != nil {
			m.refuse(badOctets(err))
			return
		}
	}
	if m.seven && smtp.Has8Bit(b) {
		m.refuse(errEightBit)
		return
	}
	m.left -= int64(len(b))
	m.whole = m.last && m.left == 0
	if m.chunksEnd(); m.state == discarding {
		return
	}
	if m.whole {
		m.ends()
	}
	m.push(b)
}

// chunksEnd refuses a text that ends within a line ending. It is asked when the
// last octets are known and before any of them goes on: once a backend has the
// whole of a BDAT LAST it has the message, whatever the client is told.
func (m *message) chunksEnd() {
	if m.last && m.left == 0 && m.state != discarding && !m.binary {
		if err := m.text.Close(); err != nil {
			m.refuse(badOctets(err))
		}
	}
}

// chunk announces the next n octets, by BDAT.
func (m *message) chunk(n int64, last bool) {
	m.left, m.last = n, last
	m.chunksEnd()
	if m.state != streaming || n == 0 && !last {
		return
	}
	if _, ok := m.out.framing.(chunks); !ok {
		return
	}
	if f := m.out.chunk(n, last); f.sealed() {
		m.discard(f)
	}
}

// ends begins the time from the client's last octet to our reply: whatever is
// still to be judged, passed on and answered, the client waits ten minutes for
// it, and then sends the message again (RFC 5321 §4.5.3.2.6).
func (m *message) ends() {
	if m.state != discarding && m.out.ending == nil {
		m.out.ending = time.AfterFunc(m.tx.set.Timeouts.EndOfData, m.tx.loan.hangUp)
	}
}

// end is the end of the message: the last judgement, the dot, and the backend's answer,
// which is the client's.
func (m *message) end() fate {
	m.tx.facts.Message.Size = m.tx.bytes
	m.ends()
	if m.state == gathering {
		m.whole = true
		m.gather(nil)
	}
	if m.state == holding {
		m.judgeMessage()
	}
	if m.state == discarding {
		return m.fate
	}
	defer m.tx.time("end_of_data", time.Now())
	f, err := m.out.framing.end(&m.out)
	if f.sealed() {
		m.discard(f)
		return f
	}
	return m.out.answer(err)
}

// close forgets the message. It may be called again.
func (m *message) close() {
	if m.out.ending != nil {
		m.out.ending.Stop()
	}
	m.hold.Close()
	m.room.Close()
	m.head = nil
}

// spool holds octets back.
func (m *message) spool(b []byte) {
	if !m.raw {
		m.scratch = m.unstuff.Append(m.scratch[:0], b)
		b = m.scratch
	}
	if _, err := m.hold.Write(b); err != nil {
		m.cannotHold(err)
	}
}

func (m *message) cannotHold(err error) {
	tx := m.tx
	if !errors.Is(err, hold.ErrNoRoom) { // that is counted, and the client's doing
		tx.srv.log.LogAttrs(tx.srv.ctx, slog.LevelError, "cannot hold a message",
			slog.String("id", tx.facts.ID), slog.String("error", err.Error()))
	}
	tx.fail(err)
	m.discard(fate{withID(errSpool, tx.facts.ID), journal.OutcomeFailed})
}

// judgeMessage judges a held message and passes it on.
func (m *message) judgeMessage() {
	tx := m.tx
	start := time.Now()
	head := make([]byte, m.hold.Head())
	if _, err := m.hold.ReadAt(head, 0); err != nil && len(head) > 0 {
		m.cannotHold(err)
		return
	}
	h, bad := smtp.ParseHeader(head)
	tx.runChecks(policy.Message, checks.Message{Header: h, Section: head, Whole: m.hold, Size: m.hold.Size()})
	refusal := tx.judge(policy.Message)
	tx.time("message", start)
	if !refusal.IsZero() {
		m.discard(fate{refusal, journal.OutcomeRefused})
		return
	}
	ours := tx.appendFields(nil)
	kept := fields.WithoutForged(head, h, bad, tx.set.Hostname, tx.set.Chain.TagNames())
	if !m.begin(int64(len(ours)+len(kept)) + m.hold.Size() - m.hold.Head()) {
		return
	}
	m.send(ours)
	m.send(kept)
	if err := m.hold.BodyTo(sender{m}); err != nil {
		m.cannotHold(err)
	}
}

// sender is a message as a Writer: what is written is sent. It does not fail; what goes
// wrong is kept.
type sender struct{ m *message }

func (s sender) Write(b []byte) (int, error) {
	s.m.send(b)
	return len(b), nil
}

func badOctets(err error) smtp.Reply {
	switch {
	case errors.Is(err, smtp.ErrBareCR):
		return errBareCR
	case errors.Is(err, smtp.ErrNUL):
		return errNUL
	}
	return errBareLF
}
