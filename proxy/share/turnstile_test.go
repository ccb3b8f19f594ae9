package share

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Who waits for a place gets the next one if he has the least, and who is gone
// gets none.
func TestTurnstile(t *testing.T) {
	client := func(n int) Client { return of(fmt.Sprintf("192.0.2.%d", n)) }
	synctest.Test(t, func(t *testing.T) {
		ts := NewTurnstile(Limits{All: 6, Leave: 2})
		others := 4
		for range others {
			ts.Enter(t.Context(), Client{}, 0)
		}
		var got []int
		in := func(when string, want ...int) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(got, want) {
				t.Errorf("%s: in are %v, want %v", when, got, want)
			}
		}
		enter := func(ctx context.Context, n int) {
			go func() {
				if ts.Enter(ctx, client(n), time.Hour) {
					ts.mu.Lock()
					defer ts.mu.Unlock()
					got = append(got, n)
				}
			}()
			synctest.Wait()
		}
		gone, cancel := context.WithCancel(t.Context())
		enter(t.Context(), 1) // there is room
		enter(t.Context(), 1) // not for as much
		enter(t.Context(), 2)
		enter(gone, 3)
		enter(t.Context(), 4)
		cancel()
		in("full", 1, 2)
		ts.Leave(Client{})
		in("one left", 1, 2, 4)
		for range others - 1 {
			ts.Leave(Client{})
		}
		in("three of six are free", 1, 2, 4) // a client with two leaves four
		ts.Leave(client(4))
		in("four are", 1, 2, 4, 1)
		ts.Leave(client(2))
		ts.Leave(client(1))
		ts.Leave(client(1))
		if ts.Enter(t.Context(), client(5), 0); ts.places.Used() != 1 || len(ts.waiting) != 0 {
			t.Errorf("%d taken, %d waiting", ts.places.Used(), len(ts.waiting))
		}
	})
}

// Who waits and is at his bound, be it that of his network, keeps nobody else waiting.
func TestTurnstilePassesOverWhoMayNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := NewTurnstile(Limits{All: 50})
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(address string, got *bool) {
			go func() { *got = ts.Enter(ctx, of(address), time.Hour) }()
			synctest.Wait()
		}
		for i := range 25 { // one customer's networks: as much as it leaves free
			if !ts.Enter(ctx, of(fmt.Sprintf("2001:db8:0:%x::1", i)), 0) {
				t.Fatal(i)
			}
		}
		for i := range 13 {
			if !ts.Enter(ctx, of("192.0.2.1"), 0) {
				t.Fatal(i)
			}
		}
		var theirs, other bool
		wait("2001:db8:0:ff::1", &theirs) // a fresh address of the same network
		wait("192.0.2.1", &other)         // has 13, and 12 are free
		ts.Leave(of("192.0.2.1"))
		synctest.Wait()
		if !other || theirs {
			t.Errorf("in are the one who fits: %v, the network at its bound: %v", other, theirs)
		}
		cancel()
	})
}
