package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/checks/dnscache"
	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// site is a patient with a DNS, a certificate and a web server of its own.
type site struct {
	*patient
	zone *dnstest.Zone
	key  *ecdsa.PrivateKey
	page string // of the policy
	kind string // of the page
	code int
	to   string // a redirect
}

// newSite makes one whose records are those of the zone; KEYHASH in it is that of the key served.
func newSite(t *testing.T, zone, more string) *site {
	t.Helper()
	s := &site{kind: "text/plain; charset=utf-8", code: http.StatusOK}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	leaf := issued(t, "mx.example.org", 90, s.key, nil, nil)
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: leaf.Raw}, "key.pem": {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hash := fmt.Sprintf("%x", sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
	if s.zone, err = dnstest.Parse(strings.ReplaceAll(zone, "KEYHASH", hash)); err != nil {
		t.Fatal(err)
	}
	address, stop := s.zone.Serve()
	t.Cleanup(stop)
	file := filepath.Join(dir, "postern.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
hostname: mx.example.org
listeners: [{name: mx, address: "127.0.0.1:0", tls: starttls}]
tls: {certificates: [{certificate: cert.pem, key: key.pem}]}
dns: {servers: [%q], timeout: 2s}
%s`, address, more), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.patient, err = newPatient(configs.Options{File: file, NoEnvironment: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(nil) })

	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "mta-sts.example.org" || r.URL.Path != policyPath {
			t.Errorf("asked for https://%s%s", r.Host, r.URL.Path)
		}
		if s.to != "" {
			http.Redirect(w, r, s.to, http.StatusFound)
			return
		}
		w.Header().Set("Content-Type", s.kind)
		w.WriteHeader(s.code)
		_, _ = io.WriteString(w, s.page)
	}))
	t.Cleanup(web.Close)
	// As the real client, but that the name leads to this server, whose certificate is for another.
	transport := web.Client().Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, web.Listener.Addr().String())
	}
	transport.TLSClientConfig.ServerName = "example.com"
	s.web.Transport = transport
	return s
}

// told is what the examination of the domains says, a line each.
func (s *site) told(t *testing.T) string {
	t.Helper()
	var r Report
	s.domains(t.Context(), &r)
	return said(r.Findings)
}

const soundZone = `
example.org.             MX   10 mx.example.org.
example.org.             TXT  "v=spf1 mx -all"
_dmarc.example.org.      TXT  "v=DMARC1; p=reject"
_mta-sts.example.org.    TXT  "v=STSv1; id=20261130;"
mx.example.org.          A    192.0.2.25
_25._tcp.mx.example.org. TLSA 3 1 1 KEYHASH
`

const soundPolicy = "version: STSv1\r\nmode: testing\r\nmx: mx.example.org\r\nmax_age: 604800\r\n"

func wants(t *testing.T, what, got string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(got, line) {
			t.Errorf("%s: it does not say %q:\n%s", what, line, got)
		}
	}
}

func TestDomainsThatAreSound(t *testing.T) {
	s := newSite(t, soundZone, "")
	s.zone.SetAuthentic(true)
	s.page = strings.Replace(soundPolicy, "testing", "none", 1) // the certificate has no public root
	wants(t, "sound", s.told(t),
		"ok mail for example.org goes to mx.example.org",
		"ok example.org has an MTA-STS policy of mode none",
		"ok example.org has an SPF record, DMARC with p=reject, and 0 DKIM keys",
		"ok the TLSA record of mx.example.org (3 1 1 ",
	)
}

func TestTheDomainsOfRoutesAreLookedAt(t *testing.T) {
	s := newSite(t, soundZone+`
other.example. MX 10 elsewhere.example.
other.example. TXT "v=spf1 inclde:x.example -all"
`, `
backends: [{name: mta, addresses: ["127.0.0.1:9"], tls: "off"}]
routes: [{recipients: ["Other.example", "*.example.net", "abuse@third.example"], backend: mta}]
policy: {rules: [{name: strict, when: 'spf.result == "permerror"', do: reject}]}
`)
	s.page = soundPolicy
	wants(t, "routes", s.told(t),
		"warning mail for other.example goes to elsewhere.example, and not to mx.example.org",
		"fault the SPF record of other.example is broken",
		"and rule strict refuses what comes under its name",
		"warning other.example has no DMARC record",
		"warning third.example has no MX record",
		"warning third.example has no SPF record",
		"mail for example.org goes to mx.example.org",
	)
	if got := s.told(t); strings.Contains(got, "example.net") {
		t.Errorf("a pattern is looked up:\n%s", got)
	}
}

func TestOwnMailThatWouldBeRefused(t *testing.T) {
	s := newSite(t, strings.NewReplacer("v=spf1 mx -all", "v=spf1 ip4:198.51.100.1 -all", `"v=DMARC1; p=reject"`, `"v=DMARC1; p=refuse"`).Replace(soundZone)+`
gone._domainkey.example.org. TXT "v=DKIM1; p="
`, "")
	s.page = soundPolicy
	wants(t, "records", s.told(t),
		"warning unsigned mail of example.org from this machine's own address 192.0.2.25 would be refused by rule spf-fail",
		"warning _dmarc.example.org: the record cannot be read",
	)
	var r Report
	s.ownMail(t.Context(), &r, "example.org", []string{"gone", "lost"})
	wants(t, "keys", said(r.Findings), "warning gone._domainkey.example.org: key was revoked", "warning lost._domainkey.example.org has no key")
	rec := journal.Record{}
	rec.Facts.DKIM.Signatures = []policy.DKIMSignature{{Domain: "example.org", Selector: "s1"}, {Domain: "example.org", Selector: "s1"}, {Domain: "example.net", Selector: "s2"}}
	if got := selectorsOf([]journal.Record{rec, rec}, "example.org"); len(got) != 1 || got[0] != "s1" {
		t.Errorf("selectors %q", got)
	}
}

func TestTransportPolicyIsComparedWithWhatIsServed(t *testing.T) {
	s := newSite(t, soundZone, "")
	for _, c := range []struct {
		what, page string
		set        func()
		want       []string
	}{
		{"a policy in force and a certificate of one's own", strings.Replace(soundPolicy, "testing", "enforce", 1), nil, []string{"fault example.org has an MTA-STS policy of mode enforce, and the certificate of mx.example.org has no chain"}},
		{"the same, only tested", soundPolicy, nil, []string{"warning example.org has an MTA-STS policy of mode testing, and the certificate of mx.example.org has no chain"}},
		{"another host", strings.Replace(soundPolicy, "mx: mx.", "mx: *.mail.", 1), nil, []string{"warning the MTA-STS policy of example.org (mode testing) does not name its MX host mx.example.org, but *.mail.example.org"}},
		{"a short life", strings.Replace(soundPolicy, "604800", "60", 1), nil, []string{"kept by senders for 60 s only"}},
		{"no version", strings.Replace(soundPolicy, "STSv1", "STSv2", 1), nil, []string{"that cannot be fetched: it does not say version: STSv1"}},
		{"no mode", strings.Replace(soundPolicy, "testing", "strict", 1), nil, []string{`mode "strict" is none of`}},
		{"no lines of mx", "version: STSv1\nmode: enforce\nmax_age: 1\n", nil, []string{"no line mx"}},
		{"too long", strings.Repeat("# x: y\n", 20000), nil, []string{"more than 64 KiB"}},
		{"a page of HTML", soundPolicy, func() { s.kind = "text/html" }, []string{`served as "text/html"`}},
		{"not there", soundPolicy, func() { s.code = http.StatusNotFound }, []string{"the answer is 404"}},
		{"a redirect", soundPolicy, func() { s.to = "https://elsewhere.example/policy" }, []string{"the answer is 302"}},
	} {
		s.page, s.kind, s.code, s.to = c.page, "text/plain", http.StatusOK, ""
		if c.set != nil {
			c.set()
		}
		wants(t, c.what, s.told(t), c.want...)
	}
	// The real client trusts nobody but public roots.
	s.web = s.webClient()
	s.web.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
	}
	s.web.Timeout = time.Second
	wants(t, "nobody answers", s.told(t), "announces an MTA-STS policy that cannot be fetched")
}

func TestPatternsOfAPolicy(t *testing.T) {
	p := transportPolicy{mx: []string{"mx.example.org", "*.mail.example.org"}}
	for host, want := range map[string]bool{
		"mx.example.org": true, "MX.example.org.": true, "a.mail.example.org": true,
		"mail.example.org": false, "b.a.mail.example.org": false, "amail.example.org": false, "": false,
	} {
		if p.names(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

func TestDANE(t *testing.T) {
	s := newSite(t, soundZone, "")
	s.page = soundPolicy
	wants(t, "no AD", s.told(t), "warning mx.example.org has 1 TLSA record, and the resolver does not say (AD) that they are signed")
	s.zone.SetAuthentic(true)
	wants(t, "AD", s.told(t), "ok the TLSA record of mx.example.org (3 1 1 ")

	leaf := certificatesOf(s.Certificates.Served("mx.example.org"))[0]
	sum := sha256.Sum256(leaf.Raw)
	other := sha256.Sum256([]byte("another"))
	for _, c := range []struct {
		what    string
		records []dnscache.TLSA
		want    string
	}{
		{"another key", []dnscache.TLSA{{Usage: 3, Selector: 1, Matching: 1, Data: other[:]}}, "fault no TLSA record of mx.example.org (3 1 1 "},
		{"the next key and this one", []dnscache.TLSA{{Usage: 3, Selector: 1, Matching: 1, Data: other[:]}, {Usage: 3, Matching: 1, Data: sum[:]}}, "ok the TLSA record of mx.example.org (3 0 1 "},
		{"the whole certificate", []dnscache.TLSA{{Usage: 3, Data: leaf.Raw}}, "ok "},
		{"for the web", []dnscache.TLSA{{Usage: 1, Matching: 1, Data: sum[:]}}, "warning the signed TLSA records of mx.example.org"},
		{"cut off", []dnscache.TLSA{{Usage: 3, Matching: 1, Data: sum[:5]}}, "warning the signed TLSA records of mx.example.org"},
		{"its own authority", []dnscache.TLSA{{Usage: 2, Matching: 1, Data: sum[:]}}, "ok "},
	} {
		var r Report
		judgeTLSA(r.on("dane", "", ""), c.records, s.Certificates.Served("mx.example.org"), "mx.example.org")
		wants(t, c.what, said(r.Findings), c.want)
	}
	var r Report
	judgeTLSA(r.on("dane", "", ""), []dnscache.TLSA{{Usage: 3, Data: leaf.Raw}}, (*tls.Certificate)(nil), "mx.example.org")
	wants(t, "nothing is served", said(r.Findings), "fault ")
}

func FuzzTransportPolicy(f *testing.F) {
	f.Add(soundPolicy)
	f.Add("version: STSv1\nmode: enforce\nmx: *.example\nmax_age: 1\n\n")
	f.Add("version:STSv1\n:\nmx\x00: a")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseTransportPolicy(text)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if p != nil && (len(p.mx) > maxPatterns || p.maxAge < 0 || p.maxAge > maxPolicyAge || p.mode == "enforce" && len(p.mx) == 0) {
			t.Fatalf("%+v", p)
		}
	})
}
