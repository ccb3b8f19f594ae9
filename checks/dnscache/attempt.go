package dnscache

import (
	"context"
	"sync"
	"time"
)

// Attempt is look-ups that take what is in the cache and wait for nothing: those with
// an Attempt as their context. Whatever is not in the cache fails at once, for a reason
// that is nobody's fault, and no query is sent for it.
type Attempt struct {
	context.Context //nolint:containedctx // it is one

	mu     sync.Mutex // a check may ask several questions at once
	waited bool
	looks  []look
}

// look is one look-up of an attempt, which is counted and traced if it was enough.
type look struct {
	ctx    context.Context //nolint:containedctx // as long as the attempt lasts
	by     *Resolver
	p      pending
	answer *entry
	at     time.Time
}

// TakesAttempts says that look-ups of r heed an Attempt.
func (r *Resolver) TakesAttempts() {}

// usualLooks is as many look-ups as most checks make, so that one allocation holds them.
const usualLooks = 4

// NewAttempt begins an attempt on behalf of ctx.
func NewAttempt(ctx context.Context) *Attempt { return &Attempt{Context: ctx} }

type attemptKey struct{}

// Value is that of a context.
func (a *Attempt) Value(key any) any {
	if key == (attemptKey{}) {
		return a
	}
	return a.Context.Value(key)
}

func attemptOf(ctx context.Context) *Attempt {
	a, _ := ctx.Value(attemptKey{}).(*Attempt)
	return a
}

// wouldWait is what a look-up gets that would have had to wait.
var wouldWait = &entry{kind: kindFailure, err: errTemporary("", "", "not in the cache")}

// wait notes that a look-up would have had to wait.
func (a *Attempt) wait() *entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waited = true
	return wouldWait
}

// note keeps a look-up that did not.
func (a *Attempt) note(l look) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waited {
		return
	}
	if a.looks == nil {
		a.looks = make([]look, 0, usualLooks)
	}
	a.looks = append(a.looks, l)
}

// End says whether everything that was asked for was there; then it is counted and
// traced as other look-ups are. The attempt is ready for the next one.
func (a *Attempt) End() (enough bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if enough = !a.waited; enough {
		for i := range a.looks {
			l := &a.looks[i]
			l.by.tell(l.ctx, l.p, l.answer, l.p.source, l.at)
		}
	}
	clear(a.looks)
	a.waited, a.looks = false, a.looks[:0]
	return enough
}
