package audit

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

func chainOf(t testing.TB, rules ...configs.Rule) *policy.Chain {
	t.Helper()
	chain, err := policy.Compile(configs.Policy{Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestReplayCounts(t *testing.T) {
	results := []policy.Result{policy.Pass, policy.Fail, policy.SoftFail, policy.TempError, policy.Skipped}
	dir := journaltest.Folder(t, func(yield func(*journal.Record) bool) {
		for i := range 5000 {
			r := journaltest.Delivery(i, fmt.Sprintf("d%d.example", i%7), results[i%len(results)])
			if r.Facts.SPF.Result == policy.Fail && i%2 == 0 {
				r.Disposition, r.Rule = "reject", "old"
			}
			if i%10 == 9 {
				r.Undecided = true // the client went away
			}
			if !yield(r) {
				return
			}
		}
	})
	r, err := Replay(t.Context(), dir, journal.Query{}, chainOf(t,
		configs.Rule{Name: "trouble", When: `spf.result == "temperror"`, Do: "defer"},
		configs.Rule{Name: "soft", When: `spf.result == "softfail"`, Do: "reject"},
		configs.Rule{Name: "none", When: `spf.result == "none"`, Do: "reject"},
	))
	if err != nil {
		t.Fatal(err)
	}
	// Of each result there are 1000. The skipped ones have odd and even numbers, the
	// odd ones of which (500) went away.
	want := Comparison{
		Records: 5000, Verdicts: 5000, Same: 1500, Undetermined: 500, Unjudged: 500,
		NewRejects: 1000, NewDefers: 1000, NewAccepts: 500,
	}
	got := *r.Comparison
	if got.First != (time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)) || got.Last != got.First.Add(59*time.Second) || got.Missing["spf.result"] != 500 {
		t.Errorf("from %s to %s, missing %v", got.First, got.Last, got.Missing)
	}
	got.Missing, got.changes, got.First, got.Last = nil, nil, time.Time{}, time.Time{}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(r.Changes) != 3 || r.Changes[0].Rule != "soft" || r.Changes[0].Count != 1000 || len(r.Changes[0].Domains) != 7 || len(r.Changes[0].Domains[0].Examples) != maxExamples ||
		r.Changes[1].Rule != "trouble" || r.Changes[2].Becomes != "pass" {
		t.Errorf("%+v", r.Changes)
	}
}

// A journal that somebody wrote to do harm: memory stays bounded.
func TestComparisonIsBounded(t *testing.T) {
	c := NewComparison()
	reject := func(int) journal.Opinion { return journal.Opinion{Disposition: "reject", Rule: "r"} }
	for i := range maxComparedDomains + 500 {
		c.Add(journaltest.Delivery(i, fmt.Sprintf("\x1b]0;d%d", i), policy.Pass), reject)
	}
	for i := range maxComparedChanges + 500 {
		r := journaltest.Delivery(i, "x.example", policy.Pass)
		r.Rule = fmt.Sprint("rule", i)
		c.Add(r, reject)
	}
	d := NewComparison()
	d.merge(c)
	for _, c := range []*Comparison{c, d} {
		if len(c.changes) != maxComparedChanges {
			t.Errorf("%d changes", len(c.changes))
		}
		ch := c.changes[changeKey{"pass", "", "reject", "r"}]
		if len(ch.domains) < maxComparedDomains || len(ch.domains) > maxComparedDomains+1 || ch.domains[otherDomains].count < 500 || ch.count != maxComparedDomains+500 {
			t.Errorf("%d domains, others %+v, count %d", len(ch.domains), ch.domains[otherDomains], ch.count)
		}
		if c.NewRejects != maxComparedDomains+maxComparedChanges+1000 {
			t.Errorf("%d new rejects", c.NewRejects)
		}
	}
}

func TestReplayEndsWithItsContext(t *testing.T) {
	dir := journaltest.Folder(t, func(yield func(*journal.Record) bool) {
		for i := range 2000 {
			if !yield(journaltest.Delivery(i, "a.example", policy.Pass)) {
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Replay(ctx, dir, journal.Query{}, chainOf(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCandidateReportTakesTheLastCandidate(t *testing.T) {
	dir := journaltest.Folder(t, func(yield func(*journal.Record) bool) {
		for i := range 59 {
			r := journaltest.Delivery(i, "a.example", policy.Fail)
			rule := configs.Rule{Name: "first", When: `spf.result == "pass"`, Do: "reject"}
			if i >= 40 {
				rule = configs.Rule{Name: "second", When: `spf.result == "fail"`, Do: "reject"}
			}
			if i > 5 {
				r.JudgeCandidate(chainOf(t, rule))
			}
			if !yield(r) {
				return
			}
		}
	})
	r, err := Candidate(t.Context(), dir, journal.Query{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if r.Records != 19 || r.NewRejects != 19 || r.Earlier != 34 || r.Changes[0].Rule != "second" {
		t.Errorf("%+v", r)
	}
}

func BenchmarkReplay(b *testing.B) {
	const records = 20000
	results := []policy.Result{policy.Pass, policy.Fail, policy.SoftFail, policy.Pass, policy.None}
	dir := journaltest.Folder(b, func(yield func(*journal.Record) bool) {
		for i := range records {
			if !yield(journaltest.Delivery(i, fmt.Sprintf("d%d.example", i%300), results[i%len(results)])) {
				return
			}
		}
	})
	chain, err := policy.Compile(policy.BuiltIn(), nil)
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	rounds := 0
	for b.Loop() {
		if _, err := Replay(b.Context(), dir, journal.Query{}, chain); err != nil {
			b.Fatal(err)
		}
		rounds++
	}
	b.ReportMetric(float64(rounds*records)/time.Since(began).Seconds(), "transactions/s")
}
