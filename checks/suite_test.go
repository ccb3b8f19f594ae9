package checks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"

	"postern/checks/dnstest"
	"postern/configs"
	"postern/policy"
	"postern/proxy/smtp"
)

// tally counts one suite for the conformance table.
type tally struct {
	suite      string
	cases      int
	passed     int
	deviations []string // "case: reason"
}

// deviations are cases that we answer otherwise, with the reason. One that
// passes all the same is an error: the list must not rot.
type deviations map[string]string

// judge counts a case, and fails the test where it went wrong unlisted.
func (c *tally) judge(t *testing.T, known deviations, name string, ok bool, got, want any) {
	t.Helper()
	c.cases++
	reason, listed := known[name]
	switch {
	case ok && !listed:
		c.passed++
	case ok:
		t.Errorf("%s: %s passes, but is listed as a deviation: %s", c.suite, name, reason)
	case listed:
		c.deviations = append(c.deviations, name+": "+reason)
	default:
		t.Errorf("%s: %s: got %v, want %v", c.suite, name, got, want)
	}
}

// spfCase is one test of the suites in the layout of openspf.org.
type spfCase struct {
	name, helo, host, mailFrom string
	scope, identity            string // of senderid/spf2-dev.yml
	results                    []string
	explanation                string
}

// spfScenario is one document: tests that share a zone.
type spfScenario struct {
	description string
	zone        *dnstest.Zone
	cases       []spfCase
}

// readSuite reads a suite in the layout of openspf.org.
func readSuite(t testing.TB, path string) []spfScenario {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var out []spfScenario
	for {
		var doc struct {
			Description string
			Tests       yaml.Node
			ZoneData    yaml.Node `yaml:"zonedata"`
		}
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		s := spfScenario{description: doc.Description, zone: loadZone(t, &doc.ZoneData)}
		eachPair(&doc.Tests, func(name string, v *yaml.Node) {
			c := spfCase{name: name, mailFrom: "-"}
			eachPair(v, func(key string, v *yaml.Node) {
				switch key {
				case "helo":
					c.helo = v.Value
				case "host":
					c.host = v.Value
				case "mailfrom":
					c.mailFrom = v.Value
				case "scope":
					c.scope = v.Value
				case "identity":
					c.identity = v.Value
				case "explanation":
					c.explanation = v.Value
				case "result":
					if v.Kind == yaml.ScalarNode {
						c.results = []string{v.Value}
					}
					for _, r := range v.Content {
						c.results = append(c.results, r.Value)
					}
				}
			})
			s.cases = append(s.cases, c)
		})
		out = append(out, s)
	}
}

func loadZone(t testing.TB, n *yaml.Node) *dnstest.Zone {
	t.Helper()
	z, err := dnstest.LoadYAML(n)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func eachPair(n *yaml.Node, f func(key string, v *yaml.Node)) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		f(n.Content[i].Value, n.Content[i+1])
	}
}

// records is a zone as the suites write it, by name: a list of {type: value}.
type records map[string][]any

func (r records) add(name, rrtype string, values ...any) {
	if _, ok := r[name]; !ok {
		r[name] = []any{}
	}
	for _, v := range values {
		r[name] = append(r[name], map[string]any{rrtype: v})
	}
}

func (r records) replace(name, rrtype string, values ...any) {
	r[name] = slices.DeleteFunc(r[name], func(v any) bool { _, same := v.(map[string]any)[rrtype]; return same })
	r.add(name, rrtype, values...)
}

func (r records) zone(t testing.TB) *dnstest.Zone {
	t.Helper()
	z, err := loadRecords(r)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func loadRecords(r records) (*dnstest.Zone, error) {
	var n yaml.Node
	if err := n.Encode(r); err != nil {
		return nil, err
	}
	return dnstest.LoadYAML(&n)
}

// transaction is the facts as a session fills them.
func transaction(host, helo, mailFrom string) *policy.Facts {
	f := policy.Facts{Client: policy.Client{IP: netip.MustParseAddr(host).Unmap().String()}}.Transaction("test")
	f.Helo.Name = helo
	if d, ok := checkable(helo); ok {
		f.Helo.Domain = d
	}
	f.Mail.From = mailFrom
	if at := strings.LastIndexByte(mailFrom, '@'); at >= 0 {
		f.Mail.Domain = strings.ToLower(mailFrom[at+1:])
	}
	return &f
}

// only builds a Set of the checks named, whose answers are watched (see TestMain).
func only(d Deps, names ...string) *Set {
	d.Resolver = witnessOf(d.Resolver)
	return NewSet(d, func(name string) bool { return slices.Contains(names, name) })
}

// runSPFSuite runs a suite through the spf check: all cases at once, so that
// those that time out wait together.
func runSPFSuite(t *testing.T, c *tally, path string, known deviations, resolver func(*testing.T, *dnstest.Zone) Resolver) {
	var cases []spfCase
	var facts []*policy.Facts
	var wg sync.WaitGroup
	for _, s := range readSuite(t, path) {
		set := only(Deps{Resolver: resolver(t, s.zone), Hostname: "mx.receiver.example"}, "spf")
		for _, tc := range s.cases {
			f := transaction(tc.host, tc.helo, tc.mailFrom)
			cases, facts = append(cases, tc), append(facts, f)
			wg.Go(func() { set.Run(t.Context(), policy.Mail, f, Message{}, nil) })
		}
	}
	wg.Wait()
	for i, tc := range cases {
		got := facts[i].SPF
		ok := slices.Contains(tc.results, string(got.Result))
		want := strings.Join(tc.results, "|")
		if ok && got.Result == policy.Fail && tc.explanation != "" {
			explanation := tc.explanation
			if explanation == "DEFAULT" {
				explanation = "" // none of the domain's: the reply has our own words
			}
			ok = got.Explanation == explanation
			want += " (" + explanation + ")"
		}
		c.judge(t, known, tc.name, ok, fmt.Sprintf("%+v", got), want)
	}
}

func direct(_ *testing.T, z *dnstest.Zone) Resolver { return z }

// stalwartCase is one test of the suites in the layout of mail-auth.
type stalwartCase struct {
	name                       string
	zone                       *dnstest.Zone
	domain, sender, ip, expect string
}

// readStalwart reads one of those files. Keys repeat, records may stand among
// the tests and replace earlier ones, and MX records name the addresses of hosts
// straight away.
func readStalwart(t testing.TB, path string) []stalwartCase {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var out []stalwartCase
	for {
		var doc struct {
			Name           string
			Records, Tests yaml.Node
		}
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		zone := records{
			"_dns_error.org":      {map[string]any{"rcode": "SERVFAIL"}}, // by the convention of these files
			"_dns_error.test.org": {map[string]any{"rcode": "SERVFAIL"}},
		}
		record := func(rrtype, text string) bool {
			name, value, _ := strings.Cut(text, " ")
			var list []any
			for _, v := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' }) {
				list = append(list, v)
			}
			switch rrtype {
			case "spf", "txt", "exp":
				zone.replace(name, "TXT", value)
			case "a", "aaaa":
				zone.replace(name, strings.ToUpper(rrtype), list...)
			case "mx":
				for i, ip := range list {
					host, rrtype := fmt.Sprintf("mx%d.%s", i, name), "A"
					if strings.Contains(ip.(string), ":") {
						rrtype = "AAAA"
					}
					zone.add(host, rrtype, ip)
					zone.add(name, "MX", []any{i, host})
				}
			case "ptr":
				zone.replace(reverseName(netip.MustParseAddr(name)), "PTR", list...)
			default:
				return false
			}
			return true
		}
		eachPair(&doc.Records, func(rrtype string, v *yaml.Node) {
			if !record(rrtype, v.Value) {
				t.Fatalf("%s: record type %s", path, rrtype)
			}
		})
		tc := stalwartCase{}
		for _, test := range doc.Tests.Content {
			eachPair(test, func(key string, v *yaml.Node) {
				switch key {
				case "domain":
					tc.domain = v.Value
				case "sender":
					tc.sender = v.Value
				case "ip":
					tc.ip = v.Value
				case "expect":
					tc.expect, tc.zone = v.Value, zone.zone(t)
					tc.name = fmt.Sprintf("%s/%s/%d", filepath.Base(path), doc.Name, len(out)+1)
					out = append(out, tc)
				default:
					record(key, v.Value)
				}
			})
		}
	}
}

// reverseName is the name of an address's PTR records.
func reverseName(ip netip.Addr) string {
	if ip.Is4() {
		return reversedIP(ip) + ".in-addr.arpa"
	}
	return reversedIP(ip) + ".ip6.arpa"
}

func runStalwart(t *testing.T, c *tally, known deviations) {
	files, err := filepath.Glob("testdata/spf/stalwart/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		for _, tc := range readStalwart(t, file) {
			f := transaction(tc.ip, tc.domain, tc.sender)
			only(Deps{Resolver: tc.zone}, "spf", "spf_helo").Run(t.Context(), policy.Mail, f, Message{}, nil)
			got := f.SPF.Result
			if f.SPFHelo.Result == policy.Fail {
				got = policy.Fail // that suite asks for HELO first, and stops at a fail
			}
			want, explanation, _ := strings.Cut(strings.TrimSpace(tc.expect), " ")
			ok := string(got) == want && (explanation == "" || f.SPF.Explanation == explanation)
			c.judge(t, known, tc.name, ok, fmt.Sprintf("%s (%+v)", got, f.SPF), tc.expect)
		}
	}
}

// runSpf2 runs our suite for RFC 4406: scope pra through the submitter check,
// scope mfrom through the spf check, which reads v=spf1 alone.
func runSpf2(t *testing.T, c *tally, known deviations, resolver func(*testing.T, *dnstest.Zone) Resolver) {
	for _, s := range readSuite(t, "senderid/spf2-dev.yml") {
		set := only(Deps{Resolver: resolver(t, s.zone)}, "spf", "submitter")
		for _, tc := range s.cases {
			f := transaction(tc.host, tc.helo, tc.identity)
			if tc.scope == "pra" {
				f.Submitter.Address, f.Submitter.Domain, f.Mail = tc.identity, f.Mail.Domain, policy.MailFrom{}
			}
			set.Run(t.Context(), policy.Mail, f, Message{}, nil)
			got, reason := f.SPF.Result, f.SPF.Reason
			if tc.scope == "pra" {
				got, reason = f.Submitter.Result, f.Submitter.Reason
			}
			c.judge(t, known, tc.name, slices.Contains(tc.results, string(got)), string(got)+" ("+reason+")", tc.results)
		}
	}
}

// runPRA runs our suite for RFC 4407.
func runPRA(t *testing.T, c *tally, known deviations) {
	var suite struct {
		Cases []struct {
			ID, Message, Header string
			PRA                 *string
			AlsoOK              []*string `json:"also_ok"`
		}
	}
	readJSON(t, "senderid/pra-dev.json", &suite)
	for _, tc := range suite.Cases {
		m, field, found := FindPRA(readHeader(tc.Message))
		got := ""
		if found {
			got = m.String()
		}
		same := func(want *string) bool { return want == nil && !found || want != nil && found && *want == got }
		ok := same(tc.PRA) && (!found || strings.EqualFold(field, tc.Header)) || slices.ContainsFunc(tc.AlsoOK, same)
		want := "none"
		if tc.PRA != nil {
			want = *tc.PRA
		}
		c.judge(t, known, tc.ID, ok, got, want)
	}
}

// runSubmitterTransactions runs the second half of our suite for RFC 4405: what
// the checks make of SUBMITTER and the header. The syntax of the parameter is
// for the server's tests.
func runSubmitterTransactions(t *testing.T, c *tally, known deviations) {
	var suite struct {
		Zone        map[string]any
		Transaction []struct {
			ID, Mail, Message string
			Final             struct {
				Code int
				Text string
			}
		}
	}
	readJSON(t, "senderid/submitter-dev.json", &suite)
	z := records{}
	for name, v := range suite.Zone {
		if rcode, ok := v.(string); ok {
			z.add(name, "rcode", rcode)
			continue
		}
		z.add(name, "TXT", v.([]any)...)
	}
	set := only(Deps{Resolver: z.zone(t)}, "submitter", "pra")
	for _, tc := range suite.Transaction {
		_, submitter, _ := strings.Cut(tc.Mail, "SUBMITTER=")
		f := transaction("127.0.0.1", "client.example", "alice@good.example")
		if submitter != "" {
			local, domain, _ := strings.Cut(submitter, "@")
			domain = strings.ToLower(domain)
			f.Submitter.Address, f.Submitter.Domain = local+"@"+domain, domain
		}
		set.Run(t.Context(), policy.Mail, f, Message{}, nil)
		set.Run(t.Context(), policy.Header, f, Message{Header: readHeader(tc.Message)}, nil)

		// What RFC 4405 §4.2 makes of the facts.
		code, text := 250, ""
		switch {
		case submitter == "":
			if f.PRA.Result != policy.Pass {
				code = 550
			}
		case f.Submitter.Result == policy.Fail:
			code, text = 550, "5.7.1 Submitter not allowed."
		case f.PRA.Address == "":
			code, text = 554, "5.7.7 Cannot verify submitter address."
		case !f.PRA.MatchesSubmitter:
			code, text = 550, "5.7.1 Submitter does not match header."
		}
		c.judge(t, known, tc.ID, code == tc.Final.Code && text == tc.Final.Text, fmt.Sprint(code, text, f.Submitter, f.PRA), tc.Final)
	}
}

// runDNSBL runs our suite for RFC 5782.
func runDNSBL(t *testing.T, c *tally, known deviations) {
	var suite struct {
		Cases []struct {
			ID, Client string
			ZoneConfig string `json:"zone_config"`
			Answers    map[string]any
			Listed     bool
		}
	}
	readJSON(t, "dnsbl/dnsbl-dev.json", &suite)
	for _, tc := range suite.Cases {
		z := records{}
		for q, v := range tc.Answers {
			name, rrtype, _ := strings.Cut(q, " ")
			switch v := v.(type) {
			case string:
				switch v {
				case "NXDOMAIN":
				case "TIMEOUT":
					z[name] = []any{v}
				default:
					z.add(name, "rcode", v)
				}
			case []any:
				z.add(name, rrtype, v...)
			}
		}
		list, of, _ := strings.Cut(tc.ZoneConfig, " ")
		name, codes, _ := strings.Cut(list, "=")
		cfg := configs.DNSBLZone{Zone: name, Weight: 1}
		if codes != "" {
			cfg.Codes = []string{codes}
		}
		if of != "" {
			cfg.Of = "mail_from"
		}
		set := only(Deps{Resolver: z.zone(t), Config: configs.Checks{DNSBL: configs.DNSBLCheck{Zones: []configs.DNSBLZone{cfg}}}}, "dnsbl")
		f := transaction(tc.Client, "client.example", "x@bad.example")
		set.Run(t.Context(), policy.Mail, f, Message{}, nil)
		c.judge(t, known, tc.ID, f.DNSBL.Listed == tc.Listed, f.DNSBL, tc.Listed)
	}
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// readHeader reads the header section of a message.
func readHeader(message string) smtp.Header {
	h, _ := smtp.ParseHeader([]byte(message))
	return h
}
