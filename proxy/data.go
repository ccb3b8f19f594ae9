package proxy

import (
	"strconv"
	"strings"
	"time"

	"postern/policy/journal"
	"postern/proxy/smtp"
)

const (
	// dataCeiling bounds a whole DATA, as a multiple of timeouts.data_block: an
	// hour where that is three minutes.
	dataCeiling = 20
	// minRate is what a client must bring on the average, in octets per second,
	// once timeouts.data_block has passed; a message of 1 MB may take nearly
	// the hour.
	minRate = 256
)

// data receives a message by DATA (RFC 5321 §4.1.1.4).
func (s *session) data(arg string) smtp.Reply {
	if arg != "" {
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "DATA takes no parameter"}
	}
	if s.tx.relay != nil {
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "The message comes by BDAT"}
	}
	if s.tx.binary {
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "BODY=BINARYMIME needs BDAT"} // RFC 3030 §3
	}
	if r := s.noRecipients(); !r.IsZero() {
		return r
	}
	s.say(smtp.Reply{Code: 354, Text: "End data with <CR><LF>.<CR><LF>"})
	if s.flush() != nil {
		s.closing = true
		return smtp.Reply{}
	}
	r := &relay{s: s}
	s.tx.relay = r
	if err := s.receiveData(r); err != nil {
		r.clientGone()
		s.readFailed(err)
		s.closing = true
		return smtp.Reply{}
	}
	r.finish()
	return smtp.Reply{}
}

// noRecipients says why there is nobody to send a message to, or nothing.
func (s *session) noRecipients() smtp.Reply {
	tx := s.tx
	if tx.broken != "" && len(tx.rcpts) > 0 {
		// Recipients were taken by a backend that is gone: the client must not
		// believe that the others got the message.
		r := s.unserved()
		tx.reply = r
		s.finish(journal.OutcomeFailed)
		return r
	}
	if tx.accepted > 0 {
		return smtp.Reply{}
	}
	for i := range tx.rcpts {
		if c := tx.rcpts[i].reply.Code; c >= 400 && c < 500 {
			// NOT: 554, which RFC 5321 §3.3 has here. A client that pipelines
			// may take the last answer for the one that counts, and what is
			// refused for now must not become refused for good.
			return s.refuse(451, "5.1", "No recipient can be served now, try again later")
		}
	}
	return s.refuse(554, "5.1", "No valid recipients")
}

// receiveData reads DATA to its end and pushes it. It fails only when the
// client is gone or too slow.
func (s *session) receiveData(r *relay) error {
	tx := s.tx
	defer tx.time("data", time.Now())
	var (
		sc      smtp.DataScanner
		keep    [8]byte
		tail    []byte
		bad     bool
		skipped int64
		limit   = s.sizeLimit(s.bc.Capabilities())
		eight   = s.bc.Capabilities().EightBitMIME
		pace    = newPace(s.set.Timeouts.DataBlock)
	)
	sc.Detect8Bit = !eight
	for {
		pace.arm(s, sc.Octets()+skipped)
		spare := s.spare()
		b, block, err := s.in.readBlock(tail)
		if s.gaveUp(spare, err) {
			putBlock(block)
			continue
		}
		if err != nil {
			putBlock(block)
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
				r.refuse(badOctets(err))
				b, n = b[n:], 0
			case tx.bytes > limit:
				r.refuse(errTooLarge)
			case !eight && sc.Has8Bit():
				r.refuse(errEightBit)
			default:
				if r.whole = end; end {
					r.ends()
				}
				r.push(b[:n])
			}
		}
		if bad {
			n, end = sc.Skip(b)
			skipped += int64(n)
		}
		if end {
			s.in.unread(b[n+len(".\r\n"):])
			putBlock(block)
			return nil
		}
		tail = append(keep[:0], b[n:]...)
		putBlock(block)
	}
}

// bdat receives a chunk of a message (RFC 3030 §2). Whatever is to be said of
// it, its octets are read first: they are in the pipe already.
func (s *session) bdat(arg string) smtp.Reply {
	size, word, _ := strings.Cut(arg, " ")
	word = strings.TrimLeft(word, " ") // several blanks, as between the parameters of MAIL
	n, err := strconv.ParseInt(size, 10, 64)
	last := strings.EqualFold(word, "LAST")
	if err != nil || !digits(size) || word != "" && !last {
		// Where the chunk ends nobody knows now, so nothing can be read after it.
		s.closing = true
		s.result = endedBdatSyntax
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "BDAT needs a size, and perhaps LAST; closing connection"}
	}
	reply := smtp.Reply{}
	switch {
	case !s.greeted:
		reply = smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say EHLO first"}
	case s.tx == nil:
		reply = smtp.Reply{Code: 503, Enhanced: "5.1", Text: "Say MAIL first"}
	case s.tx.relay == nil:
		reply = s.noRecipients()
	}
	if !reply.IsZero() {
		if err := s.receiveChunk(nil, n, last); err != nil {
			s.readFailed(err)
			s.closing = true
			return smtp.Reply{}
		}
		// NOT: counted as an error of the client's. A message of many chunks
		// that were all in the pipe when the first was refused is one mistake.
		s.say(reply)
		return smtp.Reply{}
	}
	tx := s.tx
	r := tx.relay
	if r == nil {
		caps := s.bc.Capabilities()
		r = &relay{s: s, raw: true, binary: tx.binary, seven: !caps.EightBitMIME, limit: s.sizeLimit(caps)}
		tx.relay = r
	}
	start := time.Now()
	err = s.receiveChunk(r, n, last)
	tx.time("data", start)
	if err != nil {
		r.clientGone()
		s.readFailed(err)
		s.closing = true
		return smtp.Reply{}
	}
	if last || r.state == discarding {
		// A failed chunk ends the transaction; those behind it in the pipe are
		// read and answered 503 (RFC 3030 §2).
		r.finish()
		return smtp.Reply{}
	}
	if n >= idleChunk {
		s.commands--
	}
	return smtp.Reply{Code: 250, Enhanced: "0.0", Text: strconv.FormatInt(n, 10) + " octets received"}
}

// receiveChunk reads the n octets of a BDAT and pushes them. It fails only when
// the client is gone or too slow.
func (s *session) receiveChunk(r *relay, n int64, last bool) error {
	if r != nil {
		s.tx.bytes += n
		if s.tx.bytes > r.limit || s.tx.bytes < 0 {
			r.refuse(errTooLarge)
		}
		r.chunk(n, last)
	}
	p, before := newPace(s.set.Timeouts.DataBlock), int64(0)
	if r != nil {
		// One pace for all chunks, or a client could be slow without end.
		if r.pace.block == 0 {
			r.pace = p
		}
		p, before = r.pace, s.tx.bytes-n
	}
	for got := int64(0); got < n; {
		if s.in.buffered() == 0 {
			if err := s.flush(); err != nil {
				return err
			}
		}
		p.arm(s, before+got)
		spare := r != nil && s.spare()
		b, block, err := s.in.readBlock(nil)
		if s.gaveUp(spare, err) {
			putBlock(block)
			continue
		}
		if err != nil {
			putBlock(block)
			return err
		}
		if over := int64(len(b)) - (n - got); over > 0 {
			s.in.unread(b[int64(len(b))-over:])
			b = b[:int64(len(b))-over]
		}
		got += int64(len(b))
		if r != nil {
			r.chunkPart(b)
		}
		putBlock(block)
	}
	return nil
}

// pace holds a client to its pace in DATA and BDAT: it may pause for a while,
// it may be slow for a while, and it may not take for ever.
type pace struct {
	block   time.Duration
	began   time.Time
	ceiling time.Time
}

func newPace(block time.Duration) pace {
	now := time.Now()
	return pace{block: block, began: now, ceiling: now.Add(dataCeiling * block)}
}

// arm sets the deadline for the next octets, octets having come so far.
func (p *pace) arm(s *session, octets int64) {
	now := time.Now()
	deadline := now.Add(p.block)
	if deadline.After(p.ceiling) {
		deadline = p.ceiling
	}
	if ran := now.Sub(p.began); ran > p.block && float64(octets) < minRate*(ran-p.block).Seconds() {
		deadline = now
	}
	s.readBy(deadline)
}
