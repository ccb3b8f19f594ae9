package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/configs"
)

// site is a policy with overrides.
func site(overrides ...configs.Override) configs.Policy {
	for i := range overrides {
		o := &overrides[i]
		o.Owner, o.Reason, o.Until = "mail team", "a reason", "2027-03-01"
		o.Position = configs.Position{File: "p.yaml", Line: 30 + i, Column: 5}
	}
	at := func(line int) configs.Position { return configs.Position{File: "p.yaml", Line: line, Column: 13} }
	return configs.Policy{
		Let: []configs.Let{{Name: "forged", Is: `spf.result == "fail"`, Position: at(1)}},
		Rules: []configs.Rule{
			{Name: "own-pass", When: `helo.name == "spf.example"`, Do: "pass", WhenPosition: at(2)},
			{Name: "spf", When: `forged`, Do: "reject", WhenPosition: at(3)},
			{Name: "mixed", When: `spf.result == "temperror" or submitter.result == "temperror"`, Do: "defer", WhenPosition: at(4)},
			{Name: "tag", When: `spf.result != "pass"`, Do: "tag", Header: "X-Spf: ${spf.result}", WhenPosition: at(5)},
			{Name: "submitter", When: `submitter.result == "fail"`, Do: "reject", WhenPosition: at(6)},
			{Name: "text", When: `helo.name == "spf.evil.example"`, Do: "reject", WhenPosition: at(7)},
		},
		Overrides: overrides,
	}
}

func listsOn(day string) *Lists {
	now, _ := time.Parse(time.DateOnly, day)
	lists, _ := NewLists(nil, nil, func() time.Time { return now })
	return lists
}

func mustCompile(t *testing.T, p configs.Policy, lists *Lists) *Chain {
	t.Helper()
	c, err := Compile(p, lists)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnOverrideExcusesWhatItSaysAndNothingElse(t *testing.T) {
	p := site(
		configs.Override{Name: "alumni-gate", Match: configs.Match{Domains: []string{"*.edu.example"}}, Proof: configs.Proof{Address: []string{"192.0.2.0/24"}}, Excuse: []string{"spf"}},
		configs.Override{Name: "vip", Proof: configs.Proof{Name: []string{"mx.vip.example"}}, Do: "pass"},
	)
	chain := mustCompile(t, p, listsOn("2027-03-01"))
	var shown []string
	for _, s := range chain.Plan() {
		shown = append(shown, fmt.Sprintf("%s: %s at %s", s.Rule, s.When, s.Stage))
	}
	want := []string{
		`override:vip: in_list("override:vip:name", client.name) at mail`,
		`own-pass: helo.name == "spf.example" at mail`,
		`unproven-spf: forged and not excused_spf and not override_proof_known_pass at mail`,
		`spf: forged and not excused_spf at mail`,
		`mixed: (spf.result == "temperror" or submitter.result == "temperror") and not excused_spf at mail`,
		`tag: spf.result != "pass" at mail`,
		`unproven-submitter: submitter.result == "fail" and not override_proof_known_pass at mail`,
		`submitter: submitter.result == "fail" at mail`,
		`unproven-text: helo.name == "spf.evil.example" and not override_proof_known_pass at mail`,
		`text: helo.name == "spf.evil.example" at mail`,
		`override:alumni-gate: spf.result in ["fail", "softfail", "neutral", "permerror", "temperror"] and override_alumni_gate at mail`,
	}
	if d := cmp.Diff(want, shown); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if w := chain.Warnings(); len(w) > 0 {
		t.Error(w)
	}
	expired := mustCompile(t, p, listsOn("2027-03-02"))
	for _, tc := range []struct {
		ip, name, from     string
		spf, submitter     Result
		rule, afterTheDays string
	}{
		{"192.0.2.7", "", "cs.edu.example", Fail, None, "override:alumni-gate", "spf"},
		{"192.0.2.7", "", "cs.edu.example", TempError, None, "override:alumni-gate", "mixed"},
		{"192.0.2.7", "", "cs.edu.example", Pass, None, "", ""}, // nothing to excuse: no hit
		{"192.0.2.7", "", "cs.edu.example", Fail, Fail, "submitter", "spf"},
		{"192.0.2.7", "", "other.example", Fail, None, "spf", "spf"},     // it is for edu.example
		{"198.51.100.7", "", "cs.edu.example", Fail, None, "spf", "spf"}, // not proven
		{"198.51.100.7", "mx.vip.example", "", Fail, Fail, "override:vip", "spf"},
	} {
		f := Facts{}.Transaction("id")
		f.Client.IP, f.Client.Name, f.Mail.Domain, f.SPF.Result, f.Submitter.Result = tc.ip, tc.name, tc.from, tc.spf, tc.submitter
		tags := 1
		if tc.spf == Pass {
			tags = 0
		}
		for chain, want := range map[*Chain]string{chain: tc.rule, expired: tc.afterTheDays} {
			v := chain.Decide(Message, &f)
			if v.Rule != want || v.Disposition == DispositionPass && want != "override:vip" && len(v.Tags) != tags {
				t.Errorf("%+v: %q with %v, not %q", tc, v.Rule, v.Tags, want)
			}
		}
	}
	f := Facts{}.Transaction("id")
	f.Client.IP, f.Mail.Domain, f.SPF.Result = "192.0.2.7", "cs.edu.example", Fail
	if text := fmt.Sprint(chain.Explain(&f).Rules); !strings.Contains(text, "192.0.2.0/24  # until 2027-03-01; mail team: a reason") {
		t.Error(text)
	}
}

// What would excuse a message, or let it pass, and cannot be looked up defers what would
// be refused, and nothing else: not what the override is not for, nor what is no refusal.
func TestWhatProvesAnOverrideCannotBeLookedUp(t *testing.T) {
	match := configs.Match{Domains: []string{"edu.example"}}
	for name, tc := range map[string]struct {
		override configs.Override
		trouble  func(*Facts)
	}{
		"name": {
			configs.Override{Match: match, Proof: configs.Proof{Name: []string{"mx.edu.example"}}, Excuse: []string{"spf"}},
			func(f *Facts) { f.Iprev.Result = TempError },
		},
		"signature": {
			configs.Override{Match: match, Proof: configs.Proof{DKIM: []string{"edu.example"}}, Excuse: []string{"spf"}},
			func(f *Facts) { f.DKIM.Result = TempError },
		},
		"signature, and another one that holds": {
			configs.Override{Match: match, Proof: configs.Proof{DKIM: []string{"edu.example"}}, Excuse: []string{"spf"}},
			func(f *Facts) {
				f.DKIM.Result, f.DKIM.Domains, f.DKIM.Unknown = Pass, []string{"author.example"}, []string{"edu.example"}
			},
		},
		"name, for all": {
			configs.Override{Match: match, Proof: configs.Proof{Name: []string{"mx.edu.example"}}, Do: "pass"},
			func(f *Facts) { f.Iprev.Result = TempError },
		},
		"two": {
			configs.Override{Match: match, Proof: configs.Proof{Address: []string{"192.0.2.7"}, DKIM: []string{"edu.example"}}, Excuse: []string{"spf"}},
			func(f *Facts) { f.DKIM.Result = TempError },
		},
	} {
		tc.override.Name = "o"
		chain := mustCompile(t, site(tc.override), listsOn("2026-11-21"))
		if w := chain.Warnings(); len(w) > 0 {
			t.Error(name, w)
		}
		f := Facts{}.Transaction("id")
		f.Client.IP, f.Mail.Domain, f.SPF.Result = "192.0.2.7", "edu.example", Fail
		if v := chain.Decide(Message, &f); v.Rule != "spf" {
			t.Errorf("%s: not proven: %+v", name, v)
		}
		f.DKIM.Result, f.DKIM.Domains, f.DKIM.Unknown = Pass, []string{"author.example"}, []string{"other.example"}
		if v := chain.Decide(Message, &f); v.Rule != "spf" {
			t.Errorf("%s: another's signature is unknown: %+v", name, v)
		}
		f.DKIM = DKIM{Result: None}
		tc.trouble(&f)
		if v := chain.Decide(Message, &f); v.Rule != "unproven-spf" || v.Disposition != DispositionDefer || v.Reply.Code != 451 {
			t.Errorf("%s: in trouble: %+v", name, v)
		}
		other := f
		other.Mail.Domain = "com.example"
		if v := chain.Decide(Message, &other); v.Rule != "spf" {
			t.Errorf("%s: of another domain: %+v", name, v)
		}
		f.SPF.Result = Pass
		if v := chain.Decide(Message, &f); v.Refuses() {
			t.Errorf("%s: nothing to refuse: %+v", name, v)
		}
	}
}

// What is made of an override has names of its own, whatever those of the site are.
func TestNamesOfWhatIsMadeOfAnOverride(t *testing.T) {
	name := configs.Proof{Name: []string{"mx.edu.example"}}
	match := configs.Match{Domains: []string{"edu.example"}}
	p := site(
		configs.Override{Name: "o", Match: match, Proof: name, Excuse: []string{"submitter", "spf"}},
		configs.Override{Name: "o-spf", Match: match, Proof: name, Excuse: []string{"spf"}},
	)
	p.Let = append(p.Let, configs.Let{Name: "override_o", Is: "true"})
	long := strings.Repeat("x", maxName-1)
	p.Rules = []configs.Rule{
		{Name: long + "1", When: `forged or override_o and submitter.result == "fail"`, Do: "reject"},
		{Name: "spf", When: "forged", Do: "reject"}, {Name: "unproven-spf", When: "forged", Do: "reject"},
		{Name: long + "2", When: "forged", Do: "reject"},
	}
	var names []string
	for _, s := range mustCompile(t, p, listsOn("2026-11-21")).Plan() {
		names = append(names, s.Rule)
	}
	cut := "unproven-" + long
	want := []string{
		cut[:maxName], long + "1", "unproven-spf-2", "spf", "unproven-unproven-spf", "unproven-spf", cut[:maxName-2] + "-2", long + "2",
		"override:o", "override:o-spf",
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// Each kind of proof, and what makes it hold.
func TestProofs(t *testing.T) {
	base := func() Facts {
		f := Facts{}.Transaction("id")
		f.Client.IP, f.Mail.Domain, f.SPF.Result = "192.0.2.7", "partner.example", Fail
		return f
	}
	for name, tc := range map[string]struct {
		proof configs.Proof
		set   func(*Facts)
		stage Stage
	}{
		"address":     {configs.Proof{Address: []string{"198.51.100.1", "192.0.2.9"}}, func(f *Facts) { f.Client.IP = "192.0.2.9" }, Mail},
		"name":        {configs.Proof{Name: []string{"*.fwd.example"}}, func(f *Facts) { f.Client.Name = "mx1.fwd.example" }, Mail},
		"dkim":        {configs.Proof{DKIM: []string{"partner.example"}}, func(f *Facts) { f.DKIM.Domains = []string{"x.example", "partner.example"} }, Message},
		"certificate": {configs.Proof{Certificate: []string{"mx.partner.example"}}, func(f *Facts) { f.TLS.Peer = TLSPeer{Verified: true, Names: []string{"mx.partner.example"}} }, Mail},
		"two": {
			configs.Proof{Address: []string{"192.0.2.9"}, Name: []string{"mx1.fwd.example"}},
			func(f *Facts) { f.Client.IP, f.Client.Name = "192.0.2.9", "mx1.fwd.example" }, Mail,
		},
	} {
		p := site(configs.Override{Name: "o", Proof: tc.proof, Excuse: []string{"spf"}})
		chain := mustCompile(t, p, listsOn("2026-11-21"))
		f := base()
		if v := chain.Decide(Message, &f); v.Rule != "spf" {
			t.Errorf("%s: without proof: %+v", name, v)
		}
		tc.set(&f)
		if v := chain.Decide(Message, &f); v.Rule != "override:o" || v.Stage != tc.stage {
			t.Errorf("%s: with proof: %+v", name, v)
		}
	}
	// A name in a certificate that nobody verified proves nothing.
	p := site(configs.Override{Name: "o", Proof: configs.Proof{Certificate: []string{"mx.partner.example"}}, Excuse: []string{"spf"}})
	f := base()
	f.TLS.Peer.Names = []string{"mx.partner.example"}
	if v := mustCompile(t, p, nil).Decide(Message, &f); v.Rule != "spf" {
		t.Error(v)
	}
}

// What matches is the domain that the check is about.
func TestAnOverridesDomainIsThatOfTheCheck(t *testing.T) {
	p := BuiltIn()
	p.Overrides = site(configs.Override{
		Name: "p", Match: configs.Match{Domains: []string{"p.example"}}, Unsafe: true, Excuse: []string{"spf", "submitter", "dmarc"},
	}).Overrides
	chain := mustCompile(t, p, listsOn("2026-11-21"))
	f := Facts{}.Transaction("id")
	f.Mail.Domain, f.Submitter.Domain, f.Header.FromDomain = "a.example", "b.example", "c.example"
	f.Submitter.Address, f.PRA.Address = "x@b.example", "y@d.example"
	f.SPF.Result, f.Submitter.Result, f.DMARC.Result, f.DMARC.Policy = Fail, Fail, Fail, "reject"
	for _, step := range []struct {
		set  *string
		rule string
	}{
		{new(string), "submitter-fail"},
		{&f.Submitter.Domain, "dmarc-reject"}, // the mismatch with the header is excused too
		{&f.Header.FromDomain, "override:p"},  // spf-fail reads dmarc, so that it is excused with it
	} {
		*step.set = "p.example"
		if v := chain.Decide(Message, &f); v.Rule != step.rule {
			t.Errorf("%q, not %q", v.Rule, step.rule)
		}
	}
}

// Whoever sends for a domain that takes no mail may be known, and excused; for SPF
// they are not.
func TestAnOverrideExcusesANullMX(t *testing.T) {
	p := BuiltIn()
	p.Overrides = site(configs.Override{
		Name: "shop", Match: configs.Match{Domains: []string{"shop.example"}}, Proof: configs.Proof{Address: []string{"192.0.2.0/24"}}, Excuse: []string{"mx"},
	}).Overrides
	chain := mustCompile(t, p, listsOn("2026-11-21"))
	for _, tc := range []struct {
		ip, from string
		spf, mx  Result
		rule     string
	}{
		{"192.0.2.7", "shop.example", Pass, Fail, "override:shop"},
		{"192.0.2.7", "shop.example", Fail, Fail, "spf-fail"},
		{"192.0.2.7", "shop.example", Pass, Pass, ""},
		{"198.51.100.7", "shop.example", Pass, Fail, "null-mx"},
		{"192.0.2.7", "other.example", Pass, Fail, "null-mx"},
	} {
		f := Facts{}.Transaction("id")
		f.Client.IP, f.Mail.From, f.Mail.Domain, f.SPF.Result, f.MX.Result = tc.ip, "a@"+tc.from, tc.from, tc.spf, tc.mx
		f.PRA.Address = f.Mail.From
		if v := chain.Decide(Message, &f); v.Rule != tc.rule {
			t.Errorf("%+v: by %q", tc, v.Rule)
		}
	}
	if w := chain.Warnings(); len(w) > 0 {
		t.Error(w)
	}
}

func TestOverridesThatAreWrong(t *testing.T) {
	p := site(
		configs.Override{Name: "a", Proof: configs.Proof{Address: []string{"mx.example", "192.0.2.0/33"}}, Do: "pass"},
		configs.Override{Name: "b", Proof: configs.Proof{DKIM: []string{"192.0.2.1", "a@b.example"}}, Excuse: []string{"spff"}},
	)
	p.Overrides[1].ExcusePosition = configs.Position{File: "p.yaml", Line: 33, Column: 14}
	_, err := Compile(p, nil)
	var got []string
	for line := range strings.Lines(fmt.Sprint(err)) {
		got = append(got, strings.TrimSpace(line))
	}
	want := []string{
		`p.yaml:30:5: override a: proof.address: "mx.example" is neither an IP address nor a network`,
		`p.yaml:31:5: override b: proof.dkim: "192.0.2.1" is no domain: write it as example.org or *.example.org`,
		`p.yaml:31:5: override b: proof.dkim: "a@b.example" is no domain: write it as example.org or *.example.org`,
		`p.yaml:30:5: list override:a:address: "192.0.2.0/33" is no network: write it as 192.0.2.0/24 or 2001:db8::/32`,
		`p.yaml:33:14: override b: excuse: "spff" is none of submitter, spf, spf_helo, iprev, mx, dnsbl, pra, dkim, dmarc (did you mean spf?)`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	var fault *configs.Fault
	if !errors.As(err, &fault) {
		t.Error("no fault")
	}

	// An override that nothing asks for is told of.
	p = site(configs.Override{Name: "c", Proof: configs.Proof{Address: []string{"192.0.2.1"}}, Excuse: []string{"dmarc"}})
	w := mustCompile(t, p, nil).Warnings()
	if len(w) != 1 || w[0].Error() != "p.yaml:30:5: override c excuses dmarc, but no rule refuses by that" {
		t.Error(w)
	}
}

// A fault of a guarded rule stays at its place, and the lists of overrides are
// not proposed for a misspelled one.
func TestGuardsMoveNoPlaces(t *testing.T) {
	p := site(configs.Override{Name: "c", Proof: configs.Proof{Address: []string{"192.0.2.1"}}, Excuse: []string{"spf"}})
	p.Rules = append(p.Rules, configs.Rule{
		Name: "x", When: `spf.result == "fail" or in_list("foo", client.ip)`, Do: "reject", WhenPosition: configs.Position{File: "p.yaml", Line: 9, Column: 13},
	})
	_, err := Compile(p, listsOn("2026-11-21"))
	if want := `p.yaml:9:45: unknown list "foo"; no lists are defined`; err == nil || err.Error() != want {
		t.Errorf("%v\n%s", err, want)
	}
}

// The lists of the site may be read again under a chain with overrides.
func TestListsAreReplacedBelowOverrides(t *testing.T) {
	def := func(ip string) *Lists {
		lists, err := NewLists([]configs.List{{Name: "l", Entries: []string{ip}}}, nil, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return lists
	}
	p := site(configs.Override{Name: "c", Proof: configs.Proof{Address: []string{"192.0.2.1"}}, Do: "pass"})
	p.Rules = slices.Insert(p.Rules, 0, configs.Rule{Name: "l", When: `in_list("l", client.ip)`, Do: "reject"})
	lists := def("192.0.2.7")
	chain := mustCompile(t, p, lists)
	f := Facts{}.Transaction("id")
	f.Client.IP = "192.0.2.8"
	if v := chain.Decide(Message, &f); v.Rule == "l" {
		t.Error(v)
	}
	if err := lists.Replace(def("192.0.2.8")); err != nil {
		t.Fatal(err)
	}
	if v := chain.Decide(Message, &f); v.Rule != "l" {
		t.Error(v)
	}
}

// BenchmarkOverrides is what fifty overrides cost a message that none is for.
func BenchmarkOverrides(b *testing.B) {
	for _, n := range []int{0, 1, 50} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var overrides []configs.Override
			for i := range n {
				overrides = append(overrides, configs.Override{
					Name: fmt.Sprintf("o%d", i), Match: configs.Match{Domains: []string{"*.p.example"}},
					Proof: configs.Proof{Address: []string{fmt.Sprintf("192.0.2.%d", i)}}, Excuse: []string{"spf"},
				})
			}
			p := site(overrides...)
			chain, err := Compile(p, listsOn("2026-11-21"))
			if err != nil {
				b.Fatal(err)
			}
			f := Facts{}.Transaction("id")
			f.Client.IP, f.Mail.Domain, f.SPF.Result, f.Submitter.Result = "203.0.113.1", "a.example", Pass, None
			b.ReportAllocs()
			for b.Loop() {
				if v := chain.Decide(Message, &f); v.Refuses() {
					b.Fatal(v)
				}
			}
		})
	}
}

// A fact may be spelled in more than one way, and named by a let; what is quoted is none.
func TestAnOverrideFindsTheFactsThatARuleReads(t *testing.T) {
	override := configs.Override{Name: "o", Proof: configs.Proof{Address: []string{"192.0.2.0/24"}}, Owner: "a", Reason: "b", Until: "2027-03-01"}
	for _, test := range []struct {
		excuse, when string
		refused      bool // nevertheless
	}{
		{"spf", `spf.result == "fail"`, false},
		{"spf", `spf["result"] == "fail"`, false},
		{"spf", `spf . result == "fail"`, false},
		{"spf", "spf\n.result == 'fail'", false},
		{"spf", `failed`, false},
		{"iprev", `client["name"] == ""`, false},
		{"pra", `disagrees`, false},
		{"submitter", `disagrees and submitter.result != "pass"`, false},
		{"spf", `helo.name == "spf.result" or iprev.result == "fail"`, true},
		{"iprev", `client.ip startsWith "192." and helo.name != "client.name"`, true},
	} {
		o := override
		o.Excuse = []string{test.excuse}
		p := configs.Policy{
			Let:       []configs.Let{{Name: "failed", Is: `spf["result"] == "fail"`}, {Name: "disagrees", Is: `not pra.matches_submitter`}},
			Rules:     []configs.Rule{{Name: "r", When: test.when, Do: "reject"}},
			Overrides: []configs.Override{o},
		}
		f := Facts{}.Transaction("id")
		f.Client.IP, f.Helo.Name, f.Submitter.Address, f.SPF.Result, f.Iprev.Result = "192.0.2.7", "mx.example", "a@b.example", Fail, Fail
		v := mustCompile(t, p, listsOn("2027-01-01")).Decide(Message, &f)
		if v.Refuses() != test.refused {
			t.Errorf("%s, which %s excuses: %s by %s", test.when, test.excuse, v.Disposition, v.Rule)
		}
		if !test.refused && test.excuse == "submitter" && v.Rule != "override:o" {
			t.Errorf("%s: the override is not counted: %q", test.when, v.Rule)
		}
	}
}

// An override that everybody fits is no proof, whatever it is called.
func TestAProofThatAnybodyHasIsNone(t *testing.T) {
	for _, test := range []struct {
		proof configs.Proof
		good  bool
	}{
		{configs.Proof{Address: []string{"0.0.0.0/0"}}, false},
		{configs.Proof{Address: []string{"128.0.0.0/1"}}, false},
		{configs.Proof{Address: []string{"::/0"}}, false},
		{configs.Proof{Address: []string{"::ffff:0.0.0.0/96"}}, false},
		{configs.Proof{Address: []string{"10.0.0.0/8", "2001:db8::/32"}}, true},
		{configs.Proof{Name: []string{"*.com"}}, false},
		{configs.Proof{Name: []string{".CO.UK."}}, false},
		{configs.Proof{DKIM: []string{"*.org"}}, false},
		{configs.Proof{Certificate: []string{"*.internal"}}, false},
		{configs.Proof{Name: []string{"*.forwarder.example"}, DKIM: []string{"example.com"}}, true},
	} {
		_, err := Compile(site(configs.Override{Name: "o", Proof: test.proof, Excuse: []string{"spf"}}), nil)
		if good := err == nil; good != test.good {
			t.Errorf("%+v: %v", test.proof, err)
		}
	}
	// Who says that it is no proof may match whom they like.
	if _, err := Compile(site(configs.Override{Name: "o", Match: configs.Match{Domains: []string{"*.com"}}, Unsafe: true, Excuse: []string{"spf"}}), nil); err != nil {
		t.Error(err)
	}
}

// The fault of an override that comes too late for a rule below it is the
// override's: the rule may be a built-in one.
func TestAnOverrideThatDelaysARuleAboutRecipients(t *testing.T) {
	p := BuiltIn()
	p.Overrides = site(configs.Override{Name: "late", Proof: configs.Proof{DKIM: []string{"partner.example"}}, Do: "pass"}).Overrides
	_, err := Compile(p, nil)
	want := `p.yaml:30:5: override:late passes at message, since it reads dkim.domains, and so would delay rule "postmaster" (builtin.yaml:7:7)`
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// The built-in rules are about one check each where an override could excuse it:
// what it says of SPF says nothing of SUBMITTER.
func TestTheBuiltInPolicyExcusesOneCheckAtATime(t *testing.T) {
	p := BuiltIn()
	p.Overrides = site(configs.Override{Name: "o", Proof: configs.Proof{Address: []string{"192.0.2.0/24"}}, Excuse: []string{"spf"}}).Overrides
	chain := mustCompile(t, p, listsOn("2027-01-01"))
	f := Facts{}.Transaction("id")
	f.Client.IP, f.Rcpt.Address, f.PRA.Address = "192.0.2.7", "you@example.org", "a@b.example"
	f.Submitter.Address, f.PRA.MatchesSubmitter = "a@b.example", true
	for _, tc := range []struct {
		spf, submitter Result
		rule           string
	}{
		{TempError, Pass, "override:o"},
		{Fail, Pass, "override:o"},
		{Fail, TempError, "submitter-dns-trouble"},
		{TempError, Fail, "submitter-fail"},
	} {
		f.SPF.Result, f.Submitter.Result = tc.spf, tc.submitter
		if v := chain.Decide(Message, &f); v.Rule != tc.rule {
			t.Errorf("spf %s, submitter %s: %s by %q, want %q", tc.spf, tc.submitter, v.Disposition, v.Rule, tc.rule)
		}
	}
}

// Whoever is excused from SPF alone, as a forwarder is, is deferred for the DMARC
// that cannot be told all the same: the author's policy may refuse the message.
func TestAnExcuseOfSPFExcusesNoTroubleOfDMARC(t *testing.T) {
	p := BuiltIn()
	p.Overrides = site(configs.Override{Name: "f", Proof: configs.Proof{Address: []string{"192.0.2.0/24"}}, Excuse: []string{"spf"}}).Overrides
	chain := mustCompile(t, p, listsOn("2026-11-29"))
	for published, want := range map[string]Disposition{"reject": DispositionDefer, "quarantine": DispositionDefer, "": DispositionDefer, "none": DispositionPass} {
		f := Facts{}.Transaction("t")
		f.Client.IP = "192.0.2.7"
		f.Rcpt.Address, f.PRA.Address = "you@example.org", "a@bank.example"
		f.SPF.Result, f.DMARC = Fail, DMARC{Result: TempError, Policy: published}
		if v := chain.Decide(Message, &f); v.Disposition != want && !(want == DispositionPass && v.Disposition == DispositionTag) {
			t.Errorf("%q: %v by %s", published, v.Disposition, v.Rule)
		}
	}
}
