package memory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a store is used.
type Options struct {
	Timeout time.Duration // the longest that mail waits for the store; 0: 50 ms
	Keep    time.Duration // how long a sender is remembered after its last message; 0: 36 days
	Bounds  Bounds
	Log     *slog.Logger // may be nil
	Now     func() time.Time
	// Sizes is told every minute how much is remembered, as far as that is known.
	Sizes func(Sizes)
	// Held is told every minute how many notices wait, by rule, as far as countHeld goes.
	Held func(byRule map[string]int)
	// Ended is told of notices that have passed: for how long they were held, and how that
	// ended. Of a fleet, one process is told of each.
	Ended func(e End, held time.Duration)
	// Dropped is told of events that were lost because the store did not take them.
	Dropped func(n int)
}

const (
	defaultTimeout = 50 * time.Millisecond
	defaultKeep    = 36 * 24 * time.Hour
	// sizeEvery is how often it is counted what is remembered, which looks at all of it.
	sizeEvery = time.Minute
	// flushEvery is how often what happened is written: what a kill loses at most.
	flushEvery = time.Second
	// maxPending bounds the events that wait to be written.
	maxPending = 100_000
	// maxAsking bounds the questions that a store which answers nothing can hold up.
	maxAsking = 256
	// trips is how many failures in a row open the breaker.
	trips = 3
	// firstPause and lastPause are how long the breaker stays open.
	firstPause = time.Second
	lastPause  = 30 * time.Second
	// writeTimeout bounds what nobody waits for.
	writeTimeout = 10 * time.Second
)

// End is how holding mail ended.
type End string

// The ends.
const (
	EndClock    End = "clock"    // it came again, late enough
	EndOperator End = "operator" // it came again, released
	EndExpired  End = "expired"  // it did not come again, and will not
)

const (
	// countHeld bounds how many notices are looked at each minute.
	countHeld = 10_000
	// givenUp is how long after the last try a sender has given up (RFC 5321 §4.5.4.1).
	givenUp = 5 * 24 * time.Hour
	// maxPassed bounds the ids of notices that wait to be marked.
	maxPassed = 10_000
)

// errPerhaps is that what was to be written may have been.
var errPerhaps = errors.New("memory: it may have been written all the same")

// ErrUnhealthy is returned instead of an answer while the store is left alone.
var ErrUnhealthy = errors.New("memory: the store is not healthy")

// Memory is a store behind a bound on time. A store that is slow, gone, full or
// corrupt costs mail at most Options.Timeout an answer (see Patience), and nothing once the
// breaker is open: then answers are ErrUnhealthy at once, and the store is asked
// for a sign of life beside the mail until it gives one. One line is logged each
// way.
type Memory struct {
	store Store
	opt   Options

	asking  chan struct{}
	timeout atomic.Int64 // Options.Timeout
	keep    atomic.Int64 // Options.Keep
	bounds  atomic.Pointer[Bounds]
	healthy atomic.Bool

	mu       sync.Mutex
	left     bool // the store is let go of, which is no trouble
	closed   bool
	failures int // of questions, in a row
	unheld   int // notices that were not written in time, in a row
	unsaved  int // writes that nobody waits for and that failed, in a row
	pending  []Event
	passed   []string // ids of notices
	lost     int

	stop context.CancelFunc
	done sync.WaitGroup
	wake chan struct{}
}

// New returns a memory on a store, and takes the store over: Close closes it.
func New(s Store, o Options) *Memory {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Keep <= 0 {
		o.Keep = defaultKeep
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Memory{store: s, opt: o, asking: make(chan struct{}, maxAsking), stop: stop, wake: make(chan struct{}, 1)}
	m.healthy.Store(true)
	m.Tune(o.Timeout, o.Keep, o.Bounds)
	m.done.Go(func() { m.write(ctx) })
	m.done.Go(func() { m.heal(ctx) })
	return m
}

// Tune changes how long mail waits, how long a sender is remembered, and how many notices
// may wait.
func (m *Memory) Tune(timeout, keep time.Duration, b Bounds) {
	if b.Notices <= 0 {
		b.Notices = defaultNotices
	}
	if b.PerSender <= 0 {
		b.PerSender = defaultPerSender
	}
	m.timeout.Store(int64(timeout))
	m.keep.Store(int64(keep))
	m.bounds.Store(&b)
}

// Begin waits for a first sign of life, at most some seconds. A store that gives
// none is left alone until it does, and Begin says why.
func (m *Memory) Begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout+flushEvery)
	defer cancel()
	err := m.ping(ctx)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.fall()
	}
	return err
}

// LetGo writes what was counted and closes the store, so that another process can
// open it, where it is one that a process has for itself. Until TakeBack nothing is
// remembered, and that is no trouble.
func (m *Memory) LetGo(ctx context.Context) error {
	r, ok := m.store.(*reopened)
	if !ok {
		return nil
	}
	err := m.Flush(ctx)
	m.mu.Lock()
	m.left = true
	m.healthy.Store(false)
	m.mu.Unlock()
	return errors.Join(err, r.rest(true))
}

// TakeBack opens again what LetGo closed.
func (m *Memory) TakeBack() {
	r, ok := m.store.(*reopened)
	if !ok {
		return
	}
	_ = r.rest(false) // closes nothing
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = false
	m.healthy.Store(true)
}

// Pretend says, for a trial, whether the store is to be taken for healthy.
func (m *Memory) Pretend(healthy bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.failures, m.unheld, m.unsaved = !healthy, 0, 0, 0
	m.healthy.Store(healthy)
}

// Healthy says whether the store is asked at all.
func (m *Memory) Healthy() bool { return m.healthy.Load() }

// Recall is Store.Recall within the time for it.
func (m *Memory) Recall(ctx context.Context, k Keys) (Recalled, error) {
	return ask(ctx, m, &m.failures, func(ctx context.Context) (Recalled, error) { return m.store.Recall(ctx, k) })
}

// Notice is Store.Notice within the time for it.
func (m *Memory) Notice(ctx context.Context, id string) (Notice, error) {
	return ask(ctx, m, &m.failures, func(ctx context.Context) (Notice, error) { return m.store.Notice(ctx, id) })
}

// Hold is Store.Hold within the time for it. An error says that nobody may be
// told of the notice: it may not be there. ErrSenderFull and ErrFull say that it is not,
// and that the store is well.
func (m *Memory) Hold(ctx context.Context, n Notice) (Notice, error) {
	b := *m.bounds.Load()
	return ask(ctx, m, &m.unheld, func(ctx context.Context) (Notice, error) { return m.store.Hold(ctx, n.cut(), b) })
}

// Store is the store itself, for those who have time: the control socket and the
// doctor.
func (m *Memory) Store() Store { return m.store }

// Count notes what happened; it is written within a second. It never waits.
func (m *Memory) Count(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return
	case len(m.pending) >= maxPending:
		m.lost++
		return
	}
	m.pending = append(m.pending, e)
}

// Flush writes what was counted so far.
func (m *Memory) Flush(ctx context.Context) error {
	if !m.Healthy() {
		return ErrUnhealthy
	}
	err := m.save(ctx)
	m.heard(&m.unsaved, err)
	return err
}

// save writes what was counted so far, whether the store is healthy or not. What may
// have been written all the same is not written again: counts are lost rather than
// doubled, for a rule refuses by them.
func (m *Memory) save(ctx context.Context) error {
	m.mu.Lock()
	events := m.pending
	m.pending = nil
	m.mu.Unlock()
	var err error
	if len(events) > 0 {
		err = guarded(func() error { return m.store.Add(ctx, time.Duration(m.keep.Load()), events) })
	}
	lost := 0
	m.mu.Lock()
	switch {
	case errors.Is(err, errPerhaps):
		m.lost += len(events)
	case err != nil:
		m.putBack(events)
	default:
		lost, m.lost = m.lost, 0
	}
	m.mu.Unlock()
	m.dropped(lost)
	return err
}

// dropped tells of events that were lost. NOT: with mu, by which all mail that is counted
// would wait for the log.
func (m *Memory) dropped(n int) {
	if n > 0 && m.opt.Dropped != nil {
		m.opt.Dropped(n)
	}
}

// Passed notes that mail which was held came again and was let in. It never waits.
func (m *Memory) Passed(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed && len(m.passed) < maxPassed {
		m.passed = append(m.passed, id)
	}
}

// markPassed writes which notices have passed. Those that the store does not take are
// listed as held until they are forgotten, and nothing else hangs on it.
func (m *Memory) markPassed(ctx context.Context) {
	m.mu.Lock()
	ids := m.passed
	m.passed = nil
	m.mu.Unlock()
	if len(ids) == 0 || !m.Healthy() {
		return
	}
	list, err := m.pass(ctx, ids)
	m.heard(&m.unsaved, err)
	for _, n := range list {
		end := EndClock
		if n.Released {
			end = EndOperator
		}
		m.ended(end, m.opt.Now().Sub(n.First))
	}
}

func (m *Memory) pass(ctx context.Context, ids []string) (list []Notice, err error) {
	err = guarded(func() (err error) {
		list, err = m.store.Pass(ctx, ids)
		return err
	})
	return list, err
}

func (m *Memory) ended(e End, held time.Duration) {
	if m.opt.Ended != nil {
		m.opt.Ended(e, max(held, 0))
	}
}

// lookAtHeld counts the notices that wait, the newest, and gives up those whose senders
// have.
func (m *Memory) lookAtHeld(ctx context.Context, now time.Time) {
	if m.opt.Held == nil {
		return
	}
	byRule := map[string]int{}
	if m.look(ctx, true, func(n Notice) bool {
		if now.Sub(n.Last) <= givenUp {
			byRule[n.Rule]++
		}
		return true
	}) != nil {
		return
	}
	m.opt.Held(byRule)
	var over []string
	err := m.look(ctx, false, func(n Notice) bool {
		late := now.Sub(n.Last) > givenUp
		if late {
			over = append(over, n.ID)
		}
		return late || n.Released // one that was released stands behind those that came since its last try
	})
	if err != nil || len(over) == 0 {
		return
	}
	list, _ := m.pass(ctx, over) // those that it does not take are over in a minute as well
	for _, n := range list {
		m.ended(EndExpired, n.Last.Sub(n.First))
	}
}

// look calls f for notices that wait, at most countHeld.
func (m *Memory) look(ctx context.Context, newest bool, f func(Notice) bool) error {
	return guarded(func() error {
		looked := 0
		return m.store.Waiting(ctx, newest, func(n Notice) bool {
			looked++
			return f(n) && looked < countHeld
		})
	})
}

// putBack puts events back that were not written, the newest as far as there is room.
// It needs mu.
func (m *Memory) putBack(events []Event) {
	if over := len(events) + len(m.pending) - maxPending; over > 0 {
		over = min(over, len(events))
		events, m.lost = events[over:], m.lost+over
	}
	m.pending = append(events, m.pending...)
}

// Close writes what was counted and closes the store. Who asks after that, as a
// transaction that began before a reload, has ErrUnhealthy.
func (m *Memory) Close() error {
	m.stop()
	m.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	err := m.Flush(ctx)
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	lost := m.lost + len(m.pending)
	if m.left {
		err, lost = nil, 0 // another process has the store, and what came since is not counted
	}
	m.left, m.closed, m.pending = true, true, nil
	m.healthy.Store(false)
	m.mu.Unlock()
	m.dropped(lost)
	return errors.Join(err, m.store.Close())
}

// write flushes now and then.
func (m *Memory) write(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var counted time.Time // when the store was last asked for its sizes
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			within, cancel := context.WithTimeout(ctx, writeTimeout)
			_ = m.Flush(within) // heard has said what there is to say
			m.markPassed(within)
			if now := m.opt.Now(); m.opt.Sizes != nil && m.Healthy() && now.Sub(counted) >= sizeEvery {
				counted = now
				var s Sizes
				if err := guarded(func() (err error) { s, err = m.store.Sizes(within); return err }); err == nil {
					m.opt.Sizes(s)
				}
				m.lookAtHeld(within, now)
			}
			cancel()
		}
	}
}

// ask asks the store and waits no longer than mail may. A store that cannot be
// interrupted, as one on a disk that hangs, keeps its goroutine, of which there
// are at most maxAsking; one that panics has failed. failures are those of its kind.
func ask[T any](ctx context.Context, m *Memory, failures *int, f func(context.Context) (T, error)) (T, error) {
	var none T
	if !m.Healthy() {
		return none, ErrUnhealthy
	}
	select {
	case m.asking <- struct{}{}:
	default:
		return none, ErrUnhealthy
	}
	patience := patienceOf(ctx)
	left := patience.left(time.Duration(m.timeout.Load()))
	if left <= 0 {
		<-m.asking
		return none, errPatience
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, left)
	type answer struct {
		value T
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		defer func() { <-m.asking }()
		var a answer
		a.err = guarded(func() (err error) {
			a.value, err = f(within)
			return err
		})
		got <- a
	}()
	defer cancel()
	select {
	case a := <-got:
		patience.spend(time.Since(began))
		if within.Err() != nil {
			patience.lose() // a store that minds the context says so itself
		}
		if ctx.Err() == nil {
			m.heard(failures, a.err)
		}
		return a.value, a.err
	case <-within.Done():
		if ctx.Err() != nil {
			return none, ctx.Err() // the session is over, which says nothing of the store
		}
		patience.lose()
		m.heard(failures, within.Err())
		return none, within.Err()
	}
}

// guarded makes an error of a panic: a goroutine that nobody guards would end the
// process with it, and all mail.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("memory: the store panicked: %v", p)
		}
	}()
	return do()
}

// heard notes how the store did. Questions, notices and other writes are counted apart:
// a disk that is full can be read, and one that is slow to write notices takes counts,
// which have more time.
func (m *Memory) heard(failures *int, err error) {
	m.mu.Lock()
	fell := false
	if err == nil || isFull(err) {
		*failures = 0
	} else if *failures++; *failures >= trips {
		fell = m.fall()
	}
	m.mu.Unlock()
	if !fell {
		return
	}
	// NOT: with mu, by which all mail would wait for the log.
	m.opt.Log.Warn("the state store does not answer: its facts are unmeasured, and no mail is held until it does", "error", err)
}

// fall leaves the store alone until it gives a sign of life, and says whether it was
// not yet. It needs mu.
func (m *Memory) fall() bool {
	if m.left || !m.healthy.CompareAndSwap(true, false) {
		return false
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// heal asks a store that was left alone for a sign of life, ever more seldom.
func (m *Memory) heal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		}
		began := m.opt.Now()
		for pause := firstPause; !m.Healthy(); pause = min(2*pause, lastPause) {
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			within, cancel := context.WithTimeout(ctx, time.Duration(m.timeout.Load()))
			err := m.ping(within)
			cancel()
			if err == nil {
				// NOT: the sign alone. There may be room for that, and for no more.
				within, cancel := context.WithTimeout(ctx, writeTimeout)
				err = m.save(within)
				cancel()
			}
			if err == nil {
				m.mu.Lock()
				back := !m.left
				if back {
					m.failures, m.unheld, m.unsaved = 0, 0, 0
					m.healthy.Store(true)
				}
				m.mu.Unlock()
				if !back {
					continue
				}
				m.opt.Log.Info("the state store answers again", "after", m.opt.Now().Sub(began).Round(time.Second).String())
			}
		}
	}
}

// ping waits for the sign of life no longer than ctx lasts.
func (m *Memory) ping(ctx context.Context) error {
	got := make(chan error, 1)
	select {
	case m.asking <- struct{}{}:
	default:
		return ErrUnhealthy // earlier callers are held up still
	}
	go func() {
		defer func() { <-m.asking }()
		got <- guarded(func() error { return m.store.Ping(ctx) })
	}()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
