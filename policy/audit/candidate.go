package audit

import (
	"context"
	"errors"
	"fmt"

	"postern/policy/journal"
)

// CandidateReport is what the candidate policy said.
type CandidateReport struct {
	Journal   string `json:"journal"`
	Candidate string `json:"candidate"` // its fingerprint
	*Comparison
	Changes []changeRow `json:"changes"`
	// Earlier are transactions that another candidate judged.
	Earlier int64         `json:"earlier"`
	Read    journal.Stats `json:"read"`
}

// maxCandidates is how many contents of the candidate file are told apart.
const maxCandidates = 50

// Candidate compares the verdicts in the journal. current is the fingerprint
// of the candidate in question; empty: the one seen last.
func Candidate(ctx context.Context, dir string, q journal.Query, current string) (*CandidateReport, error) {
	all := map[string]*Comparison{}
	var earlier int64
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := map[string]*Comparison{}
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
					c = NewComparison()
					mine[r.Candidate.Policy] = c
				}
				c.Add(r, r.CandidateOpinion)
			}, func() {
				earlier += tooMany
				for fingerprint, c := range mine {
					if all[fingerprint] == nil {
						all[fingerprint] = NewComparison()
					}
					all[fingerprint].merge(c)
				}
			}
	})
	if err != nil {
		return nil, err
	}
	r := &CandidateReport{Journal: dir, Candidate: current, Earlier: earlier, Read: stats}
	for fingerprint, c := range all {
		if r.Comparison == nil || c.Last.After(r.Last) {
			r.Candidate, r.Comparison = fingerprint, c
		}
	}
	if r.Comparison == nil {
		if earlier > 0 {
			return nil, fmt.Errorf("the journal has no verdicts of the candidate %s of that time; other candidates judged %d transactions", current, earlier)
		}
		if stats.Lines > 0 && len(stats.Unreadable) == 0 {
			return nil, errors.New("the journal has no verdicts of a candidate policy of that time: is policy.candidate set, and has mail come since?")
		}
		return nil, NoRecords(dir, stats)
	}
	for _, c := range all {
		if c != r.Comparison {
			r.Earlier += c.Records
		}
	}
	r.Changes = r.Rows()
	return r, nil
}
