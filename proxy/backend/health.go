package backend

import (
	"context"
	"time"
)

// refreshEvery is how often an address that is up is asked again what it
// offers, unless a session has learned it meanwhile.
const refreshEvery = time.Minute

// learned notes that the address answered, and what it offers.
func (a *address) learned(c Capabilities) {
	p := a.pool
	p.mu.Lock()
	a.caps, a.known, a.learntAt = c, true, time.Now()
	p.mu.Unlock()
}

// markUp ends the back-off.
func (a *address) markUp() {
	p := a.pool
	p.mu.Lock()
	was, failed := a.up, a.failed
	a.up, a.failed, a.backoff = true, false, 0
	p.mu.Unlock()
	if !was {
		p.o.Metrics.BackendUp(p.name, a.name, true)
		if failed {
			p.o.Log.Info("backend is up again", "backend", p.name, "address", a.name)
		}
	}
}

// markDown starts the back-off, or doubles it if it had run out. Sessions that
// try a failed address before that, since there is no other, change nothing.
func (a *address) markDown(err error) {
	p, now := a.pool, time.Now()
	p.mu.Lock()
	first := !a.failed
	if first || !now.Before(a.retryAt) {
		a.backoff = min(max(2*a.backoff, minBackoff), maxBackoff)
		a.retryAt = now.Add(a.backoff)
	}
	a.up, a.failed = false, true
	wait := a.retryAt.Sub(now)
	p.mu.Unlock()
	if first {
		p.o.Metrics.BackendUp(p.name, a.name, false)
		p.o.Log.Error("backend is down", "backend", p.name, "address", a.name, "error", err, "retry", wait.Seconds())
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// next says when the address is due for a probe.
func (a *address) next() time.Time {
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	switch {
	case a.failed:
		return a.retryAt
	case !a.known:
		return time.Time{}
	case a.familyDue:
		return time.Time{}
	}
	return a.learntAt.Add(refreshEvery)
}

// watch probes the address until ctx ends.
func (a *address) watch(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-t.C:
		}
		if wait := time.Until(a.next()); wait > 0 {
			t.Reset(wait)
			continue
		}
		if err := a.probe(ctx); err == nil {
			a.markUp()
			a.learnFamily(ctx)
		} else if ctx.Err() == nil {
			a.pool.failed(ctx, a, err)
		}
		t.Reset(max(time.Until(a.next()), 0))
	}
}
