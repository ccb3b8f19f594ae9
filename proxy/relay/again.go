package relay

import (
	"context"
	"log/slog"
	"time"
)

// tiredAfter is how long the backend must have waited for us for its connection to be
// looked at before the message begins.
const tiredAfter = time.Second

// present sees to it that there is a backend to begin the message with. A backend that was
// tired of waiting for a slow client, or for a message that was held, has heard an
// envelope and no more: the envelope is said again on another connection.
func (o *Outgoing) present(held bool) bool {
	bc := o.c.loan.conn
	if bc != nil && (!held && time.Since(o.spoken) < tiredAfter || bc.Alive()) {
		return true
	}
	return o.sayAgain()
}

// sayAgain opens another connection to the backend of the transaction and says the
// envelope there: MAIL, and the recipients that the client was told are taken. All of
// them must be taken again. It is done once for a message, and only while nothing of
// it has gone.
func (o *Outgoing) sayAgain() bool {
	c := o.c
	if o.again || o.begun {
		return false
	}
	o.again = true
	why := c.Broken
	c.loan.Drop()
	start := time.Now()
	defer c.tx.Took("backend", start)
	// The client may be waiting for the answer to its message already, and has ten minutes.
	ctx, cancel := context.WithTimeout(c.site.Context, c.timeouts.EndOfData/4)
	defer cancel()
	bc, err := c.pool.Open(ctx, c.tx.Client())
	if err != nil {
		c.Fail(err)
		return false
	}
	c.loan.set(bc)
	c.Broken = ""
	c.Backend = bc.Name()
	caps := bc.Capabilities()
	ps, ok := c.mailParams(caps)
	if !ok || c.takes8 && !caps.EightBitMIME {
		c.Broken = "the backend offers less than before"
		c.loan.Release()
		return false
	}
	bc.QueueMail(c.Mail.From, ps)
	due := 1
	for to, params := range c.tx.Taken() {
		bc.QueueRcpt(to, params)
		due++
	}
	all := true
	for range due {
		reply, ok := c.answer()
		if !ok {
			return false
		}
		all = all && reply.Positive()
	}
	if !all {
		c.Broken = "the backend does not take again what it had taken"
		c.loan.Release()
		return false
	}
	o.spoken = time.Now()
	c.log(slog.LevelInfo, "the backend did not wait for the message: envelope said again", slog.String("error", why))
	return true
}

// keepAliveEvery is how long the backend may have to wait for DATA without a
// word from us. With the longest pause that a client may make (three minutes)
// it stays below the five that MTAs wait for a command.
const keepAliveEvery = time.Minute

// KeepAlive tells the backend, which has heard RCPT and not yet DATA, that we
// are still there. A client on a slow line takes longer over a message that is
// held than MTAs wait; it would be told to come again, each time.
func (o *Outgoing) KeepAlive() Fate {
	now := time.Now()
	if o.spoken.IsZero() {
		o.spoken = now
	}
	if now.Sub(o.spoken) < keepAliveEvery {
		return Fate{}
	}
	c := o.c
	o.spoken = now
	if c.loan.conn == nil {
		return Fate{}
	}
	c.loan.conn.QueueNoop()
	if !c.skip() && !o.again {
		c.Broken = "" // see present: it has lost nothing but an envelope
		return Fate{}
	}
	if c.loan.conn == nil {
		return c.failed()
	}
	o.spoken = time.Now()
	return Fate{}
}
