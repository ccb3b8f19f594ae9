package backend

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"postern/proxy/share"
)

// loans divides the connections that a backend may have at a time among the
// clients, and knows who waits for one and which could be done without.
type loans struct {
	limits share.Limits // All: connections at one time; 0: no limit

	budget share.Budget

	mu      sync.Mutex
	waiting []*waiter // in the order in which they came
	spare   []*Conn   // connections whose sessions could do without them
}

// waiter is a session that waits for a connection. Its channel bears true when it
// has one, and false when it waits in vain.
type waiter struct {
	who share.Client
	ch  chan bool
}

// bounded says whether anybody may ever have to wait.
func (l *loans) bounded() bool { return l.limits.All > 0 || l.limits.Each > 0 }

// lent is how many connections are lent, or being opened.
func (l *loans) lent() int { return int(l.budget.Used()) }

var (
	errManyWait  = errors.New("too many are waiting for a connection")
	errNoneFree  = errors.New("no connection became free")
	errHasEnough = errors.New("the client has its share of the connections, and none of them became free")
)

// take takes a connection for who, or a place in the queue. The queue is no
// longer than there are connections; where it is full, who has most waiters in it
// gives one up for who has fewer.
func (l *loans) take(who share.Client) (*waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.budget.Take(who, 1, l.limits) == share.None {
		return nil, nil
	}
	if len(l.waiting) >= int(max(l.limits.All, l.limits.Each)) {
		i := l.greediest(who)
		if i < 0 {
			return nil, errManyWait
		}
		l.waiting[i].ch <- false
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	w := &waiter{who: who, ch: make(chan bool, 1)}
	l.waiting = append(l.waiting, w)
	return w, nil
}

// greediest is the last waiter of the client that has the most of them; -1 if who
// would have as many.
func (l *loans) greediest(who share.Client) int {
	count := make(map[share.Client]int, len(l.waiting))
	for _, w := range l.waiting {
		count[w.who]++
	}
	last, most := -1, count[who]+1
	for i, w := range l.waiting {
		if n := count[w.who]; n > most || n == most && last >= 0 {
			last, most = i, n
		}
	}
	return last
}

// leave takes w out of the queue. False: it has been served, or sent away, at the
// same moment.
func (l *loans) leave(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.waiting, w)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	return i >= 0
}

// giveBack gives a connection back, or on: to the session that has waited longest among
// those whose clients do not have their share already.
func (l *loans) giveBack(who share.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budget.Give(who, 1)
	for i := 0; i < len(l.waiting); {
		w := l.waiting[i]
		switch l.budget.Take(w.who, 1, l.limits) {
		case share.None:
			w.ch <- true
			l.waiting = slices.Delete(l.waiting, i, i+1)
		case share.ByAll:
			return
		default:
			i++
		}
	}
}

// acquire takes one of the connections that the backend may have at a time. It
// waits for one as long as for a connection (timeouts.backend_connect).
func (p *Pool) acquire(ctx context.Context, who share.Client) error {
	w, err := p.loans.take(who)
	if err != nil {
		return p.busy(err)
	}
	if w == nil {
		return nil
	}
	why := p.wait(ctx, w)
	if why == nil {
		return nil
	}
	if !p.loans.leave(w) && <-w.ch {
		p.loans.giveBack(who) // the connection came at the same moment
	}
	return p.busy(why)
}

// wait waits until w is served. Meanwhile it asks for those that are of no use at
// the moment, one at a time.
func (p *Pool) wait(ctx context.Context, w *waiter) error {
	limit := p.o.Timeouts.BackendConnect
	least := min(spareFor, limit/2)
	t := time.NewTimer(limit)
	defer t.Stop()
	ask := time.NewTicker(max(least/4, time.Millisecond))
	defer ask.Stop()
	for {
		p.loans.askForOne(w.who, least)
		select {
		case served := <-w.ch:
			if !served {
				w.ch <- false // acquire looks again
				return errManyWait
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			if p.loans.enough(w.who) {
				return errHasEnough
			}
			return errNoneFree
		case <-ask.C:
		}
	}
}

// How long a connection must have been of no use to its session before that is
// asked to give it up for another.
const (
	// spareFor is longer than a client takes for its next word on a bad line.
	spareFor = 3 * time.Second
	// spareInText is for a message under way. A client that brings 32 KiB, the
	// buffer, within that time is never asked.
	spareInText = 30 * time.Second
	// envelopeFor is how long a client may be busy with envelopes and no message
	// before its connection counts as one of no use, used or not. A client that has more
	// connections than the one that waits has no longer for a message either.
	envelopeFor = time.Minute
)

// Borrower is a session that has a connection on loan.
type Borrower interface {
	// Asked says that others wait, and this session could have done without its
	// connection for longest: it should let go of it. It is called from another
	// goroutine, under a lock of the pool, and must return at once.
	Asked()
}

// enough says whether who has the share of one client.
func (l *loans) enough(who share.Client) bool {
	b := l.budget.Fits(who, 1, l.limits)
	return b == share.ByClient || b == share.ByNetwork
}

// askForOne asks the session that could have done without its connection for
// longest to give it up, if that is at least since. Where who has its share
// already, only those of the same client or network are asked: what the others
// have would be of no use to it.
func (l *loans) askForOne(who share.Client, since time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.enough(who)
	best, longest, now := -1, since, time.Now()
	for i, c := range l.spare {
		if own && c.who.Address != who.Address && (c.who.Network != who.Network || !who.Network.IsValid()) {
			continue
		}
		// Of a client that has at least two more than who waits, one goes over.
		greedy := l.budget.By(c.who) > l.budget.By(who)+1
		if d := c.useless(now, greedy); d >= longest {
			best, longest = i, d+1
		}
	}
	if best >= 0 {
		c := l.spare[best]
		l.spare = slices.Delete(l.spare, best, best+1)
		c.borrower.Asked()
	}
}

// useless is how long the session could have done without c, which is spare now. A
// message under way has more time, but not one of many of the same client.
func (c *Conn) useless(now time.Time, greedy bool) time.Duration {
	idle := now.Sub(c.spareSince)
	if c.spareText && !greedy {
		return idle - (spareInText - spareFor)
	}
	return max(idle, now.Sub(c.idleSince)-(envelopeFor-spareFor))
}

// Spare says that the session waits for its client, and that nothing is under
// way on the connection that could not be given up. Until Wanted is called b may
// be asked for it, once, should the limit of connections keep others waiting. The
// clock runs from the last use of the connection, so that a client which only
// talks to us keeps none.
func (c *Conn) Spare(b Borrower) {
	l := &c.pool.loans
	if !l.bounded() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.borrower, c.spareSince, c.spareText = b, c.used, c.data || !c.textAt.IsZero() && c.mail
	l.spare = append(l.spare, c)
}

// Wanted ends what Spare began: from here on nobody is asked any more.
func (c *Conn) Wanted() {
	l := &c.pool.loans
	if !l.bounded() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.spare, c); i >= 0 {
		l.spare = slices.Delete(l.spare, i, i+1)
	}
}

// LastUsed is when the session last said something to the backend, or heard from
// it. What is said only to keep the backend patient is no use.
func (c *Conn) LastUsed() time.Time { return c.used }

// limitsOf is what a backend has for its clients: connections of the configuration,
// and how many of them one client may have (0: as many as it leaves).
func limitsOf(connections, perClient int) share.Limits {
	return share.Limits{All: int64(min(connections, math.MaxInt32)), Each: int64(perClient)}
}
