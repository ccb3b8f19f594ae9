package share

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Turnstile hands out places to those who can wait. Any number of goroutines may use it.
type Turnstile struct {
	limits  Limits
	mu      sync.Mutex
	places  Budget
	waiting []*waiter // in the order in which they came
}

type waiter struct {
	client Client
	ready  chan struct{} // closed when it has its place
}

// NewTurnstile returns one that divides so many places.
func NewTurnstile(l Limits) *Turnstile { return &Turnstile{limits: l} }

// Used returns how many places are taken.
func (t *Turnstile) Used() int64 { return t.places.Used() }

// Enter takes a place. It waits for one as long as patience, and until ctx ends;
// then it returns false.
func (t *Turnstile) Enter(ctx context.Context, client Client, patience time.Duration) bool {
	t.mu.Lock()
	if t.places.Take(client, 1, t.limits) == None {
		t.mu.Unlock()
		return true
	}
	w := &waiter{client: client, ready: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.ready:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i < 0 {
		return true // it got its place in this very moment
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	return false
}

// Leave gives a place back, and lets those enter who may: first who has the least.
func (t *Turnstile) Leave(client Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.places.Give(client, 1)
	for {
		next := -1
		for i, w := range t.waiting {
			// NOT: only whoever has the least. Who is at his bound stays there for long, and others must not wait for him.
			if (next < 0 || t.has(w.client) < t.has(t.waiting[next].client)) && t.places.Fits(w.client, 1, t.limits) == None {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := t.waiting[next]
		t.places.Take(w.client, 1, t.limits) // it fits, and nobody else takes places meanwhile
		t.waiting = slices.Delete(t.waiting, next, next+1)
		close(w.ready)
	}
}

// has is how many places a client has, or all those of its network.
func (t *Turnstile) has(c Client) int64 {
	return max(t.places.By(c), t.places.By(Client{Address: c.Network}))
}
