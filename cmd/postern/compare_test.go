package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// journalOf writes records to a folder as the journal has them.
func journalOf(t testing.TB, records func(yield func(*journal.Record) bool)) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "2026-11-21.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for r := range records {
		line, err := json.Marshal(struct {
			V int `json:"v"`
			*journal.Record
		}{1, r})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// delivery is a record of a message that was taken.
func delivery(i int, domain string, spf policy.Result) *journal.Record {
	id := fmt.Sprintf("%012d", i)
	f := policy.Facts{}.Transaction(id)
	f.Client = policy.Client{IP: "192.0.2.1", Port: 40000, Name: "mail." + domain}
	f.Listener, f.Helo = "mx", policy.HeloName{Name: "mail." + domain, Domain: "mail." + domain}
	f.Mail = policy.MailFrom{From: "ann@" + domain, Domain: domain}
	f.Submitter.Result, f.SPFHelo.Result, f.DNSBL.Result = policy.None, policy.None, policy.None
	f.SPF = policy.SPF{Result: spf, Domain: domain, Identity: "mailfrom", Reason: `"all" of ` + domain}
	f.Iprev = policy.Iprev{Result: policy.Pass, Name: "mail." + domain}
	f.Rcpt = policy.RcptTo{Address: "bob@local.example", Domain: "local.example"}
	f.Header = policy.HeaderSum{FromDomain: domain, Count: 9}
	f.PRA = policy.PRA{Result: spf, Address: "ann@" + domain, Domain: domain}
	f.Message.Size = 4321
	return &journal.Record{
		Time: time.Date(2026, 11, 21, 10, 0, i%60, 0, time.UTC), ID: id, Session: "s", Facts: f,
		Reached: "message", Stage: "message", RuleStage: "rcpt", Disposition: "pass", Reply: "250 2.6.0 OK", Outcome: journal.OutcomeDelivered, Bytes: 4321,
		Recipients: []journal.Recipient{{Address: "bob@local.example", Disposition: "pass", Reply: "250 2.1.5 OK", Undecided: true, Taken: true}},
		Took:       map[string]float64{"mail": .012, "rcpt": .001, "header": .02, "data": .03},
		Checks:     []journal.Check{{Name: "spf", Result: spf, Took: .01}},
		DNS:        []dnscache.Answer{{Name: domain, Type: "TXT", Answer: []string{"v=spf1 -all"}, TTL: 3600, Source: dnscache.SourceNetwork}},
	}
}

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
	dir := journalOf(t, func(yield func(*journal.Record) bool) {
		for i := range 5000 {
			r := delivery(i, fmt.Sprintf("d%d.example", i%7), results[i%len(results)])
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
	r, err := replay(t.Context(), dir, journal.Query{}, chainOf(t,
		configs.Rule{Name: "trouble", When: `spf.result == "temperror"`, Do: "defer"},
		configs.Rule{Name: "soft", When: `spf.result == "softfail"`, Do: "reject"},
		configs.Rule{Name: "none", When: `spf.result == "none"`, Do: "reject"},
	))
	if err != nil {
		t.Fatal(err)
	}
	// Of each result there are 1000. The skipped ones have odd and even numbers, the
	// odd ones of which (500) went away.
	want := comparison{
		Records: 5000, Verdicts: 5000, Same: 1500, Undetermined: 500, Unjudged: 500,
		NewRejects: 1000, NewDefers: 1000, NewAccepts: 500,
	}
	got := *r.comparison
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

// A journal that somebody wrote to do harm: memory stays bounded, and the terminal whole.
func TestComparisonIsBounded(t *testing.T) {
	c := newComparison()
	reject := func(int) journal.Opinion { return journal.Opinion{Disposition: "reject", Rule: "r"} }
	for i := range maxComparedDomains + 500 {
		c.add(delivery(i, fmt.Sprintf("\x1b]0;d%d", i), policy.Pass), reject)
	}
	for i := range maxComparedChanges + 500 {
		r := delivery(i, "x.example", policy.Pass)
		r.Rule = fmt.Sprint("rule", i)
		c.add(r, reject)
	}
	d := newComparison()
	d.merge(c)
	for _, c := range []*comparison{c, d} {
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
	var b strings.Builder
	r := replayed{comparison: d, Policy: "p.yaml", Read: journal.Stats{Bad: 2, Newer: 3, Unreadable: []string{"x.gz: unexpected EOF"}}}
	if err := r.write(&b, false); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{`\x1b]0;d0`, " more domains", "and 960 more kinds of change", "2 lines", "3 records were written by a newer version", "not read to its end: x.gz"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%.2000s", want, text)
		}
	}
	if strings.ContainsRune(text, '\x1b') {
		t.Error("an escape sequence came through")
	}
}

func TestReplayEndsWithItsContext(t *testing.T) {
	dir := journalOf(t, func(yield func(*journal.Record) bool) {
		for i := range 2000 {
			if !yield(delivery(i, "a.example", policy.Pass)) {
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay(ctx, dir, journal.Query{}, chainOf(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCandidateReportTakesTheLastCandidate(t *testing.T) {
	dir := journalOf(t, func(yield func(*journal.Record) bool) {
		for i := range 59 {
			r := delivery(i, "a.example", policy.Fail)
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
	r, err := candidateReport(t.Context(), dir, journal.Query{}, "")
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
	dir := journalOf(b, func(yield func(*journal.Record) bool) {
		for i := range records {
			if !yield(delivery(i, fmt.Sprintf("d%d.example", i%300), results[i%len(results)])) {
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
		if _, err := replay(b.Context(), dir, journal.Query{}, chain); err != nil {
			b.Fatal(err)
		}
		rounds++
	}
	b.ReportMetric(float64(rounds*records)/time.Since(began).Seconds(), "transactions/s")
}
