package audit

import (
	"context"
	"slices"
	"strings"
	"time"

	"postern/configs"
	"postern/policy/journal"
)

// expiresSoon is when somebody should think about an override.
const expiresSoon = 30 * 24 * time.Hour

// OverrideList is what is said of all of them.
type OverrideList struct {
	Journal      string         `json:"journal,omitempty"`
	Since        *time.Time     `json:"since,omitempty"` // the first record
	Transactions int64          `json:"transactions"`
	Expired      int            `json:"expired"`
	Overrides    []overrideItem `json:"overrides"`

	Read journal.Stats `json:"-"`
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

// ListOverrides is the list without what the journal says of their use.
func ListOverrides(overrides []configs.Override, now time.Time) *OverrideList {
	l := &OverrideList{Overrides: []overrideItem{}}
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

// Count adds how often each was the rule that decided.
func (l *OverrideList) Count(ctx context.Context, dir string, q journal.Query) error {
	l.Journal = dir
	byRule := map[string]int{}
	for i, o := range l.Overrides {
		byRule[configs.OverrideMark+o.Name] = i
	}
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := OverrideList{Overrides: make([]overrideItem, len(l.Overrides))}
		return func(r *journal.Record) { mine.add(r, byRule) }, func() { l.merge(&mine) }
	})
	if err != nil {
		return err
	}
	l.Read = stats
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
func (l *OverrideList) add(r *journal.Record, byRule map[string]int) {
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

func (l *OverrideList) merge(m *OverrideList) {
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
