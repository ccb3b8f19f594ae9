package backend

import (
	"context"
	"errors"
	"time"

	"postern/metrics"
	"postern/proxy/smtp"
)

var (
	errNothingAsked = errors.New("no reply is outstanding")
	errUnasked      = errors.New("a reply to nothing")
	errNotWhole     = errors.New("a positive reply to what was not sent whole")
)

// Reply sends what is queued and returns the reply to the oldest command that
// has none yet. It waits timeouts.backend_command, for the last BDAT
// timeouts.end_of_data. 421 is an error of KindLost that carries the reply. A
// 354 opens the way for Write.
//
// After a Write that failed it returns what the backend said before it went
// away, if it said something: a negative reply to the message.
func (c *Conn) Reply() (smtp.Reply, error) {
	if len(c.ready) > 0 {
		r := c.ready[0]
		c.ready = c.ready[1:]
		return r, nil
	}
	if c.data && c.head == len(c.queue) {
		return c.FinalReply()
	}
	return c.next()
}

// FinalReply sends the rest of the message, whose end the caller has written,
// and returns the reply to it within timeouts.end_of_data. Whether an error
// leaves the outcome open tells EndSent.
func (c *Conn) FinalReply() (smtp.Reply, error) {
	if !c.data {
		return c.Reply()
	}
	wait := c.pool.o.Timeouts.EndOfData
	c.listen()
	if c.Flush() != nil {
		wait = lastWords
	} else {
		c.endSent = true
	}
	start := c.textEnds()
	r, err := c.l.reply(wait)
	switch {
	case c.werr != nil && (err != nil && r.IsZero() || r.Positive()):
		return smtp.Reply{}, c.werr
	case err != nil:
		return smtp.Reply{}, c.count(err)
	case c.tooEarly(r) != nil:
		return smtp.Reply{}, c.count(c.werr)
	}
	c.pool.metrics.Took(metrics.PhaseEndOfData, time.Since(start))
	c.data = false
	c.concluded(r)
	return r, nil
}

// EndSent says whether the end of the last message has been sent. If it has,
// and its reply never came, the backend may have taken the message or not.
func (c *Conn) EndSent() bool { return c.endSent }

// count counts the first failure, unless it is that we hung up ourselves.
func (c *Conn) count(err error) error {
	if err == nil || c.faulty {
		return err
	}
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if !ended {
		c.faulty = true
		c.pool.metrics.Error(string(e.Kind))
	}
	return err
}

// textBegins ends the phase of the envelope, for which counts what we waited
// for the backend: the client takes its own time between recipients.
func (c *Conn) textBegins() {
	if c.textAt.IsZero() {
		c.textAt = time.Now()
		c.pool.metrics.Took(metrics.PhaseEnvelope, c.waited)
	}
}

// textEnds ends the phase of the message, and says when.
func (c *Conn) textEnds() time.Time {
	now := time.Now()
	c.pool.metrics.Took(metrics.PhaseData, now.Sub(c.textAt))
	return now
}

// concluded notes the reply to a whole message.
func (c *Conn) concluded(r smtp.Reply) {
	// After a refusal most MTAs have forgotten the transaction, and RFC 3030 §2
	// leaves open what state a failed BDAT is in: RSET settles it.
	c.mail = !r.Positive()
	c.used = time.Now()
	c.idleSince = c.used
	if r.Positive() {
		c.l.errors = 0
	} else {
		c.l.errors++
	}
}

// catchUp reads replies until only that to the last command, a BDAT whose
// octets are being written, is outstanding.
func (c *Conn) catchUp() error {
	for c.head < len(c.queue)-1 {
		r, err := c.next()
		if err != nil {
			c.werr, c.whole = err, c.head
			return err
		}
		c.ready = append(c.ready, r)
	}
	return nil
}

// next sends what may go and reads the reply to the command at head. Replies
// to what we said ourselves are dealt with here.
func (c *Conn) next() (smtp.Reply, error) {
	for {
		if c.head == len(c.queue) {
			if c.werr != nil {
				return smtp.Reply{}, c.werr
			}
			return smtp.Reply{}, c.l.fail(KindProtocol, errNothingAsked)
		}
		r, err := c.read()
		if err != nil {
			if c.replay && c.restart() {
				continue
			}
			return smtp.Reply{}, c.count(err)
		}
		cmd := c.queue[c.head]
		c.head++
		if !cmd.kind.hidden() {
			c.replay = false
		}
		c.settle()
		switch cmd.kind {
		case kindHiddenXForward:
			if !r.Positive() {
				return smtp.Reply{}, c.count(c.l.refuse(KindIdentity, r, "XFORWARD"))
			}
			continue
		case kindHiddenRset:
			if !r.Positive() {
				// The connection has not forgotten whom it served before. A new
				// connection has nothing to forget.
				if c.replay && c.restart() {
					continue
				}
				return smtp.Reply{}, c.count(c.l.refuse(KindProtocol, r, "RSET"))
			}
			continue
		case kindBdatLast:
			if err := c.tooEarly(r); err != nil {
				return smtp.Reply{}, c.count(err)
			}
			c.concluded(r)
			return r, nil
		case kindData:
			if c.data = r.Code == 354; c.data {
				c.textBegins()
			}
		case kindMail:
			c.mail = r.Positive()
		}
		if r.Code >= 400 {
			c.l.errors++
		}
		if cmd.kind == kindMail || cmd.kind == kindRcpt || cmd.kind == kindData {
			c.used = time.Now()
		}
		return r, nil
	}
}

// read sends what may go and reads one reply.
func (c *Conn) read() (smtp.Reply, error) {
	t := &c.pool.o.Timeouts
	var wait time.Duration
	if c.Flush() != nil {
		wait = lastWords
	} else if c.queue[c.head].kind == kindBdatLast {
		wait = t.EndOfData
	} else {
		wait = t.BackendCommand
	}
	start := time.Now()
	if c.queue[c.head].kind == kindBdatLast {
		start = c.textEnds()
	}
	r, err := c.l.reply(wait)
	d := time.Since(start)
	c.waited += d
	if err == nil && c.queue[c.head].kind == kindBdatLast {
		c.pool.metrics.Took(metrics.PhaseEndOfData, d)
	}
	switch {
	case c.werr != nil && err != nil && r.IsZero():
		return smtp.Reply{}, c.werr
	case c.werr != nil && err == nil && r.Positive() && c.head >= c.whole:
		return smtp.Reply{}, c.l.fail(KindProtocol, errNotWhole)
	}
	return r, err
}

// restart takes another link in place of one from the pool that turned out to
// be dead, and rewinds, so that all is said again. It says whether that was
// possible.
func (c *Conn) restart() bool {
	c.replay = false
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return false
	}
	old := c.l
	c.cancel = cancel
	c.mu.Unlock()

	old.close()
	l, _, err := c.pool.connect(ctx, &c.client, true)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = nil
	if err != nil {
		return false
	}
	if c.ended || !l.caps.covers(old.caps) {
		l.close()
		c.pool.putAddress(l.at)
		return false
	}
	c.pool.putAddress(old.at)
	for _, cmd := range c.queue {
		if cmd.kind == kindMail {
			l.mails++
		}
	}
	if len(c.queue) > 0 && c.queue[0].kind == kindHiddenRset {
		n := len(c.out)
		if c.queue = c.queue[1:]; len(c.queue) > 0 {
			n = c.queue[0].start
		}
		c.out = c.out[n:]
		for i := range c.queue {
			c.queue[i].start -= n
		}
	}
	c.l = l
	c.written, c.head, c.sent, c.werr, c.ready = 0, 0, 0, nil, nil
	return true
}

// maxErrors is how many negative replies a connection may have collected since
// its last accepted message to be lent again. MTAs slow down and then hang up
// on those who collect too many (Postfix: smtpd_soft_error_limit 10), and the
// next client has not earned that.
const maxErrors = 5

// Worn says that the connection has served its time: it may be used for no
// further transaction, by nobody.
func (c *Conn) Worn() bool {
	most := c.pool.o.MaxUses
	if m := c.l.caps.Limits.MailMax; m > 0 {
		most = min(most, m)
	}
	return c.l.errors >= maxErrors || c.l.mails >= most
}

// Release ends the loan after a transaction: the connection goes back to the
// pool, after RSET if the transaction was left open, or ends with QUIT. A
// conversation that is out of step is cut as by Abort.
func (c *Conn) Release() {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	c.mu.Unlock()
	l, p := c.l, c.pool
	if c.data || c.body > 0 || c.werr != nil || c.head < len(c.queue) || c.written < len(c.out) {
		// NOT: QUIT. In the middle of a message it would be part of it.
		p.drop(l, c.who)
		return
	}
	*c.buf = (*c.buf)[:0]
	buffers.Put(c.buf)
	c.out, c.queue = nil, nil
	keep := l.forOthers() && !c.Worn()
	if keep && c.mail {
		if err := l.write([]byte("RSET\r\n"), lastWords); err != nil {
			p.drop(l, c.who)
			return
		}
		l.resetting = true
	}
	p.giveBack(l, c.who, keep)
}

// Abort ends the loan at once: the connection is closed, without a dot and
// without QUIT, so that an unfinished message stays one. It may be called at
// any time, by any goroutine; what the other one waits for then fails.
func (c *Conn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
	c.pool.drop(c.l, c.who)
}
