package dnscache

import (
	"context"
	"sync"
	"time"

	"postern/proxy/reuse"
)

// Attempt is look-ups that take what is in the cache and wait for nothing: those with
// an Attempt as their context. Whatever is not in the cache fails at once, for a reason
// that is nobody's fault, and no query is sent for it.
type Attempt struct {
	context.Context //nolint:containedctx // it is one

	transaction *Transaction // of Context; may be nil
	*looking
}

// looking is what came of an attempt. It is used again, and is NOT the attempt itself: when a context
// that was made of that ends by its clock just as it is given back, the clock looks at what is
// above it a moment later, and must find what was there.
type looking struct {
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

// lookings are those of attempts that are over: empty, but for their room.
var lookings reuse.Pool[looking]

// NewAttempt begins an attempt on behalf of ctx. Whoever began it ends it by Close.
func NewAttempt(ctx context.Context) *Attempt {
	return &Attempt{Context: ctx, transaction: askerOf(ctx).transaction, looking: lookings.Take()}
}

// Close ends the attempt. A look-up on its behalf, or on that of a context that was made of it,
// panics from then on.
func (a *Attempt) Close() {
	l := a.looking
	a.looking = nil
	if clear(l.looks); cap(l.looks) > maxLooks {
		l.looks = nil
	}
	l.waited, l.looks = false, l.looks[:0]
	lookings.Put(l)
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
