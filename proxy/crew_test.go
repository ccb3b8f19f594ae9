package proxy

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever has run a session runs the next one, however many come at once; nobody waits
// for another, few rest, and none for long.
func TestCrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := newCrew(ctx)
		for range 3 {
			var all sync.WaitGroup
			together := make(chan struct{})
			for range 3 * maxResting {
				all.Add(1)
				c.run(func() {
					defer all.Done()
					<-together
				})
			}
			synctest.Wait()
			close(together) // each of them has begun
			all.Wait()
			synctest.Wait()
			if n := c.resting.Load(); n != maxResting {
				t.Fatalf("%d rest", n)
			}
		}

		began := time.Now()
		for range 100 { // one at a time needs nobody new
			done := make(chan struct{})
			c.run(func() { close(done) })
			<-done
			synctest.Wait()
			if n := c.resting.Load(); n != maxResting {
				t.Fatalf("%d rest", n)
			}
			time.Sleep(restFor / 200)
		}
		if time.Since(began) > restFor {
			t.Fatal("the test takes too long")
		}
		time.Sleep(2 * restFor)
		synctest.Wait()
		if n := c.resting.Load(); n != 0 {
			t.Errorf("%d rest still", n)
		}

		c.run(func() {})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if n := c.resting.Load(); n != 0 {
			t.Errorf("%d rest when the server has ended", n)
		}
		ran := false
		c.run(func() { ran = true })
		synctest.Wait()
		if n := c.resting.Load(); !ran || n != 0 {
			t.Errorf("ran %v, %d rest, after the end", ran, n)
		}
	})
}
