package proxy

import (
	"errors"
	"os"
	"sync"
	"time"

	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// idleBackend is how long a client that has nothing to say may keep a backend
// connection to itself. Between the messages of one client it is worth
// keeping: taking another costs at least the XCLIENT.
const idleBackend = 3 * time.Second

// loan is the connection to the backend that a session has from a pool, from one
// transaction to the next, and gives back when others ask for it.
type loan struct {
	wire *wire.Conn    // of the client that is waited for meanwhile; immutable
	bc   *backend.Conn // of the session's goroutine, which changes it under mu; nil: none

	mu    sync.Mutex
	asked bool // to give bc up
	gone  bool // abort was called
}

// set changes bc under the lock that abort takes.
func (l *loan) set(bc *backend.Conn) {
	l.mu.Lock()
	l.bc = bc
	gone := l.gone
	l.mu.Unlock()
	if gone && bc != nil {
		bc.Abort()
	}
}

// drop lets go of a connection whose transaction did not come to its end: no dot, no
// message.
func (l *loan) drop() {
	if bc := l.bc; bc != nil {
		l.set(nil)
		bc.Abort()
	}
}

// release gives the connection back to its pool, in step.
func (l *loan) release() {
	if bc := l.bc; bc != nil {
		l.set(nil)
		bc.Release()
	}
}

// abort ends the conversation, also one that is begun later. Any goroutine may call it.
func (l *loan) abort() {
	l.mu.Lock()
	l.gone = true
	bc := l.bc
	l.mu.Unlock()
	if bc != nil {
		bc.Abort()
	}
}

// hangUp ends the conversation, and none that is begun later. Any goroutine may call it.
func (l *loan) hangUp() {
	l.mu.Lock()
	bc := l.bc
	l.mu.Unlock()
	if bc != nil {
		bc.Abort()
	}
}

// aborted says whether abort was called. Any goroutine may ask.
func (l *loan) aborted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// spare tells the pool that the session could do without the connection while it waits
// for its client; false: there is none. To be ended by wanted. Call it only where the
// backend has no answer to give, and has heard of no message, or of one that comes too
// slowly.
func (l *loan) spare() bool {
	if l.bc == nil {
		return false
	}
	l.mu.Lock()
	l.asked = false
	l.mu.Unlock()
	l.bc.Spare(l)
	return true
}

// Asked makes a session that waits for its client look up, since others wait for
// the connection that it could do without (backend.Borrower).
func (l *loan) Asked() {
	l.mu.Lock()
	l.asked = true
	l.wire.Interrupt()
	l.mu.Unlock()
}

// wanted ends what spare began, and says whether the session was asked to give
// its connection up. If it was, the deadline for what is read has passed.
func (l *loan) wanted() bool {
	if l.bc == nil {
		return false
	}
	l.bc.Wanted()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// gaveUp ends spare where octets of a message were waited for: it says whether
// there were none, but somebody who got the connection, and the client is to be
// waited for again.
func (l *loan) gaveUp(tx *transaction, spare bool, err error) bool {
	if !spare || !l.wanted() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	l.giveUp(tx)
	return true
}

// giveUp lets go of the connection. Between two transactions that costs nothing. A
// client that is silent in the middle of one, tx, while others wait, is told to come
// again. NOT: what it has been told so far said again later, on another connection;
// there may be none then, and the backend may think otherwise.
func (l *loan) giveUp(tx *transaction) {
	l.giveUpFor(tx, errSlow, "given up for others: the client was silent or slow while they waited for a connection")
}

// giveUpFor is giveUp, with what the client is told and the record says. A message
// that has begun is cut: without its end the backend has none.
func (l *loan) giveUpFor(tx *transaction, r smtp.Reply, why string) {
	if tx != nil && l.bc != nil {
		tx.broken, tx.gaveUp = why, r
		if tx.message != nil {
			tx.message.discard(fate{tx.unserved(), journal.OutcomeFailed})
		}
	}
	l.release()
}
