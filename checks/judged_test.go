package checks

import (
	"context"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"postern/checks/dnstest"
	"postern/checks/memo"
	"postern/policy"
)

// changing is a resolver whose zone is another one now and then.
type changing struct{ zone *dnstest.Zone }

func (c *changing) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return c.zone.LookupTXT(ctx, name)
}

func (c *changing) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return c.zone.LookupMX(ctx, name)
}

func (c *changing) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return c.zone.LookupAddr(ctx, addr)
}

func (c *changing) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return c.zone.LookupIPAddr(ctx, host)
}

func (c *changing) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return c.zone.LookupNetIP(ctx, network, host)
}

// drawZone draws what the DNS says just now of two domains, of what is above them and of the
// client.
func drawZone(t *rapid.T, signer, other *dnstest.Signer) string {
	var text strings.Builder
	one := func(name string, records ...string) {
		switch of := rapid.SampledFrom(append(records, "", "")).Draw(t, name); of {
		case "":
		case "SERVFAIL":
			text.WriteString("; SERVFAIL " + name + "\n")
		default:
			for line := range strings.SplitSeq(of, "\n") {
				text.WriteString(name + ". " + line + "\n")
			}
		}
	}
	for _, domain := range []string{"d.example", "sub.d.example", "client.example"} {
		one(domain, `TXT "v=spf1 ip4:192.0.2.1 -all"`, `TXT "v=spf1 ip4:192.0.2.2 ~all"`, `TXT "v=spf1 include:d.example mx ?all"`, `TXT "v=spf1 moo"`,
			"MX 10 mx.example.\nTXT \"spf2.0/pra +all\"", "MX 0 .", "A 192.0.2.1\nTXT \"v=spf1 a exp=why.example -all\"", "SERVFAIL")
		one("_dmarc."+domain, `TXT "v=DMARC1; p=reject"`, `TXT "v=DMARC1; p=none; sp=reject; np=quarantine"`, `TXT "v=DMARC1; p=quarantine; adkim=s; aspf=s; t=y"`,
			"TXT \"v=DMARC1; p=reject\"\nTXT \"v=DMARC1; p=none\"", `TXT "v=DMARC1; p=x"`, `TXT "v=DMARC1; p=reject; psd=n"`, "SERVFAIL")
		switch rapid.IntRange(0, 4).Draw(t, "key of "+domain) {
		case 0, 1:
			text.WriteString(signer.Record(domain))
		case 2:
			text.WriteString(other.Record(domain))
		case 3:
			text.WriteString(strings.Replace(signer.Record(domain), "p=", "t=s; h=sha1; p=", 1))
		}
	}
	one("_dmarc.example", `TXT "v=DMARC1; p=reject; psd=y"`, `TXT "v=DMARC1; p=none"`, "SERVFAIL")
	one("why.example", `TXT "%{s} may not"`)
	one("1.2.0.192.in-addr.arpa", "PTR client.example.", "PTR d.example.\nPTR client.example.", "SERVFAIL")
	return text.String()
}

// Whatever was judged before, of whomever, with whatever the DNS said then: checks that
// remember say what checks say that were made this moment, each with the same reason,
// domain and explanation.
func TestWhatWasJudgedBeforeIsJudgedTheSame(t *testing.T) {
	signer, other := dnstest.NewSigner(), dnstest.NewSigner()
	mails := map[string]string{}
	for _, from := range []string{"d.example", "sub.d.example"} {
		raw := "From: a@" + from + "\r\nSubject: x\r\nTo: b@example.net\r\n\r\nText\r\n"
		mails[from+" unsigned"] = raw
		for _, by := range []string{"d.example", "sub.d.example"} {
			signed, err := signer.Sign([]byte(raw), by)
			if err != nil {
				t.Fatal(err)
			}
			mails[from+" signed by "+by] = string(signed)
		}
	}
	names := []string{"d.example unsigned", "d.example signed by d.example", "d.example signed by sub.d.example", "sub.d.example unsigned", "sub.d.example signed by d.example", "sub.d.example signed by sub.d.example"}
	known, dmarc := 0, map[policy.Result]int{}
	rapid.Check(t, func(t *rapid.T) {
		zones := make([]*dnstest.Zone, 2)
		for i := range zones {
			z, err := dnstest.Parse(drawZone(t, signer, other))
			if err != nil {
				t.Fatal(err)
			}
			zones[i] = z
		}
		r := &changing{}
		remembering := NewSet(Deps{Resolver: witnessOf(r)}, nil)
		for range rapid.IntRange(2, 8).Draw(t, "messages") {
			r.zone = zones[rapid.IntRange(0, len(zones)-1).Draw(t, "zone")]
			from := rapid.SampledFrom([]string{"a@d.example", "b@sub.d.example", ""}).Draw(t, "from")
			raw := mails[rapid.SampledFrom(names).Draw(t, "mail")]
			judge := func(set *Set) *policy.Facts {
				f := transaction("192.0.2.1", "client.example", from)
				set.Run(t.Context(), policy.Mail, f, Message{}, nil)
				msg := held(raw)
				f.Header = HeaderFacts(msg)
				set.Run(t.Context(), policy.Header, f, msg, nil)
				set.Run(t.Context(), policy.Message, f, msg, nil)
				return f
			}
			want := judge(NewSet(Deps{Resolver: r}, nil))
			if _, ok := remembering.deps.judged.dmarc.Known(t.Context(), r, alignmentOf(want)); ok {
				known++
			}
			if got := judge(remembering); !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v\nwant %+v", got, want)
			}
			dmarc[want.DMARC.Result]++
		}
	})
	if known == 0 || len(dmarc) < 4 {
		t.Errorf("known %d times; results of DMARC: %v", known, dmarc)
	}
}

// alignmentOf is by what the evaluation of DMARC is remembered.
func alignmentOf(f *policy.Facts) aligning {
	ids, unread := identifiersOf(f, nil)
	of := aligning{author: f.Header.FromDomain, count: len(ids), unread: unread, refusedBySPF: f.SPF.Result == policy.Fail}
	copy(of.ids[:], ids)
	return of
}

// What is known of a message is what it is judged by: no more is found out.
func TestWhatIsKnownIsTaken(t *testing.T) {
	z := parseZone(t, `_dmarc.d.example. TXT "v=DMARC1; p=reject"`)
	d := Deps{Resolver: z, judged: newJudgements()}
	f := transaction("192.0.2.1", "client.example", "a@d.example")
	f.Header.FromDomain = "d.example"
	if got := dmarcOf(t.Context(), d, f, "d.example"); got.Policy != "reject" {
		t.Fatalf("%+v", got)
	}
	// As no reading of the record could have it.
	marked, w := policy.DMARC{Result: policy.Neutral}, memo.NewWitness(z)
	_, _ = w.LookupTXT(t.Context(), "_dmarc.d.example")
	d.judged.dmarc.Keep(alignmentOf(f), marked, 0, w)
	if got := dmarcOf(t.Context(), d, f, "d.example"); got != marked {
		t.Errorf("%+v: judged once more", got)
	}
	z.Replace(parseZone(t, `_dmarc.d.example. TXT "v=DMARC1; p=quarantine"`))
	if got := dmarcOf(t.Context(), d, f, "d.example"); got.Policy != "quarantine" {
		t.Errorf("%+v, by a record that is gone", got)
	}
}

// A record that changes counts with the next message, and so does a key.
func TestARecordThatChangesCountsAtOnce(t *testing.T) {
	signer := dnstest.NewSigner()
	signed, err := signer.Sign([]byte("From: a@sub.d.example\r\n\r\nText\r\n"), "d.example")
	if err != nil {
		t.Fatal(err)
	}
	r := &changing{}
	set := NewSet(Deps{Resolver: r}, nil)
	strict := "_dmarc.d.example. TXT \"v=DMARC1; p=reject; adkim=s\"\n"
	relaxed := "_dmarc.d.example. TXT \"v=DMARC1; p=reject\"\n"
	own := "_dmarc.sub.d.example. TXT \"v=DMARC1; p=quarantine; adkim=s\"\n"
	for _, step := range []struct {
		zone   string
		result policy.Result
		policy string
	}{
		{relaxed + signer.Record("d.example"), policy.Pass, "reject"},
		{strict + signer.Record("d.example"), policy.Fail, "reject"},
		{relaxed + signer.Record("d.example"), policy.Pass, "reject"},
		{relaxed + dnstest.NewSigner().Record("d.example"), policy.Fail, "reject"},
		{relaxed + own + signer.Record("d.example"), policy.Fail, "quarantine"},
		{"; SERVFAIL _dmarc.sub.d.example\n" + relaxed + signer.Record("d.example"), policy.TempError, ""},
		{relaxed, policy.Fail, "reject"},
		{signer.Record("d.example"), policy.None, ""},
	} {
		r.zone = parseZone(t, step.zone)
		for range 2 {
			f := transaction("192.0.2.1", "client.example", "u@elsewhere.example")
			msg := held(string(signed))
			f.Header = HeaderFacts(msg)
			if set.Run(t.Context(), policy.Message, f, msg, nil); f.DMARC.Result != step.result || f.DMARC.Policy != step.policy {
				t.Errorf("%s: %+v after %+v", step.zone, f.DMARC, f.DKIM)
			}
		}
	}
}
