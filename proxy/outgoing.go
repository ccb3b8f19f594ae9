package proxy

import (
	"errors"
	"log/slog"
	"time"

	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

// outgoing is a message on its way to the backend.
//
// On the way the octets stay as they are where they can: DATA goes on as DATA, still
// dot-stuffed, BDAT as BDAT. A message that is in hand as a whole goes as one BDAT to a
// backend that has it, since that saves the round trip for the 354. Only from BDAT to
// DATA is every line looked at.
type outgoing struct {
	tx      *transaction
	framing framing   // chosen once, when the message begins to be passed on
	spoken  time.Time // when the backend last heard from us, while the message is gathered or held
	again   bool      // the envelope was said a second time
	begun   bool      // the backend has heard DATA or BDAT: only the end or a close ends that

	one  oneChunk // framing, if it is that
	dots dots     // or that

	ending *time.Timer // ends the conversation with a backend that is too long about the end
}

// framing is how the octets of a message go to the backend. A fate that comes back is
// that of the message, which has come to nothing.
type framing interface {
	// begin tells the backend that the message comes. At the least, or for oneChunk at
	// the most, size octets follow; last: that is all of it.
	begin(o *outgoing, size int64, last bool) fate
	// send passes octets on, as they came from the client.
	send(o *outgoing, b []byte) fate
	// end sends the end of the message. What the backend says to it is still to be read.
	end(o *outgoing) (fate, error)
}

// choose says how m goes on; misfit: its lines have no end that DATA could carry.
func (o *outgoing) choose(m *message) (misfit bool) {
	chunking := o.tx.loan.bc.Capabilities().Chunking
	switch {
	case (m.raw || m.hold != nil) && chunking:
		o.framing = chunks{}
	case m.whole && !m.raw && chunking:
		o.framing = &o.one
	case m.binary:
		return true
	case m.raw || m.hold != nil:
		o.framing = &o.dots
	default:
		o.framing = verbatim{}
	}
	return false
}

// verbatim is DATA as it came: dot-stuffed by the client, and every line looked at.
type verbatim struct{}

func (verbatim) begin(o *outgoing, _ int64, _ bool) fate { return o.data() }

func (verbatim) send(o *outgoing, b []byte) fate { return o.write(b) }

func (verbatim) end(o *outgoing) (fate, error) {
	_, err := o.tx.loan.bc.Write([]byte(".\r\n"))
	return fate{}, err
}

// oneChunk is a message that came by DATA, in one piece, and goes as one BDAT LAST.
// Nothing is said before its octets are unstuffed and counted.
type oneChunk struct {
	unstuff smtp.Unstuffer
	octets  []byte
}

func (c *oneChunk) begin(_ *outgoing, size int64, _ bool) fate {
	c.octets = make([]byte, 0, size)
	return fate{}
}

func (c *oneChunk) send(_ *outgoing, b []byte) fate {
	c.octets = c.unstuff.Append(c.octets, b)
	return fate{}
}

func (c *oneChunk) end(o *outgoing) (fate, error) {
	o.tx.loan.bc.QueueBdat(int64(len(c.octets)), true)
	_, err := o.tx.loan.bc.Write(c.octets)
	return fate{}, err
}

// chunks are BDATs for those of the client, our fields with the first; or a message that
// was held, as one. Their octets are not stuffed.
type chunks struct{}

func (chunks) begin(o *outgoing, size int64, last bool) fate {
	o.begun = true
	o.tx.loan.bc.QueueBdat(size, last)
	return fate{}
}

func (chunks) send(o *outgoing, b []byte) fate { return o.write(b) }

// end has nothing to send: the last octets went as BDAT LAST. What the backend said to
// the chunks before comes first.
func (chunks) end(o *outgoing) (fate, error) { return o.catchUp(1), nil }

// dots is what came by BDAT, or was held, and goes by DATA: it is stuffed here.
type dots struct {
	w *smtp.DotWriter
	// Of what w writes.
	o    *outgoing
	fate fate
}

func (d *dots) begin(o *outgoing, _ int64, _ bool) fate {
	d.o, d.w = o, smtp.NewDotWriter(d)
	return o.data()
}

func (d *dots) send(o *outgoing, b []byte) fate {
	_, err := d.w.Write(b)
	if err != nil && !d.fate.sealed() {
		return o.tx.refusal(badOctets(err))
	}
	return d.fate
}

func (d *dots) end(*outgoing) (fate, error) {
	err := d.w.Close()
	return d.fate, err
}

// Write is for w. It does not fail: what goes wrong is the fate.
func (d *dots) Write(b []byte) (int, error) {
	if !d.fate.sealed() {
		d.fate = d.o.write(b)
	}
	return len(b), nil
}

// data makes the backend say 354.
func (o *outgoing) data() fate {
	tx := o.tx
	start := time.Now()
	tx.loan.bc.QueueData()
	reply, ok := tx.backendAnswer()
	tx.time("backend", start)
	if !ok && time.Since(start) < tx.set.Timeouts.BackendCommand && o.sayAgain() {
		return o.data() // NOT: after a silence, which another connection would only make longer
	}
	switch {
	case !ok:
		return tx.failed()
	case reply.Intermediate():
		o.begun = true
		return fate{}
	case reply.Positive():
		// 2yz to DATA means nothing.
		tx.outOfStep(reply)
		tx.loan.drop()
		return tx.failed()
	}
	return tx.refusedByBackend(reply)
}

// write hands octets to the backend connection.
func (o *outgoing) write(b []byte) fate {
	tx := o.tx
	_, err := tx.loan.bc.Write(b)
	if err == nil {
		return fate{}
	}
	// Perhaps it said why before it hung up.
	reply, rerr := tx.loan.bc.Reply()
	for rerr == nil && reply.Positive() { // to BDATs before
		reply, rerr = tx.loan.bc.Reply()
	}
	if rerr == nil && !reply.Intermediate() {
		tx.backRep = reply
		return tx.refusedByBackend(reply)
	}
	tx.fail(err)
	return tx.failed()
}

// chunk tells the backend of the client's next BDAT, of n octets.
func (o *outgoing) chunk(n int64, last bool) fate {
	if last {
		// The end goes out only once every chunk before it was taken. After a
		// refused one the backend must refuse the rest (RFC 3030 §2); one that
		// does not would keep a message with a hole in it.
		if f := o.catchUp(0); f.sealed() {
			return f
		}
	}
	o.tx.loan.bc.QueueBdat(n, last)
	return o.catchUp(maxUnanswered)
}

// maxUnanswered is how many BDATs may go on before the answer to the first is
// read: enough to keep the backend busy, and a bound on what it may owe us.
const maxUnanswered = 8

// catchUp reads answers of the backend to chunks until so many are due.
func (o *outgoing) catchUp(due int) fate {
	tx := o.tx
	for tx.loan.bc.Outstanding() > due {
		reply, err := tx.loan.bc.Reply()
		switch {
		case err != nil:
			// NOT: simply failed. The last BDAT may be out already, and the
			// backend may have the message.
			return tx.lost(err)
		case reply.Intermediate():
			tx.outOfStep(reply)
			return tx.failed()
		case !reply.Positive():
			tx.backRep = reply
			return tx.refusedByBackend(reply)
		}
	}
	return fate{}
}

// answer reads what the backend says to the end of the message, unless err is that it
// could not be sent.
func (o *outgoing) answer(err error) fate {
	tx := o.tx
	var reply smtp.Reply
	if err == nil {
		reply, err = tx.loan.bc.FinalReply()
	}
	if err != nil {
		return tx.lost(err)
	}
	tx.backRep = reply
	switch {
	case reply.Intermediate():
		tx.outOfStep(reply)
		tx.loan.drop()
		return tx.failed()
	case reply.Positive():
		return fate{supplyEnhanced(reply, "6.0"), journal.OutcomeDelivered}
	}
	return tx.refusedByBackend(reply)
}

// failed is the fate of a message that the backend cannot be given.
func (tx *transaction) failed() fate {
	return fate{withID(errBackend, tx.facts.ID), journal.OutcomeFailed}
}

// refusal is the fate of a message that is refused for what it is.
func (tx *transaction) refusal(reply smtp.Reply) fate {
	return fate{withID(reply, tx.facts.ID), journal.OutcomeRefused}
}

// refusedByBackend is the fate of a message that the backend has refused.
func (tx *transaction) refusedByBackend(reply smtp.Reply) fate {
	return fate{tx.asToClient(reply, "0.0"), journal.OutcomeBackendRefused}
}

// lost is the fate of a message whose conversation ended between the end of the message and its
// answer.
func (tx *transaction) lost(err error) fate {
	tx.fail(err)
	sent := tx.loan.bc.EndSent()
	tx.loan.drop()
	var be *backend.Error
	if errors.As(err, &be) && !be.Reply.IsZero() {
		// It said 421 before it went: it has not taken the message.
		return tx.failed()
	}
	if !sent {
		// The connection was gone before the end could be written, as that of
		// an MTA that was tired of waiting for a slow client. It has nothing.
		return tx.failed()
	}
	// The end is out, and no word came back: the backend may have the message
	// or not. 4yz makes the client send it again, and a message twice is better
	// than none (RFC 5321 §6.1, RFC 1047).
	tx.unknown()
	return fate{withID(errUnknown, tx.facts.ID), journal.OutcomeUnknown}
}

// unknown counts and logs a message that the backend may have or not.
func (tx *transaction) unknown() {
	tx.srv.metrics.OutcomeUnknown()
	tx.srv.log.LogAttrs(tx.srv.ctx, slog.LevelError, "outcome unknown: possible duplicate",
		slog.String("id", tx.facts.ID), slog.String("backend", tx.backend), slog.String("error", tx.broken))
}
