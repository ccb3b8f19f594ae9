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
	"postern/proxy/relay"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// receivedLimit is where a message counts as going round (RFC 5321 §6.3).
const receivedLimit = 100

// The refusals of a message for what it is.
var (
	errContinuation = smtp.Reply{Code: 550, Enhanced: "6.0", Text: "Message begins with white space"}
	errHeaderSize   = smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Header section too large"}
	errHeaderFields = smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Too many header fields"}
	errLoop         = smtp.Reply{Code: 554, Enhanced: "4.6", Text: "Too many Received fields: mail loop"}
	errEightBit     = smtp.Reply{Code: 554, Enhanced: "6.3", Text: "The mail server behind us takes no 8-bit text"}
	errSpool        = smtp.Reply{Code: 452, Enhanced: "3.1", Text: "Cannot hold the message at the moment, try again later"}
)

// message is one message on its way from the client to the backend.
//
// It is a state machine that octets are pushed into, since DATA and BDAT bring
// them in different ways. First it gathers the header section; when that is
// complete it is judged, and only then does the backend hear DATA or BDAT. From
// there the octets stream, or, where a rule needs the whole message, are held.
// A message that was refused is read to its end all the same: before the end no
// reply is allowed (RFC 5321 §3.3). How it goes to the backend is for relay.Outgoing.
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
	last   bool      // no BDAT comes behind this one

	// What is kept of it.
	head    []byte      // the header section and what came with its end, while gathered
	room    hold.Room   // what head takes of the room for all
	body    int         // where in head the body begins, once that is known
	hold    *hold.Spool // the message, not dot-stuffed, where it must be held
	unstuff smtp.Unstuffer
	scratch []byte // what was unstuffed last

	// Where it goes.
	to   *policy.Recipient // who stands for all as it is judged
	out  relay.Outgoing
	fate relay.Fate // why it is discarded
}

type messageState int

const (
	gathering messageState = iota
	streaming
	holding
	discarding
)

func newMessage(tx *transaction) *message {
	tx.message = &tx.text
	tx.text.tx = tx
	tx.relay.Message(&tx.text.out)
	return tx.message
}

// push takes the next good octets of the message, as they stand on the wire.
// It cannot fail: what goes wrong is kept until the end.
func (m *message) push(b []byte) {
	if m.state == gathering || m.state == holding {
		if f := m.out.KeepAlive(); f.Sealed() {
			m.discard(f)
		}
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
	m.tx.forgetFields()
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

// section is a header section as it is judged: not dot-stuffed, each line of it part of a
// field, and small enough.
type section struct {
	octets []byte
	fields smtp.Header
	bad    int // lines of it that are no field
}

// admit makes a section of what was gathered as header, or refuses the message.
func (m *message) admit(head []byte) (sec section, ok bool) {
	limits := &m.tx.set.Limits
	if len(head) > int(limits.HeaderSize) {
		m.tx.srv.metrics.LimitReached("header_size")
		m.refuse(errHeaderSize)
		return section{}, false
	}
	if m.binary {
		// The header section of a binary message is text like any (RFC 3030 §3).
		var text smtp.TextScanner
		err := text.Scan(head)
		if err == nil {
			err = text.Close()
		}
		if err != nil {
			m.refuse(smtp.BadOctets(err))
			return section{}, false
		}
	}
	if !m.raw {
		head = smtp.Restuff(head) // or ".From: x" would be a field to the MTA and none to us
	}
	if smtp.FirstLineContinues(head) {
		m.refuse(errContinuation)
		return section{}, false
	}
	if smtp.CountFields(head) > limits.HeaderFields {
		m.tx.srv.metrics.LimitReached("header_fields")
		m.refuse(errHeaderFields)
		return section{}, false
	}
	if head, ok = m.nameMailboxLines(head); !ok {
		return section{}, false
	}
	sec.octets = head
	sec.fields, sec.bad = m.tx.fields(head)
	if countReceived(sec.fields) > receivedLimit {
		m.refuse(errLoop)
		return section{}, false
	}
	return sec, true
}

// judgeHeader decides on the header section and begins to pass the message on, or to hold
// it.
func (m *message) judgeHeader() {
	tx := m.tx
	start := time.Now()
	sec, ok := m.admit(m.head[:m.body])
	if !ok {
		return
	}
	rest := m.head[m.body:]
	m.to = tx.rcpts.foremost().facts(&tx.known)
	msg := checks.Message{Header: sec.fields, Section: sec.octets}
	tx.facts.Header = checks.HeaderFacts(msg)
	if !m.judge(policy.Header, msg, start) {
		return
	}
	if tx.set.Checks.AddsFields() {
		m.keep(sec.octets, rest)
		return
	}
	if tx.set.Chain.HoldsMessage() && !tx.settled(policy.Header) || tx.candidateWaits() {
		if checks.Signed(sec.fields) || tx.set.Chain.HoldsUnsigned() || tx.set.Candidate != nil && tx.set.Candidate.HoldsUnsigned() {
			m.keep(sec.octets, rest)
			return
		}
		// Nobody signed it, so the rest of it would tell nothing new: the last
		// stage can be judged now, and the message streams.
		if !m.judge(policy.Message, msg, time.Now()) {
			return
		}
	}
	if m.passOn(sec, int64(len(rest))+m.left) {
		m.send(rest)
	}
}

// judge measures and judges a stage that began at start; false: the message is refused.
func (m *message) judge(st policy.Stage, msg checks.Message, start time.Time) bool {
	tx := m.tx
	tx.runChecks(st, msg)
	refusal := tx.judge(st, m.to)
	tx.Took(st.String(), start)
	if !refusal.IsZero() {
		m.discard(relay.Fate{Reply: refusal, Outcome: journal.OutcomeRefused})
	}
	return refusal.IsZero()
}

// keep begins to hold the message: its header section, and what came with its end.
func (m *message) keep(head, rest []byte) {
	m.state = holding
	m.hold = m.tx.srv.held.Spool(m.tx.peer.who, m.tx.set.Limits)
	m.spool(head)
	if m.state == holding {
		m.hold.EndHead()
		m.spool(rest)
	}
}

// passOn begins to pass the message on, with our fields on top and without forged ones;
// behind its header section come so many octets, as relay.Outgoing counts them.
func (m *message) passOn(sec section, body int64) bool {
	tx := m.tx
	ours := wire.TakeBuffer()
	defer wire.PutBuffer(ours)
	*ours = tx.appendFields(*ours)
	kept := fields.WithoutForged(sec.octets, sec.fields, sec.bad, tx.set.Hostname, tx.set.Chain.TagNames())
	if !m.begin(int64(len(*ours)+len(kept)) + body) {
		return false
	}
	if m.state == gathering {
		m.state = streaming
	}
	m.send(*ours)
	m.send(kept)
	return true
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

// begin tells the backend that the message comes; for size see relay.Outgoing.
func (m *message) begin(size int64) bool {
	f := m.out.Begin(relay.Shape{
		Raw: m.raw || m.hold != nil, Held: m.hold != nil, Whole: m.whole, Last: m.last || m.hold != nil, Binary: m.binary,
	}, size)
	if f.Sealed() {
		m.discard(f)
	}
	return !f.Sealed()
}

// send passes octets on to the backend.
func (m *message) send(b []byte) {
	if len(b) == 0 || m.state == discarding {
		return
	}
	if f := m.out.Send(b); f.Sealed() {
		m.discard(f)
	}
}

// discard makes the message a refused one. The rest of it is read and dropped.
// The first reason stands.
func (m *message) discard(f relay.Fate) {
	if m.state == discarding {
		return
	}
	tx := m.tx
	tx.ended = m.stage(tx.reached)
	m.state, m.fate = discarding, f
	m.close()
	if m.out.Begun() {
		tx.loan.Drop() // NOT: a dot. DATA cannot be taken back but by a close.
	}
	tx.loan.Release() // the client may take an hour for the rest, and others need it
}

// stage is that at which the message is, where reached was judged last.
func (m *message) stage(reached policy.Stage) policy.Stage {
	if m.state == gathering {
		return max(policy.Header, reached)
	}
	return policy.Message
}

// refuse is discard for what the message is: too large, or not fit to go on.
func (m *message) refuse(reply smtp.Reply) { m.discard(relay.Refused(reply, m.tx.facts.ID)) }

// chunkPart takes octets of the BDAT announced.
func (m *message) chunkPart(b []byte) {
	if m.state == discarding {
		return
	}
	if !m.binary {
		if err := m.text.Scan(b); err != nil {
			m.refuse(smtp.BadOctets(err))
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
			m.refuse(smtp.BadOctets(err))
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
	if f := m.out.Chunk(n, last); f.Sealed() {
		m.discard(f)
	}
}

// ends begins the time from the client's last octet to our reply.
func (m *message) ends() {
	if m.state != discarding {
		m.out.Ends()
	}
}

// end is the end of the message: the last judgement, the dot, and the backend's answer,
// which is the client's.
func (m *message) end() relay.Fate {
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
	defer m.tx.Took("end_of_data", time.Now())
	if f := m.out.End(); f.Sealed() {
		m.discard(f)
		return f
	}
	return m.out.Answer()
}

// close forgets the message. It may be called again.
func (m *message) close() {
	m.out.Close()
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
	if !errors.Is(err, hold.ErrNoRoom) { // ErrNoRoom is counted, and the client's doing
		tx.srv.log.LogAttrs(tx.srv.ctx, slog.LevelError, "cannot hold a message",
			slog.String("id", tx.facts.ID), slog.String("error", err.Error()))
	}
	tx.relay.Fail(err)
	m.discard(relay.Fate{Reply: errSpool.WithID(tx.facts.ID), Outcome: journal.OutcomeFailed})
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
	sec := section{octets: head}
	sec.fields, sec.bad = tx.fields(head)
	if !m.judge(policy.Message, checks.Message{Header: sec.fields, Section: head, Whole: m.hold, Size: m.hold.Size(), Session: tx.envelope()}, start) {
		return
	}
	passed := m.passOn(sec, m.hold.Size()-m.hold.Head())
	tx.forgetFields()
	if !passed {
		return
	}
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
