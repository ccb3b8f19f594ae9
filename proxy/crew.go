package proxy

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// maxResting is how many goroutines wait for another session, at the most: each keeps a
	// stack of some 16 KiB.
	maxResting = 64
	// restFor is how long one waits.
	restFor = 5 * time.Second
)

// crew is goroutines that run one session after the other. A new goroutine begins with a
// small stack, which is copied each time it grows, and most clients bring one message: the
// stack of a session would grow to 16 KiB for each. One that has run a session has it.
type crew struct {
	ctx     context.Context //nolint:containedctx // that of the server, whose goroutines these are
	work    chan func()     // without room: what is sent is taken
	resting atomic.Int32
}

func newCrew(ctx context.Context) *crew { return &crew{ctx: ctx, work: make(chan func())} }

// run calls f on a goroutine that rests, or on a new one, and does not wait for it.
func (c *crew) run(f func()) {
	select {
	case c.work <- f:
	default:
		go c.serve(f)
	}
}

// serve calls f, and then what else there is to do, until nothing is for restFor, or
// enough others rest.
func (c *crew) serve(f func()) {
	var rest *time.Timer
	for f != nil {
		f()
		f = nil
		if c.resting.Add(1) <= maxResting && c.ctx.Err() == nil {
			if rest == nil {
				rest = time.NewTimer(restFor)
				defer rest.Stop()
			} else {
				rest.Reset(restFor)
			}
			select {
			case f = <-c.work:
			case <-rest.C:
			case <-c.ctx.Done():
			}
		}
		c.resting.Add(-1)
	}
}
