package memory

import (
	"io"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/anishathalye/porcupine"

	"postern/checks/roadtest"
)

// Tries of one piece of mail that come to two Posterns at once are counted as if
// they had come one after the other: each hears of one more, and a release that
// was told of is seen by all that come later.
func TestNoticesAreLinearizable(t *testing.T) {
	type answer struct {
		tries    int
		released bool
	}
	type state struct {
		tries    int
		released bool
	}
	m := miniredis.RunT(t)
	var posterns [2]Store
	for i := range posterns {
		posterns[i] = NewFleet(Fleet{Servers: []string{m.Addr()}, Prefix: "p:", Timeout: 10 * time.Second, Now: time.Now})
		defer posterns[i].Close()
	}
	id := NoticeID(Key{}, "a@d.example", "u@example.org")
	began := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	did := func(who int, release bool, at time.Time, a answer) {
		mu.Lock()
		defer mu.Unlock()
		history = append(history, porcupine.Operation{
			ClientId: who, Input: release, Call: int64(at.Sub(began)), Output: a, Return: int64(time.Since(began)),
		})
	}
	var all sync.WaitGroup
	for who := range 6 {
		all.Go(func() {
			s := posterns[who%2]
			for i := range 20 {
				at := time.Now()
				if who == 5 && i == 10 {
					if _, err := s.Release(t.Context(), []string{id}); err != nil {
						t.Error(err)
					}
					did(who, true, at, answer{})
					continue
				}
				n, err := s.Hold(t.Context(), Notice{ID: id}, wide)
				if err != nil {
					t.Error(err)
					return
				}
				did(who, false, at, answer{n.Tries, n.Released})
			}
		})
	}
	all.Wait()
	model := porcupine.Model{
		Init: func() any { return state{} },
		Step: func(s, input, output any) (bool, any) {
			was, got := s.(state), output.(answer)
			if input.(bool) {
				return true, state{was.tries, was.tries > 0}
			}
			return got == answer{was.tries + 1, was.released}, state{was.tries + 1, was.released}
		},
	}
	if !porcupine.CheckOperations(model, history) {
		t.Errorf("no order of the answers explains them: %+v", history)
	}
}

// flaky is a way to a server on which a connection breaks behind every few answers,
// often with one of them on it.
func flaky(t *testing.T, to string, broken *atomic.Int64) string {
	t.Helper()
	return roadtest.To(t, to, func(n int, near io.Writer, far io.Reader) {
		b := make([]byte, 4096)
		for range 8 + n%7 { // those of the greeting come first
			k, err := far.Read(b)
			if err != nil {
				return
			}
			if _, err := near.Write(b[:k]); err != nil {
				return
			}
		}
		_, _ = far.Read(b) // an answer that nobody hears
		broken.Add(1)
	})
}

// Counts of two Posterns whose network breaks now and then: what was told to be counted is
// counted once, what failed once or never, and everybody sees the same.
func TestRatesAreLinearizable(t *testing.T) {
	m := miniredis.RunT(t)
	// Else it would name its own address as that of a cluster, and be asked there.
	m.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
		if cmd == "CLUSTER" {
			c.WriteError("ERR This instance has cluster support disabled")
		}
		return cmd == "CLUSTER"
	})
	now := time.Now().Truncate(time.Hour).Add(time.Minute) // the hour does not turn meanwhile
	var posterns [2]Store
	var broken atomic.Int64 // connections
	for i := range posterns {
		posterns[i] = NewFleet(Fleet{Servers: []string{flaky(t, m.Addr(), &broken)}, Prefix: "p:", Timeout: 10 * time.Second, Now: func() time.Time { return now }})
		defer posterns[i].Close()
	}
	key := Keys{Client: ClientKey(netip.MustParseAddr("192.0.2.1"))}
	type answer struct {
		failed bool
		count  int64
	}
	began := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	failed := 0
	did := func(who int, add bool, at time.Time, a answer) {
		mu.Lock()
		defer mu.Unlock()
		back := int64(time.Since(began))
		if a.failed {
			back = math.MaxInt64 // it may be done at any time from now on
			failed++
		}
		history = append(history, porcupine.Operation{ClientId: len(history), Input: add, Call: int64(at.Sub(began)), Output: a, Return: back})
	}
	var all sync.WaitGroup
	for who := range 4 {
		all.Go(func() {
			s := posterns[who%2]
			for i := range 15 {
				at := time.Now()
				if i%2 == 0 {
					err := s.Add(t.Context(), keep, []Event{{Keys: key, Rate: Rate{Messages: 1}}})
					did(who, true, at, answer{failed: err != nil})
					continue
				}
				if r, err := s.Recall(t.Context(), key); err == nil {
					did(who, false, at, answer{count: r.Client.Messages})
				}
			}
		})
	}
	all.Wait()
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{int64(0)} },
		Step: func(s, input, output any) []any {
			was, got := s.(int64), output.(answer)
			switch {
			case !input.(bool) && got.count != was:
				return nil
			case !input.(bool):
				return []any{was}
			case got.failed:
				return []any{was, was + 1}
			}
			return []any{was + 1}
		},
	}
	if broken.Load() == 0 {
		t.Error("nothing ever broke: the network was sound")
	}
	if porcupine.CheckOperationsTimeout(model.ToModel(), history, 30*time.Second) == porcupine.Illegal {
		t.Errorf("no order of the answers explains them: %+v", history)
	}
	t.Logf("%d operations, %d counts failed", len(history), failed)
}
