package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"time"

	"postern/metrics"
	"postern/proxy/share"
)

// The modes of configs.Backend.TLS.
const (
	tlsOff           = "off"
	tlsOpportunistic = "opportunistic"
	tlsVerify        = "verify"
)

// Pool is one backend: its addresses, their health, and the connections to
// them. Any number of goroutines may use it.
type Pool struct {
	name     string
	identity string
	tlsMode  string
	o        Options
	metrics  *metrics.Backend

	mu     sync.Mutex
	addrs  []*address // in the order of the configuration
	loans  loans      // connections lent, or being opened, and who waits for one
	turn   int        // where the search among equals starts
	closed bool
}

// address is one place where a backend can be reached. Its fields below the
// blank line are guarded by Pool.mu.
type address struct {
	pool    *Pool
	name    string // as configured
	full    string // pool's name and name
	network string // tcp, unix
	addr    string
	tls     *tls.Config // nil if off
	wake    chan struct{}

	inUse    int
	idle     []*link // the last one is the one used last
	known    bool    // caps have been learned
	caps     Capabilities
	learntAt time.Time
	up       bool // the last attempt was good
	failed   bool // the last attempt failed
	only4    bool // it cannot be told of IPv6 clients
	// familyDue: whether it can is to be asked.
	familyDue bool
	backoff   time.Duration
	retryAt   time.Time
}

// Back-off of an address that failed.
const (
	minBackoff = time.Second
	maxBackoff = time.Minute
)

// Name returns the backend's name in the configuration.
func (p *Pool) Name() string { return p.name }

// Open returns a connection that is ready for MAIL, and on which the backend
// believes to be talking to c as far as the backend's identity setting goes. It
// takes an idle one where that is possible. Of several addresses the least
// busy one that is not known to be down comes first; the others follow if it
// fails.
//
// The error is an *Error.
func (p *Pool) Open(ctx context.Context, c Client) (*Conn, error) {
	who := share.Of(c.Addr.Addr())
	if err := p.acquire(ctx, who); err != nil {
		return nil, err
	}
	l, reused, err := p.connect(ctx, &c, false)
	if err != nil {
		p.loans.giveBack(who)
		return nil, err
	}
	return newConn(p, c, who, l, reused), nil
}

// connect finds or makes a link on the slot that the caller holds; fresh says
// that no idle one will do. It counts the link's address as in use.
func (p *Pool) connect(ctx context.Context, c *Client, fresh bool) (l *link, reused bool, err error) {
	tried := make([]*address, 0, 4)
	for {
		a, idle := p.pick(tried, fresh)
		if a == nil {
			return nil, false, err
		}
		for idle != nil {
			e := errors.New("dead")
			// The answer to RSET, which is on its way, is a sign of life.
			if idle.resetting || idle.alive() {
				e = idle.reintroduce(ctx, c)
			}
			if e == nil {
				a.markUp()
				return idle, true, nil
			}
			idle.close()
			if ctx.Err() != nil {
				p.putAddress(a)
				return nil, false, idle.fail(KindTimeout, ctx.Err())
			}
			idle = p.takeIdle(a)
		}
		p.evict()
		l, e := a.dial(ctx, c)
		if e == nil {
			a.markUp()
			return l, false, nil
		}
		p.putAddress(a)
		p.failed(ctx, a, e)
		a.suspect(c, e)
		err = e
		if ctx.Err() != nil {
			return nil, false, err
		}
		tried = append(tried, a)
	}
}

// failed counts what went wrong with an address, and remembers it against it.
func (p *Pool) failed(ctx context.Context, a *address, err error) {
	var e *Error
	if !errors.As(err, &e) || ctx.Err() != nil {
		return
	}
	p.metrics.Error(string(e.Kind))
	// 550 to XCLIENT means that nobody's identity is taken from us.
	if e.personal && (e.Kind != KindIdentity || e.Reply.Code != 550) {
		return
	}
	a.markDown(err)
}

// pick chooses the next address to try, and takes an idle connection of it if
// there is one. Nil: all were tried.
func (p *Pool) pick(tried []*address, fresh bool) (*address, *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *address
	p.turn++
	for i := range p.addrs {
		a := p.addrs[(p.turn+i)%len(p.addrs)]
		if !slices.Contains(tried, a) && (best == nil || a.better(best)) {
			best = a
		}
	}
	if best == nil {
		return nil, nil
	}
	best.inUse++
	if fresh {
		return best, nil
	}
	return best, p.popIdle(best)
}

// better says whether a is to be tried before b.
func (a *address) better(b *address) bool {
	if a.failed != b.failed {
		return b.failed
	}
	if a.inUse != b.inUse {
		return a.inUse < b.inUse
	}
	return len(a.idle) > 0 && len(b.idle) == 0
}

// takeIdle takes the idle connection of a that was used last.
func (p *Pool) takeIdle(a *address) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.popIdle(a)
}

func (p *Pool) popIdle(a *address) *link {
	for n := len(a.idle); n > 0; n = len(a.idle) {
		l := a.idle[n-1]
		a.idle[n-1] = nil
		a.idle = a.idle[:n-1]
		if time.Since(l.idle) < p.o.IdleTime {
			return l
		}
		// The ones below it are older still, and left to sweep.
		l.close()
	}
	return nil
}

// putAddress ends the use of a by one connection.
func (p *Pool) putAddress(a *address) {
	p.mu.Lock()
	a.inUse--
	p.mu.Unlock()
}

// evict closes one idle connection if a new one would be one too many for the
// backend's limit.
func (p *Pool) evict() {
	if l := p.surplus(); l != nil {
		l.quit()
	}
}

// surplus takes out the connection that has been idle longest, if there are
// more than the limit allows.
func (p *Pool) surplus() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.loans.limits.All
	if limit == 0 {
		return nil
	}
	open, oldest := p.loans.lent(), (*address)(nil)
	for _, a := range p.addrs {
		open += len(a.idle)
		if len(a.idle) > 0 && (oldest == nil || a.idle[0].idle.Before(oldest.idle[0].idle)) {
			oldest = a
		}
	}
	if int64(open) <= limit || oldest == nil {
		return nil
	}
	l := oldest.idle[0]
	oldest.idle = slices.Delete(oldest.idle, 0, 1)
	return l
}

func (p *Pool) busy(why error) error {
	p.metrics.Error(string(KindBusy))
	return &Error{Kind: KindBusy, Backend: p.name, Err: why}
}

// giveBack ends the loan of l. It stays open for another session if keep says
// so and there is room: as many wait as are at work, for under load nobody shall
// close what the next one has to open again, and a few (Options.IdlePerAddress) in any case.
func (p *Pool) giveBack(l *link, who share.Client, keep bool) {
	now := time.Now()
	p.mu.Lock()
	a := l.at
	a.inUse--
	room := p.o.IdlePerAddress
	if room > 0 {
		room = max(room, a.inUse)
	}
	keep = keep && !p.closed && len(a.idle) < room && now.Sub(l.born) < p.o.MaxAge
	if keep {
		l.idle = now
		a.idle = append(a.idle, l)
	}
	p.mu.Unlock()
	if !keep {
		l.quit()
	}
	p.loans.giveBack(who)
}

// drop ends the loan of a connection that is closed already, or shall be at once.
func (p *Pool) drop(l *link, who share.Client) {
	l.close()
	p.putAddress(l.at)
	p.loans.giveBack(who)
}

// sweep ends the idle connections that nobody has wanted for a while.
func (p *Pool) sweep() {
	var old []*link
	p.mu.Lock()
	for _, a := range p.addrs {
		n := 0
		for n < len(a.idle) && time.Since(a.idle[n].idle) >= p.o.IdleTime {
			n++
		}
		old = append(old, a.idle[:n]...)
		a.idle = slices.Delete(a.idle, 0, n)
	}
	p.mu.Unlock()
	for _, l := range old {
		l.quit()
	}
}

// close ends the idle connections; those lent end when they come back. NOT:
// refusing to open more. After a reload there are transactions that began with
// this pool and have not come to a recipient.
func (p *Pool) close() {
	var all []*link
	p.mu.Lock()
	p.closed = true
	for _, a := range p.addrs {
		all = append(all, a.idle...)
		a.idle = nil
	}
	p.mu.Unlock()
	for _, l := range all {
		l.quit()
	}
}
