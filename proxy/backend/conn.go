package backend

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"postern/proxy/reuse"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// Conn is the loan of a connection to one session. Commands are queued, leave
// together, and their replies are read in order (RFC 2920); towards a backend
// without PIPELINING they leave one at a time, which the caller need not know.
//
//	c.QueueMail(from, params)
//	c.QueueRcpt(to, params)
//	c.QueueData()
//	r, err := c.Reply() // sends all three, reads the answer to MAIL
//	...                 // RCPT, then 354
//	c.Write(message)    // dot-stuffed
//	c.Write(dot)        // the final dot, by itself: before it is the last look at what was said
//	r, err = c.FinalReply()
//	c.Release()
//
// More transactions of the same client may follow before Release: a backend
// that can be told once only who the client is (see forOthers) is then
// connected to once a session, and not once a message.
//
// While the session has no use for it, it may be asked to give it up (Spare).
//
// It is used by one goroutine, but for Abort. After an error, which is always
// an *Error, only Abort is left to call (and Reply, after a failed Write).
type Conn struct {
	pool   *Pool
	client Client
	who    share.Client // the client as the holder of a share

	mu     sync.Mutex // guards the three below against Abort
	l      *link
	ended  bool               // the loan is over: released or aborted
	cancel context.CancelFunc // ends the search for another link

	out     []byte    // what was queued; a prefix of it has been written
	buf     *[]byte   // where out came from
	written int       // length of that prefix
	queue   []command // commands before head have been answered
	first   [8]command
	head    int
	sent    int // commands before this one have been written

	serial bool // the backend has no PIPELINING
	// replay: the link lay idle before, and may have ended without telling.
	// Until the first reply to something that the session said, out and queue
	// are kept whole, so that all can be said again on another one.
	replay  bool
	data    bool  // between 354 and the reply to the final dot
	body    int64 // octets still owed to the last BDAT
	mail    bool  // a transaction is open at the backend
	endSent bool  // the end of the message was written
	early   bool  // the backend spoke before the end was written: it cannot have accepted it

	waited time.Duration // for replies, since MAIL
	textAt time.Time     // when the message began
	faulty bool          // a failure has been counted

	used      time.Time // when it was last of use: see LastUsed
	carried   int       // octets of the message since then
	idleSince time.Time // when it was lent, or the last message ended

	// Of Spare, guarded by loans.mu.
	borrower   Borrower
	spareSince time.Time
	spareText  bool // in a message

	ready []smtp.Reply // read ahead of Reply, in serial mode only
	werr  error        // a failed write; there may be a reply that tells why
	whole int          // with werr: commands before it were written whole
}

// command is one command whose reply is expected.
type command struct {
	kind  commandKind
	start int // where it begins in out
}

type commandKind uint8

const (
	kindMail commandKind = iota
	kindRcpt
	kindData
	kindNoop
	kindBdat
	kindBdatLast
	kindHiddenRset     // ours, not the session's: it never sees the reply
	kindHiddenXForward // likewise
)

func (k commandKind) hidden() bool { return k >= kindHiddenRset }

// bufferSize is how much is gathered before it is written.
const bufferSize = 32 << 10

// smallPiece is more than the octets that end a message, CRLF, dot and CRLF.
const smallPiece = 16

var buffers = reuse.Pool[[]byte]{New: func() *[]byte { b := make([]byte, 0, bufferSize); return &b }}

func newConn(p *Pool, client Client, who share.Client, l *link, reused bool) *Conn {
	c := &Conn{pool: p, client: client, who: who, l: l, serial: !l.caps.Pipelining, replay: reused, used: time.Now()}
	c.idleSince = c.used
	c.buf = buffers.Take()
	c.out, c.queue = (*c.buf)[:0], c.first[:0]
	if reused && p.identity != identityXClient {
		// XCLIENT has made the backend forget; here RSET does.
		c.queueLine(kindHiddenRset, "RSET")
	}
	return c
}

// Capabilities returns what the backend offers on this connection.
func (c *Conn) Capabilities() Capabilities { return c.l.caps }

// Pool returns the pool that the connection was opened from.
func (c *Conn) Pool() *Pool { return c.pool }

// Client returns what the backend was told about the client.
func (c *Conn) Client() *Client { return &c.client }

// Name returns the backend's name in the configuration, and which of its addresses this
// connection goes to, as configured.
func (c *Conn) Name() string { return c.l.at.full }

// Alive says, without a round trip, whether the backend is still there, as far as can
// be seen: it has said nothing unasked, no farewell either.
func (c *Conn) Alive() bool {
	return c.werr == nil && (c.head < len(c.queue) || c.l.alive())
}

// Outstanding returns the number of replies that are still to be read.
func (c *Conn) Outstanding() int {
	n := len(c.ready)
	for _, cmd := range c.queue[c.head:] {
		if !cmd.kind.hidden() {
			n++
		}
	}
	return n
}

// QueueMail queues MAIL. The caller leaves out parameters that the backend
// does not offer.
func (c *Conn) QueueMail(from smtp.Path, ps []smtp.Param) {
	if c.head == len(c.queue) && c.written == len(c.out) && !c.data && !c.mail && c.l.mails > 0 && c.werr == nil {
		// Since the last transaction on it the backend may have lost patience.
		c.settle()
		c.replay = true
	}
	c.endSent, c.early, c.waited, c.textAt = false, false, 0, time.Time{}
	if c.pool.identity == identityXForward {
		// It lasts for one transaction only.
		xlines("XFORWARD", xforwardWant, c.l.caps.XForward, c.client, func(line []byte) {
			c.begin(kindHiddenXForward)
			c.out = append(append(c.out, line...), "\r\n"...)
		})
	}
	c.begin(kindMail)
	c.l.mails++
	c.mail = true
	c.out = from.AppendAngle(append(c.out, "MAIL FROM:"...))
	c.appendParams(ps)
}

// QueueRcpt queues RCPT.
func (c *Conn) QueueRcpt(to smtp.Path, ps []smtp.Param) {
	c.begin(kindRcpt)
	c.out = to.AppendAngle(append(c.out, "RCPT TO:"...))
	c.appendParams(ps)
}

// QueueData queues DATA. The message is written after its 354.
func (c *Conn) QueueData() { c.queueLine(kindData, "DATA") }

// QueueNoop queues NOOP, which makes the backend's patience begin anew.
func (c *Conn) QueueNoop() { c.queueLine(kindNoop, "NOOP") }

// QueueBdat queues BDAT (RFC 3030 §2). Exactly n octets must be written before
// anything else is queued; nothing needs to be read first.
func (c *Conn) QueueBdat(n int64, last bool) {
	kind := kindBdat
	if last {
		kind = kindBdatLast
	}
	c.begin(kind)
	c.out = strconv.AppendInt(append(c.out, "BDAT "...), n, 10)
	if last {
		c.out = append(c.out, " LAST"...)
	}
	c.out = append(c.out, "\r\n"...)
	c.body = n
	c.textBegins()
}

func (c *Conn) begin(k commandKind) {
	c.queue = append(c.queue, command{k, len(c.out)})
}

func (c *Conn) queueLine(k commandKind, line string) {
	c.begin(k)
	c.out = append(append(c.out, line...), "\r\n"...)
}

func (c *Conn) appendParams(ps []smtp.Param) {
	for _, p := range ps {
		c.out = append(append(c.out, ' '), p.Key...)
		if p.HasValue {
			c.out = append(append(c.out, '='), p.Value...)
		}
	}
	c.out = append(c.out, "\r\n"...)
}

// sendable returns how much of out may be written now.
func (c *Conn) sendable() int {
	if !c.serial {
		return len(c.out)
	}
	next := c.sent
	if c.sent == c.head {
		next++ // nothing is unanswered, so one may go, with what belongs to it
	}
	if next < len(c.queue) {
		return c.queue[next].start
	}
	return len(c.out)
}

// Flush writes what is queued and may be written.
func (c *Conn) Flush() error {
	if c.werr != nil {
		return c.werr
	}
	end := c.sendable()
	if end <= c.written {
		return nil
	}
	p, whole := c.out[c.written:end], c.sent
	if err := c.unasked(); err != nil {
		c.werr, c.whole = err, whole
		if c.replay && c.restart() {
			return c.Flush()
		}
		return c.count(c.werr)
	}
	if !c.data {
		c.listen()
	}
	for c.sent < len(c.queue) && c.queue[c.sent].start < end {
		if c.queue[c.sent].kind == kindBdatLast {
			// From here on the message may have been taken, whatever becomes
			// of the connection. NOT: to say it again elsewhere.
			c.replay = false
		}
		c.sent++
	}
	c.written = end
	err := c.wrote(c.l.write(p, c.pool.o.Timeouts.DataBlock), whole)
	if err != nil && c.replay && c.restart() {
		return c.Flush()
	}
	return c.count(err)
}

// unasked reads what the backend has said although everything was answered: it
// would be taken for the answer to what is sent next. A 421 tells why it goes.
func (c *Conn) unasked() error {
	if c.head < c.sent || c.data || !c.l.speaks() {
		return nil
	}
	r, err := c.l.reply(lastWords)
	if err == nil {
		err = c.l.refuse(KindProtocol, r, errUnasked.Error())
	}
	return err
}

// listen notes, before the last octets of a message are written, whether the backend
// has spoken already: what it says before it has heard all of the message may be a
// refusal, and nothing else. While answers to commands before are due, nothing can be told.
func (c *Conn) listen() {
	ends := c.data || c.body == 0 && c.head == len(c.queue)-1 && c.queue[c.head].kind == kindBdatLast
	if ends && !c.early {
		c.early = c.l.speaks()
	}
}

// tooEarly is r where the backend cannot have meant it.
func (c *Conn) tooEarly(r smtp.Reply) error {
	if !c.early || !r.Positive() {
		return nil
	}
	// NOT: an error with a Reply, which would say that it has not taken the message.
	c.werr = c.l.fail(KindProtocol, fmt.Errorf("%w: %v", errUnasked, r))
	return c.werr
}

// wrote ends a write: it keeps the error, or forgets what need not be kept.
func (c *Conn) wrote(err error, whole int) error {
	if err != nil {
		c.werr, c.whole = c.l.fail(kindOf(err), err), whole
		return c.werr
	}
	if c.body == 0 && c.sent == len(c.queue) && c.sent > 0 && c.queue[c.sent-1].kind == kindBdatLast {
		c.endSent = true
	}
	c.settle()
	return nil
}

// settle forgets what has been written, unless it may be needed again.
func (c *Conn) settle() {
	if c.replay {
		return
	}
	if c.written == len(c.out) {
		c.out, c.written = c.out[:0], 0
	}
	if c.head == len(c.queue) {
		c.queue, c.head, c.sent = c.queue[:0], 0, 0
	}
}

// Write sends octets of the message as they are: dot-stuffed, with the final
// dot by a Write of its own, after DATA was answered by 354; exactly as many as announced
// after QueueBdat. Small pieces are gathered and leave with what is queued, so
// that a small message is one write; Flush sends what was gathered. Each write
// may take timeouts.data_block.
func (c *Conn) Write(p []byte) (int, error) {
	if c.werr != nil {
		return 0, c.werr
	}
	if !c.data {
		// Octets that no BDAT announced would be read as commands.
		if int64(len(p)) > c.body {
			c.werr = c.l.fail(KindProtocol, errors.New("message octets outside of DATA and BDAT"))
			return 0, c.werr
		}
		c.body -= int64(len(p))
	}
	if c.carried += len(p); c.carried >= bufferSize {
		c.used, c.carried = time.Now(), 0
	}
	if len(c.out)+len(p) <= bufferSize {
		c.out = append(c.out, p...)
		return len(p), nil
	}
	c.replay = false // too much to keep
	if c.data && len(p) < smallPiece {
		// A small piece may be the final dot, and before that one FinalReply reads what
		// the backend has said.
		if err := c.Flush(); err != nil {
			return 0, err
		}
		c.out = append(c.out, p...)
		return len(p), nil
	}
	if c.serial {
		// Everything before the BDAT has to be answered before it may go.
		if err := c.catchUp(); err != nil {
			return 0, err
		}
	}
	if err := c.unasked(); err != nil {
		c.werr, c.whole = err, c.sent
		return 0, c.count(err)
	}
	q, whole := c.out[c.written:], c.sent
	if !c.data {
		c.listen()
		whole = min(whole, len(c.queue)-1) // the BDAT that p belongs to
	}
	c.sent, c.written = len(c.queue), len(c.out)
	var err error
	if len(q) == 0 {
		err = c.l.write(p, c.pool.o.Timeouts.DataBlock)
	} else {
		err = c.l.writev(q, p, c.pool.o.Timeouts.DataBlock)
	}
	if err := c.wrote(err, whole); err != nil {
		return 0, c.count(err)
	}
	return len(p), nil
}
