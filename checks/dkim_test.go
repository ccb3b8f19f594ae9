package checks

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	msgauth "github.com/emersion/go-msgauth/dkim"
	"go.uber.org/goleak"

	"postern/checks/dkim"
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
	only(Deps{Resolver: z}, "dkim").Run(t.Context(), policy.Message, f, held(raw), nil)
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

// dkimCase is a message of a suite, with the DNS that goes with it.
type dkimCase struct {
	name, raw string
	dns       records
}

// dkimCases reads the messages of a suite; the DNS is what dns makes of its file and of the
// text of it.
func dkimCases(t *testing.T, pattern string, dns func(file, text string) (z records, raw string)) (all []dkimCase) {
	t.Helper()
	files, _ := filepath.Glob("testdata/dkim/" + pattern)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		z, raw := dns(file, string(text))
		all = append(all, dkimCase{filepath.Base(file), crlf(raw), z})
	}
	if all == nil {
		t.Fatalf("there is no %s", pattern)
	}
	return all
}

func chasquidCases(t *testing.T) []dkimCase {
	t.Helper()
	return dkimCases(t, "chasquid/*.msg", func(file, text string) (records, string) {
		z := records{}
		dns, _ := os.ReadFile(strings.TrimSuffix(file, ".msg") + ".dns") // some have none
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
		return z, text
	})
}

// runChasquidDKIM runs the tests of chasquid: the state of each signature.
func runChasquidDKIM(t *testing.T, c *tally, known deviations) {
	for _, message := range chasquidCases(t) {
		base := strings.TrimSuffix(message.name, ".msg")
		var want struct {
			Results []struct{ State string }
		}
		if data, err := os.ReadFile("testdata/dkim/chasquid/" + base + ".result"); err == nil {
			if err := json.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
		}
		got := runDKIMCheck(t, message.dns.zone(t), message.raw)
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
		c.judge(t, known, base, ok, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
	}
}

func stalwartCases(t *testing.T) []dkimCase {
	t.Helper()
	return dkimCases(t, "stalwart/*.txt", func(_, text string) (records, string) {
		dns, raw, _ := strings.Cut(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n")
		z := records{}
		for line := range strings.SplitSeq(dns, "\n") {
			name, value, _ := strings.Cut(line, " ")
			z.add(name, "TXT", value)
		}
		return z, raw
	})
}

// runStalwartDKIM runs the messages of mail-auth, which all pass but for the one
// that has expired since.
func runStalwartDKIM(t *testing.T, c *tally, known deviations) {
	for _, message := range stalwartCases(t) {
		got := runDKIMCheck(t, message.dns.zone(t), message.raw)
		ok := got.Result == policy.Pass
		if message.name == "005.txt" {
			ok = got.Result != policy.Pass && strings.Contains(fmt.Sprint(got), "expired")
		}
		c.judge(t, known, message.name, ok, fmt.Sprintf("%+v", got), "pass")
	}
}

func mailDKIMCases(t *testing.T) []dkimCase {
	t.Helper()
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
	all := dkimCases(t, "mail-dkim/*.txt", func(_, text string) (records, string) { return z, text })
	return slices.DeleteFunc(all, func(c dkimCase) bool { return c.name == "dns.txt" })
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
	cases := mailDKIMCases(t)
	if len(cases) != len(suite.Messages) {
		t.Errorf("%d messages, and results of %d", len(cases), len(suite.Messages))
	}
	for _, message := range cases {
		want, listed := suite.Messages[message.name]
		got := runDKIMCheck(t, message.dns.zone(t), message.raw)
		ok := got.Result != policy.Pass
		switch {
		case want.DomainKeysOnly:
			ok = got.Result == policy.None
		case want.Result == "pass" && !want.SHA1 && !want.Old:
			ok = got.Result == policy.Pass
		}
		c.judge(t, known, message.name, ok && listed, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
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
		f.Header = HeaderFacts(Message{Header: readHeader(raw + "\r\n")})
		f.SPF = policy.SPF{Result: policy.Result(tc.SPF.Result), Domain: tc.SPF.Domain}
		for _, s := range tc.DKIM {
			f.DKIM.Signatures = append(f.DKIM.Signatures, policy.DKIMSignature{Domain: s.D, Result: policy.Result(s.Result)})
			if s.Result == "pass" {
				f.DKIM.Domains = append(f.DKIM.Domains, s.D)
			}
		}
		Deps{Resolver: z.zone(t)}.DMARC().Run(t.Context(), f, Message{})

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

// footballMessage is the example of RFC 8463 appendix A, with its keys.
func footballMessage(t *testing.T) (string, *dnstest.Zone) {
	t.Helper()
	raw, err := os.ReadFile("testdata/dkim/chasquid/01-rfc8463.msg")
	if err != nil {
		t.Fatal(err)
	}
	return crlf(string(raw)), parseZone(t, `
brisbane._domainkey.football.example.com TXT "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
test._domainkey.football.example.com TXT "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
`)
}

// both answers TXT out of either zone.
type both struct {
	*dnstest.Zone
	other *dnstest.Zone
}

func (b both) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if txts, err := b.Zone.LookupTXT(ctx, name); err == nil {
		return txts, nil
	}
	return b.other.LookupTXT(ctx, name)
}

const testKey = "v=DKIM1; k=ed25519; %sp=%s"

// signedMessage signs a message as the options say; the key's record goes to
// sel._domainkey.<domain>, with flags in front of the key.
func signedMessage(t *testing.T, flags string, o msgauth.SignOptions, times int) (string, records) {
	t.Helper()
	return sign(t, "From: a@d.example\r\nTo: b@e.example\r\nSubject: x\r\n\r\nHello.\r\n", flags, o, times)
}

func sign(t *testing.T, raw, flags string, o msgauth.SignOptions, times int) (string, records) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o.Signer, o.Selector = private, "sel"
	o.HeaderKeys = []string{"From", "To", "Subject"}
	for range times {
		var b bytes.Buffer
		if err := msgauth.Sign(&b, strings.NewReader(raw), &o); err != nil {
			t.Fatal(err)
		}
		raw = b.String()
	}
	z := records{}
	z.add("sel._domainkey."+strings.ToLower(o.Domain), "TXT", fmt.Sprintf(testKey, flags, base64.StdEncoding.EncodeToString(public)))
	return raw, z
}

func TestAKeyMayBeForItsDomainAlone(t *testing.T) {
	for _, tc := range []struct {
		flags, identifier string
		want              policy.Result
	}{
		{"", "@d.example", policy.Pass},
		{"", "@sub.d.example", policy.Pass},
		{"t=s; ", "@d.example", policy.Pass},
		{"t=s; ", "joe@sub.d.example", policy.PermError},
		{"t=y : s; ", "joe@sub.d.example", policy.PermError},
		{"t=y; ", "joe@sub.d.example", policy.Pass},
		{"t=s; ", "", policy.Pass},
	} {
		raw, z := signedMessage(t, tc.flags, msgauth.SignOptions{Domain: "d.example", Identifier: tc.identifier}, 1)
		if got := runDKIMCheck(t, z.zone(t), raw); got.Result != tc.want {
			t.Errorf("%q, i=%s: %+v", tc.flags, tc.identifier, got)
		}
	}
}

// Domains are compared without regard to letter case (RFC 4343).
func TestLetterCaseOfTheIdentity(t *testing.T) {
	for _, identifier := range []string{"joe@D.Example", "@SUB.d.EXAMPLE"} {
		raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example", Identifier: identifier}, 1)
		if got := runDKIMCheck(t, z.zone(t), raw); got.Result != policy.Pass {
			t.Errorf("%s: %+v", identifier, got)
		}
	}
}

func TestEightSignaturesAreRead(t *testing.T) {
	raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example"}, 20)
	zone := z.zone(t)
	got := runDKIMCheck(t, zone, raw)
	if len(got.Signatures) != dkim.MaxSignatures || passes(got) != dkim.MaxSignatures || !slices.Equal(got.Domains, []string{"d.example"}) {
		t.Errorf("%d signatures, %d pass, %v", len(got.Signatures), passes(got), got.Domains)
	}
	if n := zone.Queries(); n > dkim.MaxSignatures {
		t.Errorf("%d queries", n)
	}
}

// Where a message is its header alone, the empty line may be missing too.
func TestAMessageWithoutABodyCanBeSigned(t *testing.T) {
	raw, z := sign(t, "From: a@d.example\r\nTo: b@e.example\r\nSubject: x\r\n\r\n", "", msgauth.SignOptions{Domain: "d.example"}, 1)
	for _, raw := range []string{raw, strings.TrimSuffix(raw, "\r\n")} {
		if got := runDKIMCheck(t, z.zone(t), raw); got.Result != policy.Pass {
			t.Errorf("%q: %+v", raw, got)
		}
	}
	// It may stand on the seam of two reads.
	for pad := range 12 {
		text := "X: " + strings.Repeat("x", 8<<10-3-8+pad) + "\r\n\r\nHello.\r\n"
		split, err := splitMessage(held(text))
		if body, _ := io.ReadAll(split.Body); err != nil || len(split.Header) != 8<<10-8+pad+2 || string(body) != "Hello.\r\n" {
			t.Errorf("the empty line at %d is not seen: %d octets of header, %q, %v", 8<<10-8+pad, len(split.Header), body, err)
		}
	}
	for raw, header := range map[string]string{"\r\nx\r\n": "", "": "", "\r\n": "", "A: b": "A: b", "A: b\r\n": "A: b\r\n"} {
		if split, err := splitMessage(held(raw)); err != nil || string(split.Header) != header {
			t.Errorf("%q: %q, %v", raw, split.Header, err)
		}
	}
}

// failing is a held message on a disk that breaks after some octets.
type failing struct{ *strings.Reader }

func (f failing) ReadAt(p []byte, at int64) (int, error) {
	if at >= 200 {
		return 0, errors.New("input/output error")
	}
	return f.Reader.ReadAt(p[:min(int64(len(p)), 200-at)], at)
}

// A signature that holds does not hide whose could not be verified.
func TestASignatureThatIsNotKnownIsNamed(t *testing.T) {
	one, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example"}, 1)
	other, _, _ := strings.Cut(one, "\r\nFrom:")
	both := strings.Replace(other, "d=d.example", "d=E.example", 1) + "\r\n" + one
	check := func(unknown ...string) {
		t.Helper()
		d := runDKIMCheck(t, z.zone(t), both)
		if d.Result != policy.Pass || !slices.Equal(d.Domains, []string{"d.example"}) || !slices.Equal(d.Unknown, unknown) || len(d.Signatures) != 2 {
			t.Errorf("%+v", d)
		}
	}
	check()
	z.add("sel._domainkey.e.example", "rcode", "SERVFAIL")
	check("e.example")
}

// Trouble of ours is a temperror for every signature, and nobody is left behind
// waiting for the rest of the message.
func TestOurTroubleIsATemperror(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example"}, 3)
	zone := z.zone(t)
	run := func(ctx context.Context, msg Message) policy.DKIM {
		f := transaction("192.0.2.1", "client.example", "")
		only(Deps{Resolver: zone}, "dkim").Run(ctx, policy.Message, f, msg, nil)
		return f.DKIM
	}
	all := func(what string, d policy.DKIM) {
		t.Helper()
		if d.Result != policy.TempError || len(d.Domains) != 0 || !slices.Equal(d.Unknown, []string{"d.example"}) {
			t.Errorf("%s: %+v", what, d)
		}
		for _, s := range d.Signatures {
			if s.Result != policy.TempError {
				t.Errorf("%s: %+v", what, s)
			}
		}
	}
	msg := held(raw)
	msg.Whole = failing{strings.NewReader(raw)}
	all("a disk that breaks", run(t.Context(), msg))
	msg.Whole = nil
	all("a message that was not kept", run(t.Context(), msg))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all("a session that is over", run(ctx, held(raw)))

	zone.Replace(records{"sel._domainkey.d.example": {map[string]any{"rcode": "SERVFAIL"}}}.zone(t))
	all("a name server in trouble", run(t.Context(), held(raw)))
}

// Software that is generous with white space takes for a signature what is no field.
func TestNobodyPassesUnderAnothersName(t *testing.T) {
	raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example", HeaderCanonicalization: msgauth.CanonicalizationRelaxed}, 1)
	raw = strings.Replace(raw, "DKIM-Signature:", "DKIM-Signature\v:", 1)
	victim := "DKIM-Signature: v=1; a=ed25519-sha256; d=victim.example; s=sel; h=from; bh=AAAA; b=AAAA\r\n"
	first, rest, _ := strings.Cut(raw, "From: ")
	got := runDKIMCheck(t, z.zone(t), first+strings.Repeat(victim, 9)+"From: "+rest)
	if got.Result == policy.Pass || len(got.Domains) > 0 {
		t.Errorf("%+v", got)
	}
}

// Software that is generous takes a line for a field where we do not, by white space of
// Unicode or letters that are others in upper case. The field that was signed could hide
// there, and readers be shown another one of its name.
func TestWhatWasSignedIsWhatIsShown(t *testing.T) {
	raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example", HeaderCanonicalization: msgauth.CanonicalizationRelaxed}, 1)
	signature, header, _ := strings.Cut(raw, "From: ")
	header = "From: " + header
	for _, hidden := range []string{
		"Subject\v: ", "\vSubject: ", "Subject\f: ", "Subject\u00a0: ", "Subject\u0085: ", "\u2003Subject: ", "Subject\r: ", "Subject\v \v: ", "\u017fubject\v: ",
	} {
		changed := signature + strings.Replace(header, "Subject: ", "Subject: another\r\n"+hidden, 1)
		if got := runDKIMCheck(t, z.zone(t), changed); got.Result != policy.PermError || len(got.Domains) > 0 {
			t.Errorf("%q: %+v", hidden, got)
		}
	}
	for _, hidden := range []string{"From\v: ", "From\u2028: "} {
		changed := signature + strings.Replace(header, "From: ", "From: ceo@d.example\r\n"+hidden, 1)
		if got := runDKIMCheck(t, z.zone(t), changed); got.Result != policy.PermError || len(got.Domains) > 0 {
			t.Errorf("%q: %+v", hidden, got)
		}
	}
	// An empty field, and a line that has no colon.
	empty, z2 := sign(t, "From: a@d.example\r\nTo: b@e.example\r\nSubject:\r\n\r\nHello.\r\n", "",
		msgauth.SignOptions{Domain: "d.example", HeaderCanonicalization: msgauth.CanonicalizationRelaxed}, 1)
	if got := runDKIMCheck(t, z2.zone(t), empty); got.Result != policy.Pass {
		t.Errorf("%+v", got)
	}
	if got := runDKIMCheck(t, z2.zone(t), strings.Replace(empty, "Subject:\r\n", "Subject: another\r\nSubject\r\n", 1)); got.Result != policy.Fail {
		t.Errorf("%+v", got)
	}
	// Lines that are nothing but rubbish have always been let through, and "Subject :"
	// is a field of old (RFC 5322 §4.5.8).
	for was, is := range map[string]string{"To: ": "From somebody Sat Nov 21 2026\r\nTo: ", "Subject: ": "\u00a0X: y\r\nrubbish\r\nSubject : "} {
		if got := runDKIMCheck(t, z.zone(t), signature+strings.Replace(header, was, is, 1)); got.Result != policy.Pass {
			t.Errorf("%q: %+v", is, got)
		}
	}
}

// Two keys at one selector: the one for the signature's algorithm counts.
func TestTwoKeysAtOneSelector(t *testing.T) {
	raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example"}, 1)
	z.add("sel._domainkey.d.example", "TXT", "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQ==")
	if got := runDKIMCheck(t, z.zone(t), raw); got.Result != policy.Pass {
		t.Errorf("%+v", got)
	}
	z.add("sel._domainkey.d.example", "TXT", "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	if got := runDKIMCheck(t, z.zone(t), raw); got.Result != policy.PermError {
		t.Errorf("%+v", got)
	}
}

// White space of any kind may stand in a key (RFC 6376 §3.2, §3.6.1): zone files are
// indented, and some are indented within the quotes.
func TestAKeyMayBeFolded(t *testing.T) {
	raw, z := signedMessage(t, "", msgauth.SignOptions{Domain: "d.example"}, 1)
	txts, err := z.zone(t).LookupTXT(t.Context(), "sel._domainkey.d.example")
	if err != nil {
		t.Fatal(err)
	}
	before, key, _ := strings.Cut(txts[0], "p=")
	for _, white := range []string{" ", "\t", "\r\n\t", "\n"} {
		z.replace("sel._domainkey.d.example", "TXT", before+white+"p="+white+key[:20]+white+key[20:]+white)
		if got := runDKIMCheck(t, z.zone(t), raw); got.Result != policy.Pass {
			t.Errorf("%q: %+v", white, got)
		}
	}
}

func TestAHugeKeyIsNone(t *testing.T) {
	raw, z := signedMessage(t, strings.Repeat("n=long;", 300), msgauth.SignOptions{Domain: "d.example"}, 1)
	if got := runDKIMCheck(t, z.zone(t), raw); got.Result != policy.PermError {
		t.Errorf("%+v", got)
	}
}

// FuzzDKIMKey: whatever a domain publishes as its key, nothing panics over it.
func FuzzDKIMKey(f *testing.F) {
	key := func(n *big.Int, e int) []byte { return x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: n, E: e}) }
	odd := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 1024), big.NewInt(1))
	even := new(big.Int).Lsh(big.NewInt(1), 1024)
	ones := bytes.Repeat([]byte{1}, 128)
	f.Add(key(odd, 3), ones, "v=DKIM1;")
	f.Add(key(even, 65537), bytes.Repeat([]byte{1}, 129), "v=DKIM1; k=rsa; h=sha256;")
	f.Add(key(odd, 1), ones, "")
	f.Add(key(odd, 2), ones, "t=s; n=;")
	f.Add(key(odd, 1<<31-1), ones, "s=email;")
	f.Add(key(big.NewInt(15), 3), []byte{1}, "")
	f.Add([]byte("11qYAYKxCrfVS/7TyWQHOg7hcvPapi"), ones[:64], "k=ed25519;")
	f.Add([]byte{}, []byte{}, "p=;")
	body := sha256.Sum256([]byte("body\r\n"))
	f.Fuzz(func(t *testing.T, der, sig []byte, tags string) {
		algorithm := "rsa"
		if strings.Contains(tags, "ed25519") {
			algorithm = "ed25519"
		}
		zone := records{}
		zone.add("sel._domainkey.d.example", "TXT", tags+" p="+base64.StdEncoding.EncodeToString(der))
		raw := "DKIM-Signature: v=1; a=" + algorithm + "-sha256; d=d.example; s=sel; h=from; bh=" + base64.StdEncoding.EncodeToString(body[:]) +
			"; b=" + base64.StdEncoding.EncodeToString(sig) + "\r\nFrom: a@d.example\r\n\r\nbody\r\n"
		_ = runDKIMCheck(t, zone.zone(t), raw)
	})
}

func FuzzDKIMHeader(f *testing.F) {
	f.Add("v=1; a=ed25519-sha256; d=d.example; s=sel; h=from; bh=; b=", "From: a@d.example\r\n")
	f.Add("v=1;;=;d==;b", "\tx")
	zone := records{}
	zone.add("sel._domainkey.d.example", "TXT", "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Fuzz(func(t *testing.T, value, rest string) {
		raw := "DKIM-Signature: " + value + "\r\n" + rest + "\r\n\r\nbody\r\n"
		got := runDKIMCheck(t, zone.zone(t), raw)
		if got.Result == policy.Pass || len(got.Domains) > 0 {
			t.Fatalf("%q passes", raw)
		}
		for _, s := range got.Signatures {
			if printable(s.Domain+s.Selector+s.Reason, 1<<20) != s.Domain+s.Selector+s.Reason {
				t.Fatalf("%+v", s)
			}
		}
	})
}

// The key of a signature is read once, and what was read serves the next message: NOT as if each check
// remembered for itself, or none did.
func TestTheKeyOfASignatureIsReadOnce(t *testing.T) {
	signer := dnstest.NewSigner()
	raw, err := signer.Sign([]byte("From: a@good.example\r\n\r\nText\r\n"), "good.example")
	if err != nil {
		t.Fatal(err)
	}
	set := only(Deps{Resolver: parseZone(t, signer.Record("good.example"))}, "dkim")
	msg := held(string(raw))
	// A key that is not known has to be read, which allocates.
	verifying := func(before func()) float64 {
		return testing.AllocsPerRun(100, func() {
			before()
			f := transaction("192.0.2.1", "client.example", "")
			if set.Run(t.Context(), policy.Message, f, msg, nil); f.DKIM.Result != policy.Pass {
				t.Fatalf("%+v", f.DKIM)
			}
		})
	}
	known := verifying(func() {})
	unknown := verifying(func() { *set.deps.judged.keys = *dkim.NewKeys() })
	made := testing.AllocsPerRun(100, func() { *set.deps.judged.keys = *dkim.NewKeys() })
	if read := unknown - made - known; read < 5 {
		t.Errorf("a message whose key is known takes %v allocations, one whose key is to be read %v", known, unknown-made)
	}
}
