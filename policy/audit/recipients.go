package audit

import (
	"strings"

	"postern/policy/journal"
)

// noRule stands among the rules for what none decided.
const noRule = "(no rule)"

// each counts a transaction by rule and by recipient: once for each recipient, with the
// verdict on it. One that had none counts by its rule alone.
func (g *gathering) each(r *journal.Record) {
	if len(r.Recipients) == 0 {
		g.ruled(r)
		if to := r.Facts.Rcpt.Address; to != "" {
			g.recipients.row(strings.Clone(to)).add(r) // the record is read into again
		}
		return
	}
	for i := range r.Recipients {
		one, rc := *r, &r.Recipients[i]
		if o := r.Live(i); o.Known() {
			one.Disposition, one.Rule = o.Disposition, o.Rule
		}
		if !rc.Taken && one.Outcome == journal.OutcomeDelivered {
			one.Outcome = journal.OutcomeRefused // of this one, and not of the others
		}
		g.ruled(&one)
		g.recipients.row(strings.Clone(rc.Address)).add(&one)
	}
}

func (g *gathering) ruled(r *journal.Record) {
	name := noRule
	if r.Rule != "" {
		name = strings.Clone(r.Rule)
	}
	g.rules.row(name).add(r)
}
