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
	stage  policy.Stage
	checks []Check
	ran    []Ran // by the place in checks
	facts  *policy.Facts
	msg    Message
	cached *dnscache.Attempt // asks the cache alone; nil where there is none
}

// run runs the checks that read results of others, or those that read none, and waits
// for them: in two passes. In the first they take turns, with what the resolver has in
// its cache. Most of the time that is all they want, and a goroutine and a timer for
// each would cost more than the checks. Those that would have waited for an answer, and
// those that wait for something else, run in the second, side by side and against the
// clock.
func (r *round) run(ctx context.Context, readers bool) {
	var later []int
	for i := range r.checks {
		c := &r.checks[i]
		if len(c.needs) > 0 != readers || r.facts.Client.User != "" && ofHost[c.Name] || r.set.settled(c, r.facts, r.msg) {
			continue
		}
		if r.cached != nil && !c.waits {
			if took := r.set.run(r.cached, c, r.facts, r.msg); r.cached.End() {
				r.ran[i].Took = took
				continue
			}
			if r.set.settled(c, r.facts, r.msg) { // forget what came of half the answers
				continue
			}
		}
		later = append(later, i)
	}
	if len(later) > 0 {
		r.set.expectAuthor(ctx, r.stage, r.facts)
		r.wait(ctx, later)
	}
}

// ofHost are the checks that ask whether the client's host may speak for a sender, or who it is. They are skipped for a
// user who has logged in: who he is his password says, his host may be any, and the sender is his own address, which the server
// has written. The pra check looks after that itself, since it has the header's address to tell as well.
var ofHost = map[string]bool{"submitter": true, "spf": true, "spf_helo": true, "iprev": true, "dnsbl": true, "dmarc": true}

// wait runs checks side by side, and waits for them.
//
// NOT: with a pointer to the round. The goroutines want it on the heap, where the round of
// a message that waits for nothing has no business.
func (r round) wait(ctx context.Context, later []int) {
	var others sync.WaitGroup
	limited, cancel := context.WithTimeout(ctx, r.set.deps.Timeout)
	defer cancel()
	one := func(i int) {
		if within := r.checks[i].within; within > 0 {
			own, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			r.one(own, i)
			return
		}
		r.one(limited, i)
	}
	// Not even where writing the log of a check that panicked panics may the others go on to
	// write into facts that somebody else has by then.
	defer others.Wait()
	for _, i := range later[1:] {
		others.Go(func() { one(i) })
	}
	one(later[0])
}

// one runs the check at that place.
func (r *round) one(ctx context.Context, i int) {
	r.ran[i].Took = r.set.run(ctx, &r.checks[i], r.facts, r.msg)
}
