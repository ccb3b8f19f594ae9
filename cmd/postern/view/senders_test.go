package view

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/policy"
	"postern/policy/audit"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

var viewedDay = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

// What was only observed is counted among the refusals, and told apart.
func TestTheReportTellsWhatWasOnlyObserved(t *testing.T) {
	var mail []*journal.Record
	for _, disposition := range []journal.Disposition{"pass", "tag", "defer", "reject", "reject"} {
		r := journaltest.Sent("192.0.2.1", "a.example", policy.Fail)
		r.Disposition, r.Observed, r.Outcome = disposition, true, journal.OutcomeDelivered
		mail = append(mail, r)
	}
	mail[4].Observed, mail[4].Outcome = false, journal.OutcomeRefused
	r, err := audit.Senders(t.Context(), journaltest.Folder(t, slices.Values(mail)), journal.Query{}, false, viewedDay)
	if err != nil || r.Total.Observed != 2 || r.Total.Refused() != 3 || r.Domains[0].Observed != 2 {
		t.Fatalf("%v %+v", err, r.Total)
	}
	for format, want := range map[string]string{
		"text": "The policy only observed: 2 of the 3 held, deferred and rejected were not refused.\n",
		"html": "The policy only observed: 2 of the 3 held, deferred and rejected were not refused.\n",
		"csv":  "total,,,5,0,1,1,0,1,2,4,2,",
		"json": `"observed": 2`,
	} {
		var b strings.Builder
		if err := ReportFormats[format](&b, r); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%s: %v\n%s", format, err, b.String())
		}
	}
}

// A proposal that is easily taken for an entry of trusted_forwarders says what that would open.
func TestTheReportWarnsOfLargeProviders(t *testing.T) {
	var mail []*journal.Record
	for _, domain := range []string{"a.example", "b.example", "c.example"} {
		mail = append(mail, journaltest.Sent("192.0.2.1", domain, policy.Fail, domain))
	}
	r, err := audit.Senders(t.Context(), journaltest.Folder(t, slices.Values(mail)), journal.Query{}, false, viewedDay)
	if err != nil || len(r.Forwarders) != 1 {
		t.Fatal(err, r)
	}
	for _, format := range []string{"text", "html"} {
		var b strings.Builder
		if err := ReportFormats[format](&b, r); err != nil || !strings.Contains(b.String(), "each of its customers") {
			t.Errorf("%s: %v\n%s", format, err, b.String())
		}
	}
}

// What senders choose to be called does nothing to who reads the report.
func TestReportsAreInert(t *testing.T) {
	evil := journaltest.Sent("192.0.2.1", "<script>alert(1)</script>.example", policy.PermError)
	evil.Facts.SPF.Reason = "=HYPERLINK(\"http://x\")\x1b[31m\x7f\u009b31m\u202eexe.\u2066\x9b"
	r, err := audit.Senders(t.Context(), journaltest.Folder(t, slices.Values([]*journal.Record{evil})), journal.Query{}, false, viewedDay)
	if err != nil {
		t.Fatal(err)
	}
	hidden := func(c rune) bool { return !unicode.IsPrint(c) && c != '\n' && c != '\r' }
	for format, bad := range map[string]string{"html": "<script>", "csv": ",=HYPERLINK", "text": "\x1b", "json": "\x1b"} {
		var b strings.Builder
		if err := ReportFormats[format](&b, r); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); strings.Contains(got, bad) || strings.Contains(got, ",\"=HYPER") || !strings.Contains(got, "192.0.2.1") ||
			!utf8.ValidString(got) || strings.ContainsFunc(got, hidden) {
			t.Errorf("%s:\n%s", format, got)
		}
	}
}

// A journal that somebody wrote to do harm: the terminal stays whole, and what is shown short.
func TestComparisonsAreInert(t *testing.T) {
	c := audit.NewComparison()
	const changes, domains = shownChanges + 960, 100
	for i := range domains {
		c.Add(journaltest.Delivery(i, fmt.Sprintf("\x1b]0;d%d", i), policy.Pass), func(int) journal.Opinion {
			return journal.Opinion{Disposition: "reject", Rule: "r"}
		})
	}
	for i := range changes - 1 {
		r := journaltest.Delivery(i, "x.example", policy.Pass)
		c.Add(r, func(int) journal.Opinion { return journal.Opinion{Disposition: "reject", Rule: fmt.Sprint("rule", i)} })
	}
	var b strings.Builder
	r := audit.Replayed{Comparison: c, Policy: "p.yaml", Read: journal.Stats{Bad: 2, Newer: 3, Unreadable: []string{"x.gz: unexpected EOF"}}}
	if err := Replay(&b, &r, false); err != nil {
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
