package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// mailFrom is a transaction as the report sees it.
func mailFrom(ip, domain string, spf policy.Result, signers ...string) *journal.Record {
	f := policy.Facts{}.Transaction("id")
	f.Client.IP, f.Mail.Domain, f.Header.FromDomain, f.SPF.Result, f.DKIM.Domains = ip, domain, domain, spf, signers
	f.DKIM.Result = policy.None
	if signers != nil {
		f.DKIM.Result = policy.Pass
	}
	return &journal.Record{ID: "id", Time: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Reached: "message", Facts: f, Disposition: "pass"}
}

// keep writes records into a journal of a new folder.
func keep(t *testing.T, records ...*journal.Record) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	w, err := journal.New(configs.Journal{Path: dir, RotateSize: configs.GiB}, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		w.Write(r)
	}
	if err := w.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return dir
}

var reportDay = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

func TestWhatMakesAForwarder(t *testing.T) {
	for name, tc := range map[string]struct {
		mail []*journal.Record
		want bool
	}{
		"three that have nothing in common": {[]*journal.Record{
			mailFrom("192.0.2.1", "a.example", policy.Fail, "a.example"),
			mailFrom("192.0.2.1", "b.example", policy.Fail, "mail.b.example"),
			mailFrom("192.0.2.1", "c.example", policy.Fail, "esp.example", "c.example"),
			mailFrom("192.0.2.1", "d.example", policy.Fail), // some do not sign
		}, true},
		"departments of one organization": {[]*journal.Record{
			mailFrom("192.0.2.1", "a.uni.example", policy.Fail, "uni.example"),
			mailFrom("192.0.2.1", "b.uni.example", policy.Fail, "b.uni.example"),
			mailFrom("192.0.2.1", "c.uni.example", policy.Fail, "uni.example"),
		}, false},
		"a forger who signs for himself": {[]*journal.Record{
			mailFrom("192.0.2.1", "a.example", policy.Fail, "forger.example"),
			mailFrom("192.0.2.1", "b.example", policy.Fail, "forger.example"),
			mailFrom("192.0.2.1", "c.example", policy.Fail, "forger.example"),
		}, false},
		"who forwards a little among much forged mail": {[]*journal.Record{
			mailFrom("192.0.2.1", "a.example", policy.Fail, "a.example"),
			mailFrom("192.0.2.1", "b.example", policy.Fail, "b.example"),
			mailFrom("192.0.2.1", "c.example", policy.Fail, "c.example"),
			mailFrom("192.0.2.1", "d.example", policy.Fail), mailFrom("192.0.2.1", "d.example", policy.Fail),
			mailFrom("192.0.2.1", "d.example", policy.Fail), mailFrom("192.0.2.1", "d.example", policy.Fail),
		}, false},
		"a provider whom SPF lists": {[]*journal.Record{
			mailFrom("192.0.2.1", "a.example", policy.Pass, "a.example"),
			mailFrom("192.0.2.1", "b.example", policy.Pass, "b.example"),
			mailFrom("192.0.2.1", "c.example", policy.Pass, "c.example"),
		}, false},
	} {
		r, err := senders(t.Context(), keep(t, tc.mail...), journal.Query{}, false, reportDay)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(r.Forwarders) == 1; got != tc.want {
			t.Errorf("%s: %+v", name, r.Forwarders)
		}
	}
}

// The override that is proposed loads as it is.
func TestTheProposedOverrideLoads(t *testing.T) {
	var mail []*journal.Record
	for _, ip := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, domain := range []string{"a.example", "b.example", "c.example"} {
			mail = append(mail, mailFrom(ip, domain, policy.Fail, domain))
		}
	}
	for _, r := range mail[:3] {
		r.Facts.Client.Name = "mx.forwarder.example"
	}
	for _, networks := range []bool{false, true} {
		r, err := senders(t.Context(), keep(t, mail...), journal.Query{}, networks, time.Now())
		if err != nil || len(r.Forwarders) != 2 {
			t.Fatal(err, r)
		}
		text := "overrides:\n" + r.Forwarders[0].Override + r.Forwarders[1].Override
		var loaded struct {
			Overrides []configs.Override `yaml:"overrides"`
		}
		if err := configs.Decode("o.yaml", []byte(text), &loaded); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		p := policy.BuiltIn()
		p.Overrides = loaded.Overrides
		if _, err := policy.Compile(p, nil); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
		proofs := loaded.Overrides[0].Proof.Name
		if len(proofs) != 1 || proofs[0] != "mx.forwarder.example" || len(loaded.Overrides[1].Proof.Address) != 1 {
			t.Errorf("%+v", loaded.Overrides)
		}
	}
}

// However many senders there are, the table stays small, and nothing is lost of the sum.
func TestTheReportsMemoryIsBounded(t *testing.T) {
	var g gathering
	const strangers = 3 * maxRows
	for i := range strangers {
		g.add(mailFrom(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprintf("d%d.example", i), policy.Fail))
		if i%100 == 0 {
			g.add(mailFrom("192.0.2.1", "big.example", policy.Pass))
		}
	}
	if len(g.domains.rows) > maxRows || len(g.sources.rows) > maxRows {
		t.Errorf("%d domains, %d sources", len(g.domains.rows), len(g.sources.rows))
	}
	rows := g.domains.list("domains")
	if rows[0].Name != "big.example" || rows[0].Messages != strangers/100 {
		t.Errorf("%+v", rows[0].traffic)
	}
	var sum int64
	for _, r := range rows {
		sum += r.Messages
	}
	if sum != g.total.Messages || sum != strangers+strangers/100 {
		t.Errorf("%d of %d", sum, g.total.Messages)
	}
	r := &senderReport{Total: g.total, Domains: rows, Sources: g.sources.list("sources")}
	r.cut(3)
	if len(r.Domains) != 4 || r.Domains[3].Messages != sum-rows[0].Messages-2 || r.Domains[3].Name != fmt.Sprintf("(%d other domains)", strangers-2) {
		t.Errorf("%d rows, the last %s %d", len(r.Domains), r.Domains[len(r.Domains)-1].Name, r.Domains[len(r.Domains)-1].Messages)
	}
}

// An include that leads nowhere is named, though the check did not.
func TestTheTermThatBreaksIsNamed(t *testing.T) {
	r := mailFrom("192.0.2.1", "dentist.example", policy.PermError)
	r.Facts.SPF.Reason = "leads to nothing"
	r.DNS = []dnscache.Answer{
		{Name: "dentist.example", Type: "TXT", Answer: []string{"verification=1", "v=spf1 a Include:gone.example include:there.example -all"}},
		{Name: "dentist.example", Type: "MX"},
		{Name: "there.example", Type: "TXT", Answer: []string{"v=spf1 -all"}},
		{Name: "_dmarc.dentist.example", Type: "TXT"},
		{Name: "gone.example", Type: "TXT"},
	}
	for _, want := range []string{`leads to nothing: "include:gone.example" of dentist.example`, "leads to nothing"} {
		got, err := senders(t.Context(), keep(t, r), journal.Query{}, false, reportDay)
		if err != nil || len(got.Broken) != 1 || got.Broken[0].Reason != want {
			t.Errorf("%v %+v", err, got.Broken)
		}
		r.DNS = r.DNS[:4]
	}
}

// What was only observed is counted among the refusals, and told apart.
func TestTheReportTellsWhatWasOnlyObserved(t *testing.T) {
	var mail []*journal.Record
	for _, disposition := range []string{"pass", "tag", "defer", "reject", "reject"} {
		r := mailFrom("192.0.2.1", "a.example", policy.Fail)
		r.Disposition, r.Observed, r.Outcome = disposition, true, journal.OutcomeDelivered
		mail = append(mail, r)
	}
	mail[4].Observed, mail[4].Outcome = false, journal.OutcomeRefused
	r, err := senders(t.Context(), keep(t, mail...), journal.Query{}, false, reportDay)
	if err != nil || r.Total.Observed != 2 || r.Total.Refused() != 3 || r.Domains[0].Observed != 2 {
		t.Fatalf("%v %+v", err, r.Total)
	}
	for format, want := range map[string]string{
		"text": "The policy only observed: 2 of the 3 deferred and rejected were not refused.\n",
		"html": "The policy only observed: 2 of the 3 deferred and rejected were not refused.\n",
		"csv":  "total,,,5,0,1,1,1,2,4,2,",
		"json": `"observed": 2`,
	} {
		var b strings.Builder
		if err := reportFormats[format](&b, r); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%s: %v\n%s", format, err, b.String())
		}
	}
}

// What senders choose to be called does nothing to who reads the report.
func TestReportsAreInert(t *testing.T) {
	evil := mailFrom("192.0.2.1", "<script>alert(1)</script>.example", policy.PermError)
	evil.Facts.SPF.Reason = "=HYPERLINK(\"http://x\")\x1b[31m"
	r, err := senders(t.Context(), keep(t, evil), journal.Query{}, false, reportDay)
	if err != nil {
		t.Fatal(err)
	}
	for format, bad := range map[string]string{"html": "<script>", "csv": ",=HYPERLINK", "text": "\x1b"} {
		var b strings.Builder
		if err := reportFormats[format](&b, r); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); strings.Contains(got, bad) || strings.Contains(got, ",\"=HYPER") || !strings.Contains(got, "192.0.2.1") {
			t.Errorf("%s:\n%s", format, got)
		}
	}
}

// Two workers' halves add up to what one would have found.
func TestReportsMerge(t *testing.T) {
	var one, left, right gathering
	for i := range 100 {
		r := mailFrom(fmt.Sprintf("192.0.2.%d", i%7), fmt.Sprintf("d%d.example", i%5), []policy.Result{policy.Pass, policy.Fail, policy.SoftFail, policy.TempError, policy.None}[i%5])
		r.Time = r.Time.Add(time.Duration(i) * time.Minute)
		one.add(r)
		if i%3 == 0 {
			left.add(r)
		} else {
			right.add(r)
		}
	}
	left.merge(&right)
	if left.total != one.total || !left.from.Equal(one.from) || !left.to.Equal(one.to) {
		t.Errorf("%+v\n%+v", left.total, one.total)
	}
	for name, r := range one.domains.rows {
		if left.domains.rows[name].traffic != r.traffic {
			t.Errorf("%s: %+v", name, left.domains.rows[name].traffic)
		}
	}
}
