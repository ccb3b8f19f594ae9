package audit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

var reportDay = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

func TestWhatMakesAForwarder(t *testing.T) {
	for name, tc := range map[string]struct {
		mail []*journal.Record
		want bool
	}{
		"three that have nothing in common": {[]*journal.Record{
			journaltest.Sent("192.0.2.1", "a.example", policy.Fail, "a.example"),
			journaltest.Sent("192.0.2.1", "b.example", policy.Fail, "mail.b.example"),
			journaltest.Sent("192.0.2.1", "c.example", policy.Fail, "esp.example", "c.example"),
			journaltest.Sent("192.0.2.1", "d.example", policy.Fail), // some do not sign
		}, true},
		"departments of one organization": {[]*journal.Record{
			journaltest.Sent("192.0.2.1", "a.uni.example", policy.Fail, "uni.example"),
			journaltest.Sent("192.0.2.1", "b.uni.example", policy.Fail, "b.uni.example"),
			journaltest.Sent("192.0.2.1", "c.uni.example", policy.Fail, "uni.example"),
		}, false},
		"a forger who signs for himself": {[]*journal.Record{
			journaltest.Sent("192.0.2.1", "a.example", policy.Fail, "forger.example"),
			journaltest.Sent("192.0.2.1", "b.example", policy.Fail, "forger.example"),
			journaltest.Sent("192.0.2.1", "c.example", policy.Fail, "forger.example"),
		}, false},
		"who forwards a little among much forged mail": {[]*journal.Record{
			journaltest.Sent("192.0.2.1", "a.example", policy.Fail, "a.example"),
			journaltest.Sent("192.0.2.1", "b.example", policy.Fail, "b.example"),
			journaltest.Sent("192.0.2.1", "c.example", policy.Fail, "c.example"),
			journaltest.Sent("192.0.2.1", "d.example", policy.Fail), journaltest.Sent("192.0.2.1", "d.example", policy.Fail),
			journaltest.Sent("192.0.2.1", "d.example", policy.Fail), journaltest.Sent("192.0.2.1", "d.example", policy.Fail),
		}, false},
		"a provider whom SPF lists": {[]*journal.Record{
			journaltest.Sent("192.0.2.1", "a.example", policy.Pass, "a.example"),
			journaltest.Sent("192.0.2.1", "b.example", policy.Pass, "b.example"),
			journaltest.Sent("192.0.2.1", "c.example", policy.Pass, "c.example"),
		}, false},
	} {
		r, err := Senders(t.Context(), journaltest.Folder(t, slices.Values(tc.mail)), journal.Query{}, false, reportDay)
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
			mail = append(mail, journaltest.Sent(ip, domain, policy.Fail, domain))
		}
	}
	for _, r := range mail[:3] {
		r.Facts.Client.Name = "mx.forwarder.example"
	}
	for _, networks := range []bool{false, true} {
		r, err := Senders(t.Context(), journaltest.Folder(t, slices.Values(mail)), journal.Query{}, networks, time.Now())
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
		g.add(journaltest.Sent(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprintf("d%d.example", i), policy.Fail))
		if i%100 == 0 {
			g.add(journaltest.Sent("192.0.2.1", "big.example", policy.Pass))
		}
	}
	if len(g.domains.rows) > maxRows || len(g.sources.rows) > maxRows {
		t.Errorf("%d domains, %d sources", len(g.domains.rows), len(g.sources.rows))
	}
	rows := g.domains.list("domains")
	if rows[0].Name != "big.example" || rows[0].Messages != strangers/100 {
		t.Errorf("%+v", rows[0].Traffic)
	}
	var sum int64
	for _, r := range rows {
		sum += r.Messages
	}
	if sum != g.total.Messages || sum != strangers+strangers/100 {
		t.Errorf("%d of %d", sum, g.total.Messages)
	}
	r := &SenderReport{Total: g.total, Domains: rows, Sources: g.sources.list("sources")}
	r.Cut(3)
	if len(r.Domains) != 4 || r.Domains[3].Messages != sum-rows[0].Messages-2 || r.Domains[3].Name != fmt.Sprintf("(%d other domains)", strangers-2) {
		t.Errorf("%d rows, the last %s %d", len(r.Domains), r.Domains[len(r.Domains)-1].Name, r.Domains[len(r.Domains)-1].Messages)
	}
}

// An include that leads nowhere is named, though the check did not.
func TestTheTermThatBreaksIsNamed(t *testing.T) {
	r := journaltest.Sent("192.0.2.1", "dentist.example", policy.PermError)
	r.Facts.SPF.Reason = "leads to nothing"
	r.DNS = []dnscache.Answer{
		{Name: "dentist.example", Type: "TXT", Answer: []string{"verification=1", "v=spf1 a Include:gone.example include:there.example -all"}},
		{Name: "dentist.example", Type: "MX"},
		{Name: "there.example", Type: "TXT", Answer: []string{"v=spf1 -all"}},
		{Name: "_dmarc.dentist.example", Type: "TXT"},
		{Name: "gone.example", Type: "TXT"},
	}
	for _, want := range []string{`leads to nothing: "include:gone.example" of dentist.example`, "leads to nothing"} {
		got, err := Senders(t.Context(), journaltest.Folder(t, slices.Values([]*journal.Record{r})), journal.Query{}, false, reportDay)
		if err != nil || len(got.Broken) != 1 || got.Broken[0].Reason != want {
			t.Errorf("%v %+v", err, got.Broken)
		}
		r.DNS = r.DNS[:4]
	}
}

// Two workers' halves add up to what one would have found.
func TestReportsMerge(t *testing.T) {
	var one, left, right gathering
	for i := range 100 {
		r := journaltest.Sent(fmt.Sprintf("192.0.2.%d", i%7), fmt.Sprintf("d%d.example", i%5), []policy.Result{policy.Pass, policy.Fail, policy.SoftFail, policy.TempError, policy.None}[i%5])
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
		if left.domains.rows[name].Traffic != r.Traffic {
			t.Errorf("%s: %+v", name, left.domains.rows[name].Traffic)
		}
	}
}
