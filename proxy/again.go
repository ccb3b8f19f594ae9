package proxy

import (
	"context"
	"log/slog"
	"time"
)

// tiredAfter is how long the backend must have waited for us for its connection to be
// looked at before the message begins.
const tiredAfter = time.Second

// present sees to it that there is a backend to begin the message with. One that was
// tired of waiting for a slow client, or for a message that was held, has heard of an
// envelope and no more: that is said again on another connection.
func (o *outgoing) present(held bool) bool {
	bc := o.tx.loan.bc
	if bc != nil && (!held && time.Since(o.spoken) < tiredAfter || bc.Alive()) {
		return true
	}
	return o.sayAgain()
}

// sayAgain opens another connection to the backend of the transaction and says the
// envelope there: MAIL, and the recipients that the client was told are taken. All of
// them must be taken again. It is done once for a message, and only while nothing of
// it has gone.
func (o *outgoing) sayAgain() bool {
	tx := o.tx
	if o.again || o.begun {
		return false
	}
	o.again = true
	why := tx.broken
	tx.loan.drop()
	start := time.Now()
	defer tx.time("backend", start)
	// Its client may be waiting for the end already, and has ten minutes.
	ctx, cancel := context.WithTimeout(tx.srv.ctx, tx.set.Timeouts.EndOfData/4)
	defer cancel()
	bc, err := tx.pool.Open(ctx, tx.asClient())
	if err != nil {
		tx.fail(err)
		return false
	}
	tx.loan.set(bc)
	tx.broken = ""
	tx.backend = bc.Backend() + " " + bc.Address()
	caps := bc.Capabilities()
	ps, ok := tx.forwardParams(caps)
	if !ok || tx.takes8 && !caps.EightBitMIME {
		tx.broken = "the backend offers less than before"
		tx.loan.release()
		return false
	}
	bc.QueueMail(tx.from, ps)
	due := 1
	for i := range tx.rcpts {
		if r := &tx.rcpts[i]; r.taken {
			bc.QueueRcpt(r.path, r.params)
			due++
		}
	}
	all := true
	for range due {
		reply, ok := tx.backendAnswer()
		if !ok {
			return false
		}
		all = all && reply.Positive()
	}
	if !all {
		tx.broken = "the backend does not take again what it had taken"
		tx.loan.release()
		return false
	}
	o.spoken = time.Now()
	tx.srv.log.LogAttrs(tx.srv.ctx, slog.LevelInfo, "the backend did not wait for the message: envelope said again",
		slog.String("id", tx.facts.ID), slog.String("backend", tx.backend), slog.String("error", why))
	return true
}
