package checks

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"postern/policy"
)

// wave is checks that need not wait for each other, and the context that they
// run under.
//
// They take turns until one of them has to wait, which is when it asks for Done:
// then those whose turn has not come begin side by side, and the timer starts.
// Most of the time all answers are in the cache, nobody waits, and a goroutine
// and a timer for each would cost more than the checks.
type wave struct {
	context.Context // of the caller
	end             time.Time
	once            sync.Once
	timer           atomic.Pointer[context.Context] // once Done was asked for
	cancel          context.CancelFunc              // of timer

	set    *Set
	checks []Check
	ran    []Ran
	facts  *policy.Facts
	msg    Message
	asking []int // the checks, by their place in checks and ran
	next   int   // in asking, those before it have begun
	wg     sync.WaitGroup
}

// run runs the checks and waits for them.
func (w *wave) run(ctx context.Context) {
	w.Context, w.end = ctx, time.Now().Add(w.set.deps.Timeout)
	if end, ok := ctx.Deadline(); ok && end.Before(w.end) {
		w.end = end
	}
	for w.next < len(w.asking) {
		w.next++
		w.turn(w.asking[w.next-1])
	}
	w.wg.Wait()
	if w.cancel != nil {
		w.cancel()
	}
}

func (w *wave) turn(i int) { w.ran[i].Took = w.set.run(w, &w.checks[i], w.facts, w.msg) }

// Done implements context.Context.
func (w *wave) Done() <-chan struct{} {
	w.once.Do(func() {
		var ctx context.Context
		ctx, w.cancel = context.WithDeadline(w.Context, w.end)
		w.timer.Store(&ctx)
		for ; w.next < len(w.asking); w.next++ {
			i := w.asking[w.next]
			w.wg.Go(func() { w.turn(i) })
		}
	})
	return (*w.timer.Load()).Done()
}

// Deadline implements context.Context.
func (w *wave) Deadline() (time.Time, bool) { return w.end, true }

// Err implements context.Context. Nobody need have asked for Done: a check that
// works without ever waiting has its end as well.
func (w *wave) Err() error {
	if ctx := w.timer.Load(); ctx != nil {
		return (*ctx).Err()
	}
	if err := w.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(w.end) {
		return context.DeadlineExceeded
	}
	return nil
}
