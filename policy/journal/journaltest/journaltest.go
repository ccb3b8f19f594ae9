// Package journaltest makes records of the journal for tests, after net/http/httptest.
package journaltest

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/policy"
	"postern/policy/journal"
)

// Folder is a journal of records, in a folder of the test.
func Folder(t testing.TB, records iter.Seq[*journal.Record]) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "2026-11-21.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for r := range records {
		line, err := r.Line()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Delivery is a record of a message that was taken.
func Delivery(i int, domain string, spf policy.Result) *journal.Record {
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
		Took:       journal.Took{Mail: .012, Rcpt: .001, Header: .02, Data: .03},
		Checks:     []journal.Check{{Name: "spf", Result: spf, Took: .01}},
		DNS:        []dnscache.Answer{{Name: domain, Type: "TXT", Answer: []string{"v=spf1 -all"}, TTL: 3600, Source: dnscache.SourceNetwork}},
	}
}

// Sent is a transaction as the report on senders sees it.
func Sent(ip, domain string, spf policy.Result, signers ...string) *journal.Record {
	f := policy.Facts{}.Transaction("id")
	f.Client.IP, f.Mail.Domain, f.Header.FromDomain, f.SPF.Result, f.DKIM.Domains = ip, domain, domain, spf, signers
	f.DKIM.Result = policy.None
	if signers != nil {
		f.DKIM.Result = policy.Pass
	}
	return &journal.Record{ID: "id", Time: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Reached: "message", Facts: f, Disposition: "pass"}
}
