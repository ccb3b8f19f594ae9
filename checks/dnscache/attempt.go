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

	transaction *Transaction // of Context; may be nil

	mu     sync.Mutex // a check may ask several questions at once
	waited bool
	looks  []look
}

// look is one look-up that has ended: what is counted and traced of it.
type look struct {
	question
	answer *entry
	source Source
	at     time.Time     // of its end
	took   time.Duration // 0 where the answer was at hand
	asker  asker
	by     *Resolver
}

// TakesAttempts says that look-ups of r heed an Attempt.
func (r *Resolver) TakesAttempts() {}

// maxLooks is how many look-ups an attempt keeps room for once it is over: more than
// most messages come to.
const maxLooks = 32

var attempts = sync.Pool{New: func() any { return new(Attempt) }}

// NewAttempt begins an attempt on behalf of ctx. Whoever began it gives it back by Close.
func NewAttempt(ctx context.Context) *Attempt {
	a := attempts.Get().(*Attempt)
	a.Context, a.transaction = ctx, askerOf(ctx).transaction
	return a
}

// Close gives the attempt back for somebody else's. Nobody may use it from then on, or a
// context that was made of it: such a look-up panics.
func (a *Attempt) Close() {
	looks := a.looks
	if clear(looks); cap(looks) > maxLooks {
		looks = nil
	}
	*a = Attempt{looks: looks[:0]}
	attempts.Put(a)
}

type attemptKey struct{}

// Value is that of a context.
func (a *Attempt) Value(key any) any {
	if key == (attemptKey{}) {
		return a
	}
	return a.Context.Value(key)
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
	if !a.waited {
		a.looks = append(a.looks, l)
	}
}

// End says whether everything that was asked for was there; then it is counted and
// traced as other look-ups are. The attempt is ready for the next one.
func (a *Attempt) End() (enough bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if enough = !a.waited; enough {
		for i := range a.looks {
			a.looks[i].tell()
		}
	}
	clear(a.looks)
	a.waited, a.looks = false, a.looks[:0]
	return enough
}
