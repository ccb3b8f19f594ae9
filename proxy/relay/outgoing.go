package relay

import (
	"time"

	"postern/policy/journal"
	"postern/proxy/smtp"
)

// Outgoing is the message of a transaction on its way to the backend.
//
// On the way the octets stay as they are where they can: DATA goes on as DATA, still
// dot-stuffed, BDAT as BDAT. A message that is in hand as a whole goes as one BDAT to a
// backend that has it, since that saves the round trip for the 354. Only from BDAT to
// DATA is every line looked at.
type Outgoing struct {
	c       *Conversation
	framing framing   // chosen once, when the message begins to be passed on
	spoken  time.Time // when the backend last heard from us, while the message is gathered or held
	again   bool      // the envelope was said a second time
	begun   bool      // the backend has heard DATA or BDAT: only the end or a close ends that
	err     error     // the end could not be sent

	one  oneChunk // framing, if it is that
	dots dots     // framing, if it is that

	ending bool // the backend's time for the end runs
}

// Message makes o, which is zero, the message of the conversation.
func (c *Conversation) Message(o *Outgoing) { o.c = c }

// Shape is how a message is at hand when it begins to be passed on.
type Shape struct {
	Raw    bool // not dot-stuffed: it came by BDAT, or was held
	Held   bool
	Whole  bool // all of it is at hand
	Last   bool // no BDAT comes behind this one
	Binary bool // BODY=BINARYMIME: it has no lines
}

// Begun says that the backend has heard DATA or BDAT.
func (o *Outgoing) Begun() bool { return o.begun }

// Begin tells the backend that the message comes; size is how many octets are sure to
// follow, where the octets come by BDAT, and where all are at hand how many there are at
// the most.
func (o *Outgoing) Begin(s Shape, size int64) Fate {
	if !o.present(s.Held) {
		return o.c.failed()
	}
	if o.choose(s) {
		// The client was told so at MAIL, from what the backend offered then.
		return o.c.failed()
	}
	return o.framing.begin(o, size, s.Last)
}

// Send passes octets on, as they came from the client.
func (o *Outgoing) Send(b []byte) Fate { return o.framing.send(o, b) }

// Chunk tells the backend of the client's next BDAT, of n octets, if it hears of them.
func (o *Outgoing) Chunk(n int64, last bool) Fate {
	if _, ok := o.framing.(chunks); !ok {
		return Fate{}
	}
	if last {
		// The end goes out only once every chunk before it was taken. After a
		// refused one the backend must refuse the rest (RFC 3030 §2); one that
		// does not would keep a message with a hole in it.
		if f := o.catchUp(0); f.Sealed() {
			return f
		}
	}
	o.c.loan.conn.QueueBdat(n, last)
	return o.catchUp(maxUnanswered)
}

// Ends begins the time that the backend has from the client's last octet on: whatever is
// still to be judged, passed on and answered, the client waits ten minutes for
// it, and then sends the message again (RFC 5321 §4.5.3.2.6).
func (o *Outgoing) Ends() {
	if !o.ending {
		o.ending = true
		o.c.loan.hangUpAfter(o.c.timeouts.EndOfData)
	}
}

// End sends the end of the message. A fate that comes back is that of a message which has
// come to nothing; else Answer has it.
func (o *Outgoing) End() (f Fate) {
	f, o.err = o.framing.end(o)
	return f
}

// Answer reads what the backend says to the end of the message.
func (o *Outgoing) Answer() Fate {
	c := o.c
	var reply smtp.Reply
	err := o.err
	if err == nil {
		reply, err = c.loan.conn.FinalReply()
	}
	if err != nil {
		return c.lost(err)
	}
	c.Said = reply
	switch {
	case reply.Intermediate():
		c.outOfStep(reply)
		c.loan.Drop()
		return c.failed()
	case reply.Positive():
		return Fate{supplyEnhanced(reply, "6.0"), journal.OutcomeDelivered}
	}
	return c.refused(reply)
}

// Close ends what Ends began. It may be called again.
func (o *Outgoing) Close() {
	if o.ending {
		o.ending = false
		o.c.loan.keepUp()
	}
}

// framing is how the octets of a message go to the backend. A fate that comes back is
// that of the message, which has come to nothing.
type framing interface {
	// begin tells the backend that the message comes. At the least, or for oneChunk at
	// the most, size octets follow; last: that is all of it.
	begin(o *Outgoing, size int64, last bool) Fate
	// send passes octets on, as they came from the client.
	send(o *Outgoing, b []byte) Fate
	// end sends the end of the message. What the backend says to it is still to be read.
	end(o *Outgoing) (Fate, error)
}

// choose says how the message goes on; misfit: its lines have no end that DATA could
// carry.
func (o *Outgoing) choose(s Shape) (misfit bool) {
	chunking := o.c.loan.conn.Capabilities().Chunking
	switch {
	case s.Raw && chunking:
		o.framing = chunks{}
	case s.Whole && chunking:
		o.framing = &o.one
	case s.Binary:
		return true
	case s.Raw:
		o.framing = &o.dots
	default:
		o.framing = verbatim{}
	}
	return false
}

// verbatim is DATA as it came: dot-stuffed by the client, and every line looked at.
type verbatim struct{}

func (verbatim) begin(o *Outgoing, _ int64, _ bool) Fate { return o.data() }

func (verbatim) send(o *Outgoing, b []byte) Fate { return o.write(b) }

func (verbatim) end(o *Outgoing) (Fate, error) {
	_, err := o.c.loan.conn.Write([]byte(".\r\n"))
	return Fate{}, err
}

// oneChunk is a message that came by DATA, in one piece, and goes as one BDAT LAST.
// Nothing is said before its octets are unstuffed and counted.
type oneChunk struct {
	unstuff smtp.Unstuffer
	octets  []byte
}

func (c *oneChunk) begin(_ *Outgoing, size int64, _ bool) Fate {
	c.octets = make([]byte, 0, size)
	return Fate{}
}

func (c *oneChunk) send(_ *Outgoing, b []byte) Fate {
	c.octets = c.unstuff.Append(c.octets, b)
	return Fate{}
}

func (c *oneChunk) end(o *Outgoing) (Fate, error) {
	o.c.loan.conn.QueueBdat(int64(len(c.octets)), true)
	_, err := o.c.loan.conn.Write(c.octets)
	return Fate{}, err
}

// chunks are BDATs for those of the client, our fields with the first; or a message that
// was held, as one. Their octets are not stuffed.
type chunks struct{}

func (chunks) begin(o *Outgoing, size int64, last bool) Fate {
	o.begun = true
	o.c.loan.conn.QueueBdat(size, last)
	return Fate{}
}

func (chunks) send(o *Outgoing, b []byte) Fate { return o.write(b) }

// end has nothing to send: the last octets went as BDAT LAST. What the backend said to
// the chunks before comes first.
func (chunks) end(o *Outgoing) (Fate, error) { return o.catchUp(1), nil }

// dots is what came by BDAT, or was held, and goes by DATA: it is stuffed here.
type dots struct {
	w *smtp.DotWriter
	// Of what w writes.
	o    *Outgoing
	fate Fate
}

func (d *dots) begin(o *Outgoing, _ int64, _ bool) Fate {
	d.o, d.w = o, smtp.NewDotWriter(d)
	return o.data()
}

func (d *dots) send(o *Outgoing, b []byte) Fate {
	_, err := d.w.Write(b)
	if err != nil && !d.fate.Sealed() {
		return Refused(smtp.BadOctets(err), o.c.id)
	}
	return d.fate
}

func (d *dots) end(*Outgoing) (Fate, error) {
	err := d.w.Close()
	return d.fate, err
}

// Write is for w. It does not fail: what goes wrong is the fate.
func (d *dots) Write(b []byte) (int, error) {
	if !d.fate.Sealed() {
		d.fate = d.o.write(b)
	}
	return len(b), nil
}

// data makes the backend say 354.
func (o *Outgoing) data() Fate {
	c := o.c
	start := time.Now()
	c.loan.conn.QueueData()
	reply, ok := c.answer()
	c.tx.Took("backend", start)
	if !ok && time.Since(start) < c.timeouts.BackendCommand && o.sayAgain() {
		return o.data() // NOT: after a silence, which another connection would only make longer
	}
	switch {
	case !ok:
		return c.failed()
	case reply.Intermediate():
		o.begun = true
		return Fate{}
	case reply.Positive():
		// 2yz to DATA means nothing.
		c.outOfStep(reply)
		c.loan.Drop()
		return c.failed()
	}
	return c.refused(reply)
}

// write hands octets to the backend connection.
func (o *Outgoing) write(b []byte) Fate {
	c := o.c
	_, err := c.loan.conn.Write(b)
	if err == nil {
		return Fate{}
	}
	// The backend may have said why before it hung up.
	reply, rerr := c.loan.conn.Reply()
	for rerr == nil && reply.Positive() { // the answer to an earlier BDAT
		reply, rerr = c.loan.conn.Reply()
	}
	if rerr == nil && !reply.Intermediate() {
		c.Said = reply
		return c.refused(reply)
	}
	c.Fail(err)
	return c.failed()
}

// maxUnanswered is how many BDATs may go on before the answer to the first is
// read: enough to keep the backend busy, and a bound on what it may owe us.
const maxUnanswered = 8

// catchUp reads answers of the backend to chunks until so many are due.
func (o *Outgoing) catchUp(due int) Fate {
	c := o.c
	for c.loan.conn.Outstanding() > due {
		reply, err := c.loan.conn.Reply()
		switch {
		case err != nil:
			// NOT: simply failed. The last BDAT may be out already, and the
			// backend may have the message.
			return c.lost(err)
		case reply.Intermediate():
			c.outOfStep(reply)
			return c.failed()
		case !reply.Positive():
			c.Said = reply
			return c.refused(reply)
		}
	}
	return Fate{}
}
