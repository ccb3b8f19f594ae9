package audit

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"postern/policy/journal"
)

// The bounds of a comparison: a journal of a year must fit, and one that somebody wrote
// to do harm.
const (
	maxComparedChanges = 1000
	maxComparedDomains = 2000 // of one change
	maxExamples        = 3    // of one domain
)

// Comparison counts how two policies differ on the same records. Everything is counted
// by verdict: one for each recipient, or one for a transaction that had none.
type Comparison struct {
	Records  int64 `json:"records"`
	Verdicts int64 `json:"verdicts"`
	Same     int64 `json:"same"`
	// Undetermined hang on facts that were never measured; Missing says which.
	Undetermined int64            `json:"undetermined"`
	Missing      map[string]int64 `json:"missing,omitempty"`
	// Unjudged ended before there was a verdict to compare with.
	Unjudged int64 `json:"unjudged"`

	NewRejects int64 `json:"new_rejects"` // that were not rejected
	NewDefers  int64 `json:"new_defers"`  // that were accepted
	NewAccepts int64 `json:"new_accepts"` // that were rejected or deferred
	Softened   int64 `json:"softened"`    // rejected before, deferred now
	Otherwise  int64 `json:"otherwise"`   // the same to the client: another rule, or other tags

	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`

	changes map[changeKey]*change
}

// changeKey is a kind of change.
type changeKey struct {
	was         journal.Disposition
	wasRule     string
	becomes     journal.Disposition
	becomesRule string
}

// change is how often a change happened, and to whom.
type change struct {
	count   int64
	domains map[string]*tally
}

type tally struct {
	count    int64
	examples []string
}

// otherDomains stands for those beyond maxComparedDomains.
const otherDomains = "(others)"

// NewComparison has counted nothing yet.
func NewComparison() *Comparison {
	return &Comparison{Missing: map[string]int64{}, changes: map[changeKey]*change{}}
}

// Add compares the verdicts of one record. now gives the other policy's on the i-th.
func (c *Comparison) Add(r *journal.Record, now func(i int) journal.Opinion) {
	c.Records++
	if c.First.IsZero() || r.Time.Before(c.First) {
		c.First = r.Time
	}
	if r.Time.After(c.Last) {
		c.Last = r.Time
	}
	for i := range r.Units() {
		c.Verdicts++
		was := r.Live(i)
		if !was.Known() {
			c.Unjudged++
			continue
		}
		c.verdict(r, was, now(i))
	}
}

func (c *Comparison) verdict(r *journal.Record, was, becomes journal.Opinion) {
	switch {
	case !becomes.Known():
		c.Undetermined++
		for _, m := range becomes.Missing {
			if _, known := c.Missing[m]; known || len(c.Missing) < maxComparedChanges {
				c.Missing[m]++
			}
		}
		return
	case !was.Differs(becomes):
		c.Same++
		return
	case becomes.Disposition == journal.DispositionReject && was.Disposition != journal.DispositionReject:
		c.NewRejects++
	case becomes.Disposition.Defers() && was.Disposition == journal.DispositionReject:
		c.Softened++
	case becomes.Disposition.Defers() && !was.Refuses():
		c.NewDefers++
	case !becomes.Refuses() && was.Refuses():
		c.NewAccepts++
	default:
		c.Otherwise++
	}
	domain := r.Facts.Mail.Domain
	if domain == "" {
		domain = "<>"
	}
	c.note(changeKey{was.Disposition, was.Rule, becomes.Disposition, becomes.Rule}, domain, 1, r.ID)
}

// note counts a change of a domain.
func (c *Comparison) note(k changeKey, domain string, count int64, examples ...string) {
	ch := c.changes[k]
	if ch == nil {
		if len(c.changes) >= maxComparedChanges {
			return // it is in the sums
		}
		ch = &change{domains: map[string]*tally{}}
		c.changes[k] = ch
	}
	ch.count += count
	t := ch.domains[domain]
	if t == nil {
		if len(ch.domains) >= maxComparedDomains {
			domain = otherDomains
			t = ch.domains[domain]
		}
		if t == nil {
			t = &tally{}
			ch.domains[strings.Clone(domain)] = t
		}
	}
	t.count += count
	for _, id := range examples {
		if len(t.examples) < maxExamples && !slices.Contains(t.examples, id) {
			t.examples = append(t.examples, id)
		}
	}
}

// merge adds what another one has counted.
func (c *Comparison) merge(d *Comparison) {
	c.Records += d.Records
	c.Verdicts += d.Verdicts
	c.Same += d.Same
	c.Undetermined += d.Undetermined
	c.Unjudged += d.Unjudged
	c.NewRejects += d.NewRejects
	c.NewDefers += d.NewDefers
	c.NewAccepts += d.NewAccepts
	c.Softened += d.Softened
	c.Otherwise += d.Otherwise
	for m, n := range d.Missing {
		c.Missing[m] += n
	}
	if !d.First.IsZero() && (c.First.IsZero() || d.First.Before(c.First)) {
		c.First = d.First
	}
	if d.Last.After(c.Last) {
		c.Last = d.Last
	}
	for k, ch := range d.changes {
		for domain, t := range ch.domains {
			c.note(k, domain, t.count, t.examples...)
		}
	}
}

// changeRow is a change as it is shown.
type changeRow struct {
	Was     journal.Disposition `json:"was"`
	WasRule string              `json:"was_rule"`
	Becomes journal.Disposition `json:"becomes"`
	Rule    string              `json:"rule"`
	Count   int64               `json:"count"`
	Domains []domainRow         `json:"domains"`
}

type domainRow struct {
	Domain   string   `json:"domain"`
	Count    int64    `json:"count"`
	Examples []string `json:"examples"`
}

// gravity orders changes: new rejects first.
func (r changeRow) gravity() int {
	refused := r.Was.Refuses()
	switch {
	case r.Becomes == journal.DispositionReject && r.Was != journal.DispositionReject:
		return 0
	case r.Becomes.Defers() && !refused:
		return 1
	case refused && !r.Becomes.Refuses():
		return 2
	}
	return 3
}

// Rows returns the changes, the gravest and most frequent first.
func (c *Comparison) Rows() []changeRow {
	rows := []changeRow{}
	for k, ch := range c.changes {
		row := changeRow{Was: k.was, WasRule: k.wasRule, Becomes: k.becomes, Rule: k.becomesRule, Count: ch.count}
		for domain, t := range ch.domains {
			slices.Sort(t.examples)
			row.Domains = append(row.Domains, domainRow{domain, t.count, t.examples})
		}
		slices.SortFunc(row.Domains, func(a, b domainRow) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Domain, b.Domain))
		})
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b changeRow) int {
		return cmp.Or(cmp.Compare(a.gravity(), b.gravity()), cmp.Compare(b.Count, a.Count),
			cmp.Compare(a.Was, b.Was), cmp.Compare(a.WasRule, b.WasRule), cmp.Compare(a.Becomes, b.Becomes), cmp.Compare(a.Rule, b.Rule))
	})
	return rows
}
