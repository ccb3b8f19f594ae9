package checks

import (
	"context"
	"io"
	"runtime"

	"postern/checks/dkim"
)

// turns bounds how many bodies are canonicalized and hashed for DKIM at once, in
// the whole process: first come, first served. What waits for the DNS holds no turn.
//
// Large messages have turns of their own, half as many as there are processors: a
// handful of clients that send fifty megabytes each, signed eight times, keep one
// another waiting, and neither small mail nor the rest of the proxy.
type turns struct {
	small, large chan struct{}
}

// largeBody is from what size on a message takes a turn of the large ones, in
// octets. Below it, a turn takes a few milliseconds.
const largeBody = 1 << 20

func newTurns(processors int) *turns {
	return &turns{small: make(chan struct{}, 2*processors), large: make(chan struct{}, max(1, processors/2))}
}

// verifying are the turns of the process.
var verifying = newTurns(runtime.GOMAXPROCS(0))

// turnReader is a body that takes its turn when it is first read, and waits for it
// until ctx ends; then it says dkim.ErrBusy, which makes a temperror. end gives the turn back.
type turnReader struct {
	ctx   context.Context //nolint:containedctx // of one verification
	body  io.Reader
	turns chan struct{}
	has   bool
}

func (t *turns) reader(ctx context.Context, body io.Reader, size int64) *turnReader {
	r := &turnReader{ctx: ctx, body: body, turns: t.small}
	if size >= largeBody {
		r.turns = t.large
	}
	return r
}

// Read implements io.Reader.
func (r *turnReader) Read(p []byte) (int, error) {
	if !r.has {
		select {
		case r.turns <- struct{}{}:
		default: // somebody is before us
			select {
			case r.turns <- struct{}{}:
			case <-r.ctx.Done():
				return 0, dkim.ErrBusy
			}
		}
		r.has = true
	}
	return r.body.Read(p)
}

func (r *turnReader) end() {
	if r.has {
		<-r.turns
	}
}
