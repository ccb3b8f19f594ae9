package checks

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
)

// answer is what becomes of one question.
type answer string

const (
	noData   answer = "no such record"
	noDomain answer = "no such domain"
	servFail answer = "server answered SERVFAIL"
	never    answer = "no answer" // before the time of whoever asks is over
)

// troubled is a DNS that answers some questions ("TXT a.example") otherwise than
// its zone would, and notes all of them.
type troubled struct {
	zone    *dnstest.Zone
	answers map[string]answer

	mu    sync.Mutex
	asked []string
}

func (r *troubled) ask(ctx context.Context, question string) error {
	r.mu.Lock()
	if !slices.Contains(r.asked, question) {
		r.asked = append(r.asked, question)
	}
	r.mu.Unlock()
	a, ok := r.answers[question]
	_, name, _ := strings.Cut(question, " ")
	switch {
	case !ok:
		return nil
	case a == never:
		<-ctx.Done()
		return &net.DNSError{Err: string(a), Name: name, IsTimeout: true, IsTemporary: true}
	}
	return &net.DNSError{Err: string(a), Name: name, IsNotFound: a != servFail, IsTemporary: a == servFail}
}

func (r *troubled) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if err := r.ask(ctx, "TXT "+name); err != nil {
		return nil, err
	}
	return r.zone.LookupTXT(ctx, name)
}

func (r *troubled) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	if err := r.ask(ctx, "MX "+name); err != nil {
		return nil, err
	}
	return r.zone.LookupMX(ctx, name)
}

func (r *troubled) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	if err := r.ask(ctx, "PTR "+addr); err != nil {
		return nil, err
	}
	return r.zone.LookupAddr(ctx, addr)
}

func (r *troubled) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if err := r.ask(ctx, "ip "+host); err != nil {
		return nil, err
	}
	return r.zone.LookupIPAddr(ctx, host)
}

func (r *troubled) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if err := r.ask(ctx, network+" "+host); err != nil {
		return nil, err
	}
	return r.zone.LookupNetIP(ctx, network, host)
}

// mail is one transaction, to be judged with one DNS or another.
type mail struct {
	client, helo, from, submitter string
	raw                           string
	lists                         []configs.DNSBLZone
}

func (m *mail) facts(r Resolver) *policy.Facts {
	f := transaction(m.client, m.helo, m.from)
	f.Submitter.Address = m.submitter
	_, f.Submitter.Domain, _ = cutLast(m.submitter, '@')
	f.Rcpt = policy.RcptTo{Address: "you@example.org", Domain: "example.org"}
	set := NewSet(Deps{Resolver: witnessOf(r), Hostname: "mx.example.org", Config: configs.Checks{DNSBL: configs.DNSBLCheck{Zones: m.lists}}}, nil)
	msg := held(m.raw)
	set.Run(context.Background(), policy.Mail, f, Message{}, nil)
	f.Header = HeaderFacts(msg)
	set.Run(context.Background(), policy.Header, f, msg, nil)
	set.Run(context.Background(), policy.Message, f, msg, nil)
	return f
}

// The names that mail is about, and what they may publish. The client is 192.0.2.1.
var (
	troubleDomains = []string{"bank.example", "sub.bank.example", "evil.example", "shop.test"}
	troubleSPF     = []string{
		"", "v=spf1 ip4:192.0.2.1 -all", "v=spf1 -all", "v=spf1 ~all", "v=spf1 ?all", "v=spf1 a:h.%s -all", "v=spf1 mx:%s ~all",
		"v=spf1 include:inc.%s -all", "v=spf1 exists:%%{i}.x.%s -all", "v=spf1 redirect=inc.%s", "v=spf1 -exists:%%{i}.x.%s +all", "v=spf1 +a:h.%s ?all", "v=spf1 nonsense",
		"v=spf1 ptr:%s -all", "v=spf1 -ptr:%s ~all", "spf2.0/pra a:h.%s -all",
	}
	troubleDMARC = []string{
		"", "", "v=DMARC1; p=reject", "v=DMARC1; p=quarantine", "v=DMARC1; p=none", "v=DMARC1; p=reject; adkim=s; aspf=s", "v=DMARC1; p=none; sp=reject",
		"v=DMARC1; p=reject; np=none", "v=DMARC1; p=none; np=reject; psd=n", "v=DMARC1; p=reject; psd=y", "v=DMARC1; p=reject; t=y", "v=DMARC1; p=rejct",
	}
	troubleMX = []string{"", "MX 10 h.%s.", "MX 0 ."}
)

// drawMail makes a message up, and the DNS of everybody it names; lists are names
// that may be listed.
func drawMail(t *rapid.T, signer *dnstest.Signer, lists ...string) (mail, *dnstest.Zone) {
	var zone strings.Builder
	for _, l := range lists {
		if rapid.Bool().Draw(t, l) {
			zone.WriteString(l + ". A 127.0.0.2\n")
		}
	}
	fill := func(format, d string) string {
		if strings.Contains(format, "%s") {
			return fmt.Sprintf(format, d)
		}
		return format
	}
	for _, d := range troubleDomains {
		if txt := rapid.SampledFrom(troubleSPF).Draw(t, "spf of "+d); txt != "" {
			fmt.Fprintf(&zone, "%s. TXT %q\n", d, fill(txt, d))
		}
		if txt := rapid.SampledFrom(troubleDMARC).Draw(t, "dmarc of "+d); txt != "" {
			fmt.Fprintf(&zone, "_dmarc.%s. TXT %q\n", d, txt)
		}
		if rr := rapid.SampledFrom(troubleMX).Draw(t, "mx of "+d); rr != "" {
			fmt.Fprintf(&zone, "%s. %s\n", d, fill(rr, d))
		}
		fmt.Fprintf(&zone, "h.%s. A %s\n", d, rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2"}).Draw(t, "address of "+d))
		if rapid.Bool().Draw(t, "include of "+d) {
			fmt.Fprintf(&zone, "inc.%s. TXT \"v=spf1 ip4:192.0.2.1 ?all\"\n", d)
		}
		if rapid.Bool().Draw(t, "exists of "+d) {
			fmt.Fprintf(&zone, "192.0.2.1.x.%s. A 127.0.0.2\n", d)
		}
		if rapid.Bool().Draw(t, "key of "+d) {
			zone.WriteString(signer.Record(d))
		}
	}
	zone.WriteString("1.2.0.192.in-addr.arpa. PTR h.bank.example.\n1.2.0.192.in-addr.arpa. PTR h.evil.example.\n")
	z, err := dnstest.Parse(zone.String())
	if err != nil {
		t.Fatal(err)
	}
	domain := rapid.SampledFrom(troubleDomains)
	m := mail{client: "192.0.2.1", helo: "h." + domain.Draw(t, "helo")}
	if rapid.IntRange(0, 4).Draw(t, "bounce") > 0 {
		m.from = "x@" + domain.Draw(t, "from")
	}
	if rapid.IntRange(0, 3).Draw(t, "submitter") == 0 {
		m.submitter = "s@" + domain.Draw(t, "submitter")
	}
	header := "From: a@" + domain.Draw(t, "author")
	for range rapid.IntRange(0, 2).Draw(t, "more authors") {
		header += ", b@" + domain.Draw(t, "another")
	}
	if m.submitter != "" && rapid.Bool().Draw(t, "resent") {
		header = "Resent-From: " + m.submitter + "\r\n" + header
	}
	raw := []byte(header + "\r\nSubject: x\r\n\r\nHello.\r\n")
	for range rapid.IntRange(0, 2).Draw(t, "signatures") {
		if raw, err = signer.Sign(raw, domain.Draw(t, "signer")); err != nil {
			t.Fatal(err)
		}
	}
	m.raw = string(raw)
	return m, z
}

// letIn orders verdicts by how well the sender came off.
func letIn(d policy.Disposition) int {
	return map[policy.Disposition]int{policy.DispositionPass: 2, policy.DispositionTag: 1}[d]
}

// No answer that fails to come makes a verdict better than the answer "no" would,
// whichever questions of whichever check they are, and however many.
func TestNoMissingAnswerLetsAnybodyIn(t *testing.T) {
	chain, err := policy.Compile(policy.BuiltIn(), nil)
	if err != nil {
		t.Fatal(err)
	}
	signer := dnstest.NewSigner()
	judge := func(m *mail, z *dnstest.Zone, answers map[string]answer) (policy.Verdict, *policy.Facts, []string) {
		r := &troubled{zone: z, answers: answers}
		f := m.facts(r)
		return chain.Decide(policy.Message, f), f, r.asked
	}
	property := func(t *rapid.T) {
		m, z := drawMail(t, signer)
		_, _, asked := judge(&m, z, nil)
		no, trouble := map[string]answer{}, map[string]answer{}
		// Questions that only come up when others are answered so: a second round finds them.
		for range 2 {
			for _, q := range asked {
				if _, decided := no[q]; decided || !rapid.Bool().Draw(t, "lost "+q) {
					continue
				}
				no[q] = rapid.SampledFrom([]answer{noData, noDomain}).Draw(t, "no "+q)
				trouble[q] = servFail
			}
			_, _, asked = judge(&m, z, no)
		}
		said, sf, _ := judge(&m, z, no)
		missing, mf, _ := judge(&m, z, trouble)
		if letIn(missing.Disposition) > letIn(said.Disposition) {
			t.Fatalf("without an answer: %v by %q, with the answer no: %v by %q\nlost: %v\nwithout: %+v\nno: %+v",
				missing.Disposition, missing.Rule, said.Disposition, said.Rule, trouble, mf, sf)
		}
	}
	rapid.Check(t, property)
}

// What a check says for itself: with an answer missing it says what it would have
// said without that, or temperror, and never pass where "no" were no pass.
func TestAMissingAnswerMakesATemperrorOrNoDifference(t *testing.T) {
	signer := dnstest.NewSigner()
	lists := []configs.DNSBLZone{
		{Zone: "black.example", Weight: 3}, {Zone: "white.example", Weight: -2}, {Zone: "look.example"}, {Zone: "names.example", Of: "iprev", Weight: 1},
	}
	rapid.Check(t, func(t *rapid.T) {
		m, z := drawMail(t, signer, "1.2.0.192.black.example", "1.2.0.192.white.example", "1.2.0.192.look.example", "h.bank.example.names.example")
		m.lists = lists
		r := &troubled{zone: z}
		m.facts(r)
		q := rapid.SampledFrom(r.asked).Draw(t, "question")
		no := m.facts(&troubled{zone: z, answers: map[string]answer{q: rapid.SampledFrom([]answer{noData, noDomain}).Draw(t, "no")}})
		missing := m.facts(&troubled{zone: z, answers: map[string]answer{q: servFail}})
		for _, c := range []struct {
			check       string
			no, missing policy.Result
		}{
			{"spf", no.SPF.Result, missing.SPF.Result},
			{"spf_helo", no.SPFHelo.Result, missing.SPFHelo.Result},
			{"submitter", no.Submitter.Result, missing.Submitter.Result},
			{"pra", no.PRA.Result, missing.PRA.Result},
			{"iprev", no.Iprev.Result, missing.Iprev.Result},
			{"mx", no.MX.Result, missing.MX.Result},
			{"dnsbl", no.DNSBL.Result, missing.DNSBL.Result},
			{"dkim", no.DKIM.Result, missing.DKIM.Result},
			{"dmarc", no.DMARC.Result, missing.DMARC.Result},
		} {
			if c.missing == policy.Pass && c.no != policy.Pass {
				t.Fatalf("%s: %s without an answer to %s, %s if it were no", c.check, c.missing, q, c.no)
			}
		}
		if d, n := missing.DNSBL, no.DNSBL; d.Listed != n.Listed || d.Score != n.Score || d.Result != n.Result && d.Result != policy.TempError {
			t.Fatalf("without an answer to %s: %+v, if it were no: %+v", q, d, n)
		}
		if f := missing; f.DNSBL.Result == policy.None && (strings.HasPrefix(q, "ip4 1.2.0.192.black") || strings.HasPrefix(q, "PTR")) {
			t.Fatalf("%s was not answered, and nobody would know: %+v", q, f.DNSBL)
		}
	})
}

// A fail that was found is not undone by what is never answered: a second author
// whose name servers keep silent, a second list, a second signature. Nor is a pass.
func TestWhatIsFoundIsNotUndoneByATimeOut(t *testing.T) {
	const zone = `
_dmarc.bank.example         TXT "v=DMARC1; p=reject"
evil.example                TXT "v=spf1 ip4:192.0.2.1 -all"
1.2.0.192.black.example     A 127.0.0.2
`
	signer := dnstest.NewSigner()
	z := parseZone(t, zone+signer.Record("good.example"))
	signed := func(header string, domains ...string) string {
		raw := []byte(header + "Subject: x\r\n\r\nHello.\r\n")
		for _, d := range domains {
			var err error
			if raw, err = signer.Sign(raw, d); err != nil {
				t.Fatal(err)
			}
		}
		return string(raw)
	}
	silent := func(questions ...string) *troubled {
		r := &troubled{zone: z, answers: map[string]answer{}}
		for _, q := range questions {
			r.answers[q] = never
		}
		return r
	}
	m := mail{client: "192.0.2.1", helo: "h.evil.example", from: "x@evil.example"}
	synctest.Test(t, func(t *testing.T) {
		for _, authors := range []string{"a@slow.test, ceo@bank.example", "ceo@bank.example, a@slow.test", "a@slow.test, b@slow2.test, x@evil.example, ceo@bank.example"} {
			m.raw = signed("From: " + authors + "\r\n")
			start := time.Now()
			f := m.facts(silent("TXT _dmarc.slow.test", "TXT _dmarc.slow2.test"))
			if f.DMARC != (policy.DMARC{Result: policy.Fail, Policy: "reject", Domain: "bank.example"}) {
				t.Errorf("%s: %+v", authors, f.DMARC)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("%s: waited %v for what made no difference", authors, took)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m.raw = signed("From: ceo@bank.example\r\n")
		m.lists = []configs.DNSBLZone{{Zone: "black.example", Weight: 1}, {Zone: "slow.example", Weight: 1}}
		f := m.facts(silent("ip4 1.2.0.192.slow.example", "TXT _dmarc.evil.example"))
		if !f.DNSBL.Listed || f.DNSBL.Result != policy.Fail {
			t.Errorf("%+v", f.DNSBL)
		}
		if f.DMARC.Result != policy.Fail {
			t.Errorf("%+v", f.DMARC)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m.raw = signed("From: a@good.example\r\n", "good.example", "dead.bank.example")
		f := m.facts(silent("TXT made-up._domainkey.dead.bank.example"))
		if f.DKIM.Result != policy.Pass || !slices.Equal(f.DKIM.Domains, []string{"good.example"}) {
			t.Errorf("%+v", f.DKIM)
		}
		// The other half: the victim is bank.example, and that signature may be its own.
		m.raw = signed("From: ceo@bank.example\r\n", "dead.bank.example")
		f = m.facts(silent("TXT made-up._domainkey.dead.bank.example", "TXT _dmarc.dead.bank.example"))
		if f.DMARC != (policy.DMARC{Result: policy.TempError, Policy: "reject", Domain: "bank.example"}) {
			t.Errorf("%+v", f.DMARC)
		}
	})
}
