package trial

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"postern/checks/dnstest"
	"postern/cmd/postern/service"
	"postern/configs"
	"postern/policy"
)

// testFile is a file of tests. The rules are those of a configuration, those
// that stand in the file itself, or the built-in ones.
type testFile struct {
	Policy    string             `yaml:"policy" path:"file"`        // a configuration
	BuiltIn   string             `yaml:"builtin" words:"after off"` // as in a configuration
	Let       []configs.Let      `yaml:"let"`
	Rules     []configs.Rule     `yaml:"rules"`
	Lists     []configs.List     `yaml:"lists"` // in place of those of the same name
	Overrides []configs.Override `yaml:"overrides"`
	Now       string             `yaml:"now"`  // the day that lists and overrides see; empty: today
	Zone      string             `yaml:"zone"` // a zone as dnstest.Parse reads it
	ZoneFile  string             `yaml:"zone_file" path:"file"`
	Defaults  testCase           `yaml:"defaults"` // what cases do not say
	Cases     []testCase         `yaml:"cases"`

	ZonePosition configs.Position `yaml:"-"`

	file string
}

// testCase is one session and what should come of it.
type testCase struct {
	Name        string          `yaml:"name"`
	Listener    string          `yaml:"listener"` // it connects to; empty: the first
	Client      string          `yaml:"client"`   // its address
	StartTLS    bool            `yaml:"starttls"`
	Certificate testCertificate `yaml:"certificate"`
	Helo        string          `yaml:"helo"`
	MailFrom    string          `yaml:"mail_from"` // <> is the null reverse-path
	Submitter   string          `yaml:"submitter"`
	Rcpt        []string        `yaml:"rcpt"`
	Header      string          `yaml:"header"` // of the message; a body is made up
	Message     string          `yaml:"message"`
	MessageFile string          `yaml:"message_file" path:"file"`
	Sign        []string        `yaml:"sign"`    // domains that sign it, with a key that is in the zone
	Network     caseNetwork     `yaml:"network"` // to which the client's address belongs
	Service     []caseService   `yaml:"service"` // what policy services answer
	Milter      []caseMilter    `yaml:"milter"`  // what milters say of the message
	Past        casePast        `yaml:"past"`    // what is remembered of the sender
	Rate        caseRate        `yaml:"rate"`
	Hold        caseHold        `yaml:"hold"` // whether this mail was held before
	State       caseState       `yaml:"state"`
	Expect      expectation     `yaml:"expect"`

	Position            configs.Position `yaml:"-"`
	ClientPosition      configs.Position `yaml:"-"`
	MessageFilePosition configs.Position `yaml:"-"`
}

// testCertificate is what the client shows in the TLS handshake.
type testCertificate struct {
	Names    []string `yaml:"names"`
	Verified bool     `yaml:"verified"` // it is signed by those whom the configuration trusts
}

// expectation is what should come; what is not said may be anything.
type expectation struct {
	Disposition string   `yaml:"disposition"`
	Rule        string   `yaml:"rule"` // none: no rule matched
	Stage       string   `yaml:"stage"`
	Reply       string   `yaml:"reply"`   // or the words that it begins with
	Tags        []string `yaml:"tags"`    // all of them; []: there are none
	Refused     []string `yaml:"refused"` // the recipients that were refused at RCPT

	Position configs.Position `yaml:"-"`
}

// noRule says that no rule matched. It is no name that a rule would have.
const noRule = "none"

// The session of a case that says nothing. Names under .example are nobody's.
var plainCase = testCase{Client: "192.0.2.1", Helo: "client.example", MailFrom: "someone@client.example", Rcpt: []string{"you@example.org"}}

// readTestFile reads a file of tests and fills in what its cases leave out.
func readTestFile(file string, src []byte) (*testFile, error) {
	t := &testFile{file: file, BuiltIn: configs.BuiltInAfter}
	if err := configs.Decode(file, src, t); err != nil {
		return nil, err
	}
	var faults configs.Faults
	fault := func(at configs.Position, format string, args ...any) {
		faults = append(faults, &configs.Fault{Position: at, Text: fmt.Sprintf(format, args...)})
	}
	if len(t.Cases) == 0 {
		fault(configs.Position{File: file, Line: 1, Column: 1}, "there are no cases")
	}
	if t.Policy != "" && (t.Rules != nil || t.Let != nil || t.BuiltIn != configs.BuiltInAfter) {
		fault(configs.Position{File: file, Line: 1, Column: 1}, "the rules are in the file that policy names, or here, not both")
	}
	if _, err := t.day(); err != nil {
		fault(configs.Position{File: file, Line: 1, Column: 1}, "now: %q is no date: write it as 2027-03-01", t.Now)
	}
	if t.Defaults.Name != "" || !t.Defaults.Expect.empty() {
		fault(t.Defaults.Position, "defaults: a name and what is expected belong to a case")
	}
	t.Defaults.fill(&plainCase)
	names := map[string]bool{}
	for i := range t.Cases {
		c := &t.Cases[i]
		switch {
		case c.Name == "":
			fault(c.Position, "the case has no name")
		case names[c.Name]:
			fault(c.Position, "there is already a case %q", c.Name)
		}
		names[c.Name] = true
		if c.Expect.empty() {
			fault(c.Position, "case %q expects nothing, so it cannot fail: expect: {disposition: reject}", c.Name)
		}
		if _, ok := policy.ParseDisposition(c.Expect.Disposition); !ok && c.Expect.Disposition != "" {
			fault(c.Expect.Position, "disposition: %q is none of pass, tag, defer, reject", c.Expect.Disposition)
		}
		if _, ok := policy.ParseStage(c.Expect.Stage); !ok && c.Expect.Stage != "" {
			fault(c.Expect.Position, "stage: %q is none of connect, helo, mail, rcpt, header, message", c.Expect.Stage)
		}
		c.fill(&t.Defaults)
		for _, m := range c.Milter {
			if !slices.Contains(policy.MilterActions(), m.Action) {
				fault(m.Position, "milter: action: %q is none of %s", m.Action, strings.Join(policy.MilterActions(), ", "))
			}
		}
		for _, s := range c.Service {
			if !slices.Contains(policy.ServiceActions(), s.Action) {
				fault(s.Position, "service: action: %q is none of %s", s.Action, strings.Join(policy.ServiceActions(), ", "))
			}
		}
		if _, err := netip.ParseAddr(c.Client); err != nil {
			fault(c.ClientPosition, "client: %q is no IP address", c.Client)
		}
		m := Mail{Helo: c.Helo, From: c.MailFrom, Submitter: c.Submitter, Recipients: slices.Clone(c.Rcpt)}
		if err := Clean(&m); err != nil {
			fault(c.Position, "%v", err)
		}
		c.Helo, c.MailFrom, c.Submitter, c.Rcpt = m.Helo, m.From, m.Submitter, m.Recipients
		if said := []bool{c.Header != "", c.Message != "", c.MessageFile != ""}; countTrue(said) > 1 {
			fault(c.Position, "say one of header, message and message_file")
		}
	}
	if faults != nil {
		return nil, faults.Sorted()
	}
	return t, nil
}

func countTrue(all []bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

func (e *expectation) empty() bool {
	return e.Disposition == "" && e.Rule == "" && e.Stage == "" && e.Reply == "" && e.Tags == nil && e.Refused == nil
}

// fill takes from other what c does not say.
func (c *testCase) fill(other *testCase) {
	for _, s := range []struct{ to, from *string }{
		{&c.Listener, &other.Listener}, {&c.Client, &other.Client}, {&c.Helo, &other.Helo}, {&c.MailFrom, &other.MailFrom},
		{&c.Submitter, &other.Submitter},
	} {
		if *s.to == "" {
			*s.to = *s.from
		}
	}
	if c.Header == "" && c.Message == "" && c.MessageFile == "" {
		c.Header, c.Message, c.MessageFile = other.Header, other.Message, other.MessageFile
	}
	if c.Rcpt == nil {
		c.Rcpt = other.Rcpt
	}
	if c.Sign == nil {
		c.Sign = other.Sign
	}
	if len(c.Certificate.Names) == 0 {
		c.Certificate = other.Certificate
	}
	if c.Network == (caseNetwork{}) {
		c.Network = other.Network
	}
	if c.Service == nil {
		c.Service = other.Service
	}
	if c.Milter == nil {
		c.Milter = other.Milter
	}
	if c.Past == (casePast{}) {
		c.Past = other.Past
	}
	if c.Rate == (caseRate{}) {
		c.Rate = other.Rate
	}
	if c.Hold == (caseHold{}) {
		c.Hold = other.Hold
	}
	if c.State.Healthy == nil {
		c.State = other.State
	}
	c.StartTLS = c.StartTLS || other.StartTLS
}

// day is what the clock of lists shows: noon of the day, UTC.
func (t *testFile) day() (time.Time, error) {
	if t.Now == "" {
		return time.Now(), nil
	}
	day, err := time.Parse(time.DateOnly, t.Now)
	return day.Add(12 * time.Hour), err
}

// bench is what the cases of one file run on.
type bench struct {
	rig    *rig
	signer *dnstest.Signer
	script *script
	ca     *authority

	networks networks
	services services

	verbose bool // failures are explained by all rules
}

// bench builds the policy and the zone of the file.
func (t *testFile) bench(ctx context.Context) (*bench, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	b := &bench{signer: dnstest.NewSigner()}
	if b.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	zone, err := t.zone(b.signer)
	if err != nil {
		return nil, err
	}
	now, err := t.day()
	if err != nil {
		return nil, err
	}
	mode := cfg.TLS.ClientCertificates.Mode
	cfg.TLS = configs.TLS{MinVersion: "1.2", Suites: "modern", ClientCertificates: configs.ClientCertificates{Mode: mode}}
	w := &service.World{Log: slog.New(slog.DiscardHandler), Answers: zone, Now: func() time.Time { return now }}
	b.script = newScript()
	w.Store, w.Networks, w.Services, w.Milters = b.script, &b.networks, b.services.of, b.services.judging
	if b.rig, err = newRig(ctx, cfg, w); err != nil {
		return nil, err
	}
	b.rig.parts.Settings.TLS.ClientCAs = b.ca.pool()
	if b.rig.parts.Settings.TLS.ClientAuth == tls.NoClientCert && t.showsCertificates() {
		b.rig.close()
		return nil, &configs.Fault{Position: configs.Position{File: t.file, Line: 1, Column: 1}, Text: "a case shows a certificate, but the configuration asks for none: tls.client_certificates.mode: request"}
	}
	return b, nil
}

func (t *testFile) showsCertificates() bool {
	return slices.ContainsFunc(t.Cases, func(c testCase) bool { return len(c.Certificate.Names) > 0 })
}

// config is the configuration that is tested, less what has to do with this
// machine and with time: what is left is what a verdict may hang on.
func (t *testFile) config() (*configs.Config, error) {
	cfg, err := configs.Load(configs.Options{File: t.Policy, NoEnvironment: true})
	if err != nil {
		return nil, err
	}
	if t.Policy == "" {
		defer func() { cfg.Policy.Services, cfg.Policy.Milters = policy.FiltersIn(cfg.Policy) }()
		cfg.Policy.Let, cfg.Policy.Rules, cfg.Policy.BuiltIn = t.Let, t.Rules, t.BuiltIn
		cfg.TLS.ClientCertificates.Mode = "request"
	}
	cfg.Overrides = append(cfg.Overrides, t.Overrides...)
	cfg.Policy.Overrides = cfg.Overrides
	cfg.Policy.Candidate = ""
	for _, l := range t.Lists {
		cfg.Lists = slices.DeleteFunc(cfg.Lists, func(old configs.List) bool { return old.Name == l.Name })
		cfg.Lists = append(cfg.Lists, l)
	}
	cfg.DNS = configs.Default().DNS
	cfg.DNS.Servers = []string{"127.0.0.1"} // never asked: the zone answers
	cfg.Limits.ConnectionRate, cfg.Limits.MessageRate, cfg.Limits.ErrorRate, cfg.Limits.Tarpit = 0, 0, 0, 0
	for i := range cfg.Listeners {
		cfg.Listeners[i].Pregreet = 0
	}
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.example.org"
	}
	return cfg, nil
}

// zone reads the DNS of the file, with the keys of those who sign.
func (t *testFile) zone(signer *dnstest.Signer) (*dnstest.Zone, error) {
	text, at := t.Zone, t.ZonePosition
	if t.ZoneFile != "" {
		if text != "" {
			return nil, &configs.Fault{Position: at, Text: "say zone or zone_file, not both"}
		}
		src, err := os.ReadFile(t.ZoneFile)
		if err != nil {
			return nil, err
		}
		text, at = string(src), configs.Position{File: t.ZoneFile, Line: 1, Column: 1}
	}
	domains := map[string]bool{}
	for i := range t.Cases {
		for _, domain := range t.Cases[i].Sign {
			domains[strings.ToLower(domain)] = true
		}
	}
	keys := "\n"
	for domain := range domains {
		keys += signer.Record(domain)
	}
	zone, err := dnstest.Parse(text + keys)
	if err != nil {
		return nil, &configs.Fault{Position: at, Text: "the zone: " + err.Error()}
	}
	return zone, nil
}

// session is the case as a client carries it out.
func (b *bench) session(c *testCase) (caller, Mail, error) {
	from := caller{listener: c.Listener}
	from.ip, _ = netip.ParseAddr(c.Client) // it was checked
	m := Mail{Helo: c.Helo, From: c.MailFrom, Submitter: c.Submitter, Recipients: c.Rcpt}
	if c.StartTLS || len(c.Certificate.Names) > 0 {
		// The certificate that the proxy has made up is nobody's.
		from.tls = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // G402: both ends are in this process
	}
	if len(c.Certificate.Names) > 0 {
		signedBy := b.ca
		if !c.Certificate.Verified {
			var err error
			if signedBy, err = newAuthority(); err != nil {
				return from, m, err
			}
		}
		pair, err := signedBy.issue(c.Certificate.Names)
		if err != nil {
			return from, m, err
		}
		from.tls.Certificates = []tls.Certificate{pair}
	}
	var err error
	if m.Message, err = c.message(m); err != nil {
		return from, m, err
	}
	for _, domain := range c.Sign {
		if m.Message, err = b.signer.Sign(m.Message, domain); err != nil {
			return from, m, err
		}
	}
	return from, m, nil
}

func (c *testCase) message(m Mail) ([]byte, error) {
	switch {
	case c.MessageFile != "":
		src, err := os.ReadFile(c.MessageFile)
		if err != nil {
			return nil, err
		}
		return CRLF(src), nil
	case c.Message != "":
		return CRLF([]byte(c.Message)), nil
	case c.Header != "":
		return CRLF([]byte(strings.TrimRight(c.Header, "\n") + "\n\nA test.\n")), nil
	}
	return MadeUp(m), nil
}

// authority issues client certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "made up for a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key}, err
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) issue(names []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
