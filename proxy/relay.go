package proxy

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"postern/checks"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/fields"
	"postern/proxy/hold"
	"postern/proxy/smtp"
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

// relay takes one message from the client to the backend.
//
// It is a state machine that octets are pushed into, since DATA and BDAT bring
// them in different ways. First it gathers the header section; when that is
// complete it is judged, and only then does the backend hear DATA or BDAT. From
// there the octets stream, or, where a rule needs the whole message, are held.
// A message that was refused is read to its end all the same: before the end no
// reply is allowed (RFC 5321 §3.3).
//
// On the way to the backend the octets stay as they are where they can: DATA
// goes on as DATA, still dot-stuffed, BDAT as BDAT. A message that is in hand as
// a whole goes as one BDAT to a backend that has it, since that saves the round
// trip for the 354. Only from BDAT to DATA is every line looked at.
type relay struct {
	s     *session
	state relayState

	raw    bool // the octets come by BDAT: not dot-stuffed
	binary bool // BODY=BINARYMIME: no lines either
	seven  bool // the backend takes no 8-bit text; looked after here for BDAT, in receiveData for DATA
	whole  bool // what is pushed next is the rest of the message

	head    []byte      // the header section and what came with its end, while gathered
	room    hold.Room   // for that
	body    int         // where in head the body begins, once that is known
	hold    *hold.Spool // the message, not dot-stuffed, where it must be held
	unstuff smtp.Unstuffer
	text    smtp.TextScanner
	scratch []byte

	spoken time.Time       // when the backend last heard from us, while the message is held
	again  bool            // the envelope was said a second time
	begun  bool            // the backend has heard DATA or BDAT: only the end or a close ends that
	chunks bool            // it was BDAT
	dots   *smtp.DotWriter // stuffs what came by BDAT and goes by DATA

	timer  *time.Timer // ends the conversation with a backend that takes too long
	ending bool        // timer is that of the end of the message

	pace    pace  // of the client, over all its BDATs
	limit   int64 // octets of the whole message, by BDAT
	left    int64 // octets of the client's BDAT still to come
	last    bool  // it is the last one
	refusal smtp.Reply
	outcome journal.Outcome
}

type relayState int

const (
	gathering relayState = iota
	streaming
	holding
	discarding
)

// push takes the next good octets of the message, as they stand on the wire.
// It cannot fail: what goes wrong is kept until the end.
func (r *relay) push(b []byte) {
	if r.state == gathering || r.state == holding {
		r.keepAlive()
	}
	switch r.state {
	case gathering:
		r.gather(b)
	case streaming:
		r.send(b)
	case holding:
		r.spool(b)
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
func (r *relay) keepAlive() {
	now := time.Now()
	if r.spoken.IsZero() {
		r.spoken = now
	}
	if now.Sub(r.spoken) < keepAliveEvery {
		return
	}
	s, tx := r.s, r.s.tx
	r.spoken = now
	if s.bc == nil {
		return
	}
	s.bc.QueueNoop()
	if !s.skipReply() && !r.again {
		tx.broken = "" // see present: it has lost nothing but an envelope
		return
	}
	if s.bc == nil {
		r.discard(withID(errBackend, tx.facts.ID), journal.OutcomeFailed)
		return
	}
	r.spoken = time.Now()
}

// gather collects the header section, up to and including the empty line.
func (r *relay) gather(b []byte) {
	seen := len(r.head)
	borrowed := len(r.head) == 0
	if borrowed {
		r.head = b // most header sections come in one piece
	} else {
		r.head = append(r.head, b...)
	}
	switch _, body := smtp.HeaderEndFrom(r.head, seen); {
	case body >= 0:
		r.body = body
	case r.whole:
		r.body = len(r.head) // no empty line: all of it is header
	case len(r.head) > int(r.s.set.Limits.HeaderSize):
		r.s.srv.metrics.LimitReached("header_size")
		r.refuse(errHeaderSize)
		return
	default:
		if borrowed {
			r.head = append(make([]byte, 0, max(2*len(b), 4<<10)), b...)
		}
		r.roomForHeader(cap(r.head))
		return
	}
	if r.roomForHeader(len(r.head)) {
		r.judgeHeader()
	}
	r.head = nil
	r.room.Close()
}

// smallHeader is how large a header section may be, in octets, without counting
// against what is for all: most are, and those of many idle clients cost little.
const smallHeader = 16 << 10

// roomForHeader takes memory for a large header section, of which there is a copy
// while it is judged.
func (r *relay) roomForHeader(octets int) bool {
	if octets <= smallHeader {
		return true
	}
	s := r.s
	if r.room == (hold.Room{}) {
		r.room = s.srv.held.RoomFor(s.who, s.set.Limits)
	}
	if r.room.InMemory(2*int64(octets), hold.Memory) {
		return true
	}
	s.srv.metrics.LimitReached("held_memory")
	r.cannotHold(hold.ErrNoRoom)
	return false
}

// judgeHeader decides on the header section and begins to pass the message on.
func (r *relay) judgeHeader() {
	s, tx := r.s, r.s.tx
	start := time.Now()
	head, rest := r.head[:r.body], r.head[r.body:]
	if r.body > int(s.set.Limits.HeaderSize) {
		r.s.srv.metrics.LimitReached("header_size")
		r.refuse(errHeaderSize)
		return
	}
	if r.binary {
		// The header section of a binary message is text like any (RFC 3030 §3).
		var text smtp.TextScanner
		err := text.Scan(head)
		if err == nil {
			err = text.Close()
		}
		if err != nil {
			r.refuse(badOctets(err))
			return
		}
	}
	if !r.raw {
		head = smtp.Restuff(head) // or ".From: x" would be a field to the MTA and none to us
	}
	if smtp.FirstLineContinues(head) {
		r.refuse(errContinuation)
		return
	}
	if smtp.CountFields(head) > s.set.Limits.HeaderFields {
		s.srv.metrics.LimitReached("header_fields")
		r.refuse(errHeaderFields)
		return
	}
	head, ok := r.nameMailboxLines(head)
	if !ok {
		return
	}
	h, bad := smtp.ParseHeader(head)
	if countReceived(h) > receivedLimit {
		r.refuse(errLoop)
		return
	}
	tx.facts.Rcpt = tx.firstTaken()
	msg := checks.Message{Header: h, Section: head}
	tx.facts.Header = checks.HeaderFacts(msg)
	s.runChecks(policy.Header, msg)
	refusal := s.judge(policy.Header)
	tx.time("header", start)
	if !refusal.IsZero() {
		r.discard(refusal, journal.OutcomeRefused)
		return
	}
	if s.set.Chain.HoldsMessage() && !s.settled(policy.Header) || s.candidateWaits() {
		if checks.Signed(h) || s.set.Chain.HoldsUnsigned() {
			r.state = holding
			r.hold = s.srv.held.Spool(s.who, s.set.Limits)
			r.spool(head)
			if r.state == holding {
				r.hold.EndHead()
				r.spool(rest)
			}
			return
		}
		// Nobody signed it, so the rest of it would tell nothing new: the last
		// stage can be judged now, and the message streams.
		start := time.Now()
		s.runChecks(policy.Message, msg)
		refusal := s.judge(policy.Message)
		tx.time("message", start)
		if !refusal.IsZero() {
			r.discard(refusal, journal.OutcomeRefused)
			return
		}
	}
	ours := outs.Get().(*[]byte)
	defer putOut(ours)
	*ours = s.appendFields(tx, *ours)
	kept := fields.WithoutForged(head, h, bad, s.set.Hostname, s.set.Chain.TagNames())
	if !r.begin(int64(len(*ours)+len(kept)+len(rest)) + r.left) {
		return
	}
	r.state = streaming
	r.send(*ours)
	r.send(kept)
	r.send(rest)
}

// nameMailboxLines makes fields of the "From " lines that an mbox file has above a
// message. What may not continue our last field may not continue them either.
func (r *relay) nameMailboxLines(head []byte) (named []byte, ok bool) {
	named, rest := smtp.NameMailboxLines(head)
	switch {
	case rest == 0:
	case len(named) > int(r.s.set.Limits.HeaderSize):
		r.refuse(errHeaderSize)
		return nil, false
	case smtp.FirstLineContinues(named[rest:]):
		r.refuse(errContinuation)
		return nil, false
	}
	return named, true
}

// candidateWaits says whether the candidate policy has still to learn, for one of
// the recipients, what only the whole message tells. It is measured for it as if
// it were in force, or the two could not be compared.
func (s *session) candidateWaits() bool {
	c, tx := s.set.Candidate, s.tx
	if c == nil || !c.HoldsMessage() {
		return false
	}
	f := tx.facts
	for i := range tx.rcpts {
		r := &tx.rcpts[i]
		if !r.taken {
			continue
		}
		f.Rcpt = policy.RcptTo{Address: r.address, Domain: r.domain}
		if !c.Settled(policy.Header, c.Decide(policy.Header, &f)) {
			return true
		}
	}
	return false
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
func (r *relay) begin(size int64) bool {
	s := r.s
	if !r.present() {
		r.discard(withID(errBackend, s.tx.facts.ID), journal.OutcomeFailed)
		return false
	}
	caps := s.bc.Capabilities()
	switch {
	case r.raw && caps.Chunking, r.hold != nil && caps.Chunking:
		r.chunks, r.begun = true, true
		s.bc.QueueBdat(size, r.last || r.hold != nil)
		return true
	case r.whole && !r.raw && caps.Chunking:
		// Nothing is said before its octets are unstuffed and counted.
		r.chunks = true
		r.scratch = make([]byte, 0, size)
		return true
	}
	if r.binary {
		// We said so at MAIL, from what the backend offered then.
		r.discard(withID(errBackend, s.tx.facts.ID), journal.OutcomeFailed)
		return false
	}
	if r.raw || r.hold != nil {
		r.dots = smtp.NewDotWriter(writerFunc(r.write))
	}
	return r.data()
}

// within gives the backend that long for what is now to be done with it. Its
// writes have deadlines of their own, but those are renewed by progress, and a
// backend that takes one octet now and then would keep all of those.
func (r *relay) within(d time.Duration) {
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.s.abortBackend)
		return
	}
	r.timer.Reset(d)
}

// ends begins the time from the client's last octet to our reply: whatever is
// still to be judged, passed on and answered, the client waits ten minutes for
// it, and then sends the message again (RFC 5321 §4.5.3.2.6).
func (r *relay) ends() {
	if r.state != discarding && !r.ending {
		r.within(r.s.set.Timeouts.EndOfData)
		r.ending = true
	}
}

// data makes the backend say 354.
func (r *relay) data() bool {
	s, tx := r.s, r.s.tx
	start := time.Now()
	s.bc.QueueData()
	reply, ok := s.backendAnswer()
	tx.time("backend", start)
	if !ok && time.Since(start) < s.set.Timeouts.BackendCommand && r.sayAgain() {
		return r.data() // NOT: after a silence, which another connection would only make longer
	}
	switch {
	case !ok:
		r.discard(withID(errBackend, tx.facts.ID), journal.OutcomeFailed)
	case reply.Intermediate():
		r.begun = true
		return true
	case reply.Positive():
		// 2yz to DATA means nothing.
		tx.outOfStep(reply)
		s.dropBackend()
		r.discard(withID(errBackend, tx.facts.ID), journal.OutcomeFailed)
	default:
		r.discard(s.asToClient(reply, "0.0"), journal.OutcomeBackendRefused)
	}
	return false
}

// send passes octets on to the backend, framed as it was told they would be.
func (r *relay) send(b []byte) {
	switch {
	case len(b) == 0 || r.state == discarding:
	case r.dots != nil:
		if _, err := r.dots.Write(b); err != nil {
			r.refuse(badOctets(err))
		}
	case r.chunks && !r.raw && r.hold == nil:
		r.scratch = r.unstuff.Append(r.scratch, b) // leaves with finish
	default:
		_, _ = r.write(b)
	}
}

// write hands octets to the backend connection. A failure is kept for the end.
func (r *relay) write(b []byte) (int, error) {
	s, tx := r.s, r.s.tx
	if r.state == discarding {
		return len(b), nil
	}
	if !r.ending {
		r.within(s.set.Timeouts.DataBlock)
	}
	_, err := s.bc.Write(b)
	if !r.ending {
		r.timer.Stop() // the client may take its time again
	}
	if err != nil {
		// Perhaps it said why before it hung up.
		reply, rerr := s.bc.Reply()
		for rerr == nil && reply.Positive() { // to BDATs before
			reply, rerr = s.bc.Reply()
		}
		if rerr == nil && !reply.Intermediate() {
			tx.backRep = reply
			r.discard(s.asToClient(reply, "0.0"), journal.OutcomeBackendRefused)
		} else {
			tx.fail(err)
			r.discard(withID(errBackend, tx.facts.ID), journal.OutcomeFailed)
		}
	}
	return len(b), nil
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// discard makes the message a refused one. The rest of it is read and dropped.
// The first reason stands.
func (r *relay) discard(reply smtp.Reply, outcome journal.Outcome) {
	if r.state == discarding {
		return
	}
	r.s.tx.ended = r.stage(r.s.tx.reached)
	r.state = discarding
	r.refusal, r.outcome = reply, outcome
	r.close()
	if r.begun {
		r.s.dropBackend() // NOT: a dot. DATA cannot be taken back but by a close.
	}
	r.s.releaseBackend() // the client may take an hour for the rest, and others need it
}

// stage is that at which the message is, where reached was judged last.
func (r *relay) stage(reached policy.Stage) policy.Stage {
	if r.state == gathering {
		return max(policy.Header, reached)
	}
	return policy.Message
}

// refuse is discard for what the message is: too large, or not fit to go on.
func (r *relay) refuse(reply smtp.Reply) {
	r.discard(withID(reply, r.s.tx.facts.ID), journal.OutcomeRefused)
}

// chunk announces the next n octets, by BDAT.
func (r *relay) chunk(n int64, last bool) {
	r.left, r.last = n, last
	r.chunksEnd()
	if r.state != streaming || !r.chunks || n == 0 && !last {
		return
	}
	if last {
		// The end goes out only once every chunk before it was taken. After a
		// refused one the backend must refuse the rest (RFC 3030 §2); one that
		// does not would keep a message with a hole in it.
		r.catchUp(0)
		if r.state == discarding {
			return
		}
	}
	r.s.bc.QueueBdat(n, last)
	r.catchUp(maxUnanswered)
}

// maxUnanswered is how many BDATs may go on before the answer to the first is
// read: enough to keep the backend busy, and a bound on what it may owe us.
const maxUnanswered = 8

// catchUp reads answers of the backend to chunks until so many are due.
func (r *relay) catchUp(due int) {
	for r.state != discarding && r.s.bc.Outstanding() > due {
		reply, err := r.s.bc.Reply()
		switch {
		case err != nil:
			// NOT: simply failed. The last BDAT may be out already, and the
			// backend may have the message.
			r.discard(r.lost(err))
		case reply.Intermediate():
			r.s.tx.outOfStep(reply)
			r.discard(withID(errBackend, r.s.tx.facts.ID), journal.OutcomeFailed)
		case !reply.Positive():
			r.s.tx.backRep = reply
			r.discard(r.s.asToClient(reply, "0.0"), journal.OutcomeBackendRefused)
		}
	}
}

// chunkPart takes octets of the BDAT announced.
func (r *relay) chunkPart(b []byte) {
	if r.state == discarding {
		return
	}
	if !r.binary {
		if err := r.text.Scan(b); err != nil {
			r.refuse(badOctets(err))
			return
		}
	}
	if r.seven && smtp.Has8Bit(b) {
		r.refuse(errEightBit)
		return
	}
	r.left -= int64(len(b))
	r.whole = r.last && r.left == 0
	if r.chunksEnd(); r.state == discarding {
		return
	}
	if r.whole {
		r.ends()
	}
	r.push(b)
}

// chunksEnd refuses a text that ends within a line ending. It is asked when the
// last octets are known and before any of them goes on: once a backend has the
// whole of a BDAT LAST it has the message, whatever the client is told.
func (r *relay) chunksEnd() {
	if r.last && r.left == 0 && r.state != discarding && !r.binary {
		if err := r.text.Close(); err != nil {
			r.refuse(badOctets(err))
		}
	}
}

// finish is the end of the message: the last judgement, the dot, and the
// backend's answer, which is the client's. It leaves before anything else is
// done, be there more in the pipe or not: until the client has it, a log that
// does not take our line or a crash makes it send the message again.
func (r *relay) finish() {
	s, tx := r.s, r.s.tx
	began := time.Now()
	tx.facts.Message.Size = tx.bytes
	s.messages++
	s.commands = 0
	defer s.hadMessage()
	r.ends()
	if r.state == gathering {
		r.whole = true
		r.gather(nil)
	}
	if r.state == holding {
		r.judgeMessage()
	}
	reply, outcome := r.refusal, r.outcome
	if r.state != discarding {
		reply, outcome = r.end()
	}
	s.say(reply)
	if s.flush() != nil {
		s.closing = true
	}
	took := time.Since(began)
	tx.reply = reply
	r.close()
	if s.bc != nil && (outcome != journal.OutcomeDelivered || s.bc.Worn()) {
		s.releaseBackend()
	}
	s.finish(outcome)
	s.srv.metrics.MessageBytes(tx.bytes)
	s.srv.metrics.TimeToFinalReply(took)
}

// end sends the end of the message and reads what the backend says to it.
func (r *relay) end() (smtp.Reply, journal.Outcome) {
	s, tx := r.s, r.s.tx
	defer tx.time("end_of_data", time.Now())
	var err error
	switch {
	case r.dots != nil:
		err = r.dots.Close()
	case !r.chunks:
		_, err = s.bc.Write([]byte(".\r\n"))
	case !r.raw && r.hold == nil:
		s.bc.QueueBdat(int64(len(r.scratch)), true)
		_, err = s.bc.Write(r.scratch)
	default:
		// The last octets went as BDAT LAST. What it said to the chunks before
		// comes first.
		r.catchUp(1)
	}
	if r.state == discarding {
		return r.refusal, r.outcome
	}
	var reply smtp.Reply
	if err == nil {
		reply, err = s.bc.FinalReply()
	}
	if err != nil {
		return r.lost(err)
	}
	tx.backRep = reply
	if reply.Intermediate() {
		tx.outOfStep(reply)
		s.dropBackend()
		return withID(errBackend, tx.facts.ID), journal.OutcomeFailed
	}
	if reply.Positive() {
		return supplyEnhanced(reply, "6.0"), journal.OutcomeDelivered
	}
	return s.asToClient(reply, "0.0"), journal.OutcomeBackendRefused
}

// lost is a conversation that ended between the end of the message and its
// answer.
func (r *relay) lost(err error) (smtp.Reply, journal.Outcome) {
	s, tx := r.s, r.s.tx
	tx.fail(err)
	sent := s.bc.EndSent()
	s.dropBackend()
	var be *backend.Error
	if errors.As(err, &be) && !be.Reply.IsZero() {
		// It said 421 before it went: it has not taken the message.
		return withID(errBackend, tx.facts.ID), journal.OutcomeFailed
	}
	if !sent {
		// The connection was gone before the end could be written, as that of
		// an MTA that was tired of waiting for a slow client. It has nothing.
		return withID(errBackend, tx.facts.ID), journal.OutcomeFailed
	}
	// The end is out, and no word came back: the backend may have the message
	// or not. 4yz makes the client send it again, and a message twice is better
	// than none (RFC 5321 §6.1, RFC 1047).
	s.unknown()
	return withID(errUnknown, tx.facts.ID), journal.OutcomeUnknown
}

// unknown counts and logs a message that the backend may have or not.
func (s *session) unknown() {
	s.srv.metrics.OutcomeUnknown()
	s.srv.log.LogAttrs(s.srv.ctx, slog.LevelError, "outcome unknown: possible duplicate",
		slog.String("id", s.tx.facts.ID), slog.String("backend", s.tx.backend), slog.String("error", s.tx.broken))
}

// clientGone is the end of a message that never came to its end.
func (r *relay) clientGone() {
	s := r.s
	r.close()
	if r.begun {
		s.dropBackend()
	}
	if r.state == discarding {
		s.tx.reply = r.refusal
		s.releaseBackend()
		s.finish(r.outcome)
		return
	}
	s.abandon()
}

func (r *relay) close() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.hold.Close()
	r.room.Close()
	r.head = nil
}

// spool holds octets back.
func (r *relay) spool(b []byte) {
	if !r.raw {
		r.scratch = r.unstuff.Append(r.scratch[:0], b)
		b = r.scratch
	}
	if _, err := r.hold.Write(b); err != nil {
		r.cannotHold(err)
	}
}

func (r *relay) cannotHold(err error) {
	s := r.s
	if !errors.Is(err, hold.ErrNoRoom) { // that is counted, and the client's doing
		s.srv.log.LogAttrs(s.srv.ctx, slog.LevelError, "cannot hold a message",
			slog.String("id", s.tx.facts.ID), slog.String("error", err.Error()))
	}
	s.tx.fail(err)
	r.discard(withID(errSpool, s.tx.facts.ID), journal.OutcomeFailed)
}

// judgeMessage judges a held message and passes it on.
func (r *relay) judgeMessage() {
	s, tx := r.s, r.s.tx
	start := time.Now()
	head := make([]byte, r.hold.Head())
	if _, err := r.hold.ReadAt(head, 0); err != nil && len(head) > 0 {
		r.cannotHold(err)
		return
	}
	h, bad := smtp.ParseHeader(head)
	s.runChecks(policy.Message, checks.Message{Header: h, Section: head, Whole: r.hold, Size: r.hold.Size()})
	refusal := s.judge(policy.Message)
	tx.time("message", start)
	if !refusal.IsZero() {
		r.discard(refusal, journal.OutcomeRefused)
		return
	}
	ours := s.appendFields(tx, nil)
	kept := fields.WithoutForged(head, h, bad, s.set.Hostname, s.set.Chain.TagNames())
	if !r.begin(int64(len(ours)+len(kept)) + r.hold.Size() - r.hold.Head()) {
		return
	}
	r.send(ours)
	r.send(kept)
	if err := r.hold.BodyTo(writerFunc(func(b []byte) (int, error) { r.send(b); return len(b), nil })); err != nil {
		r.cannotHold(err)
	}
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
