package memory

import (
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/anishathalye/porcupine"
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
				n, err := s.Hold(t.Context(), Notice{ID: id})
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
