package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
)

// period is the time that a command looks at, as its flags say it.
type period struct{ since, until string }

func (p *period) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.since, "since", "", "from when on: a `time`, or how long ago (24h, 7d, today, yesterday, 2026-11-21, \"2026-11-21 14:30\"); without it from the first record")
	f.StringVar(&p.until, "until", "", "until when: a `time` as in --since, a day to its end; without it to the last record")
}

// query is what is asked of the journal. It shows how far the reading has come where somebody
// looks; done takes that away.
func (p *period) query(cmd *cobra.Command) (q journal.Query, done func(), err error) {
	now := time.Now()
	if p.since != "" {
		if q.Since, _, err = moment(p.since, now); err != nil {
			return q, nil, usageError{fmt.Errorf("--since %q %w", p.since, err)}
		}
	}
	if p.until != "" {
		from, to, err := moment(p.until, now)
		if err != nil {
			return q, nil, usageError{fmt.Errorf("--until %q %w", p.until, err)}
		}
		q.Until = to
		if !q.Since.IsZero() && !from.After(q.Since) && !to.After(q.Since) {
			return q, nil, usageError{fmt.Errorf("--until %s is before --since %s: that is no time at all", p.until, p.since)}
		}
	}
	bar := view.NewBar(cmd.ErrOrStderr())
	q.Progress = func(at journal.Progress) {
		what := at.File
		if at.Indexing {
			what += ", of which an index is made"
		}
		if bar.Show(at.Done, at.Total, what); at.Done >= at.Total {
			bar.Clear() // what was read is about to be printed
		}
	}
	return q, bar.Clear, nil
}

var errMoment = fmt.Errorf("is no time: write how long ago (30m, 24h, 7d), today, yesterday, a day (2026-11-21), or a day and an hour (2026-11-21 14:30)")

// moment reads a time: when it begins, and when it ends, which for a day is another one. Days are
// those of the site's time zone.
func moment(text string, now time.Time) (from, to time.Time, err error) {
	word := strings.ToLower(strings.TrimSpace(text))
	wholeDay := func(t time.Time, days int) (time.Time, time.Time, error) {
		from := time.Date(t.Year(), t.Month(), t.Day()+days, 0, 0, 0, 0, now.Location())
		return from, time.Date(t.Year(), t.Month(), t.Day()+days+1, 0, 0, 0, 0, now.Location()), nil
	}
	switch word {
	case "now":
		return now, now, nil
	case "today":
		return wholeDay(now, 0)
	case "yesterday":
		return wholeDay(now, -1)
	}
	if ago, err := configs.ParseDuration(strings.TrimSuffix(word, " ago")); err == nil {
		return now.Add(-ago), now.Add(-ago), nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, word, now.Location()); err == nil {
		return wholeDay(day, 0)
	}
	if t, err := time.Parse(time.RFC3339, strings.ToUpper(word)); err == nil {
		return t, t, nil
	}
	word = strings.Replace(word, "t", " ", 1)
	for _, form := range []string{time.DateTime, "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(form, word, now.Location()); err == nil {
			return t, t, nil
		}
	}
	for _, form := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.Parse(form, word); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			return t, t, nil
		}
	}
	return from, to, errMoment
}
