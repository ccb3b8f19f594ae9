package checks

import (
	"strings"
	"testing"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
)

// asking is a message for every check of the built-in set, each of which has questions that
// others have as well.
type asking struct {
	name, zone           string
	helo, from, submit   string
	author, signedBy     string
	spf, iprev, mx, list policy.Result // what is found, so that the questions were asked
	pra, dkim, dmarc     policy.Result
	missing              string // a name that does not exist
	queries              int    // of the cold message, at the most
}

const askedZone = `
example.          SOA ns.example. hostmaster.example. 1 3600 600 86400 300
d.example.        TXT "v=spf1 include:inc.example a:mx.d.example mx ptr:d.example ?all"
inc.example.      TXT "v=spf1 exists:%{i}.who.example -all"
d.example.        MX  10 mx.d.example.
mx.d.example.     A   192.0.2.99
1.2.0.192.in-addr.arpa. PTR client.d.example.
client.d.example. A   192.0.2.1
client.d.example. TXT "v=spf1 a -all"
_dmarc.d.example. TXT "v=DMARC1; p=reject; np=quarantine"
1.2.0.192.bl.example. A 127.0.0.2
client.d.example.rhs.example. A 127.0.0.2
`

// No answer is fetched twice for one message, whichever checks want it, and when: with a
// cold cache, with answers that are for one use (TTL 0), with names that do not exist. What
// is asked ahead is one of these questions and no other.
func TestNoAnswerIsFetchedTwiceForAMessage(t *testing.T) {
	signer := dnstest.NewSigner()
	zone := askedZone + signer.Record("d.example")
	cases := []asking{
		{
			name: "all of one domain", zone: zone, helo: "client.d.example", from: "a@d.example", submit: "a@d.example", author: "a@d.example", signedBy: "d.example",
			spf: policy.Pass, iprev: policy.Pass, mx: policy.Pass, list: policy.Fail, pra: policy.Pass, dkim: policy.Pass, dmarc: policy.Pass, queries: 14,
		},
		{
			name: "author below it", zone: zone, helo: "client.d.example", from: "", submit: "b@d.example", author: "a@sub.d.example", signedBy: "d.example",
			spf: policy.Pass, iprev: policy.Pass, mx: policy.None, list: policy.Fail, pra: policy.Fail, dkim: policy.Pass, dmarc: policy.Pass, missing: "sub.d.example", queries: 17,
		},
		{
			name: "nothing exists", zone: "example. SOA ns.example. hostmaster.example. 1 3600 600 86400 300\n", helo: "nx.example", from: "a@nx.example", submit: "a@nx.example", author: "a@nx.example",
			spf: policy.None, iprev: policy.PermError, mx: policy.PermError, list: policy.None, pra: policy.Fail, dkim: policy.None, dmarc: policy.None, missing: "nx.example", queries: 7,
		},
	}
	for _, c := range cases {
		for _, ttl := range []string{"300", "0"} {
			t.Run(c.name+", TTL "+ttl, func(t *testing.T) { c.run(t, signer, ttl) })
		}
	}
}

// once makes the records of a zone such as may be kept for so long, that there are none as well.
func (c *asking) once(ttl string) string {
	zone := strings.ReplaceAll(c.zone, " 86400 300\n", " 86400 "+ttl+"\n")
	for _, rrtype := range []string{" SOA ", " TXT ", " MX ", " A ", " PTR "} {
		zone = strings.ReplaceAll(zone, rrtype, " "+ttl+rrtype)
	}
	return zone
}

func (c *asking) run(t *testing.T, signer *dnstest.Signer, ttl string) {
	z := parseZone(t, c.once(ttl))
	set := NewSet(Deps{Resolver: resolverOf(t, z), Config: configs.Checks{
		Submitter: configs.SubmitterCheck{Match: "address"},
		DNSBL:     configs.DNSBLCheck{Zones: []configs.DNSBLZone{{Zone: "bl.example", Weight: 1}, {Zone: "rhs.example", Weight: 1, Of: "iprev"}, {Zone: "dom.example", Weight: 1, Of: "mail_from"}, {Zone: "dom.example", Weight: 1, Of: "helo"}}},
	}}, nil)
	raw := []byte("From: " + c.author + "\r\nSubject: x\r\n\r\nText\r\n")
	if c.signedBy != "" {
		var err error
		if raw, err = signer.Sign(raw, c.signedBy); err != nil {
			t.Fatal(err)
		}
	}
	f := transaction("192.0.2.1", c.helo, c.from)
	f.Submitter.Address = c.submit
	_, f.Submitter.Domain, _ = strings.Cut(c.submit, "@")
	ctx := dnscache.WithTransaction(t.Context(), new(dnscache.Transaction))
	msg := held(string(raw))
	missed := 0 // questions for the name that does not exist, when the first had been answered
	for st := policy.Connect; st <= policy.Message; st++ {
		if st == policy.Header {
			f.Header = HeaderFacts(msg)
		}
		if st == policy.Mail {
			set.Expect(ctx, f.Client)
		}
		set.Run(ctx, st, f, msg, nil)
		n := 0
		for _, rrtype := range []string{"TXT", "MX", "A", "AAAA"} {
			n += z.Asked(c.missing, rrtype)
		}
		// Two types may be asked for at the same time: neither is known then.
		if missed > 0 && n > missed {
			t.Errorf("at %s: %s was asked for again, though it does not exist", st, c.missing)
		}
		missed = n
	}
	for _, r := range []struct {
		check     string
		got, want policy.Result
	}{
		{"spf", f.SPF.Result, c.spf}, {"iprev", f.Iprev.Result, c.iprev}, {"mx", f.MX.Result, c.mx}, {"dnsbl", f.DNSBL.Result, c.list},
		{"pra", f.PRA.Result, c.pra}, {"dkim", f.DKIM.Result, c.dkim}, {"dmarc", f.DMARC.Result, c.dmarc},
	} {
		if r.got != r.want {
			t.Errorf("%s: %s, want %s", r.check, r.got, r.want)
		}
	}
	if again := z.Repeated(); again != nil {
		t.Errorf("asked more than once: %q", again)
	}
	if n := z.Queries(); n > c.queries {
		t.Errorf("%d questions, want %d at the most", n, c.queries)
	}
}
