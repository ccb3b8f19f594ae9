package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"postern/policy/journal"
)

func newCandidate() *cobra.Command {
	var src journalSource
	var since string
	var asJSON bool
	report := &cobra.Command{
		Use: "report", Short: "Say where the candidate policy disagreed with the active one", Args: noArguments,
		Long: `Print what the candidate policy (policy.candidate) said of live mail, where that was
otherwise than what the active one did: who would newly be refused or accepted,
by rule and by the sender's domain, with examples for postern explain.

The verdicts are those of the time, from the journal. Where the candidate file
has changed since, those of its former content are left out; replay judges old mail by new rules.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := sinceQuery(since)
			if err != nil {
				return err
			}
			cfg, dir, err := src.open()
			if err != nil {
				return err
			}
			current := ""
			if file := cfg.Policy.Candidate; file != "" {
				r, err := loadRules(file)
				if err != nil {
					return asFaults(cfg.At("policy.candidate"), err).Sorted()
				}
				current = r.chain.Fingerprint()
			}
			r, err := candidateReport(cmd.Context(), dir, q, current)
			if err != nil {
				return err
			}
			if err := r.write(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			return wholeJournal(r.Read)
		},
	}
	src.flags(report)
	report.Flags().StringVar(&since, "since", "", "how far to look back, a `duration` such as 24h or 7d; without it the whole journal")
	report.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return group("candidate", "Look at the candidate policy", report)
}

// candidateReported is what the candidate policy said.
type candidateReported struct {
	Journal   string `json:"journal"`
	Candidate string `json:"candidate"` // its fingerprint
	*comparison
	Changes []changeRow `json:"changes"`
	// Earlier are transactions that another candidate judged.
	Earlier int64         `json:"earlier"`
	Read    journal.Stats `json:"read"`
}

// maxCandidates is how many contents of the candidate file are told apart.
const maxCandidates = 50

// candidateReport compares the verdicts in the journal. current is the fingerprint
// of the candidate in question; empty: the one seen last.
func candidateReport(ctx context.Context, dir string, q journal.Query, current string) (*candidateReported, error) {
	all := map[string]*comparison{}
	var earlier int64
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := map[string]*comparison{}
		var tooMany int64
		return func(r *journal.Record) {
				if r.Candidate == nil || current != "" && r.Candidate.Policy != current {
					if r.Candidate != nil {
						tooMany++
					}
					return
				}
				c := mine[r.Candidate.Policy]
				if c == nil {
					if len(mine) >= maxCandidates {
						tooMany++
						return
					}
					c = newComparison()
					mine[r.Candidate.Policy] = c
				}
				c.add(r, r.CandidateOpinion)
			}, func() {
				earlier += tooMany
				for fingerprint, c := range mine {
					if all[fingerprint] == nil {
						all[fingerprint] = newComparison()
					}
					all[fingerprint].merge(c)
				}
			}
	})
	if err != nil {
		return nil, err
	}
	r := &candidateReported{Journal: dir, Candidate: current, Earlier: earlier, Read: stats}
	for fingerprint, c := range all {
		if r.comparison == nil || c.Last.After(r.Last) {
			r.Candidate, r.comparison = fingerprint, c
		}
	}
	if r.comparison == nil {
		if earlier > 0 {
			return nil, fmt.Errorf("the journal has no verdicts of the candidate %s of that time; other candidates judged %d transactions", current, earlier)
		}
		if stats.Lines > 0 && len(stats.Unreadable) == 0 {
			return nil, errors.New("the journal has no verdicts of a candidate policy of that time: is policy.candidate set, and has mail come since?")
		}
		return nil, noRecords(dir, stats)
	}
	for _, c := range all {
		if c != r.comparison {
			r.Earlier += c.Records
		}
	}
	r.Changes = r.rows()
	return r, nil
}

func (r *candidateReported) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\njudged by the candidate %s too\n\n", r.heading(), r.Candidate)
	r.writeText(&b)
	if r.Earlier > 0 {
		fmt.Fprintf(&b, "\n%d transactions were judged by other candidates, and left out\n", r.Earlier)
	}
	b.WriteString(readTrouble(r.Read))
	_, err := io.WriteString(w, printable(b.String()))
	return err
}
