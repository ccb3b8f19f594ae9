package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

// TestBuiltIn tells what the built-in policy does with one transaction after
// another.
func TestBuiltIn(t *testing.T) {
	forwarders := []configs.List{{Name: TrustedForwarders, Entries: []string{"203.0.113.7"}}}
	lists, err := NewLists(forwarders, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := Compile(BuiltIn(), lists)
	if err != nil {
		t.Fatal(err)
	}
	// ordinary is a message about which all is well: no SUBMITTER, SPF passes.
	ordinary := func() Facts {
		f := Facts{}.Transaction("t1")
		f.Mail = MailFrom{From: "alice@example.com", Domain: "example.com"}
		f.SPF.Result = Pass
		f.Rcpt = RcptTo{Address: "bob@example.org", Domain: "example.org"}
		f.PRA = PRA{Result: Pass, Address: "alice@example.com", Domain: "example.com"}
		return f
	}
	// submitted is one with a SUBMITTER that is authorized and matches.
	submitted := func() Facts {
		f := ordinary()
		f.Submitter = Submitter{Address: "alice@example.com", Domain: "example.com", Result: Pass}
		f.PRA.MatchesSubmitter = true
		return f
	}
	with := func(f Facts, change func(*Facts)) Facts { change(&f); return f }

	for _, story := range []struct {
		name    string
		facts   Facts
		stage   Stage // at which it is decided
		want    Disposition
		rule    string
		reply   string
		tags    []string
		decided bool
	}{
		{name: "all is well", facts: ordinary(), stage: Message, want: DispositionPass},
		{name: "all is well with SUBMITTER", facts: submitted(), stage: Message, want: DispositionPass},
		{
			name: "SPF fails", facts: with(ordinary(), func(f *Facts) { f.SPF.Result = Fail }),
			stage: Message, want: DispositionReject, rule: "spf-fail", reply: "550 5.7.23 SPF validation failed.",
		},
		{
			name: "SPF fails and DMARC passes: forwarded, with its signature whole",
			facts: with(ordinary(), func(f *Facts) {
				f.SPF.Result = Fail
				f.DMARC = DMARC{Result: Pass, Policy: "reject", Domain: "example.com"}
			}),
			stage: Message, want: DispositionTag, rule: "spf-fail-excused", tags: []string{"X-Postern-Tag: spf-fail"},
		},
		{
			name: "SPF fails and DMARC cannot be looked up: our trouble, or theirs, but no refusal",
			facts: with(ordinary(), func(f *Facts) {
				f.SPF.Result = Fail
				f.DMARC = DMARC{Result: TempError}
			}),
			stage: Message, want: DispositionDefer, rule: "dmarc-trouble", reply: "451 4.4.3 Temporary failure of the DNS, please try again later.",
		},
		{
			name: "DMARC fails, and the domain wants that refused",
			facts: with(ordinary(), func(f *Facts) {
				f.DMARC = DMARC{Result: Fail, Policy: "reject", Domain: "example.com"}
			}),
			stage: Message, want: DispositionReject, rule: "dmarc-reject", reply: "550 5.7.26 DMARC policy of the author's domain refuses this message.",
		},
		{
			name: "DMARC fails, and the domain wants that in quarantine",
			facts: with(ordinary(), func(f *Facts) {
				f.DMARC = DMARC{Result: Fail, Policy: "quarantine", Domain: "example.com"}
			}),
			stage: Message, want: DispositionTag, rule: "dmarc-quarantine", tags: []string{"X-Postern-Tag: dmarc-quarantine"},
		},
		{
			name: "a forwarder that we trust broke them all",
			facts: with(submitted(), func(f *Facts) {
				f.Client.IP = "203.0.113.7"
				f.SPF.Result, f.Submitter.Result = Fail, Fail
				f.DMARC = DMARC{Result: Fail, Policy: "reject", Domain: "example.com"}
			}),
			stage: Message, want: DispositionTag, rule: "dmarc-quarantine", tags: []string{"X-Postern-Tag: spf-fail", "X-Postern-Tag: dmarc-reject"},
		},
		{
			name: "the submitter is not allowed", facts: with(submitted(), func(f *Facts) { f.Submitter.Result = Fail }),
			stage: Rcpt, want: DispositionReject, rule: "submitter-fail", reply: "550 5.7.1 Submitter not allowed.",
		},
		{
			name: "SPF fails while SUBMITTER could not be looked up: tried again, then refused",
			facts: with(submitted(), func(f *Facts) {
				f.SPF.Result, f.Submitter.Result = Fail, TempError
			}),
			stage: Rcpt, want: DispositionDefer, rule: "submitter-dns-trouble", reply: "451 4.4.3 Temporary failure of the DNS, please try again later.",
		},
		{
			name: "the submitter fails while SPF could not be looked up: refused for sure",
			facts: with(submitted(), func(f *Facts) {
				f.SPF.Result, f.Submitter.Result = TempError, Fail
			}),
			stage: Rcpt, want: DispositionReject, rule: "submitter-fail", reply: "550 5.7.1 Submitter not allowed.",
		},
		{
			name: "the DNS is down for SPF", facts: with(ordinary(), func(f *Facts) { f.SPF.Result = TempError }),
			stage: Rcpt, want: DispositionDefer, rule: "dns-trouble", reply: "451 4.4.3 Temporary failure of the DNS, please try again later.",
		},
		{
			name: "the DNS is down for SUBMITTER", facts: with(submitted(), func(f *Facts) { f.Submitter.Result = TempError }),
			stage: Rcpt, want: DispositionDefer, rule: "submitter-dns-trouble", reply: "451 4.4.3 Temporary failure of the DNS, please try again later.",
		},
		{
			name: "SPF softfail is tagged", facts: with(ordinary(), func(f *Facts) { f.SPF.Result = SoftFail }),
			stage: Message, want: DispositionTag, rule: "spf-doubtful", tags: []string{"X-Postern-Tag: spf-softfail"},
		},
		{
			name: "SPF permerror is tagged", facts: with(ordinary(), func(f *Facts) { f.SPF.Result = PermError }),
			stage: Message, want: DispositionTag, rule: "spf-doubtful", tags: []string{"X-Postern-Tag: spf-permerror"},
		},
		{
			name: "neutral of both is tagged twice",
			facts: with(submitted(), func(f *Facts) {
				f.SPF.Result, f.Submitter.Result = Neutral, Neutral
			}),
			stage: Message, want: DispositionTag, rule: "submitter-doubtful",
			tags: []string{"X-Postern-Tag: spf-neutral", "X-Postern-Tag: submitter-neutral"},
		},
		{name: "SPF none is let alone", facts: with(ordinary(), func(f *Facts) { f.SPF.Result = None }), stage: Message, want: DispositionPass},
		{
			name: "a sender whose domain takes no mail", facts: with(ordinary(), func(f *Facts) { f.MX.Result = Fail }),
			stage: Rcpt, want: DispositionReject, rule: "null-mx", reply: "550 5.7.27 Sender address has null MX.",
		},
		{
			name: "a sender whose domain takes no mail, and who writes to abuse", facts: with(ordinary(), func(f *Facts) {
				f.MX.Result = Fail
				f.Rcpt = RcptTo{Address: "abuse@example.org", Domain: "example.org"}
			}),
			stage: Rcpt, want: DispositionPass, rule: "postmaster",
		},
		{
			name: "the same by way of a forwarder that we trust, who cannot help it", facts: with(ordinary(), func(f *Facts) {
				f.Client.IP, f.MX.Result = "203.0.113.7", Fail
			}),
			stage: Message, want: DispositionTag, rule: "null-mx-excused", tags: []string{"X-Postern-Tag: null-mx"},
		},
		{
			name: "the submitter is not allowed and the sender takes no mail: the words of RFC 4405 come first", facts: with(submitted(), func(f *Facts) {
				f.Submitter.Result, f.MX.Result = Fail, Fail
			}),
			stage: Rcpt, want: DispositionReject, rule: "submitter-fail", reply: "550 5.7.1 Submitter not allowed.",
		},
		{
			name: "the sender takes no mail, and SPF cannot be looked up: refused for sure", facts: with(ordinary(), func(f *Facts) {
				f.SPF.Result, f.MX.Result = TempError, Fail
			}),
			stage: Rcpt, want: DispositionReject, rule: "null-mx", reply: "550 5.7.27 Sender address has null MX.",
		},
		{
			name: "nobody knows whether the sender takes mail: nothing is deferred for that", facts: with(ordinary(), func(f *Facts) { f.MX.Result = TempError }),
			stage: Message, want: DispositionPass,
		},
		{name: "an unknown sender domain is let alone", facts: with(ordinary(), func(f *Facts) { f.MX.Result = PermError }), stage: Message, want: DispositionPass},
		{
			name: "the header names another than SUBMITTER", facts: with(submitted(), func(f *Facts) {
				f.PRA = PRA{Address: "mallory@example.net", Domain: "example.net", Result: Pass}
			}),
			stage: Header, want: DispositionReject, rule: "submitter-mismatch", reply: "550 5.7.1 Submitter does not match header.",
		},
		{
			name: "SUBMITTER and no PRA", facts: with(submitted(), func(f *Facts) { f.PRA = PRA{Result: PermError} }),
			stage: Header, want: DispositionReject, rule: "no-pra-for-submitter", reply: "554 5.7.7 Cannot verify submitter address.",
		},
		{
			name: "SUBMITTER, and the look at the header broke down: not the sender's fault", facts: with(submitted(), func(f *Facts) { f.PRA = PRA{Result: TempError} }),
			stage: Header, want: DispositionDefer, rule: "pra-trouble", reply: "451 4.4.3 Temporary failure to verify submitter address.",
		},
		{
			name: "no SUBMITTER and no PRA: tagged, not refused", facts: with(ordinary(), func(f *Facts) { f.PRA = PRA{Result: PermError} }),
			stage: Message, want: DispositionTag, rule: "no-pra", tags: []string{"X-Postern-Tag: no-pra"},
		},
		{
			name: "postmaster hears everything", facts: with(submitted(), func(f *Facts) {
				f.SPF.Result, f.Submitter.Result = Fail, Fail
				f.Rcpt = RcptTo{Address: "Postmaster@example.org", Domain: "example.org"}
			}),
			stage: Rcpt, want: DispositionPass, rule: "postmaster",
		},
		{
			name: "postmaster without a domain", facts: with(ordinary(), func(f *Facts) {
				f.SPF.Result = Fail
				f.Rcpt = RcptTo{Address: "POSTMASTER"}
			}),
			stage: Rcpt, want: DispositionPass, rule: "postmaster",
		},
		{
			name: "abuse at a domain of its own", facts: with(ordinary(), func(f *Facts) {
				f.SPF.Result = Fail
				f.Rcpt = RcptTo{Address: "abuse@lists.example.org", Domain: "lists.example.org"}
			}),
			stage: Rcpt, want: DispositionPass, rule: "postmaster",
		},
		{
			name: "postmasters is someone else", facts: with(ordinary(), func(f *Facts) {
				f.SPF.Result = Fail
				f.Rcpt = RcptTo{Address: "postmasters@example.org", Domain: "example.org"}
			}),
			stage: Message, want: DispositionReject, rule: "spf-fail", reply: "550 5.7.23 SPF validation failed.",
		},
	} {
		t.Run(story.name, func(t *testing.T) {
			for st := Connect; st < story.stage; st++ {
				if v := chain.Decide(st, &story.facts); v.Decided {
					t.Fatalf("decided at %s already: %+v", st, v)
				}
			}
			v := chain.Decide(story.stage, &story.facts)
			if !v.Decided || v.Disposition != story.want || v.Rule != story.rule || v.Reply.String() != story.reply {
				t.Errorf("got %s by %q, %q, decided %t", v.Disposition, v.Rule, v.Reply.String(), v.Decided)
			}
			if len(v.Tags) != len(story.tags) {
				t.Fatalf("tags: got %v, want %v", v.Tags, story.tags)
			}
			for i, tag := range v.Tags {
				if got := tag.Name + ":" + tag.Value; got != story.tags[i] {
					t.Errorf("tag %d: got %q, want %q", i, got, story.tags[i])
				}
			}
		})
	}
	if chain.Last() != Message || !chain.HoldsMessage() || chain.OneDomain() {
		t.Errorf("last %s, holds %t, one domain %t", chain.Last(), chain.HoldsMessage(), chain.OneDomain())
	}
}

// names are those of the rules, in order.
func names(p configs.Policy) string {
	var all []string
	for _, r := range p.Rules {
		all = append(all, r.Name)
	}
	return strings.Join(all, " ")
}

// after is a policy of some rules with the built-in ones below them.
func after(lines ...string) configs.Policy {
	p := rules(lines...)
	p.BuiltIn = configs.BuiltInAfter
	return p
}

// TestWhole is the law by which own and built-in rules come together.
func TestWhole(t *testing.T) {
	all := names(BuiltIn())
	without := func(name string) string {
		return strings.Join(strings.Fields(strings.Replace(" "+all+" ", " "+name+" ", " ", 1)), " ")
	}
	for _, c := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"nothing of one's own", nil, all},
		{"a tag", []string{`a: helo.name == "x" -> tag X-A: b`}, "a " + all},
		{"a refusal", []string{`a: spf.result == "fail" -> reject`}, "a " + all},
		{"in the place of a built-in one", []string{`a: helo.name == "x" -> pass`, `spf-fail: false -> reject`, `b: helo.name == "y" -> pass`}, "a spf-fail b " + without("spf-fail")},
		{"that of postmaster", []string{`postmaster: rcpt.address == "postmaster" -> pass`, `late: dmarc.result == "fail" -> reject`}, "postmaster late " + without("postmaster")},
		{"one that waits for the message", []string{`a: spf.result == "fail" -> reject`, `late: dmarc.result == "fail" -> reject`, `b: true -> defer`}, "a postmaster late b " + without("postmaster")},
		{"one that waits for the header", []string{`late: header.count > 100 -> defer`}, "postmaster late " + without("postmaster")},
		{"one that is moved there", []string{`late: spf.result == "fail" -> reject@message`}, "postmaster late " + without("postmaster")},
		{"a tag that waits keeps nothing waiting", []string{`late: dmarc.result == "fail" -> tag X-A: b`}, "late " + all},
	} {
		p := after(c.lines...)
		if got := names(Whole(p)); got != c.want {
			t.Errorf("%s:\n got  %s\n want %s", c.name, got, c.want)
		}
		chain, err := Compile(p, propertyLists(t))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if again := mustCompile(t, Whole(Whole(p)), nil); again.Fingerprint() != chain.Fingerprint() {
			t.Errorf("%s: whole once more it is another policy", c.name)
		}
		if len(chain.Gaps()) != 0 && c.name != "in the place of a built-in one" {
			t.Errorf("%s: %v", c.name, chain.Gaps())
		}
		for _, w := range chain.Warnings() {
			if w.Position.File == "builtin.yaml" {
				t.Errorf("%s: what an own rule does, no built-in one need do: %v", c.name, w)
			}
		}
	}
	off := rules(`a: helo.name == "x" -> tag X-A: b`)
	off.BuiltIn = configs.BuiltInOff
	if got := names(Whole(off)); got != "a" {
		t.Errorf("off: %s", got)
	}

	// A let is read through, and the reading order within the site's own rules stays.
	p := after(`late: strange -> reject`)
	p.Let = []configs.Let{{Name: "deep", Is: `dkim.result == "fail"`}, {Name: "strange", Is: `deep and helo.name == "x"`}}
	if got := names(Whole(p)); got != "postmaster late "+without("postmaster") {
		t.Error(got)
	}
}

// One own rule, a tag even, lets no forger in and keeps nobody from postmaster.
func TestAnOwnRuleSwitchesNothingOff(t *testing.T) {
	chain := mustCompile(t, after(`mine: spf.result != "pass" -> tag X-Postern-Tag: spf-softfail`), nil)
	f := known(func(f *Facts) { f.SPF.Result = Fail })
	if v := chain.Decide(Message, f); v.Rule != "spf-fail" || v.Disposition != DispositionReject {
		t.Errorf("%+v", v)
	}
	f.Rcpt.Address = "postmaster@example.org"
	if v := chain.Decide(Rcpt, f); v.Rule != "postmaster" || v.Disposition != DispositionPass {
		t.Errorf("%+v", v)
	}
	// What an own rule and a built-in one say in the same words is said once.
	f = known(func(f *Facts) { f.SPF.Result, f.PRA.Address = SoftFail, "a@b.example" })
	if v := chain.Decide(Message, f); len(v.Tags) != 1 {
		t.Errorf("%+v", v.Tags)
	}
	if chain.SiteReadsSender() {
		t.Error("the site reads spf, and not what the built-in rules read")
	}
	for _, own := range []string{`mine: pra.result == "fail" -> tag X-Postern-Tag: x`, `mine: submitter.domain == "x.example" -> reject`, `mine: header.count > 99 -> tag X-Postern-Tag: ${pra.address}`} {
		if !mustCompile(t, after(own), nil).SiteReadsSender() {
			t.Errorf("%s: reads the sender", own)
		}
	}
}

// A policy that lets pass what SPF fails says so.
func TestGaps(t *testing.T) {
	for _, c := range []struct {
		gap   bool
		lines []string
	}{
		{true, nil},
		{true, []string{`a: helo.name == "x" -> reject`}},
		{true, []string{`a: dmarc.result == "fail" -> reject`}},
		{true, []string{`a: spf.result == "fail" -> pass`}},
		{true, []string{`a: spf.result in ["softfail", "temperror"] -> reject`}},
		{true, []string{`a: true -> pass`, `b: spf.result == "fail" -> reject`}},
		{true, []string{`a: spf.result == "fail" and spf.result == "pass" -> reject`}},
		{false, []string{`a: spf.result == "fail" -> reject`}},
		{false, []string{`a: spf.result != "pass" -> defer`}},
		{false, []string{`a: spf.result == "fail" -> tag X-A: b`}},
		{false, []string{`a: spf.result == "fail" and in_list("forwarders", client.ip) -> tag X-A: b`}},
	} {
		gaps := compile(t, c.lines...).Gaps()
		if (len(gaps) > 0) != c.gap {
			t.Errorf("%q: %v", c.lines, gaps)
		}
	}
	if gaps := mustBuiltIn(t).Gaps(); len(gaps) != 0 {
		t.Error(gaps)
	}
}

// The built-in rules are told from others, and each that has a comment above it in the file has it by its name.
func TestBuiltInRulesAreKnown(t *testing.T) {
	p := BuiltIn()
	for i := range p.Rules {
		if !p.Rules[i].BuiltIn {
			t.Errorf("%s", p.Rules[i].Name)
		}
	}
	p.Rules[0].Name = "changed"
	if name := BuiltIn().Rules[0].Name; name == "changed" {
		t.Error("the rules are not the caller's own")
	}
	p = BuiltIn()
	comments := BuiltInComments()
	if c := comments[p.Rules[0].Name]; !strings.HasPrefix(c, "RFC 5321 §4.5.1, RFC 2142: ") || strings.Contains(c, "#") {
		t.Errorf("%q", c)
	}
	for name := range comments {
		if !slices.ContainsFunc(p.Rules, func(r configs.Rule) bool { return r.Name == name }) {
			t.Errorf("a comment of %q, which is no rule", name)
		}
	}
	if len(comments) != len(p.Rules) {
		t.Errorf("%d of %d rules", len(comments), len(p.Rules))
	}
}
