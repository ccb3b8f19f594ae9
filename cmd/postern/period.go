package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/view"
	"postern/policy/journal"
)

// period is the time that a command looks at, as its flags say it.
type period struct{ since, until string }

func (p *period) flags(cmd *cobra.Command) { periodFlags(cmd, &p.since, &p.until) }

func periodFlags(cmd *cobra.Command, since, until *string) {
	f := cmd.Flags()
	f.StringVar(since, "since", "", "from when on: a `time`, or how long ago (24h, 7d, today, yesterday, 2026-11-21, \"2026-11-21 14:30\"); without it from the first record")
	f.StringVar(until, "until", "", "until when: a `time` as in --since, a day to its end; without it to the last record")
}

// query is what is asked of the journal. It shows how far the reading has come where somebody
// looks; done takes that away.
func (p *period) query(cmd *cobra.Command) (q journal.Query, done func(), err error) {
	if q, err = journal.AskedTime(p.since, p.until, time.Now()); err != nil {
		return q, nil, flagged(err)
	}
	q.Progress, done = progress(cmd)
	return q, done, nil
}

// flagged makes what is wrong with a word that of a flag.
func flagged(err error) error {
	var word *journal.AskError
	if errors.As(err, &word) {
		return usageError{fmt.Errorf("--%w", err)}
	}
	return err
}

// progress shows how far the reading of the journal has come where somebody looks; done takes
// that away.
func progress(cmd *cobra.Command) (show func(journal.Progress), done func()) {
	bar := view.NewBar(cmd.ErrOrStderr())
	return func(at journal.Progress) {
		what := at.File
		if at.Indexing {
			what += ", of which an index is made"
		}
		if bar.Show(at.Done, at.Total, what); at.Done >= at.Total {
			bar.Clear() // what was read is about to be printed
		}
	}, bar.Clear
}
