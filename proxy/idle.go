package proxy

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"postern/proxy/relay"
	"postern/proxy/wire"
)

// parkAfter is how long a client may be silent before its session is parked:
// longer than the way to it and back, nearly always.
const parkAfter = 150 * time.Millisecond

// errSilent ends the wait for a command of a session that should be parked.
var errSilent = errors.New("proxy: the client is silent")

// idle is the session while it waits for a command: how long it waits, when it is
// parked, and who may wake it.
type idle struct {
	// Immutable.
	wire *wire.Conn
	srv  *Server
	done func() // called at the session's end; nil: Handle waits for it, so that it cannot be parked

	// Of the session's goroutine.
	deadline time.Time // of the command that is waited for
	place    parkedAt  // while it is parked; guarded by the lock of parking

	givesWay atomic.Bool // the session is to end, so that another one has its place

	mu          sync.Mutex
	waiting     bool      // for a command
	lastMessage time.Time // when the last one ended, or the session began
}

// wake makes a session that waits for a command look up. NOT: any session, for
// in the middle of a message the deadline is that of the message, and a server
// that shuts down lets it be finished. Any goroutine may call it; a session that may be
// parked is to be unparked as well.
func (i *idle) wake() {
	i.mu.Lock()
	if i.waiting {
		i.wire.Interrupt()
	}
	i.mu.Unlock()
}

// setWaiting says whether the session waits for a command.
func (i *idle) setWaiting(waiting bool) {
	i.mu.Lock()
	i.waiting = waiting
	i.mu.Unlock()
}

// hadMessage notes that a message has ended.
func (i *idle) hadMessage() {
	i.mu.Lock()
	i.lastMessage = i.srv.now()
	i.mu.Unlock()
}

// since says since when the session has brought no message, and whether it could end
// now: it waits for a command. NOT: since when it has said nothing. A NOOP now and then
// would do to stay for good.
func (i *idle) since() (t time.Time, idle bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lastMessage, i.waiting && !i.givesWay.Load()
}

// mustEnd says that the session is to end as soon as it is between two commands.
func (i *idle) mustEnd() bool { return i.srv.draining.Load() || i.givesWay.Load() }

// waitBy sets the deadline of what is waited for. It does not undo what wake did.
func (i *idle) waitBy(t time.Time) {
	i.wire.ReadBy(t)
	if i.mustEnd() {
		i.wake()
	}
}

// wait waits for the first octet of a command, until i.deadline; for the whole of it
// where the session has a connection to the backend, l, that others may come to want.
// Then the rest of a line must come within rest. tx is the transaction that is open, or
// nil.
func (i *idle) wait(tx *transaction, l *relay.Loan, rest time.Duration) error {
	parkable := canPark && i.done != nil && tx == nil && i.wire.Buffered() == 0
	if i.wire.HasLine() || i.mustEnd() || l.Conn() == nil && !parkable {
		return i.wire.Wait()
	}
	patient := i.deadline
	if tx == nil {
		p := time.Now().Add(parkAfter)
		if l.Conn() != nil {
			// NOT: from now. A client that says NOOP every second or two would keep
			// the connection for as long as it likes.
			p = l.Conn().LastUsed().Add(relay.IdleLimit)
		}
		if p.Before(patient) {
			patient = p
		}
	}
	i.waitBy(patient)
	wait, spare := i.wire.Wait, !tx.awaitsBackend() && l.Spare()
	if spare {
		wait = i.wire.WaitLine
	}
	err := wait()
	asked, late := spare && l.Wanted(), errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case i.mustEnd():
	case late && (asked || patient.Before(i.deadline)):
		giveUp(l, tx)
		i.waitBy(i.deadline)
		if parkable && i.wire.Buffered() == 0 {
			return errSilent
		}
		return i.wire.Wait()
	case spare && err == nil && !i.wire.HasLine():
		// More than a line may be: it is read to its end, and that must come soon.
		i.waitBy(time.Now().Add(min(relay.IdleLimit, rest)))
	case asked, err == nil && !i.wire.HasLine():
		i.waitBy(i.deadline) // the rest of the command, if there is any, has the time of a command
	}
	return err
}
