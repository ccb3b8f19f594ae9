package amtp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// errTooLarge ends the reading of a message that exceeds its limit.
var errTooLarge = errors.New("amtp: message too large")

// text reads what comes behind a 354 or a SEMA, up to its lone dot, without the dots that were stuffed. Read returns
// io.EOF at the true end and nowhere else.
type text struct {
	wire  *wire.Conn
	pace  wire.Pace
	limit int64 // octets
	cut   bool  // a text of many times as many is not read to its end: of a server's, whom nobody has to answer

	sc      smtp.DataScanner
	un      smtp.Unstuffer
	keep    [8]byte
	tail    []byte
	ready   []byte // unstuffed, and not yet read
	scratch []byte
	skipped int64
	read    time.Time // when the last block had come
	ended   bool      // the dot was read
	lost    error     // the connection failed: nothing more can be read
	err     error     // what Read returns once ready is empty
}

// cutFactor is how many times as much as its limit is read of a server's message, to be able to tell it that it was too
// large. More is cut off.
const cutFactor = 8

func newText(c *wire.Conn, block time.Duration, limit int64) *text {
	return &text{wire: c, pace: wire.NewPace(block), limit: limit, read: time.Now()}
}

// Read returns the next octets.
func (t *text) Read(p []byte) (int, error) {
	for len(t.ready) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		t.next()
	}
	n := copy(p, t.ready)
	t.ready = t.ready[n:]
	return n, nil
}

// next reads a block, or notes why there is none.
func (t *text) next() {
	t.pace.Rest(time.Since(t.read))
	t.pace.Arm(t.wire, t.sc.Octets()+t.skipped)
	b, block, err := t.wire.ReadBlock(t.tail, false)
	t.read = time.Now()
	defer t.wire.PutBlock(block)
	if err != nil {
		t.lost = err
		if t.err == nil {
			t.err = err
		}
		return
	}
	var n int
	switch {
	case t.err != nil:
		n, t.ended = t.sc.Skip(b)
		t.skipped += int64(n)
	default:
		if n, t.ended, err = t.sc.Scan(b); err == nil && t.sc.Octets() > t.limit {
			err = errTooLarge
		}
		if err != nil {
			t.err, b = err, b[n:]
			n, t.ended = t.sc.Skip(b)
			t.skipped += int64(n)
			break
		}
		t.scratch = t.un.Append(t.scratch[:0], b[:n])
		t.ready = t.scratch
		if t.ended {
			t.err = io.EOF
		}
	}
	if t.ended {
		t.wire.Unread(b[n+len(".\r\n"):])
		return
	}
	t.tail = append(t.keep[:0], b[n:]...)
}

// finish reads what nobody wanted to read, up to the dot: sooner no reply is allowed (RFC 5321 §3.3). It returns the
// fault of the text, nil where there is none, and whether the connection can be used on.
func (t *text) finish() (fault error, alive bool) {
	for !t.ended && t.lost == nil {
		if t.next(); t.cut && t.skipped > (cutFactor-1)*t.limit && !t.ended {
			t.lost = errTooLarge
		}
	}
	if fault = t.err; errors.Is(fault, io.EOF) {
		fault = nil
	}
	return fault, t.lost == nil
}

// refusal is what is said of a text with a fault.
func refusal(fault error, large smtp.Reply) smtp.Reply {
	if errors.Is(fault, errTooLarge) {
		return large
	}
	return smtp.BadOctets(fault)
}

// readHead reads what comes behind HEAD. Another HEAD takes its place.
func (s *Session) readHead() smtp.Reply {
	s.wire.Say(replyHead)
	if s.wire.Flush() != nil {
		s.closing = true
		return smtp.Reply{}
	}
	t := newText(&s.wire, s.set.Timeouts.DataBlock, int64(s.set.Limits.HeaderSize))
	section, _ := io.ReadAll(t)
	fault, alive := t.finish()
	if !alive {
		s.messageLost(t.lost)
		return smtp.Reply{}
	}
	s.head, s.hasHead = nil, false
	if fault != nil {
		return refusal(fault, replyHeadLarge)
	}
	end, _ := smtp.HeaderEnd(section)
	h, bad := smtp.ParseHeader(section)
	if bad > 0 || end >= 0 || smtp.Has8Bit(section) || len(h) > s.set.Limits.HeaderFields {
		return replyHeadASCII
	}
	s.head, s.hasHead = h, true
	return replyHeadTaken
}

// messageLost ends the session in the middle of a message.
func (s *Session) messageLost(err error) {
	s.closing = true
	s.readFailed(err)
}

// readData reads what comes behind DATA and gives it away.
func (s *Session) readData(ctx context.Context) smtp.Reply {
	s.wire.Say(replyData)
	if s.wire.Flush() != nil {
		s.closing = true
		return smtp.Reply{}
	}
	s.commands = 0
	t := newText(&s.wire, s.set.Timeouts.DataBlock, int64(s.set.Limits.MessageSize))
	body, fields := io.Reader(t), s.head
	if !s.hasHead {
		var subject smtp.Header
		subject, body = liftSubject(t)
		fields = subject
	}
	m := &Submission{From: s.user, To: slices.Clone(s.rcpts), Body: body}
	m.Head = compose(fields, s.user, s.rcpts, s.set.Hostname, time.Now())
	r := s.guest.Message(ctx, m)
	read := errors.Is(t.err, io.EOF) && len(t.ready) == 0
	fault, alive := t.finish()
	if !alive {
		s.guest.Reset()
		s.rcpts, s.head, s.hasHead = nil, nil, false
		s.messageLost(t.lost)
		return smtp.Reply{}
	}
	s.messages++
	s.reset()
	switch {
	case fault != nil:
		r = refusal(fault, replyTooLarge)
	case r.IsZero(), r.Positive() && !read:
		// NOT: a 250 for what nobody has read to its end.
		r = replyTrouble
	}
	s.wire.Say(r)
	if s.wire.Flush() != nil {
		s.closing = true
	}
	return smtp.Reply{}
}

// subjectLimit bounds a subject that is lifted out of a text (RFC 5322 §2.1.1: 998 octets in a line).
const subjectLimit = 998

// liftSubject takes a first line "Subject:" out of a text (-01, 4.2), and returns what is left of it.
func liftSubject(r io.Reader) (smtp.Header, io.Reader) {
	const name = "subject:"
	line := make([]byte, 0, 128)
	var one [1]byte
	for len(line) < subjectLimit+len("\r\n") {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			break
		}
		line = append(line, one[0])
		if n := min(len(line), len(name)); !strings.EqualFold(string(line[:n]), name[:n]) || bytes.HasSuffix(line, []byte("\r\n")) {
			break
		}
	}
	value, whole := bytes.CutSuffix(line, []byte("\r\n"))
	if !whole || len(value) < len(name) || !strings.EqualFold(string(value[:len(name)]), name) || smtp.Has8Bit(value) {
		return nil, io.MultiReader(bytes.NewReader(line), r)
	}
	return smtp.Header{{Name: "Subject", Value: string(value[len(name):])}}, r
}
