package main

import (
	"cmp"
	"fmt"
	"maps"
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
	shownDomains       = 10   // in the text, of one change
	shownChanges       = 40
)

// comparison counts how two policies differ on the same records. Everything is counted
// by verdict: one for each recipient, or one for a transaction that had none.
type comparison struct {
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
type changeKey struct{ was, wasRule, becomes, becomesRule string }

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

func newComparison() *comparison {
	return &comparison{Missing: map[string]int64{}, changes: map[changeKey]*change{}}
}

// add compares the verdicts of one record. now gives the other policy's on the i-th.
func (c *comparison) add(r *journal.Record, now func(i int) journal.Opinion) {
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

func (c *comparison) verdict(r *journal.Record, was, becomes journal.Opinion) {
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
	case becomes.Disposition == "reject" && was.Disposition != "reject":
		c.NewRejects++
	case becomes.Disposition == "defer" && was.Disposition == "reject":
		c.Softened++
	case becomes.Disposition == "defer" && !was.Refuses():
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
func (c *comparison) note(k changeKey, domain string, count int64, examples ...string) {
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
func (c *comparison) merge(d *comparison) {
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
	Was     string      `json:"was"`
	WasRule string      `json:"was_rule"`
	Becomes string      `json:"becomes"`
	Rule    string      `json:"rule"`
	Count   int64       `json:"count"`
	Domains []domainRow `json:"domains"`
}

type domainRow struct {
	Domain   string   `json:"domain"`
	Count    int64    `json:"count"`
	Examples []string `json:"examples"`
}

// gravity orders changes: new rejects first.
func (r changeRow) gravity() int {
	refused := r.Was == "reject" || r.Was == "defer"
	switch {
	case r.Becomes == "reject" && r.Was != "reject":
		return 0
	case r.Becomes == "defer" && !refused:
		return 1
	case refused && r.Becomes != "reject" && r.Becomes != "defer":
		return 2
	}
	return 3
}

// rows returns the changes, the gravest and most frequent first.
func (c *comparison) rows() []changeRow {
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
			cmp.Compare(a.Was+a.WasRule, b.Was+b.WasRule), cmp.Compare(a.Becomes+a.Rule, b.Becomes+b.Rule))
	})
	return rows
}

// writeText prints sums and changes for people. would is how the other policy is spoken of.
func (c *comparison) writeText(b *strings.Builder) {
	table(b, func(row func(...string)) {
		line := func(what string, n int64, why string) {
			if n > 0 {
				row(what, fmt.Sprint(n), why)
			}
		}
		row("the same", fmt.Sprint(c.Same))
		row("newly rejected", fmt.Sprint(c.NewRejects))
		line("newly deferred", c.NewDefers, "")
		row("newly accepted", fmt.Sprint(c.NewAccepts))
		line("softened", c.Softened, "rejected before, deferred now")
		line("otherwise", c.Otherwise, "the client sees no difference: another rule, or other tags")
		line("undetermined", c.Undetermined, "for want of "+c.missing())
		line("not judged", c.Unjudged, "the transaction ended before its verdict")
	})
	rows := c.rows()
	for i, r := range rows {
		if i == shownChanges {
			fmt.Fprintf(b, "\nand %s of change: see --json\n", counted(len(rows)-i, "more kind"))
			break
		}
		fmt.Fprintf(b, "\n%d: %s, now %s\n", r.Count, byRule(r.Was, r.WasRule), byRule(r.Becomes, r.Rule))
		table(b, func(row func(...string)) {
			for j, d := range r.Domains {
				if j == shownDomains {
					row("and " + counted(len(r.Domains)-j, "more domain"))
					break
				}
				row(d.Domain, fmt.Sprint(d.Count), strings.Join(d.Examples, " "))
			}
		})
	}
	if len(rows) > 0 {
		b.WriteString("\nThe ids are examples: postern explain ID\n")
	}
}

// missing names the facts that were wanted most.
func (c *comparison) missing() string {
	facts := slices.SortedFunc(maps.Keys(c.Missing), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Missing[b], c.Missing[a]), cmp.Compare(a, b))
	})
	var all []string
	for _, f := range facts[:min(len(facts), 5)] {
		all = append(all, fmt.Sprintf("%s (%d)", f, c.Missing[f]))
	}
	if len(facts) > 5 {
		all = append(all, "...")
	}
	return strings.Join(all, ", ")
}

func byRule(disposition, rule string) string {
	if rule == "" {
		return disposition + " (no rule)"
	}
	return disposition + " by " + rule
}
