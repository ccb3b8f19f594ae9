package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"postern/policy"
	"postern/policy/journal"
)

// Replayed is what came of a replay.
type Replayed struct {
	Journal     string `json:"journal"`
	Policy      string `json:"policy"`
	Fingerprint string `json:"fingerprint"`
	*Comparison
	Changes   []changeRow   `json:"changes"`
	Read      journal.Stats `json:"read"`
	Seconds   float64       `json:"seconds"`
	PerSecond float64       `json:"transactions_per_second"`
}

// Replay judges the records of a journal by another policy.
func Replay(ctx context.Context, dir string, q journal.Query, chain *policy.Chain) (*Replayed, error) {
	began := time.Now()
	var c *Comparison
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := NewComparison()
		return func(r *journal.Record) {
				known := r.Measured()
				mine.Add(r, func(i int) journal.Opinion { return r.Judge(chain, i, known) })
			}, func() {
				if c == nil {
					c = mine
				} else {
					c.merge(mine)
				}
			}
	})
	if err != nil {
		return nil, err
	}
	r := &Replayed{
		Journal: dir, Fingerprint: chain.Fingerprint(), Comparison: c, Changes: c.Rows(), Read: stats, Seconds: time.Since(began).Seconds(),
	}
	r.PerSecond = float64(c.Records) / r.Seconds
	return r, nil
}

// block is lines that are handed to a worker in one piece.
type block struct {
	text []byte
	ends []int
}

const blockSize = 256 << 10

// inParallel decodes the records that the query wants on all processors, the lines being
// read as a stream by one goroutine. start is called once for each worker and returns what
// takes its records, and what is called when there are none left: by one worker after the other.
func inParallel(ctx context.Context, dir string, q journal.Query, start func() (take func(*journal.Record), done func())) (journal.Stats, error) {
	workers := runtime.GOMAXPROCS(0)
	blocks := make(chan *block, workers)
	free := make(chan *block, 2*workers+1)
	for range cap(free) {
		free <- new(block)
	}
	group, ctx := errgroup.WithContext(ctx)
	var stats journal.Stats
	group.Go(func() (err error) {
		defer close(blocks)
		stats, err = fill(ctx, dir, q, free, blocks)
		return err
	})
	type worker struct {
		done  func()
		found journal.Stats
	}
	all := make([]worker, workers)
	for i := range all {
		w := &all[i]
		var take func(*journal.Record)
		take, w.done = start()
		group.Go(func() error {
			var r journal.Record
			for b := range blocks {
				from := 0
				for _, end := range b.ends {
					if w.found.Decode(b.text[from:end], &r) && q.Wants(r.Time) {
						take(&r)
					}
					from = end
				}
				free <- b
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return stats, err
	}
	for i := range all {
		all[i].done()
		stats.Add(all[i].found)
	}
	return stats, nil
}

// fill puts the lines that the query wants into free blocks, and passes those on that are full.
func fill(ctx context.Context, dir string, q journal.Query, free <-chan *block, full chan<- *block) (journal.Stats, error) {
	b := <-free
	send := func() error {
		select {
		case full <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case b = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.text, b.ends = b.text[:0], b.ends[:0]
		return nil
	}
	stats, err := journal.Lines(dir, q, func(line []byte) error {
		b.text = append(b.text, line...)
		b.ends = append(b.ends, len(b.text))
		if len(b.text) < blockSize {
			return nil
		}
		return send()
	})
	if err != nil {
		return stats, err
	}
	return stats, send()
}

// Whole is the error of a command that has printed what it could read, where
// that was not all.
func Whole(s journal.Stats) error {
	switch n := len(s.Unreadable); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("the journal was not read whole: %s", s.Unreadable[0])
	default:
		more := "1 more file"
		if n > 2 {
			more = fmt.Sprintf("%d more files", n-1)
		}
		return fmt.Errorf("the journal was not read whole: %s, and %s", s.Unreadable[0], more)
	}
}

// NoRecords is the error of a report about nothing: it says which of the reasons it is.
func NoRecords(dir string, s journal.Stats) error {
	switch {
	case len(s.Unreadable) > 0:
		return Whole(s)
	case s.Files == 0:
		return fmt.Errorf("%s has no file of a journal from that time: is it the folder of journal.path, and was there mail since?", dir)
	case s.Newer > 0:
		return fmt.Errorf("the journal has no transactions that this version can read: %d were written by a newer one", s.Newer)
	}
	return errors.New("the journal has no transactions of that time")
}
