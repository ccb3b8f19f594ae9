package checks

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"blitiri.com.ar/go/spf"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
)

// The public suites and our own. `make conformance` puts the lines that this
// prints into its table.
func TestConformance(t *testing.T) {
	suites := []struct {
		name  string
		cases int // so that a suite that is not read in full does not pass
		known deviations
		run   func(*testing.T, *tally, deviations)
	}{
		{"SPF: rfc7208-tests", 203, nil, suiteOf("spf/rfc7208-tests.yml", direct)},
		{"SPF: rfc7208-tests, real resolver", 203, cachedDeviations, suiteOf("spf/rfc7208-tests.yml", cached)},
		{"SPF: rfc4408-tests", 191, nil, suiteOf("spf/rfc4408-tests.yml", direct)},
		{"SPF: mail-auth", 163, stalwartDeviations, runStalwart},
		{"SPF: adapter", 12, nil, suiteOf("spf/adapter-dev.yml", direct)},
		{"SPF, Sender ID: Mail::SPF::Iterator", 9, iteratorDeviations, suiteOf("senderid/mail-spf-iterator-misc.yml", direct)},
		{"Sender ID: records", 29, nil, spf2Of(direct)},
		{"Sender ID: records, real resolver", 29, nil, spf2Of(cached)},
		{"Sender ID: PRA", 36, nil, runPRA},
		{"SUBMITTER: transactions", 8, nil, runSubmitterTransactions},
		{"DNSBL", 11, nil, runDNSBL},
		{"DKIM: chasquid", 11, chasquidDeviations, runChasquidDKIM},
		{"DKIM: mail-auth", 6, nil, runStalwartDKIM},
		{"DKIM: Mail::DKIM", 36, nil, runMailDKIM},
		{"DMARC", 17, dmarcDeviations, runDMARC},
	}
	for _, s := range suites {
		c := tally{suite: s.name}
		t.Run(s.name, func(t *testing.T) { s.run(t, &c, s.known) })
		if c.cases != s.cases {
			t.Errorf("%s: %d cases read, want %d", s.name, c.cases, s.cases)
		}
		if len(c.deviations) != len(s.known) {
			t.Errorf("%s: %d deviations met, %d are listed", s.name, len(c.deviations), len(s.known))
		}
		t.Logf("conformance: %s cases=%d passed=%d deviations=%d", s.name, c.cases, c.passed, len(c.deviations))
		for _, d := range c.deviations {
			t.Logf("conformance deviation: %s: %s", s.name, d)
		}
	}
}

func suiteOf(path string, r func(*testing.T, *dnstest.Zone) Resolver) func(*testing.T, *tally, deviations) {
	return func(t *testing.T, c *tally, known deviations) { runSPFSuite(t, c, path, known, r) }
}

func spf2Of(r func(*testing.T, *dnstest.Zone) Resolver) func(*testing.T, *tally, deviations) {
	return func(t *testing.T, c *tally, known deviations) { runSpf2(t, c, known, r) }
}

// cached asks through the real resolver and its cache, over UDP and TCP on
// loopback. However busy the machine, what is answered is waited for; only what the
// zone never answers has to be in a hurry.
func cached(t *testing.T, z *dnstest.Zone) Resolver {
	addr, stop := z.Serve()
	t.Cleanup(stop)
	asks := func(timeout time.Duration) *dnscache.Resolver {
		r, err := dnscache.New(dnscache.Options{Servers: []string{addr}, Timeout: timeout, Total: 2 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	return served{z, asks(time.Minute), asks(50 * time.Millisecond)}
}

// served asks for what a zone answers patiently, for the rest in a hurry.
type served struct {
	zone           *dnstest.Zone
	patient, hasty *dnscache.Resolver
}

func (s served) by(err error) *dnscache.Resolver {
	if de := new(net.DNSError); errors.As(err, &de) && de.IsTimeout {
		return s.hasty
	}
	return s.patient
}

func (s served) LookupTXT(ctx context.Context, name string) ([]string, error) {
	_, err := s.zone.LookupTXT(ctx, name)
	return s.by(err).LookupTXT(ctx, name)
}

func (s served) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	_, err := s.zone.LookupMX(ctx, name)
	return s.by(err).LookupMX(ctx, name)
}

func (s served) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	_, err := s.zone.LookupIPAddr(ctx, host)
	return s.by(err).LookupIPAddr(ctx, host)
}

func (s served) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	_, err := s.zone.LookupAddr(ctx, addr)
	return s.by(err).LookupAddr(ctx, addr)
}

func (s served) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	_, err := s.zone.LookupNetIP(ctx, network, host)
	return s.by(err).LookupNetIP(ctx, network, host)
}

const noSuchHosts = "the MX host has a colon and a slash in its name: the resolver hands out host names alone, for they end up in header fields and logs"

var cachedDeviations = deviations{
	"mx-colon-domain":           noSuchHosts,
	"mx-colon-domain-ip4mapped": noSuchHosts,
}

var stalwartDeviations = deviations{
	"all.yml/All test/1":             "a syntax error behind all is a permerror all the same (RFC 7208 §4.6; detect-errors-anywhere of rfc7208-tests)",
	"basic.yml/DNS Lookup Limits/9":  "its targets do not exist: more than two void look-ups are a permerror (RFC 7208 §4.6.4)",
	"basic.yml/DNS Lookup Limits/14": "eleven MX are a permerror, whichever of them would match (RFC 7208 §4.6.4; mx-limit of rfc7208-tests)",
	"exists.yml/Exists/2":            "exists: asks for A whatever the client is, and there are only AAAA (RFC 7208 §5.7)",
	"ip.yml/IPv6 match/11":           "an IPv4 client never matches ip6:, mapped or not (RFC 7208 §5; cidr6-ip4 of rfc7208-tests)",
	"macro.yml/Macro expansion 2/4":  "exists: asks for A whatever the client is, and there are only AAAA (RFC 7208 §5.7)",
}

const mailFromReadsSPF1 = "MAIL FROM is judged by RFC 7208, which knows v=spf1 alone; spf2.0/mfrom went with RFC 4406"

var iteratorDeviations = deviations{
	"sender-id":             mailFromReadsSPF1,
	"sender-id-pick-mfrom1": mailFromReadsSPF1,
	"sender-id-pick-mfrom2": mailFromReadsSPF1,
}

var chasquidDeviations = deviations{
	"02-too_many_headers": "its limit is 5 signatures, ours 8: it has 7 good ones",
	"09-limited_body":     "a signature with l= leaves room for what others add (RFC 6376 §8.2): neutral; the two without it pass",
}

var dmarcDeviations = deviations{
	"pct-0": "RFC 9989 has no pct (appendix A.6): the policy applies",
}

// The spf package by itself deviates where its list says, no more and no less:
// so that a new version of it is noticed, either way. What it lacks is what
// evaluation adds.
func TestTheBareLibraryDeviatesAsListed(t *testing.T) {
	var list struct {
		Deviations []struct {
			Test string
			Got  string
		}
	}
	readJSON(t, "spf/blitiri-1.6.0-deviations.json", &list)
	want := map[string]string{}
	for _, d := range list.Deviations {
		want[d.Test] = d.Got
	}
	for _, s := range readSuite(t, "spf/rfc7208-tests.yml") {
		for _, tc := range s.cases {
			sender := tc.mailFrom
			if sender == "" {
				sender = "postmaster@" + tc.helo
			}
			got, _ := spf.CheckHostWithSender(net.ParseIP(tc.host), tc.helo, sender, spf.WithContext(t.Context()), spf.WithResolver(s.zone))
			listed, ok := want[tc.name]
			delete(want, tc.name)
			switch good := slices.Contains(tc.results, string(got)); {
			case ok && string(got) != listed:
				t.Errorf("%s: the library says %s, listed is %s", tc.name, got, listed)
			case !ok && !good:
				t.Errorf("%s: the library says %s, and that is not listed", tc.name, got)
			}
		}
	}
	for name := range want {
		t.Errorf("%s is listed and no test", name)
	}
}
