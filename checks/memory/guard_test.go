package memory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/logtest"
)

// moody is a store that answers as it likes.
type moody struct {
	Store
	mu    sync.Mutex
	delay time.Duration
	err   error
	asked atomic.Int32
	added atomic.Int32
}

func (m *moody) be(delay time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay, m.err = delay, err
}

// answer waits as a disk does: nothing interrupts it.
func (m *moody) answer() error {
	m.asked.Add(1)
	m.mu.Lock()
	delay, err := m.delay, m.err
	m.mu.Unlock()
	time.Sleep(delay)
	return err
}

func (m *moody) Recall(context.Context, Keys) (Recalled, error) {
	return Recalled{Domain: 7}, m.answer()
}
func (m *moody) Ping(context.Context) error                                 { return m.answer() }
func (m *moody) Hold(_ context.Context, n Notice, _ Bounds) (Notice, error) { return n, m.answer() }
func (m *moody) Add(_ context.Context, _ time.Duration, e []Event) error {
	err := m.answer()
	if err == nil {
		m.added.Add(int32(len(e)))
	}
	return err
}
func (m *moody) Close() error { return nil }

// A store that hangs costs each question the time that is allowed, three of them,
// and the others nothing; when it is back it is used again.
func TestAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		s := &moody{}
		m := New(s, Options{Timeout: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer m.Close()
		if r, err := m.Recall(t.Context(), Keys{}); err != nil || r.Domain != 7 {
			t.Fatalf("%+v, %v", r, err)
		}
		s.be(time.Minute, nil)
		for i := range 10 {
			began := time.Now()
			_, err := m.Recall(t.Context(), Keys{})
			took := time.Since(began)
			if err == nil || i < trips && took != 50*time.Millisecond || i >= trips && took != 0 {
				t.Errorf("question %d: %v after %v", i, err, took)
			}
		}
		if m.Healthy() || strings.Count(log.String(), "does not answer") != 1 {
			t.Errorf("healthy: %v; %s", m.Healthy(), log.String())
		}
		s.be(0, nil)
		time.Sleep(3 * time.Minute)
		if r, err := m.Recall(t.Context(), Keys{}); err != nil || r.Domain != 7 || strings.Count(log.String(), "answers again") != 1 {
			t.Errorf("%+v, %v; %s", r, err, log.String())
		}
	})
}

// One answer to a client waits no longer than the time-out for all that is asked for it,
// and a message whose question was not answered in time asks nothing more.
func TestOneMessageHasOnePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 50 * time.Millisecond
		s := &moody{}
		m := New(s, Options{Timeout: timeout})
		defer m.Close()
		answer := func(p *Patience, questions int) (failed int, took time.Duration) {
			p.Renew()
			began := time.Now()
			for i := range questions {
				var err error
				if i%2 == 0 {
					_, err = m.Recall(WithPatience(t.Context(), p), Keys{})
				} else {
					_, err = m.Hold(WithPatience(t.Context(), p), Notice{})
				}
				if err != nil {
					failed++
				}
			}
			return failed, time.Since(began)
		}
		for _, x := range []struct {
			delay  time.Duration // of each question
			failed []int         // of two, for one answer after the other
			took   []time.Duration
		}{
			{0, []int{0, 0, 0}, []time.Duration{0, 0, 0}},
			{20 * time.Millisecond, []int{0, 0, 0}, []time.Duration{40 * time.Millisecond, 40 * time.Millisecond, 40 * time.Millisecond}},
			{30 * time.Millisecond, []int{1, 2, 2}, []time.Duration{timeout, 0, 0}},
			{time.Hour, []int{2, 2, 2}, []time.Duration{timeout, 0, 0}},
		} {
			s.be(x.delay, nil)
			var p Patience
			for i := range x.failed {
				if failed, took := answer(&p, 2); failed != x.failed[i] || took != x.took[i] {
					t.Errorf("each takes %v: answer %d had %d failures after %v, want %d after %v", x.delay, i, failed, took, x.failed[i], x.took[i])
				}
			}
		}
		if !m.Healthy() {
			t.Error("it was left alone for two messages")
		}
		s.be(0, nil)
		time.Sleep(2 * time.Hour)
	})
}

// A log that takes no line keeps nobody from counting mail.
func TestTheLogIsWrittenOutsideTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{}
		stuck := make(chan struct{})
		m := New(s, Options{Timeout: time.Second, Log: slog.New(slog.NewTextHandler(blocked(stuck), nil)), Dropped: func(int) { <-stuck }})
		for range maxPending + 1 {
			m.Count(Event{})
		}
		time.Sleep(flushEvery + time.Millisecond) // it tells of one that was lost
		s.be(0, errors.New("gone"))
		for range trips {
			go func() { _, _ = m.Recall(t.Context(), Keys{}) }()
		}
		synctest.Wait()
		m.Count(Event{})
		if m.Healthy() {
			t.Error("it does not answer, and is healthy")
		}
		s.be(0, nil)
		close(stuck)
		time.Sleep(time.Minute)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// blocked is a writer that takes nothing until it is closed.
type blocked chan struct{}

func (b blocked) Write(p []byte) (int, error) {
	<-b
	return len(p), nil
}

// slowToWrite answers at once, and takes a notice in half a second.
type slowToWrite struct{ moody }

func (*slowToWrite) Hold(_ context.Context, n Notice, _ Bounds) (Notice, error) {
	time.Sleep(500 * time.Millisecond)
	return n, nil
}

func (*slowToWrite) Ping(context.Context) error {
	time.Sleep(500 * time.Millisecond)
	return nil
}

// A disk that reads well and writes slowly costs three notices the time that is
// allowed, and the others nothing, whatever is read and counted between them.
func TestADiskThatIsSlowToWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(&slowToWrite{}, Options{Timeout: 50 * time.Millisecond})
		began := time.Now()
		for range 10 {
			_, _ = m.Recall(t.Context(), Keys{})
			if _, err := m.Hold(t.Context(), Notice{}); err == nil {
				t.Error("a notice was told of that is not there yet")
			}
			m.Count(Event{})
			_ = m.Flush(t.Context())
		}
		if took := time.Since(began); took != trips*50*time.Millisecond || m.Healthy() {
			t.Errorf("ten notices took %v; healthy: %v", took, m.Healthy())
		}
		_ = m.Close() // says that it is not healthy
		time.Sleep(time.Second)
	})
}

// hostile is a store that panics.
type hostile struct{ Store }

func (hostile) Close() error { return nil }

// A store that panics has failed, and ends nothing else.
func TestAStoreThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(hostile{}, Options{Sizes: func(Sizes) {}, Held: func(map[string]int) {}})
		m.Count(Event{})
		m.Passed("0000000000000000")
		time.Sleep(flushEvery + time.Millisecond)
		if _, err := m.Recall(t.Context(), Keys{}); err == nil {
			t.Error("it was heard out")
		}
		if _, err := m.Notice(t.Context(), ""); err == nil {
			t.Error("it has a notice")
		}
		if _, err := m.Hold(t.Context(), Notice{}); err == nil {
			t.Error("it took a notice")
		}
		if err := m.Begin(t.Context()); err == nil || m.Healthy() {
			t.Errorf("a sign of life: %v", err)
		}
		time.Sleep(time.Minute)
		if m.Healthy() {
			t.Error("it is healthy")
		}
		_ = m.Close() // says that it is not healthy
	})
}

// Questions that a store holds up are bounded in number.
func TestHeldUpQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{}
		m := New(s, Options{Timeout: time.Hour})
		s.be(2*time.Hour, nil)
		var refused atomic.Int32
		var all sync.WaitGroup
		for range maxAsking + 10 {
			all.Go(func() {
				if _, err := m.Recall(t.Context(), Keys{}); errors.Is(err, ErrUnhealthy) {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if refused.Load() != 10 || s.asked.Load() != maxAsking {
			t.Errorf("%d refused, %d asked", refused.Load(), s.asked.Load())
		}
		all.Wait()
		s.be(0, nil)
		time.Sleep(3 * time.Hour)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What happened while the store was away is written when it is back, as far as
// there is room for it; nobody waits.
func TestCountsSurviveAStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{}
		var dropped atomic.Int64
		m := New(s, Options{Dropped: func(n int) { dropped.Add(int64(n)) }})
		m.Count(Event{})
		time.Sleep(flushEvery + time.Millisecond)
		if s.added.Load() != 1 {
			t.Fatalf("%d written", s.added.Load())
		}
		s.be(0, errors.New("no space left on device"))
		for range maxPending + 5 {
			m.Count(Event{})
		}
		time.Sleep(time.Minute)
		s.be(0, nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s.added.Load() != 1+maxPending || dropped.Load() != 5 {
			t.Errorf("%d written, %d dropped", s.added.Load(), dropped.Load())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A session that is over says nothing of the store.
func TestASessionThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{}
		m := New(s, Options{})
		s.be(time.Second, nil)
		for range 2 * trips {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := m.Recall(ctx, Keys{}); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
		if !m.Healthy() {
			t.Error("the store was blamed")
		}
		time.Sleep(time.Minute)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// How holding mail ended is told once of each notice, whoever notes it how often.
func TestHowHoldingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // of what the memory tells
		var ends []string
		var counted map[string]int
		var ahead atomic.Int64 // NOT: six days of sleep, in which the memory wakes each second
		now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		m := New(NewProcess(now), Options{
			Now: now,
			Held: func(n map[string]int) {
				mu.Lock()
				defer mu.Unlock()
				counted = n
			},
			Sizes: func(Sizes) {},
			Ended: func(e End, held time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, string(e)+" "+held.Round(time.Minute).String())
			},
		})
		t.Cleanup(func() { _ = m.Close() })
		ctx := t.Context()
		for _, id := range []string{"a", "b", "c", "d"} {
			if _, err := m.Hold(ctx, Notice{ID: id, Rule: "grey"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		if _, err := m.Store().Release(ctx, []string{"b"}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Hold(ctx, Notice{ID: "c", Rule: "grey"}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b", "a", "nobody"} {
			m.Passed(id)
		}
		time.Sleep(2 * time.Minute)
		m.Passed("a")
		time.Sleep(time.Minute)
		mu.Lock()
		if counted["grey"] != 2 || len(counted) != 1 {
			t.Errorf("held: %v", counted)
		}
		mu.Unlock()
		ahead.Store(int64(6 * 24 * time.Hour))
		time.Sleep(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		want := []string{"clock 10m0s", "operator 10m0s", "expired 0s", "expired 10m0s"}
		slices.Sort(ends[2:])
		if !slices.Equal(ends, want) || len(counted) != 0 {
			t.Errorf("%q, want %q; held: %v", ends, want, counted)
		}
	})
}

// readOnly is a store that answers questions and takes nothing.
type readOnly struct {
	moody
	full atomic.Bool
	err  error
}

func (r *readOnly) Add(ctx context.Context, keep time.Duration, e []Event) error {
	if r.full.Load() {
		return r.err
	}
	return r.moody.Add(ctx, keep, e)
}

// A disk that is full can be read, and there may be room for a sign of life on it: the
// store is left alone all the same, until it takes what it did not take.
func TestADiskThatIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, x := range []struct {
			err     error
			dropped int // at least
		}{
			{errors.New("no space left on device"), 0},
			{fmt.Errorf("%w: i/o timeout", errPerhaps), 4}, // three before it was left alone, and one sign of life
		} {
			s := &readOnly{err: x.err}
			var log logtest.Log
			var dropped atomic.Int64
			m := New(s, Options{Dropped: func(n int) { dropped.Add(int64(n)) }, Log: slog.New(slog.NewTextHandler(&log, nil))})
			s.full.Store(true)
			for range 40 {
				m.Count(Event{})
				_, _ = m.Recall(t.Context(), Keys{})
				time.Sleep(flushEvery + time.Millisecond)
			}
			if m.Healthy() {
				t.Error("it takes nothing, and is healthy")
			}
			s.full.Store(false)
			m.Count(Event{})
			time.Sleep(2 * lastPause)
			if !m.Healthy() {
				t.Error("it takes everything, and is not healthy")
			}
			time.Sleep(2 * flushEvery)
			synctest.Wait()
			if got, lost := int(s.added.Load()), int(dropped.Load()); got+lost != 41 || x.dropped == 0 && lost != 0 || x.dropped > 0 && lost < x.dropped {
				t.Errorf("%v: %d written, %d dropped", x.err, got, lost)
			}
			if text := log.String(); strings.Count(text, "does not answer") != 1 || strings.Count(text, "answers again") != 1 {
				t.Errorf("told:\n%s", text)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
