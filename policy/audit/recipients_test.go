package audit

import (
	"fmt"
	"slices"
	"testing"

	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

// TestByRuleAndRecipient: each recipient counts by the verdict on it, not by that on another.
func TestByRuleAndRecipient(t *testing.T) {
	r := journaltest.Delivery(1, "a.example", policy.Pass)
	r.Rule, r.Disposition = "doubtful", "tag"
	r.Recipients = append(r.Recipients,
		journal.Recipient{Address: "carol@local.example", Disposition: "reject", Rule: "strict", Reply: "550 5.7.1 no"},
		journal.Recipient{Address: "nobody@local.example", Disposition: "pass", Undecided: true, Reply: "550 5.1.1 unknown"})
	helo := journaltest.Delivery(2, "b.example", policy.Pass)
	helo.Recipients, helo.Facts.Rcpt.Address, helo.Rule, helo.Disposition, helo.Outcome = nil, "", "", "none", journal.OutcomeRefused
	dir := journaltest.Folder(t, slices.Values([]*journal.Record{r, helo, journaltest.Delivery(3, "a.example", policy.Fail)}))
	report, err := Senders(t.Context(), dir, journal.Query{}, false, r.Time)
	if err != nil {
		t.Fatal(err)
	}
	got := func(rows []*SenderRow) (lines []string) {
		for _, row := range rows {
			lines = append(lines, fmt.Sprintf("%s %d: %d passed, %d tagged, %d refused, %d delivered", row.Name, row.Messages, row.Passed, row.Tagged, row.Refused(), row.Delivered))
		}
		slices.Sort(lines)
		return lines
	}
	for _, c := range []struct{ got, want []string }{
		{got(report.Rules), []string{
			"(no rule) 2: 1 passed, 0 tagged, 0 refused, 1 delivered",
			"doubtful 2: 0 passed, 2 tagged, 0 refused, 1 delivered",
			"strict 1: 0 passed, 0 tagged, 1 refused, 0 delivered",
		}},
		{got(report.Recipients), []string{
			"bob@local.example 2: 1 passed, 1 tagged, 0 refused, 2 delivered",
			"carol@local.example 1: 0 passed, 0 tagged, 1 refused, 0 delivered",
			"nobody@local.example 1: 0 passed, 1 tagged, 0 refused, 0 delivered",
		}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("got\n%q, not\n%q", c.got, c.want)
		}
	}
	if report.Cut(1); len(report.Recipients) != 2 || report.Recipients[1].Name != "(2 other recipients)" {
		t.Errorf("cut: %+v", report.Recipients)
	}
}
