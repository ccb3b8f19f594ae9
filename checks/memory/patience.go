package memory

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Patience is what one message waits for the store. Each answer to its client waits no
// longer than Options.Timeout, whatever is asked for it, one after the other or side by
// side; and once a question was not answered in that time, nothing more is asked for the
// message, so that a store which hangs costs it one time-out and not one for each
// recipient. The zero value is that of a message that begins.
type Patience struct {
	context.Context //nolint:containedctx // it is one, see WithPatience

	mu    sync.Mutex
	spent time.Duration // by questions for the answer that is due
	lost  bool
}

type patienceKey struct{}

// WithPatience has the questions that are asked with the context share one patience: it
// is p itself, which so has one context at a time, and costs none of its own.
func WithPatience(ctx context.Context, p *Patience) context.Context {
	p.Context = ctx
	return p
}

// Value is that of a context.
func (p *Patience) Value(key any) any {
	if key == (patienceKey{}) {
		return p
	}
	return p.Context.Value(key)
}

// patienceOf is that of a context, or nil: each question has all the time.
func patienceOf(ctx context.Context) *Patience {
	p, _ := ctx.Value(patienceKey{}).(*Patience)
	return p
}

// errPatience is returned instead of an answer where the message has waited enough.
var errPatience = errors.New("memory: the message has waited for the store as long as it may")

// Renew begins the next answer.
//
// NOT: one time for all answers of a message. With a thousand recipients it would be over
// though each was answered within a millisecond, and the others would go unheld.
func (p *Patience) Renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent = 0
}

// left is how long a question may take of the time that an answer has.
func (p *Patience) left(of time.Duration) time.Duration {
	if p == nil {
		return of
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost {
		return 0
	}
	return of - p.spent
}

// spend notes how long a question took. Those that were asked side by side count each, and
// nothing is asked after them for the same answer.
func (p *Patience) spend(d time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent += d
}

// lose notes that a question was not answered in time.
func (p *Patience) lose() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
}
