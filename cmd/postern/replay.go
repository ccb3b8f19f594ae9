package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

func newReplay() *cobra.Command {
	var src journalSource
	var since, file string
	var allowed int64
	var asJSON bool
	cmd := &cobra.Command{
		Use: "replay --policy FILE", Short: "Judge the journal by another policy: what changes", Args: noArguments,
		Long: `Read the transactions of the journal and judge each by the rules (and lists) of
another file, for each of its recipients. Print what would have been otherwise,
by rule and by the sender's domain, with examples for postern explain.

Only facts that were measured count. Where the verdict hangs on another one (a
check that did not run, a header that was never sent since the client had been
refused) it is undetermined, and counted apart.`,
		Example: `  postern replay --since 24h --policy tomorrow.yaml
  postern replay --policy tomorrow.yaml --fail-if-new-rejects 0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{errors.New("--policy is missing: the file with the other rules")}
			}
			q, err := sinceQuery(since)
			if err != nil {
				return err
			}
			_, dir, err := src.open()
			if err != nil {
				return err
			}
			other, err := loadRules(file)
			if err != nil {
				return asFaults(configs.Position{File: file}, err).Sorted()
			}
			r, err := replay(cmd.Context(), dir, q, other.chain)
			if err != nil {
				return err
			}
			r.Policy = file
			if err := r.write(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if err := wholeJournal(r.Read); err != nil {
				return err // who gates on new rejects must not take a part for the whole
			}
			switch limited := cmd.Flags().Changed("fail-if-new-rejects"); {
			case limited && r.Verdicts == r.Undetermined+r.Unjudged:
				// A wrong folder must not look like a policy that refuses nobody.
				return fmt.Errorf("%s: no verdict could be compared, so nothing is known of new rejects", dir)
			case limited && r.NewRejects > allowed:
				return fmt.Errorf("new rejects: %d, and %d are allowed", r.NewRejects, allowed)
			}
			return nil
		},
	}
	src.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "how far to look back, a `duration` such as 24h or 7d; without it the whole journal")
	f.StringVar(&file, "policy", "", "the `file` with the other rules: a configuration, of which policy, lists and overrides count")
	f.Int64Var(&allowed, "fail-if-new-rejects", 0, "exit 1 where more than `N` verdicts are newly rejects, or none could be compared")
	f.BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}

// sinceQuery is the query of a --since.
func sinceQuery(since string) (journal.Query, error) {
	if since == "" {
		return journal.Query{}, nil
	}
	d, err := configs.ParseDuration(since)
	if err != nil {
		return journal.Query{}, usageError{fmt.Errorf("--since %q %w", since, err)}
	}
	return journal.Query{Since: time.Now().Add(-d)}, nil
}

// replayed is what came of a replay.
type replayed struct {
	Journal     string `json:"journal"`
	Policy      string `json:"policy"`
	Fingerprint string `json:"fingerprint"`
	*comparison
	Changes   []changeRow   `json:"changes"`
	Read      journal.Stats `json:"read"`
	Seconds   float64       `json:"seconds"`
	PerSecond float64       `json:"transactions_per_second"`
}

// replay judges the records of a journal by another policy.
func replay(ctx context.Context, dir string, q journal.Query, chain *policy.Chain) (*replayed, error) {
	began := time.Now()
	var c *comparison
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := newComparison()
		return func(r *journal.Record) {
				known := r.Measured()
				mine.add(r, func(i int) journal.Opinion { return r.Judge(chain, i, known) })
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
	r := &replayed{
		Journal: dir, Fingerprint: chain.Fingerprint(), comparison: c, Changes: c.rows(), Read: stats, Seconds: time.Since(began).Seconds(),
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
	group.Go(func() error {
		defer close(blocks)
		b := <-free
		send := func() error {
			select {
			case blocks <- b:
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
		var err error
		stats, err = journal.Lines(dir, q, func(line []byte) error {
			b.text = append(b.text, line...)
			b.ends = append(b.ends, len(b.text))
			if len(b.text) < blockSize {
				return nil
			}
			return send()
		})
		if err != nil {
			return err
		}
		return send()
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

func (r *replayed) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, r)
	}
	var b strings.Builder
	if r.Records == 0 {
		fmt.Fprintf(&b, "Nothing was compared: %v\n", noRecords(r.Journal, r.Read))
	} else {
		fmt.Fprintf(&b, "%s\nthrough %s: %.0f a second\n\n", r.heading(), r.Policy, r.PerSecond)
		r.writeText(&b)
	}
	b.WriteString(readTrouble(r.Read))
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

// heading says what was read.
func (c *comparison) heading() string {
	const form = "2006-01-02 15:04"
	span := ""
	if c.Records > 0 {
		span = fmt.Sprintf(", from %s to %s UTC", c.First.UTC().Format(form), c.Last.UTC().Format(form))
	}
	return fmt.Sprintf("%d transactions with %d verdicts, one for each recipient%s", c.Records, c.Verdicts, span)
}

// readTrouble tells of what could not be read.
func readTrouble(s journal.Stats) string {
	var b strings.Builder
	if s.Bad > 0 {
		fmt.Fprintf(&b, "\n%d lines of the journal are no records (torn, where the machine stopped)\n", s.Bad)
	}
	if s.Newer > 0 {
		fmt.Fprintf(&b, "\n%d records were written by a newer version of this program and left out\n", s.Newer)
	}
	for _, f := range s.Unreadable {
		fmt.Fprintf(&b, "\nnot read to its end: %s\n", f)
	}
	return b.String()
}

// wholeJournal is the error of a command that has printed what it could read, where
// that was not all.
func wholeJournal(s journal.Stats) error {
	switch n := len(s.Unreadable); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("the journal was not read whole: %s", s.Unreadable[0])
	default:
		return fmt.Errorf("the journal was not read whole: %s, and %s", s.Unreadable[0], counted(n-1, "more file"))
	}
}

// noRecords is the error of a report about nothing: it says which of the reasons it is.
func noRecords(dir string, s journal.Stats) error {
	switch {
	case len(s.Unreadable) > 0:
		return wholeJournal(s)
	case s.Files == 0:
		return fmt.Errorf("%s has no file of a journal from that time: is it the folder of journal.path, and was there mail since?", dir)
	case s.Newer > 0:
		return fmt.Errorf("the journal has no transactions that this version can read: %d were written by a newer one", s.Newer)
	}
	return errors.New("the journal has no transactions of that time")
}
