package checks

import (
	"context"
	"sync"

	"postern/checks/dnscache"
	"postern/policy"
)

// round is the checks of one stage on one message.
type round struct {
	set    *Set
	checks []Check
	ran    []Ran // by the place in checks
	facts  *policy.Facts
	msg    Message
}

// run runs those checks that are in the round and waits for them: in two passes.
// In the first they take turns, with what the resolver has in its cache. Most of
// the time that is all they want, and a goroutine and a timer for each would cost
// more than the checks. Those that would have waited for an answer, and those that
// wait for something else, run in the second, side by side and against the clock.
func (r *round) run(ctx context.Context, in func(*Check) bool) {
	var later []int
	attempt := new(dnscache.Attempt)
	cached := dnscache.WithAttempt(ctx, attempt)
	for i := range r.checks {
		c := &r.checks[i]
		if !in(c) || r.set.settled(c, r.facts, r.msg) {
			continue
		}
		if r.set.cache && !c.waits {
			if took := r.set.run(cached, c, r.facts, r.msg); attempt.End() {
				r.ran[i].Took = took
				continue
			}
			if r.set.settled(c, r.facts, r.msg) { // forget what came of half the answers
				continue
			}
		}
		later = append(later, i)
	}
	if len(later) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.set.deps.Timeout)
	defer cancel()
	turn := func(i int) { r.ran[i].Took = r.set.run(ctx, &r.checks[i], r.facts, r.msg) }
	var others sync.WaitGroup
	for _, i := range later[1:] {
		others.Go(func() { turn(i) })
	}
	turn(later[0])
	others.Wait()
}
