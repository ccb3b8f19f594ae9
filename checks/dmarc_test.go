package checks

import (
	"strings"
	"testing"

	"postern/policy"
)

// runDMARCOn evaluates a message of author with the results given.
func runDMARCOn(t *testing.T, r Resolver, author string, spf policy.SPF, dkim policy.DKIM) policy.DMARC {
	t.Helper()
	f := transaction("192.0.2.1", "client.example", "")
	f.Header.FromDomain, f.SPF, f.DKIM = author, spf, dkim
	Deps{Resolver: r}.DMARC().Run(t.Context(), f, Message{})
	return f.DMARC
}

// Somebody who puts his own domain beside his victim's is judged by both.
func TestEachAuthorIsJudged(t *testing.T) {
	z := parseZone(t, `
_dmarc.bank.example  TXT "v=DMARC1; p=reject"
_dmarc.shop.example  TXT "v=DMARC1; p=quarantine"
_dmarc.evil.example  TXT "v=DMARC1; p=none"
; SERVFAIL _dmarc.sick.example
`)
	for header, want := range map[string]policy.DMARC{
		"From: ceo@bank.example\r\nFrom: x@evil.example\r\n":             {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From: x@evil.example, \"C. E. O.\" <ceo@bank.example>\r\n":      {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From: x@evil.example,\r\n a@shop.example, ceo@bank.example\r\n": {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From: x@evil.example, a@shop.example\r\n":                       {Result: policy.Fail, Policy: "quarantine", Domain: "shop.example"},
		"From: x@evil.example, a@sick.example\r\n":                       {Result: policy.TempError},
		"From: a@sick.example, ceo@bank.example\r\n":                     {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From: a@sick.example, a@shop.example\r\n":                       {Result: policy.TempError},                                    // it may be worse than quarantine
		"From: a@evil.example, b@EVIL.example\r\n":                       {Result: policy.Pass, Policy: "none", Domain: "evil.example"}, // one domain
		"From: a@evil.example, b@none.example\r\n":                       {Result: policy.PermError},
		"From: ceo@bank.example\r\n":                                     {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From:\r\nFrom: ceo@bank.example\r\n":                            {Result: policy.Fail, Policy: "reject", Domain: "bank.example"}, // nobody sees the first
		"From: <\r\nFrom: ceo@bank.example\r\n":                          {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From: x@evil.example, >\r\n":                                    {Result: policy.Pass, Policy: "none", Domain: "evil.example"}, // the bracket says nothing
		"From: x@none.example, >\r\n":                                    {Result: policy.None},
		"From: ceo@bank.example, x@evil.example <\r\n":                   {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From: Us: ceo@bank.example;\r\n":                                {Result: policy.Fail, Policy: "reject", Domain: "bank.example"},
		"From:\r\n":                                                      {Result: policy.PermError},
		"Subject: x\r\n":                                                 {Result: policy.PermError},
		// The victim behind so many others that he is not judged.
		"From: a@a.example, b@b.example, c@c.example, d@d.example, e@e.example, f@f.example, g@g.example, h@h.example, i@bank.example\r\n": {Result: policy.PermError},
	} {
		msg := held(header + "\r\nx\r\n")
		f := transaction("192.0.2.1", "client.example", "x@evil.example")
		f.Header = HeaderFacts(msg)
		f.SPF = policy.SPF{Result: policy.Pass, Domain: "evil.example"}
		Deps{Resolver: z}.DMARC().Run(t.Context(), f, msg)
		if f.DMARC != want {
			t.Errorf("%q:\n got %+v\nwant %+v", header, f.DMARC, want)
		}
	}
}

// Whether a name exists decides between sp and np. Where that cannot be found
// out, which of them applies is not known: it is neither the harsher one, for a
// trouble of ours, nor the milder one, for a forger who can make that trouble.
func TestTroubleMakesAPolicyNeitherHarsherNorMilder(t *testing.T) {
	z := parseZone(t, `
_dmarc.one.example    TXT "v=DMARC1; p=reject; np=none"
_dmarc.two.example    TXT "v=DMARC1; p=reject; sp=none; np=reject"
_dmarc.three.example  TXT "v=DMARC1; p=none; sp=reject; np=reject"
; SERVFAIL x.one.example
; SERVFAIL x.two.example
; SERVFAIL x.three.example
`)
	for author, want := range map[string]policy.DMARC{
		"x.one.example":   {Result: policy.TempError, Domain: "one.example"},
		"x.two.example":   {Result: policy.TempError, Domain: "two.example"},
		"x.three.example": {Result: policy.Fail, Policy: "reject", Domain: "three.example"}, // it makes no difference
	} {
		if got := runDMARCOn(t, z, author, policy.SPF{Result: policy.None}, policy.DKIM{}); got != want {
			t.Errorf("%s: %+v", author, got)
		}
	}
	// What passed passes under either.
	spf := policy.SPF{Result: policy.Pass, Domain: "x.one.example"}
	if got := runDMARCOn(t, z, "x.one.example", spf, policy.DKIM{}); got.Result != policy.Pass {
		t.Errorf("%+v", got)
	}
}

func TestThePolicyIsThatOfTheDomainOrOfTheOneItBelongsTo(t *testing.T) {
	const zone = `
_dmarc.own.example            TXT "v=DMARC1; p=quarantine"
_dmarc.org.example            TXT "v=DMARC1; p=reject; sp=quarantine; np=reject"
_dmarc.mid.org.example        TXT "v=DMARC1; p=none"
there.org.example             A 192.0.2.7
text.org.example              TXT "something, if no address"
_dmarc.nosp.example           TXT "v=DMARC1; p=reject"
_dmarc.test.example           TXT "v=DMARC1; p=reject; sp=quarantine; t=y"
x.test.example                A 192.0.2.7
_dmarc.bank                   TXT "v=DMARC1; p=reject; sp=quarantine; np=none; psd=y"
branch.bank                   A 192.0.2.7
_dmarc.cut.org.example        TXT "v=DMARC1; p=none; psd=n"
x.cut.org.example             A 192.0.2.7
_dmarc.two.example            TXT "v=DMARC1; p=reject"
_dmarc.two.example            TXT "v=DMARC1; p=none"
_dmarc.twice.example          TXT "v=DMARC1; p=reject; p=none"
_dmarc.lower.example          TXT "v=dmarc1; p=reject"
_dmarc.late.example           TXT "p=reject; v=DMARC1"
_dmarc.nop.example            TXT "v=DMARC1; rua=mailto:x@nop.example"
_dmarc.bad.example            TXT "v=DMARC1; p=rejct"
_dmarc.badrua.example         TXT "v=DMARC1; p=rejct; rua=mailto:x@badrua.example"
_dmarc.badsp.example          TXT "v=DMARC1; p=reject; sp=maybe; rua=mailto:x@badsp.example"
_dmarc.pct.example            TXT "v=DMARC1; p=reject; pct=0; ri=86400; x-new=1"
_dmarc.upper.example          TXT "V=DMARC1;P=Reject"
_dmarc.space.example          TXT " v = DMARC1 ;p = Reject ;"
_dmarc.space2.example         TXT "v = DMARC1 ;p = Reject ;"
; SERVFAIL _dmarc.broken.example
; SERVFAIL _dmarc.brokentop
`
	z := parseZone(t, zone)
	for author, want := range map[string]policy.DMARC{
		"own.example":         {Result: policy.Fail, Policy: "quarantine", Domain: "own.example"},
		"org.example":         {Result: policy.Fail, Policy: "reject", Domain: "org.example"},
		"there.org.example":   {Result: policy.Fail, Policy: "quarantine", Domain: "org.example"},
		"text.org.example":    {Result: policy.Fail, Policy: "quarantine", Domain: "org.example"}, // it exists
		"missing.org.example": {Result: policy.Fail, Policy: "reject", Domain: "org.example"},     // np
		"mid.org.example":     {Result: policy.Fail, Policy: "none", Domain: "mid.org.example"},
		"x.mid.org.example":   {Result: policy.Fail, Policy: "reject", Domain: "org.example"}, // the one with the fewest labels, np
		"x.nosp.example":      {Result: policy.Fail, Policy: "reject", Domain: "nosp.example"},
		"test.example":        {Result: policy.Fail, Policy: "quarantine", Domain: "test.example"},
		"x.test.example":      {Result: policy.Fail, Policy: "none", Domain: "test.example"},
		"bank":                {Result: policy.Fail, Policy: "reject", Domain: "bank"},
		"branch.bank":         {Result: policy.Fail, Policy: "quarantine", Domain: "bank"},
		"gone.bank":           {Result: policy.Fail, Policy: "none", Domain: "bank"},
		"x.cut.org.example":   {Result: policy.Fail, Policy: "none", Domain: "cut.org.example"}, // psd=n ends the walk
		"two.example":         {Result: policy.None},
		"twice.example":       {Result: policy.None},
		"lower.example":       {Result: policy.None}, // the value counts as it is written, the name of the tag does not (RFC 9989 §4.8)
		"upper.example":       {Result: policy.Fail, Policy: "reject", Domain: "upper.example"},
		"late.example":        {Result: policy.None},
		"nop.example":         {Result: policy.Fail, Policy: "none", Domain: "nop.example"},
		"bad.example":         {Result: policy.None},
		"badrua.example":      {Result: policy.Fail, Policy: "none", Domain: "badrua.example"},
		"badsp.example":       {Result: policy.Fail, Policy: "none", Domain: "badsp.example"},
		"pct.example":         {Result: policy.Fail, Policy: "reject", Domain: "pct.example"},
		"space.example":       {Result: policy.None}, // nothing goes before the version
		"space2.example":      {Result: policy.Fail, Policy: "reject", Domain: "space2.example"},
		"nothing.else":        {Result: policy.None},
		"broken.example":      {Result: policy.TempError},
		"x.broken.example":    {Result: policy.TempError},
		"x.y.brokentop":       {Result: policy.TempError},
		"":                    {Result: policy.PermError}, // not one author
	} {
		if got := runDMARCOn(t, z, author, policy.SPF{Result: policy.None}, policy.DKIM{}); got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", author, got, want)
		}
	}
}

func TestAnIdentifierMustBelongWithTheAuthor(t *testing.T) {
	z := parseZone(t, `
_dmarc.org.example       TXT "v=DMARC1; p=reject"
_dmarc.strict.example    TXT "v=DMARC1; p=reject; adkim=s; aspf=s"
_dmarc.cut.org.example   TXT "v=DMARC1; p=none; psd=n"
_dmarc.bank              TXT "v=DMARC1; p=reject; psd=y"
; SERVFAIL _dmarc.sick.org.example
; SERVFAIL _dmarc.shy.example
; SERVFAIL _dmarc.other
`)
	pass := func(d string) policy.SPF { return policy.SPF{Result: policy.Pass, Domain: d, Identity: "mailfrom"} }
	signed := func(ds ...string) policy.DKIM { return policy.DKIM{Result: policy.Pass, Domains: ds} }
	for name, tc := range map[string]struct {
		author string
		spf    policy.SPF
		dkim   policy.DKIM
		want   policy.Result
	}{
		"SPF for the same domain":                    {"org.example", pass("org.example"), policy.DKIM{}, policy.Pass},
		"SPF for a sister":                           {"news.org.example", pass("bounce.org.example"), policy.DKIM{}, policy.Pass},
		"SPF for somebody else":                      {"org.example", pass("evil.example"), policy.DKIM{}, policy.Fail},
		"SPF for a name that only looks alike":       {"org.example", pass("evilorg.example"), policy.DKIM{}, policy.Fail},
		"SPF softfail":                               {"org.example", policy.SPF{Result: policy.SoftFail, Domain: "org.example"}, policy.DKIM{}, policy.Fail},
		"a signature of the parent":                  {"news.org.example", policy.SPF{Result: policy.Fail, Domain: "news.org.example"}, signed("other.example", "org.example"), policy.Pass},
		"strict, the same":                           {"strict.example", pass("strict.example"), policy.DKIM{}, policy.Pass},
		"strict, below":                              {"strict.example", pass("x.strict.example"), signed("x.strict.example"), policy.Fail},
		"a domain of its own below":                  {"org.example", pass("x.cut.org.example"), policy.DKIM{}, policy.Fail},
		"two customers of one suffix":                {"one.bank", pass("two.bank"), signed("two.bank"), policy.Fail},
		"below one customer":                         {"a.one.bank", pass("b.one.bank"), policy.DKIM{}, policy.Pass},
		"SPF in trouble might have passed":           {"org.example", policy.SPF{Result: policy.TempError, Domain: "org.example"}, policy.DKIM{}, policy.TempError},
		"SPF in trouble, DKIM passes":                {"org.example", policy.SPF{Result: policy.TempError, Domain: "org.example"}, signed("org.example"), policy.Pass},
		"trouble that does not matter":               {"org.example", policy.SPF{Result: policy.TempError, Domain: "evil.example"}, policy.DKIM{}, policy.Fail},
		"a key that could not be had":                {"org.example", policy.SPF{}, policy.DKIM{Signatures: []policy.DKIMSignature{{Domain: "org.example", Result: policy.TempError}}}, policy.TempError},
		"the signatures could not be read":           {"org.example", policy.SPF{Result: policy.Fail, Domain: "org.example"}, policy.DKIM{Result: policy.TempError}, policy.TempError},
		"they could not, and SPF passes":             {"org.example", pass("org.example"), policy.DKIM{Result: policy.TempError}, policy.Pass},
		"another's key could not be had":             {"org.example", policy.SPF{}, policy.DKIM{Result: policy.TempError, Signatures: []policy.DKIMSignature{{Domain: "evil.example", Result: policy.TempError}}}, policy.Fail},
		"where somebody belongs cannot be found out": {"org.example", pass("x.sick.org.example"), policy.DKIM{}, policy.TempError},
		"HELO stands in for <>":                      {"org.example", policy.SPF{Result: policy.Pass, Domain: "mx.org.example", Identity: "helo"}, policy.DKIM{}, policy.Pass},
		"a junk signature of a dead name below":      {"org.example", pass("evil.example"), policy.DKIM{Signatures: []policy.DKIMSignature{{Domain: "x.sick.org.example", Result: policy.TempError}}}, policy.TempError},
		"a signature of somebody of another TLD":     {"org.example", pass("evil.other"), policy.DKIM{}, policy.Fail}, // nothing to ask
		"nobody knows what SPF was asked about":      {"org.example", policy.SPF{Result: policy.TempError}, policy.DKIM{}, policy.TempError},
		"no record can be read, SPF passes":          {"shy.example", pass("shy.example"), policy.DKIM{}, policy.None},
		"no record can be read, DKIM passes":         {"shy.example", policy.SPF{Result: policy.None}, signed("shy.example"), policy.None},
		"no record can be read, one below passes":    {"shy.example", pass("x.shy.example"), policy.DKIM{}, policy.TempError}, // the record may be strict
		"no record, DKIM passes, SPF would refuse":   {"shy.example", policy.SPF{Result: policy.Fail, Domain: "shy.example"}, signed("shy.example"), policy.TempError},
		"no record can be read, another passes":      {"shy.example", pass("evil.example"), policy.DKIM{}, policy.TempError},
	} {
		if got := runDMARCOn(t, z, tc.author, tc.spf, tc.dkim); got.Result != tc.want {
			t.Errorf("%s: %+v, want %s", name, got, tc.want)
		}
	}
}

// However deep a name is, eight queries find what applies to it.
func TestTheWalkIsBounded(t *testing.T) {
	z := parseZone(t, `_dmarc.g.f.e.d.c.b.a TXT "v=DMARC1; p=reject"
_dmarc.h.g.f.e.d.c.b.a TXT "v=DMARC1; p=none"
`)
	deep := strings.Repeat("x.", 90) + "h.g.f.e.d.c.b.a"
	got := runDMARCOn(t, z, deep, policy.SPF{}, policy.DKIM{})
	if got.Policy != "reject" || got.Domain != "g.f.e.d.c.b.a" {
		t.Errorf("%+v", got)
	}
	// One for the author's own record, then a walk of eight that asks for it again (and is answered from the cache).
	if n := z.Queries(); n > 9 {
		t.Errorf("%d queries", n)
	}
}

// DMARC reads what DKIM wrote: the Set waits for that.
func TestDMARCComesAfterDKIM(t *testing.T) {
	z := parseZone(t, `_dmarc.football.example.com TXT "v=DMARC1; p=reject"`)
	f := transaction("192.0.2.1", "client.example", "u@elsewhere.example")
	raw, zone := footballMessage(t)
	merged := both{zone, z}
	set := only(Deps{Resolver: merged}, "dmarc")
	set.Run(t.Context(), policy.Mail, f, Message{}, nil)
	msg := held(raw)
	f.Header = HeaderFacts(msg)
	ran := set.Run(t.Context(), policy.Message, f, msg, nil)
	if f.DKIM.Result != policy.Pass || f.DMARC.Result != policy.Pass || len(ran) != 2 {
		t.Errorf("%+v %+v %v", f.DKIM, f.DMARC, ran)
	}

	// The same message, its subject changed on the way.
	f = transaction("192.0.2.1", "client.example", "u@elsewhere.example")
	msg = held(strings.Replace(raw, "Subject: Is", "Subject: Was", 1))
	f.Header = HeaderFacts(msg)
	set.Run(t.Context(), policy.Message, f, msg, nil)
	if f.DKIM.Result == policy.Pass || f.DMARC.Result != policy.Fail || f.DMARC.Policy != "reject" {
		t.Errorf("%+v %+v", f.DKIM, f.DMARC)
	}
}

func FuzzDMARCRecord(f *testing.F) {
	for _, s := range []string{"v=DMARC1; p=reject", "v=DMARC1;p=none;sp=quarantine;np=reject;psd=y;t=y;adkim=s;aspf=s;rua=mailto:a@b.example", "v=DMARC1; p=x"} {
		f.Add(s)
	}
	valid := map[string]bool{"none": true, "quarantine": true, "reject": true}
	f.Fuzz(func(t *testing.T, txt string) {
		if !isDMARC(txt) {
			return
		}
		if rec := parseDMARC(txt); rec != nil {
			if !valid[rec.p] || rec.sp != "" && !valid[rec.sp] || rec.np != "" && !valid[rec.np] || !valid[rec.lowered(rec.p)] {
				t.Fatalf("%q: %+v", txt, rec)
			}
		}
	})
}
