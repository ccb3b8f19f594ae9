package proxy

import (
	"strconv"
	"strings"
	"time"

	"postern/policy/journal"
	"postern/proxy/esmtp"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// data receives a message by DATA (RFC 5321 §4.1.1.4).
func (s *session) data(arg string) smtp.Reply {
	if arg != "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "DATA takes no parameter"}
	}
	if s.tx.message != nil {
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "The message comes by BDAT"}
	}
	if s.tx.relay.Mail.Binary {
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "BODY=BINARYMIME needs BDAT"} // RFC 3030 §3
	}
	if r := s.noRecipients(); !r.IsZero() {
		return r
	}
	s.wire.Say(smtp.Reply{Code: 354, Text: "End data with <CR><LF>.<CR><LF>"})
	if s.wire.Flush() != nil {
		s.closing = true
		return smtp.Reply{}
	}
	m := newMessage(s.tx)
	if err := m.receive(); err != nil {
		s.messageLost(m, err)
		return smtp.Reply{}
	}
	s.endMessage(m)
	return smtp.Reply{}
}

// noRecipients says why there is nobody to send a message to, or nothing.
func (s *session) noRecipients() smtp.Reply {
	r, failed := s.tx.noRecipients()
	if failed {
		s.finish(journal.OutcomeFailed)
	}
	return r
}

// receive reads DATA to its end and pushes it. It fails only when the
// client is gone or too slow.
func (m *message) receive() error {
	tx := m.tx
	defer tx.Took("data", time.Now())
	var (
		sc      smtp.DataScanner
		keep    [8]byte
		tail    []byte
		bad     bool
		skipped int64
		limit   = tx.set.sizeLimit(tx.loan.Conn().Capabilities())
		eight   = tx.loan.Conn().Capabilities().EightBitMIME
		pace    = wire.NewPace(tx.set.Timeouts.DataBlock)
	)
	sc.Detect8Bit = !eight
	for {
		pace.Arm(tx.wire, sc.Octets()+skipped)
		spare := !tx.awaitsBackend() && tx.loan.Spare()
		b, block, err := tx.wire.ReadBlock(tail, m.state == streaming)
		if tx.gaveUp(spare, err) {
			tx.wire.PutBlock(block)
			continue
		}
		if err != nil {
			tx.wire.PutBlock(block)
			return err
		}
		var n int
		var end bool
		if !bad {
			n, end, err = sc.Scan(b)
			tx.bytes = sc.Octets()
			switch {
			case err != nil:
				bad = true
				m.refuse(smtp.BadOctets(err))
				b, n = b[n:], 0
			case tx.bytes > limit:
				m.refuse(esmtp.ErrTooLarge)
			case !eight && sc.Has8Bit():
				m.refuse(errEightBit)
			default:
				if m.whole = end; end {
					m.ends()
				}
				m.push(b[:n])
			}
		}
		if bad {
			n, end = sc.Skip(b)
			skipped += int64(n)
		}
		if end {
			tx.wire.Unread(b[n+len(".\r\n"):])
			tx.wire.PutBlock(block)
			return nil
		}
		tail = append(keep[:0], b[n:]...)
		tx.wire.PutBlock(block)
	}
}

// bdat receives a chunk of a message (RFC 3030 §2). Whatever is to be said of
// it, its octets are read first: they are in the pipe already.
func (s *session) bdat(arg string) smtp.Reply {
	size, word, _ := strings.Cut(arg, " ")
	word = strings.TrimLeft(word, " ") // several blanks, as between the parameters of MAIL
	n, err := strconv.ParseInt(size, 10, 64)
	last := strings.EqualFold(word, "LAST")
	if err != nil || !esmtp.Digits(size) || word != "" && !last {
		// Where the chunk ends nobody knows now, so nothing can be read after it.
		s.closing = true
		s.result = endedBdatSyntax
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "BDAT needs a size, and perhaps LAST; closing connection"}
	}
	reply := smtp.Reply{}
	switch {
	case !s.peer.greeted:
		reply = smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say EHLO first"}
	case s.tx == nil:
		reply = smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say MAIL first"}
	case s.tx.message == nil:
		reply = s.noRecipients()
	}
	if !reply.IsZero() {
		if err := readChunk(&s.wire, nil, wire.NewPace(s.set.Timeouts.DataBlock), 0, n); err != nil {
			s.readFailed(err)
			s.closing = true
			return smtp.Reply{}
		}
		// NOT: counted as an error of the client's. A message of many chunks
		// that were all in the pipe when the first was refused is one mistake.
		s.wire.Say(reply)
		return smtp.Reply{}
	}
	tx := s.tx
	m := tx.message
	if m == nil {
		caps := s.loan.Conn().Capabilities()
		m = newMessage(tx)
		m.raw, m.binary, m.seven, m.limit = true, tx.relay.Mail.Binary, !caps.EightBitMIME, s.set.sizeLimit(caps)
	}
	start := time.Now()
	err = m.receiveChunk(n, last)
	tx.Took("data", start)
	if err != nil {
		s.messageLost(m, err)
		return smtp.Reply{}
	}
	if last || m.state == discarding {
		// A failed chunk ends the transaction; those behind it in the pipe are
		// read and answered 503 (RFC 3030 §2).
		s.endMessage(m)
		return smtp.Reply{}
	}
	if n >= idleChunk {
		s.manners.commands--
	}
	return smtp.Reply{Code: 250, Enhanced: "0.0", Text: strconv.FormatInt(n, 10) + " octets received"}
}

// receiveChunk reads the n octets of a BDAT and pushes them. It fails only when
// the client is gone or too slow.
func (m *message) receiveChunk(n int64, last bool) error {
	tx := m.tx
	tx.bytes += n
	if tx.bytes > m.limit || tx.bytes < 0 {
		m.refuse(esmtp.ErrTooLarge)
	}
	m.chunk(n, last)
	// One pace for all chunks, or a client could be slow without end.
	if m.pace.IsZero() {
		m.pace = wire.NewPace(tx.set.Timeouts.DataBlock)
	}
	return readChunk(tx.wire, m, m.pace, tx.bytes-n, n)
}

// readChunk reads n octets, before which the client has brought so many at that pace,
// for m; nil: for nobody.
func readChunk(c *wire.Conn, m *message, p wire.Pace, before, n int64) error {
	for got := int64(0); got < n; {
		if c.Buffered() == 0 {
			if err := c.Flush(); err != nil {
				return err
			}
		}
		p.Arm(c, before+got)
		spare := m != nil && !m.tx.awaitsBackend() && m.tx.loan.Spare()
		b, block, err := c.ReadBlock(nil, m != nil && m.state == streaming)
		if spare && m.tx.gaveUp(spare, err) {
			c.PutBlock(block)
			continue
		}
		if err != nil {
			c.PutBlock(block)
			return err
		}
		if over := int64(len(b)) - (n - got); over > 0 {
			c.Unread(b[int64(len(b))-over:])
			b = b[:int64(len(b))-over]
		}
		got += int64(len(b))
		if m != nil {
			m.chunkPart(b)
		}
		c.PutBlock(block)
	}
	return nil
}

// endMessage gives the client the backend's answer to a message that has come to its
// end. It leaves before anything else is done, be there more in the pipe or not: until
// the client has it, a log that does not take our line or a crash makes it send the
// message again.
func (s *session) endMessage(m *message) {
	tx := m.tx
	began := time.Now()
	s.messages++
	s.manners.commands = 0
	defer s.idle.hadMessage()
	f := m.end()
	s.wire.Say(f.Reply)
	if s.wire.Flush() != nil {
		s.closing = true
	}
	took := time.Since(began)
	tx.reply = f.Reply
	m.close()
	if bc := s.loan.Conn(); bc != nil && (f.Outcome != journal.OutcomeDelivered || bc.Worn()) {
		s.loan.Release()
	}
	s.srv.metrics.MessageBytes(tx.bytes)
	s.srv.metrics.TimeToFinalReply(took, tx.facts.ID)
	s.finish(f.Outcome)
}

// messageLost ends the session with a message that never came to its end, since the
// client is gone or too slow.
func (s *session) messageLost(m *message, err error) {
	m.close()
	if m.out.Begun() {
		s.loan.Drop()
	}
	if m.state == discarding {
		s.tx.reply = m.fate.Reply
		s.loan.Release()
		s.finish(m.fate.Outcome)
	} else {
		s.abandon()
	}
	s.readFailed(err)
	s.closing = true
}
