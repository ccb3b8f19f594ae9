package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"postern/configs"
	"postern/metrics"
)

// The bounds of what waits for the disk.
const (
	queueLength = 4096
	queueOctets = 64 << 20
	// Lines that come within gatherFor travel to the disk in one write, of about batch octets.
	// A process that is killed loses what came in that time.
	gatherFor = 20 * time.Millisecond
	batch     = 64 << 10
	// patience is how long a disk that failed is left alone.
	patience = time.Second
	// tidyEvery is how often old files are looked for besides when one is closed.
	tidyEvery = time.Hour
)

// Options is what a Writer works with besides its configuration.
type Options struct {
	Metrics *metrics.Metrics // may be nil
	Log     *slog.Logger     // nil: discard
	Now     func() time.Time // nil: time.Now

	// disk opens the file of a day; nil: a real one.
	disk func(dir, day string) (disk, int64, error)
}

// disk is a file that is written to.
type disk interface {
	Write(p []byte) (int, error)
	Close() error
}

// Writer keeps records in files by day. Mail never waits for it: Write hands a
// line to one goroutine, and where that is behind, because the disk is slow
// or full, the record is dropped and counted.
type Writer struct {
	config  configs.Journal
	metrics *metrics.Metrics
	log     *complaints
	now     func() time.Time
	open    func(dir, day string) (disk, int64, error)
	hash    *hasher // nil: addresses stay

	mu     sync.RWMutex // closed is written under it, and nothing is queued after
	closed bool
	queue  chan *encoder // each holds a line
	octets atomic.Int64  // that wait
	hurry  chan struct{} // a batch waits

	reopen chan struct{}
	shared atomic.Bool
	untidy chan struct{}
	wg     sync.WaitGroup
	cancel context.CancelFunc // ends the tidying
	ended  chan struct{}

	// current is the name of the file that may be written to: the tidying leaves
	// it alone. Whoever opens a file works out its day under the same lock.
	fileMu  sync.Mutex
	current string

	// Of the writing goroutine.
	file    disk
	day     string
	size    int64
	pending []byte
	records int       // in pending
	retry   time.Time // no file is opened before
	full    time.Time // no file is set aside before
}

// New returns a Writer for the journal that c describes, and starts it. The
// folder need not exist. The error is that of the key for hashing.
func New(c configs.Journal, o Options) (*Writer, error) {
	w := &Writer{
		config: c, metrics: o.Metrics, now: o.Now, open: o.disk,
		queue: make(chan *encoder, queueLength), hurry: make(chan struct{}, 1), reopen: make(chan struct{}, 1), untidy: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if c.HashLocalParts {
		key, err := readKey(c.HashKey)
		if err != nil {
			return nil, err
		}
		w.hash = &hasher{key: key}
	}
	if w.now == nil {
		w.now = time.Now
	}
	w.log = &complaints{log: o.Log, path: c.Path, now: w.now}
	if o.Log == nil {
		w.log.log = slog.New(slog.DiscardHandler)
	}
	if w.open == nil {
		w.open = func(dir, day string) (disk, int64, error) { return openFile(dir, day) }
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	w.untidy <- struct{}{}
	w.wg.Go(func() { w.run(ctx) })
	w.wg.Go(func() { w.tidying(ctx) })
	go func() {
		w.wg.Wait()
		close(w.ended)
	}()
	return w, nil
}

// Write hands over the record's line, see Record.Seal, and leaves the record without one.
// It does not wait: a line that finds the queue full is dropped.
func (w *Writer) Write(r *Record) {
	if w.hash != nil {
		r.Release() // the log has used its line, and others are given the record after us
	}
	line, err := w.AsKept(r).handOver()
	if err != nil {
		w.metrics.JournalRecord("error")
		w.log.begun(troubleRecord, err)
		return
	}
	octets := int64(len(line.line))
	w.mu.RLock()
	defer w.mu.RUnlock()
	if waiting := w.octets.Add(octets); !w.closed && waiting <= queueOctets {
		select {
		case w.queue <- line: // which is the other goroutine's from here on
			if waiting >= batch && waiting-octets < batch {
				signal(w.hurry)
			}
			return
		default:
		}
	}
	line.release()
	w.octets.Add(-octets)
	if !w.closed {
		w.log.begun(troubleSlow, nil)
	}
	w.metrics.JournalRecord("dropped")
}

// signal wakes who waits for c, or will.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was told already
	}
}

// AsKept returns a record as it is kept: where the journal has hashes in place of local
// parts, one that has them.
func (w *Writer) AsKept(r *Record) *Record {
	if w.hash == nil {
		return r
	}
	return w.hash.record(r)
}

// Reopen makes the next record go into a file that is opened anew, for those
// who move files away.
func (w *Writer) Reopen() {
	signal(w.reopen)
}

// Share says whether another process writes to the same journal, as while one
// takes the other's place. Lines of the two cannot mix, since each batch is
// one append; but the other may set the file aside and compress it at any time, so
// this one then opens it for each batch, and leaves that work to the other.
func (w *Writer) Share(yes bool) {
	w.shared.Store(yes)
	w.Reopen()
}

// Close writes what waits and ends. Where that takes longer than ctx, because the
// disk hangs, it returns ctx's error and the rest is lost.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.queue)
	}
	w.mu.Unlock()
	w.cancel()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("journal: not all was written: %w", context.Cause(ctx))
	}
}

// run is the one goroutine that writes. ctx ends when the queue is closed.
func (w *Writer) run(ctx context.Context) {
	defer w.closeFile()
	timer := time.NewTimer(gatherFor)
	for {
		select {
		case line, open := <-w.queue:
			if !open {
				w.flush()
				return
			}
			w.add(line)
		case <-w.reopen:
			w.closeFile()
			continue
		}
		// More comes soon. Nobody is woken for it until it is a batch.
		reopen := false
		timer.Reset(gatherFor)
		select {
		case <-timer.C:
		case <-w.hurry:
		case <-ctx.Done():
		case <-w.reopen:
			reopen = true
		}
		for range len(w.queue) {
			w.add(<-w.queue)
			if len(w.pending) >= batch {
				w.flush()
			}
		}
		w.flush()
		if reopen {
			w.closeFile()
		}
		// One record that found room in a full queue does not mean that the disk keeps up.
		if len(w.queue) == 0 {
			w.log.ended(troubleSlow)
		}
	}
}

// add appends a line to what is pending, in the file of the day.
func (w *Writer) add(e *encoder) {
	defer e.release()
	line := e.line
	w.octets.Add(-int64(len(line)))
	if day := dayOf(w.now()); w.file != nil && day != w.day {
		w.flush()
		w.closeFile()
		w.tidySoon()
	}
	if full := w.size + int64(len(w.pending)); w.file != nil && !w.shared.Load() && full > 0 && full+int64(len(line)) > int64(w.config.RotateSize) && !w.now().Before(w.full) {
		w.flush()
		w.closeFile()
		if err := setAside(w.config.Path, w.day); err != nil {
			w.log.begun(troubleSetAside, err)
			w.full = w.now().Add(complainEvery) // it grows on
		} else {
			w.log.ended(troubleSetAside)
		}
		w.tidySoon()
	}
	w.pending = append(w.pending, line...)
	w.records++
	if w.file == nil {
		w.openFile()
	}
}

// openFile opens the file of today, unless that failed a moment ago.
func (w *Writer) openFile() {
	now := w.now()
	if now.Before(w.retry) {
		return
	}
	w.fileMu.Lock()
	w.day = dayOf(w.now())
	w.current = w.day + ".jsonl"
	w.fileMu.Unlock()
	var err error
	if w.file, w.size, err = w.open(w.config.Path, w.day); err != nil {
		w.file = nil
		w.letGo()
		w.retry = now.Add(patience)
		w.log.begun(troubleOpen, err)
		return
	}
	w.log.ended(troubleOpen)
}

// flush writes what is pending. What cannot be written is lost: the next record
// may find the disk better, and there is no place to keep this one.
func (w *Writer) flush() {
	if w.records == 0 {
		return
	}
	defer func() {
		w.pending, w.records = w.pending[:0], 0
		if cap(w.pending) > 4*batch {
			w.pending = nil
		}
	}()
	if w.file == nil {
		w.failed(w.records, nil)
		return
	}
	n, err := w.file.Write(w.pending)
	w.size += int64(n)
	if err != nil {
		w.failed(w.records, err)
		// Opened anew, a torn line gets its end.
		w.closeFile()
		w.retry = w.now().Add(patience)
		return
	}
	for range w.records {
		w.metrics.JournalRecord("written")
	}
	w.log.ended(troubleWrite)
	if w.shared.Load() {
		w.closeFile()
	}
}

// failed counts records that were lost, and says why, if that was not said.
func (w *Writer) failed(records int, err error) {
	for range records {
		w.metrics.JournalRecord("error")
	}
	if err != nil {
		w.log.begun(troubleWrite, err)
	}
}

func (w *Writer) closeFile() {
	if w.file == nil {
		return
	}
	if err := w.file.Close(); err != nil {
		w.log.begun(troubleClose, err)
	} else {
		w.log.ended(troubleClose)
	}
	w.file = nil
	w.letGo()
}

// letGo leaves the file to the tidying.
func (w *Writer) letGo() {
	w.fileMu.Lock()
	w.current = ""
	w.fileMu.Unlock()
}

// closedFor says whether nobody will write to a file any more.
func (w *Writer) closedFor(f file) bool {
	w.fileMu.Lock()
	defer w.fileMu.Unlock()
	return f.name != w.current && (f.part < lastPart || f.day < dayOf(w.now()))
}

func (w *Writer) tidySoon() { signal(w.untidy) }

// tidying compresses and removes files, beside the writing: that takes seconds.
func (w *Writer) tidying(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.untidy:
		case <-tick.C:
		}
		switch err := tidy(ctx, w.config.Path, w.config.Keep, w.now(), w.closedFor); {
		case err == nil:
			w.log.ended(troubleTidy)
		case !errors.Is(err, context.Canceled):
			w.log.begun(troubleTidy, err)
		}
	}
}

// Verify says why a journal could not be written as configured, as far as that
// can be known without writing.
func Verify(c configs.Journal) error {
	if c.Path == "" {
		return nil
	}
	if c.HashLocalParts {
		if _, err := readKey(c.HashKey); err != nil {
			return err
		}
	}
	info, err := os.Stat(c.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if parent, err := os.Stat(filepath.Dir(c.Path)); err == nil && !parent.IsDir() {
			return fmt.Errorf("journal: %s is no folder", filepath.Dir(c.Path))
		}
		return nil // it is made
	case err != nil:
		return fmt.Errorf("journal: %w", err)
	case !info.IsDir():
		return fmt.Errorf("journal: %s is no folder", c.Path)
	}
	return nil
}
