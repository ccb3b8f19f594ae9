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
func (r *relay) present() bool {
	s := r.s
	if s.bc != nil && (r.hold == nil && time.Since(r.spoken) < tiredAfter || s.bc.Alive()) {
		return true
	}
	return r.sayAgain()
}

// sayAgain opens another connection to the backend of the transaction and says the
// envelope there: MAIL, and the recipients that the client was told are taken. All of
// them must be taken again. It is done once for a message, and only while nothing of
// it has gone.
func (r *relay) sayAgain() bool {
	s, tx := r.s, r.s.tx
	if r.again || r.begun {
		return false
	}
	r.again = true
	why := tx.broken
	s.dropBackend()
	start := time.Now()
	defer tx.time("backend", start)
	// Its client may be waiting for the end already, and has ten minutes.
	ctx, cancel := context.WithTimeout(s.context(), s.set.Timeouts.EndOfData/4)
	defer cancel()
	bc, err := tx.pool.Open(ctx, s.asClient())
	if err != nil {
		tx.fail(err)
		return false
	}
	s.setBackend(bc)
	tx.broken = ""
	tx.backend = bc.Backend() + " " + bc.Address()
	caps := bc.Capabilities()
	ps, ok := s.forwardParams(caps)
	if !ok || tx.takes8 && !caps.EightBitMIME {
		tx.broken = "the backend offers less than before"
		s.releaseBackend()
		return false
	}
	bc.QueueMail(tx.from, ps)
	due := 1
	for i := range tx.rcpts {
		if o := &tx.rcpts[i]; o.taken {
			bc.QueueRcpt(o.path, o.params)
			due++
		}
	}
	all := true
	for range due {
		reply, ok := s.backendAnswer()
		if !ok {
			return false
		}
		all = all && reply.Positive()
	}
	if !all {
		tx.broken = "the backend does not take again what it had taken"
		s.releaseBackend()
		return false
	}
	r.spoken = time.Now()
	s.srv.log.LogAttrs(s.srv.ctx, slog.LevelInfo, "the backend did not wait for the message: envelope said again",
		slog.String("id", tx.facts.ID), slog.String("backend", tx.backend), slog.String("error", why))
	return true
}
