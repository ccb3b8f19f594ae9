package checks

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/checks/dnstest"
	"postern/policy"
)

// held is a message as the message stage has it.
func held(raw string) Message {
	return Message{Header: readHeader(raw), Whole: strings.NewReader(raw), Size: int64(len(raw))}
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

func runDKIMCheck(t *testing.T, z *dnstest.Zone, raw string) policy.DKIM {
	t.Helper()
	f := transaction("192.0.2.1", "client.example", "")
	only(Deps{Resolver: z}, "dkim").Run(t.Context(), policy.Message, f, held(raw))
	return f.DKIM
}

func passes(d policy.DKIM) int {
	n := 0
	for _, s := range d.Signatures {
		if s.Result == policy.Pass {
			n++
		}
	}
	return n
}

// runChasquidDKIM runs the tests of chasquid: the state of each signature.
func runChasquidDKIM(t *testing.T, c *tally, known deviations) {
	files, _ := filepath.Glob("testdata/dkim/chasquid/*.msg")
	for _, file := range files {
		base := strings.TrimSuffix(file, ".msg")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		z := records{}
		dns, _ := os.ReadFile(base + ".dns") // some have none
		for line := range strings.SplitSeq(strings.ReplaceAll(string(dns), "\\\n", ""), "\n") {
			name, value, ok := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch {
			case !ok || strings.HasPrefix(line, "#"):
			case value == "TEMPERROR":
				z.add(name, "rcode", "SERVFAIL")
			case value == "PERMERROR":
			default:
				z.add(name, "TXT", strings.Join(strings.Fields(value), " "))
			}
		}
		var want struct {
			Results []struct{ State string }
		}
		if data, err := os.ReadFile(base + ".result"); err == nil {
			if err := json.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
		}
		got := runDKIMCheck(t, z.zone(t), crlf(string(raw)))
		ok := len(got.Signatures) == len(want.Results)
		for i, w := range want.Results {
			if !ok {
				break
			}
			switch r := got.Signatures[i].Result; w.State {
			case "SUCCESS":
				ok = r == policy.Pass
			case "TEMPFAIL":
				ok = r == policy.TempError
			default:
				ok = r == policy.PermError || r == policy.Fail
			}
		}
		c.judge(t, known, filepath.Base(base), ok, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
	}
}

// runStalwartDKIM runs the messages of mail-auth, which all pass but for the one
// that has expired since.
func runStalwartDKIM(t *testing.T, c *tally, known deviations) {
	files, _ := filepath.Glob("testdata/dkim/stalwart/*.txt")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dns, raw, _ := strings.Cut(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n\n")
		z := records{}
		for line := range strings.SplitSeq(dns, "\n") {
			name, value, _ := strings.Cut(line, " ")
			z.add(name, "TXT", value)
		}
		got := runDKIMCheck(t, z.zone(t), crlf(raw))
		name := filepath.Base(file)
		ok := got.Result == policy.Pass
		if name == "005.txt" {
			ok = got.Result != policy.Pass && strings.Contains(fmt.Sprint(got), "expired")
		}
		c.judge(t, known, name, ok, fmt.Sprintf("%+v", got), "pass")
	}
}

// runMailDKIM runs the corpus of Mail::DKIM, most of it old: see its note. What
// passed there must pass here unless a later RFC forbids it, and what failed
// must never pass.
func runMailDKIM(t *testing.T, c *tally, known deviations) {
	var suite struct {
		Messages map[string]struct {
			Result         string
			DomainKeysOnly bool `json:"domainkeys_only"`
			SHA1           bool `json:"rsa_sha1"`
			Old            bool `json:"old_version"`
		}
	}
	readJSON(t, "dkim/mail-dkim/expected.json", &suite)
	data, err := os.ReadFile("testdata/dkim/mail-dkim/dns.txt")
	if err != nil {
		t.Fatal(err)
	}
	z := records{}
	for line := range strings.SplitSeq(string(data), "\n") {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r"), " ")
		value = strings.TrimSpace(value)
		switch {
		case !ok || strings.HasPrefix(line, "#") || value == "NXDOMAIN":
		case strings.HasPrefix(value, "~~"):
			z.add(name, "rcode", "SERVFAIL")
		case value == `""`:
			z.add(name, "TXT", "")
		default:
			z.add(name, "TXT", value)
		}
	}
	zone := z.zone(t)
	names := make([]string, 0, len(suite.Messages))
	for name := range suite.Messages {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		want := suite.Messages[name]
		raw, err := os.ReadFile("testdata/dkim/mail-dkim/" + name)
		if err != nil {
			t.Fatal(err)
		}
		got := runDKIMCheck(t, zone, crlf(string(raw)))
		ok := got.Result != policy.Pass
		switch {
		case want.DomainKeysOnly:
			ok = got.Result == policy.None
		case want.Result == "pass" && !want.SHA1 && !want.Old:
			ok = got.Result == policy.Pass
		}
		c.judge(t, known, name, ok, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
	}
}

// runDMARC runs our suite for RFC 7489 through the check for RFC 9989.
func runDMARC(t *testing.T, c *tally, known deviations) {
	var suite struct {
		Cases []struct {
			ID         string
			HeaderFrom any `json:"header_from"`
			SPF        struct{ Result, Domain, Identity string }
			DKIM       []struct{ Result, D string }
			Zone       map[string]any
			Want       struct {
				Result              any
				Policy, Disposition string
			}
		}
	}
	readJSON(t, "dmarc/dmarc-dev.json", &suite)
	for _, tc := range suite.Cases {
		z := records{}
		for name, v := range tc.Zone {
			if rcode, ok := v.(string); ok {
				z.add(name, "rcode", rcode)
				continue
			}
			z.add(name, "TXT", v.([]any)...)
		}
		raw := ""
		switch from := tc.HeaderFrom.(type) {
		case string:
			raw = "From: " + from + "\r\n"
		case []any:
			for _, a := range from {
				raw += "From: " + a.(string) + "\r\n"
			}
		}
		f := transaction("192.0.2.1", "client.example", "")
		f.Header = HeaderFacts(readHeader(raw + "\r\n"))
		f.SPF = policy.SPF{Result: policy.Result(tc.SPF.Result), Domain: tc.SPF.Domain}
		for _, s := range tc.DKIM {
			f.DKIM.Signatures = append(f.DKIM.Signatures, policy.DKIMSignature{Domain: s.D, Result: policy.Result(s.Result)})
			if s.Result == "pass" {
				f.DKIM.Domains = append(f.DKIM.Domains, s.D)
			}
		}
		DMARC(Deps{Resolver: z.zone(t)}).Run(t.Context(), f, Message{})

		results, isList := tc.Want.Result.([]any)
		if !isList {
			results = []any{tc.Want.Result}
		}
		ok := slices.Contains(results, any(string(f.DMARC.Result)))
		if tc.Want.Policy != "" {
			disposition := "none"
			if f.DMARC.Result == policy.Fail {
				disposition = f.DMARC.Policy
			}
			ok = ok && f.DMARC.Policy == tc.Want.Policy && disposition == tc.Want.Disposition
		}
		c.judge(t, known, tc.ID, ok, fmt.Sprintf("%+v", f.DMARC), fmt.Sprintf("%+v", tc.Want))
	}
}
