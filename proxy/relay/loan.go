package relay

import (
	"sync"
	"time"

	"postern/proxy/backend"
)

// IdleLimit is how long a client that has nothing to say may keep a backend
// connection to itself. Between the messages of one client it is worth
// keeping: taking another costs at least the XCLIENT.
const IdleLimit = 3 * time.Second

// Loan is the connection to the backend that a session has from a pool, from one
// transaction to the next, and gives back when others ask for it. Abort, HangUp, Aborted
// and Asked may be called by any goroutine, all else by that of the session.
type Loan struct {
	client Client        // immutable
	conn   *backend.Conn // of the session's goroutine, which changes it under mu; nil: none
	ending *time.Timer   // of the session's goroutine: calls HangUp; nil: never needed so far

	mu     sync.Mutex
	asked  bool          // to give conn up
	gone   bool          // Abort was called
	hangAt time.Time     // when HangUp may end the conversation; zero: never
	hung   *backend.Conn // which HangUp ends; of the session's goroutine again while hangAt is zero
}

// Client is the conversation with the client that a session waits for. Interrupt makes
// the wait end as if its time were over; any goroutine may call it.
type Client interface{ Interrupt() }

// Begin makes l, which is zero, the loan of the session of that client.
func (l *Loan) Begin(client Client) { l.client = client }

// Conn is the connection; nil: there is none.
func (l *Loan) Conn() *backend.Conn { return l.conn }

// set changes conn under the lock that Abort takes.
func (l *Loan) set(bc *backend.Conn) {
	l.mu.Lock()
	l.conn = bc
	gone := l.gone || !l.hangAt.IsZero() && !time.Now().Before(l.hangAt) // as HangUp, which found no conn
	l.mu.Unlock()
	if gone && bc != nil {
		bc.Abort()
	}
}

// Drop lets go of a connection whose transaction did not come to its end: no dot, no
// message.
func (l *Loan) Drop() {
	if bc := l.conn; bc != nil {
		l.set(nil)
		bc.Abort()
	}
}

// Release gives the connection back to its pool, in step.
func (l *Loan) Release() {
	if bc := l.conn; bc != nil {
		l.set(nil)
		bc.Release()
	}
}

// Abort ends the conversation, also one that is begun later.
func (l *Loan) Abort() {
	l.mu.Lock()
	l.gone = true
	bc := l.conn
	l.mu.Unlock()
	if bc != nil {
		bc.Abort()
	}
}

// HangUp ends the conversation, and none that is begun later. It is for the timer, which may
// call it when its time was taken back, and the next message has another one.
func (l *Loan) HangUp() {
	if bc := l.timeIsUp(); bc != nil {
		bc.Abort()
	}
}

// timeIsUp returns the conversation that is to be ended, if it is. No other message begins
// on it from here on, however late Abort comes (see keepUp).
func (l *Loan) timeIsUp() *backend.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hangAt.IsZero() || time.Now().Before(l.hangAt) {
		return nil
	}
	l.hung = l.conn
	return l.hung
}

// hangUpAfter hangs up after d, unless keepUp is called before.
func (l *Loan) hangUpAfter(d time.Duration) {
	l.setHangAt(time.Now().Add(d))
	if l.ending == nil {
		l.ending = time.AfterFunc(d, l.HangUp)
		return
	}
	l.ending.Reset(d)
}

// keepUp takes back what hangUpAfter has said. Where that is too late, the connection is
// dropped: the message may have its answer all the same, and the next one goes elsewhere.
func (l *Loan) keepUp() {
	l.ending.Stop()
	l.setHangAt(time.Time{})
	if l.hung != nil && l.hung == l.conn {
		l.Drop()
	}
	l.hung = nil
}

func (l *Loan) setHangAt(t time.Time) {
	l.mu.Lock()
	l.hangAt = t
	l.mu.Unlock()
}

// Aborted says whether Abort was called.
func (l *Loan) Aborted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// Spare tells the pool that the session could do without the connection while it waits
// for its client; false: there is none. To be ended by Wanted. Call it only where the
// backend has no answer to give, and has heard of no message, or of one that comes too
// slowly.
func (l *Loan) Spare() bool {
	if l.conn == nil {
		return false
	}
	l.mu.Lock()
	l.asked = false
	l.mu.Unlock()
	l.conn.Spare(l)
	return true
}

// Asked makes a session that waits for its client look up, since others wait for
// the connection that it could do without (backend.Borrower).
func (l *Loan) Asked() {
	l.mu.Lock()
	l.asked = true
	l.client.Interrupt()
	l.mu.Unlock()
}

// Wanted ends what Spare began, and says whether the session was asked to give
// its connection up. If it was, the deadline for what is read has passed.
func (l *Loan) Wanted() bool {
	if l.conn == nil {
		return false
	}
	l.conn.Wanted()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}
