package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern/configs"
	"postern/policy/journal"
)

func newOverrides() *cobra.Command {
	var src journalSource
	var since string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "overrides", Short: "List the overrides: how often each was needed, which are unused or expire", Args: noArguments,
		Long: `Print the overrides of the configuration with how often each decided, by the
journal: those that nobody needs, those that end within 30 days, those that have ended.

The exit code is 1 if one has expired: take it out, or give it another day.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := sinceQuery(since)
			if err != nil {
				return err
			}
			cfg, err := configs.Load(src.opt)
			if err != nil {
				return err
			}
			l := listOverrides(cfg.Overrides, time.Now())
			if dir := src.folder(cfg); dir != "" {
				if err := l.count(cmd.Context(), dir, q); err != nil {
					return err
				}
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), l)
			} else {
				err = l.writeText(cmd.OutOrStdout())
			}
			if err == nil {
				err = wholeJournal(l.read)
			}
			if err == nil && l.Expired > 0 {
				err = errReported
			}
			return err
		},
	}
	src.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "how far to look back, a `duration` such as 24h or 7d; without it the whole journal")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}

// folder is that of the journal; empty: there is none.
func (s *journalSource) folder(cfg *configs.Config) string {
	if s.dir != "" {
		return s.dir
	}
	return cfg.Journal.Path
}

// expiresSoon is when somebody should think about an override.
const expiresSoon = 30 * 24 * time.Hour

// overrideList is what is said of all of them.
type overrideList struct {
	Journal      string         `json:"journal,omitempty"`
	Since        *time.Time     `json:"since,omitempty"` // the first record
	Transactions int64          `json:"transactions"`
	Expired      int            `json:"expired"`
	Overrides    []overrideItem `json:"overrides"`

	read journal.Stats
}

// overrideItem is one override.
type overrideItem struct {
	Name     string     `json:"name"`
	Effect   string     `json:"effect"`
	Proof    string     `json:"proof"`
	Owner    string     `json:"owner"`
	Reason   string     `json:"reason"`
	Until    string     `json:"until"`
	Hits     int64      `json:"hits"`
	Last     *time.Time `json:"last_hit,omitempty"`
	State    string     `json:"state"` // expired, expiring, unused, in use; unknown: no journal
	Position string     `json:"position"`
}

func listOverrides(overrides []configs.Override, now time.Time) *overrideList {
	l := &overrideList{Overrides: []overrideItem{}}
	for i := range overrides {
		o := &overrides[i]
		item := overrideItem{
			Name: o.Name, Effect: "pass", Owner: o.Owner, Reason: o.Reason, Until: o.Until, Proof: proofWords(o), State: "unknown", Position: o.Position.String(),
		}
		if len(o.Excuse) > 0 {
			item.Effect = "excuse " + strings.Join(o.Excuse, ", ")
		}
		switch {
		case !now.Before(o.End()):
			item.State = "expired"
			l.Expired++
		case o.End().Before(now.Add(expiresSoon)):
			item.State = "expiring"
		}
		l.Overrides = append(l.Overrides, item)
	}
	return l
}

// proofWords names the kinds of proof.
func proofWords(o *configs.Override) string {
	var words []string
	for _, p := range []struct {
		kind    string
		entries []string
	}{{"address", o.Proof.Address}, {"name", o.Proof.Name}, {"dkim", o.Proof.DKIM}, {"certificate", o.Proof.Certificate}} {
		if len(p.entries) > 0 {
			words = append(words, p.kind)
		}
	}
	if words == nil {
		return "none (unsafe)"
	}
	return strings.Join(words, " and ")
}

// count adds how often each was the rule that decided.
func (l *overrideList) count(ctx context.Context, dir string, q journal.Query) error {
	l.Journal = dir
	byRule := map[string]int{}
	for i, o := range l.Overrides {
		byRule[configs.OverrideMark+o.Name] = i
	}
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := overrideList{Overrides: make([]overrideItem, len(l.Overrides))}
		return func(r *journal.Record) { mine.add(r, byRule) }, func() { l.merge(&mine) }
	})
	if err != nil {
		return err
	}
	l.read = stats
	for i := range l.Overrides {
		o := &l.Overrides[i]
		switch {
		case o.State != "unknown":
		case o.Hits == 0:
			o.State = "unused"
		default:
			o.State = "in use"
		}
	}
	return nil
}

// add counts a transaction once for each override that decided on one of its
// recipients.
func (l *overrideList) add(r *journal.Record, byRule map[string]int) {
	l.Transactions++
	if l.Since == nil || r.Time.Before(*l.Since) {
		at := r.Time
		l.Since = &at
	}
	var counted []string
	hit := func(rule string) {
		i, ok := byRule[rule]
		if !ok || slices.Contains(counted, rule) {
			return
		}
		counted = append(counted, rule)
		o := &l.Overrides[i]
		o.Hits++
		if o.Last == nil || r.Time.After(*o.Last) {
			at := r.Time
			o.Last = &at
		}
	}
	hit(r.Rule)
	for i := range r.Recipients {
		hit(r.Recipients[i].Rule)
	}
}

func (l *overrideList) merge(m *overrideList) {
	l.Transactions += m.Transactions
	if m.Since != nil && (l.Since == nil || m.Since.Before(*l.Since)) {
		l.Since = m.Since
	}
	for i := range m.Overrides {
		o, from := &l.Overrides[i], &m.Overrides[i]
		o.Hits += from.Hits
		if from.Last != nil && (o.Last == nil || from.Last.After(*o.Last)) {
			o.Last = from.Last
		}
	}
}

func (l *overrideList) writeText(w io.Writer) error {
	var b strings.Builder
	switch {
	case len(l.Overrides) == 0:
		b.WriteString("There are no overrides.\n")
	default:
		tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		_, _ = fmt.Fprintln(tw, "OVERRIDE\tSTATE\tHITS\tLAST\tUNTIL\tPROOF\tEFFECT\tOWNER\tREASON") // into a Builder, as below
		for _, o := range l.Overrides {
			last := "-"
			if o.Last != nil {
				last = o.Last.UTC().Format(time.DateOnly)
			}
			_, _ = fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Name, o.State, o.Hits, last, o.Until, o.Proof, o.Effect, o.Owner, o.Reason)
		}
		_ = tw.Flush()
	}
	switch {
	case l.Journal == "":
		b.WriteString("\nNo journal is kept, so nobody knows which are used.\n")
	case l.Since != nil:
		fmt.Fprintf(&b, "\n%d transactions since %s\n", l.Transactions, l.Since.UTC().Format("2006-01-02 15:04"))
	default:
		b.WriteString("\nThe journal has no transactions of that time.\n")
	}
	b.WriteString(readTrouble(l.read))
	_, err := io.WriteString(w, printable(b.String()))
	return err
}
