package dkim_test

import (
	"context"
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"postern/checks/dkim"
	"postern/policy"
)

const (
	testHeader = "From: A <a@d.example>\r\nTo: b@e.example\r\nSubject: Job\r\n offer\r\n"
	testBody   = "Hello,\r\n\r\nthis is it.  \r\n"
	testKey    = "sel._domainkey.d.example"
)

// signed returns the test message signed by the Ed25519 key, and the zone with
// its record; change may change the plan first.
func signed(change func(*plan)) (string, zone) {
	key := keys()["ed25519"]
	p := plan{
		header: testHeader, body: testBody, key: key.key, domain: "d.example", selector: "sel",
		names: []string{"From", "To", "Subject", "Cc"}, headerForm: "relaxed", bodyForm: "relaxed",
	}
	if change != nil {
		change(&p)
	}
	return p.sign(), zone{testKey: {key.record}}
}

// one verifies a message that bears one signature.
func one(t *testing.T, raw string, z zone) dkim.Outcome {
	t.Helper()
	out := verify(raw, z)
	if len(out) != 1 {
		t.Fatalf("%d signatures: %+v", len(out), out)
	}
	return out[0]
}

func TestWhatASignatureMaySay(t *testing.T) {
	whole := len(naiveBody("relaxed", testBody))
	for _, tc := range []struct {
		extra string
		want  policy.Result
	}{
		{"", policy.Pass},
		{"i=a@D.EXAMPLE;", policy.Pass},
		{"i=@sub.d.example;", policy.Pass},
		{"i=a=40b@d.example;", policy.Pass},
		{"i=a@d=2Eexample;", policy.Pass}, // in quoted-printable, which the local part alone needs
		{"i=a@e.example;", policy.PermError},
		{"i=a@xd.example;", policy.PermError},
		{"i=d.example;", policy.PermError},
		{"z=From:a|Subject:b=20c;", policy.Pass},
		{"b2=x; unknown=y;", policy.Pass},
		{";;", policy.Pass},
		{"2b=x;", policy.PermError},
		{"d=d.example;", policy.PermError},
		{"v=1;", policy.PermError},
		{"q=dns/txt;", policy.Pass},
		{"q=dns;", policy.PermError},
		{"t=1; x=2;", policy.PermError},
		{"t=99999999998; x=99999999999;", policy.Pass},
		{"t=99999999999; x=99999999998;", policy.PermError},
		{"x=99999999999999999999999;", policy.Pass},
		{"x=;", policy.PermError},
		{fmt.Sprintf("l=%d;", whole), policy.Pass},
		{fmt.Sprintf("l=0%d;", whole), policy.Pass},
		{fmt.Sprintf("l=%d;", whole+1), policy.PermError},
		{fmt.Sprintf("l=%d;", whole-1), policy.Neutral},
		{"l=0;", policy.Neutral},
		{"l=-1;", policy.PermError},
		{strings.Repeat("a=1;", 2), policy.PermError},
	} {
		raw, z := signed(func(p *plan) { p.extra = tc.extra })
		if got := one(t, raw, z); got.Result != tc.want {
			t.Errorf("%s: %+v", tc.extra, got)
		}
	}
}

// What l= covers in whole when it is signed is covered no more when something
// comes behind it.
func TestTextBehindWhatWasSigned(t *testing.T) {
	raw, z := signed(func(p *plan) { p.extra = fmt.Sprintf("l=%d;", len(naiveBody("relaxed", testBody))) })
	for more, want := range map[string]policy.Result{"": policy.Pass, "\r\n\r\n": policy.Pass, " \t\r\n": policy.Pass, "Buy!\r\n": policy.Neutral} {
		if got := one(t, raw+more, z); got.Result != want {
			t.Errorf("%q: %+v", more, got)
		}
	}
}

func TestWhatAKeyMaySay(t *testing.T) {
	private := keys()["rsa2048"].key.(*rsa.PrivateKey)
	p := base64.StdEncoding.EncodeToString
	pkcs1 := p(x509.MarshalPKCS1PublicKey(&private.PublicKey))
	bits := func(n int) string {
		odd := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(n)), big.NewInt(1))
		return p(x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: odd, E: 65537}))
	}
	_, ed, _ := strings.Cut(keys()["ed25519"].record, "p=")
	for _, tc := range []struct {
		records   []string
		want      policy.Result
		algorithm string // rsa2048 where nothing is said
	}{
		{[]string{"p=" + pkcs1}, policy.Pass, ""},
		{[]string{"v=DKIM1; p=" + pkcs1[:40] + " \t\r\n " + pkcs1[40:] + ";"}, policy.Pass, ""},
		{[]string{"v=DKIM1; h=sha1:sha256; s=*; t=y; p=" + pkcs1}, policy.Pass, ""},
		{[]string{"h=sha1; p=" + pkcs1}, policy.PermError, ""},
		{[]string{"s=tlsrpt; p=" + pkcs1}, policy.PermError, ""},
		{[]string{"k=rsa; v=DKIM1; p=" + pkcs1}, policy.PermError, ""},
		{[]string{"v=DKIM2; p=" + pkcs1}, policy.PermError, ""},
		{[]string{"v=DKIM1; p=" + pkcs1 + "; p=" + pkcs1}, policy.PermError, ""},
		{[]string{"v=DKIM1; p="}, policy.PermError, ""},
		{[]string{"v=DKIM1"}, policy.PermError, ""},
		{[]string{"v=DKIM1; p=%%%"}, policy.PermError, ""},
		{[]string{"p=" + bits(1023)}, policy.PermError, ""},
		{[]string{"p=" + bits(1024)}, policy.Fail, ""},
		{[]string{"p=" + bits(4096)}, policy.Fail, ""},
		{[]string{"p=" + bits(4097)}, policy.PermError, ""},
		{[]string{strings.Repeat("n=x;", 1) + "p=" + strings.Repeat("A", 2049)}, policy.PermError, ""},
		{[]string{}, policy.PermError, ""},
		{[]string{"k=ed25519; p=" + ed, "p=" + pkcs1}, policy.Pass, ""},
		{[]string{"k=ed25519; p=" + ed, "p=" + pkcs1}, policy.Pass, "ed25519"},
		{[]string{"p=" + pkcs1, "p=" + bits(2048)}, policy.PermError, ""},
		{[]string{"p=" + pkcs1, "p=" + pkcs1}, policy.Pass, ""},
		{[]string{"p=" + pkcs1, "rubbish"}, policy.Pass, ""},
		{append([]string{"p=" + pkcs1}, slices.Repeat([]string{"rubbish"}, 15)...), policy.Pass, ""},
		{append([]string{"p=" + pkcs1}, slices.Repeat([]string{"rubbish"}, 16)...), policy.PermError, ""},
		{[]string{"k=ed25519; p=" + ed + "AAAA"}, policy.PermError, "ed25519"},
		{[]string{"k=rsa; p=" + ed}, policy.PermError, "ed25519"},
	} {
		if tc.algorithm == "" {
			tc.algorithm = "rsa2048"
		}
		raw, z := signed(func(p *plan) { p.key = keys()[tc.algorithm].key })
		z[testKey] = tc.records
		if got := one(t, raw, z); got.Result != tc.want {
			t.Errorf("%s with %.80q: %+v", tc.algorithm, tc.records, got)
		}
	}
}

// A key with t=s is for its domain itself alone, letter case aside.
func TestAKeyForTheDomainAlone(t *testing.T) {
	for identity, want := range map[string]policy.Result{"": policy.Pass, "i=a@D.example;": policy.Pass, "i=a@sub.d.example;": policy.PermError} {
		raw, z := signed(func(p *plan) { p.extra = identity })
		z[testKey] = []string{strings.Replace(z[testKey][0], "p=", "t=y:s; p=", 1)}
		if got := one(t, raw, z); got.Result != want {
			t.Errorf("%s: %+v", identity, got)
		}
	}
}

// Of a name that is signed more often than it is there, it is signed that there
// is no more. The signature itself is none of those that it names.
func TestFieldsAreTakenFromTheBottom(t *testing.T) {
	raw, z := signed(func(p *plan) {
		p.header = "X: upper\r\n" + testHeader + "X: lower\r\n"
		p.names = []string{"From", "X", "Subject", "Subject", "DKIM-Signature", "DKIM-Signature"}
	})
	for name, tc := range map[string]struct {
		was, is string
		want    policy.Result
	}{
		"as it was":              {"", "", policy.Pass},
		"the lower one":          {"lower", "other", policy.Fail},
		"the upper one":          {"upper", "other", policy.Pass},
		"a second Subject below": {"X: lower", "Subject: other\r\nX: lower", policy.Fail},
		"a second Subject above": {"X: upper", "Subject: other\r\nX: upper", policy.Fail},
	} {
		if got := one(t, strings.Replace(raw, tc.was, tc.is, 1), z); got.Result != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := verify("DKIM-Signature: v=1; another\r\n"+raw, z); len(got) != 2 || got[1].Result != policy.Fail {
		t.Errorf("another signature, and it was signed that there is none: %+v", got)
	}
}

// RFC 8616: d=, s= and i= may be in UTF-8, and the key is asked for with A-labels.
func TestADomainInUnicode(t *testing.T) {
	raw, z := signed(func(p *plan) { p.domain, p.extra = "bücher.example", "i=ü@BÜCHER.example;" })
	z["sel._domainkey.xn--bcher-kva.example"] = z[testKey]
	if got := one(t, raw, z); got.Result != policy.Pass || got.Domain != "bücher.example" {
		t.Errorf("%+v", got)
	}
	for _, domain := range []string{"localhost", "a..example", "", "x y.example", strings.Repeat("a.", 130) + "example"} {
		raw, z := signed(func(p *plan) { p.domain = domain })
		if got := one(t, raw, z); got.Result != policy.PermError {
			t.Errorf("%q: %+v", domain, got)
		}
	}
}

// TestNoAnswerHelpsNobody: a signature that is known to be wrong is no temperror,
// whatever cannot be looked up or read; one that might be right is no pass.
func TestNoAnswerHelpsNobody(t *testing.T) {
	raw, z := signed(nil)
	down := errors.New("the name servers do not answer")
	for name, tc := range map[string]struct {
		msg    dkim.Message
		lookup error
		want   policy.Result
	}{
		"all is well":                 {split(raw), nil, policy.Pass},
		"no key, body right":          {split(raw), down, policy.TempError},
		"no key, body wrong":          {split(raw + "more\r\n"), down, policy.Fail},
		"key, body cut":               {dkim.Message{Header: split(raw).Header, Body: iotest.ErrReader(down)}, nil, policy.TempError},
		"key, header wrong, body cut": {dkim.Message{Header: []byte(strings.Replace(raw[:strings.Index(raw, "\r\n\r\n")+2], "Job", "Nob", 1)), Body: iotest.ErrReader(down)}, nil, policy.Fail},
		"there is no body":            {dkim.Message{Header: split(raw).Header}, nil, policy.Fail},
		"no such key":                 {split(raw), dkim.ErrNoKey, policy.PermError},
	} {
		out := dkim.Verify(t.Context(), tc.msg, func(ctx context.Context, name string) ([]string, error) {
			if tc.lookup != nil {
				return nil, tc.lookup
			}
			return z.lookup(ctx, name)
		}, time.Now())
		if len(out) != 1 || out[0].Result != tc.want || out[0].Reason == "" && tc.want != policy.Pass {
			t.Errorf("%s: %+v", name, out)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, msg := range []dkim.Message{split(raw), {Header: split(raw).Header}} {
		if out := dkim.Verify(over, msg, z.lookup, time.Now()); len(out) != 1 || out[0].Result != policy.TempError {
			t.Errorf("a context that is over: %+v", out)
		}
	}
}

// Eight signatures are read, from the top; a key is asked for once, and the body
// read once.
func TestManySignatures(t *testing.T) {
	raw, z := signed(nil)
	signature, rest, _ := strings.Cut(raw, "\r\nFrom:")
	raw = strings.Repeat(signature+"\r\n", 20) + "From:" + rest
	var asked atomic.Int32
	body := &counting{r: strings.NewReader(raw[strings.Index(raw, "\r\n\r\n")+4:])}
	out := dkim.Verify(t.Context(), dkim.Message{Header: split(raw).Header, Body: body}, func(ctx context.Context, name string) ([]string, error) {
		asked.Add(1)
		return z.lookup(ctx, name)
	}, time.Now())
	if len(out) != dkim.MaxSignatures || asked.Load() != 1 || body.n != len(testBody) {
		t.Errorf("%d signatures, %d questions, %d octets read", len(out), asked.Load(), body.n)
	}
	for _, o := range out {
		if o.Result != policy.Pass {
			t.Errorf("%+v", o)
		}
	}
}

type counting struct {
	r *strings.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// A body of which no signature can be good is not read.
func TestTheBodyIsReadForAReason(t *testing.T) {
	raw, z := signed(nil)
	body := &counting{r: strings.NewReader(strings.Repeat("x\r\n", 1000))}
	header := []byte(strings.Replace(string(split(raw).Header), "Job", "Nob", 1))
	if out := dkim.Verify(t.Context(), dkim.Message{Header: header, Body: body}, z.lookup, time.Now()); out[0].Result != policy.Fail || body.n != 0 {
		t.Errorf("%+v, and %d octets were read", out, body.n)
	}
}

// hostile returns messages that are made to keep a verifier busy: 256 KiB of
// header section, eight signatures, the largest keys.
func hostile(tb testing.TB) (map[string]string, zone) {
	tb.Helper()
	const size = 256 << 10
	odd := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 4096), big.NewInt(1))
	der := x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: odd, E: 1<<16 + 1})
	z := zone{testKey: {"p=" + base64.StdEncoding.EncodeToString(der)}}
	sig := func(names, b string) string {
		return "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=d.example; s=sel; bh=" +
			base64.StdEncoding.EncodeToString(make([]byte, 32)) + "; h=from" + names + "; b=" + b + "\r\n"
	}
	b := base64.StdEncoding.EncodeToString(make([]byte, 512))
	fill := func(head, piece string) string {
		return head + strings.Repeat(piece, max(0, size-len(head))/len(piece)) + "From: a@d.example\r\n\r\nx\r\n"
	}
	names := strings.Repeat(":x", 990)
	return map[string]string{
		"many fields, each signed": fill(strings.Repeat(sig(names, b), 8), "X:\r\n"),
		"a thousand long fields":   fill(strings.Repeat(sig(names, b), 8), "X: "+strings.Repeat("y z ", 63)+"\r\n"), // what limits.header_fields lets in
		"one long field":           fill(strings.Repeat(sig(":x:x:x", b), 8)+"X: y", "\r\n z") + "",
		"blanks":                   fill(strings.Repeat(sig(":x", b), 8)+"X:", " "),
		"lines that are no field":  fill(strings.Repeat(sig(names, b), 8), "x\v:\r\n"),
		"tags":                     fill("DKIM-Signature: v=1; ", "aa=;"),
		"signatures":               fill("", sig("", "AAAA")),
	}, z
}

// A look-up that panics has the goroutine of its caller panic, who can bear it, and
// not the process.
func TestALookUpThatPanics(t *testing.T) {
	raw, z := signed(nil)
	for name, raw := range map[string]string{
		"one name":  raw,
		"two names": "DKIM-Signature: v=1; a=rsa-sha256; d=d.example; s=other; h=from; bh=AAAA; b=AAAA\r\n" + raw,
	} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.HasPrefix(fmt.Sprint(p), "out of luck") {
					t.Errorf("%s: %v", name, p)
				}
			}()
			dkim.Verify(t.Context(), split(raw), func(ctx context.Context, name string) ([]string, error) {
				if name == testKey {
					panic("out of luck")
				}
				return z.lookup(ctx, name)
			}, time.Now())
		}()
	}
}

// Whatever is done to keep it busy, the work grows with the size of the message
// and not faster; BenchmarkHostile says how long it takes.
func TestAHostileHeaderSection(t *testing.T) {
	messages, z := hostile(t)
	for name, raw := range messages {
		for _, o := range verify(raw, z) {
			if o.Result != policy.PermError && o.Result != policy.Fail {
				t.Errorf("%s: %+v", name, o)
			}
		}
	}
}

// cpu returns the time that the process has spent on a processor.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkHostile(b *testing.B) {
	messages, z := hostile(b)
	for name, raw := range messages {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			start := cpu(b)
			for b.Loop() {
				verify(raw, z)
			}
			b.ReportMetric(float64((cpu(b)-start).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{4 << 10, 10 << 20} {
		for _, form := range []string{"simple", "relaxed"} {
			raw, z := signed(func(p *plan) {
				p.bodyForm, p.key = form, keys()["rsa2048"].key
				p.body = strings.Repeat(strings.Repeat("word and word ", 5)+"\r\n", size/72)
			})
			z[testKey] = []string{keys()["rsa2048"].record}
			b.Run(fmt.Sprintf("%s-%d", form, size), func(b *testing.B) {
				b.SetBytes(int64(len(raw)))
				b.ReportAllocs()
				for b.Loop() {
					if out := verify(raw, z); out[0].Result != policy.Pass {
						b.Fatal(out)
					}
				}
			})
		}
	}
}

// BenchmarkKnownKey compares a message whose key is read with one whose key was read before.
func BenchmarkKnownKey(b *testing.B) {
	raw, z := signed(func(p *plan) { p.key = keys()["rsa2048"].key })
	z[testKey] = []string{keys()["rsa2048"].record}
	for name, known := range map[string]*dkim.Keys{"read": nil, "known": dkim.NewKeys()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if out := known.Verify(b.Context(), split(raw), z.lookup, time.Now()); out[0].Result != policy.Pass {
					b.Fatal(out)
				}
			}
		})
	}
}

// FuzzVerify: whatever a message and a key say, nothing panics, and what nobody
// has signed does not pass.
func FuzzVerify(f *testing.F) {
	raw, z := signed(nil)
	header, body, _ := strings.Cut(raw, "\r\n\r\n")
	f.Add(strings.TrimPrefix(header, "DKIM-Signature:"), body, z[testKey][0])
	f.Add("v=1; a=rsa-sha256; d=d.example; s=sel; h=from; bh=; b=", "x", "p=")
	f.Add(";;=;b=;\r\n\t", "\r\n\r\r\n", "v=DKIM1;;k=rsa")
	_, foreign, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	forged := plan{header: testHeader, body: testBody, key: foreign, domain: "d.example", selector: "sel", names: []string{"from"}, headerForm: "simple", bodyForm: "simple"}.sign()
	f.Add(strings.TrimPrefix(forged, "DKIM-Signature:"), "", z[testKey][0])
	f.Fuzz(func(t *testing.T, header, body, record string) {
		raw := "DKIM-Signature:" + header + "\r\n\r\n" + body
		for _, o := range verify(raw, zone{testKey: {record}}) {
			switch o.Result {
			case policy.Pass:
				// The fuzzer may find its way back to the seed that is signed.
				if !strings.Contains(raw, "From: A <a@d.example>") && !strings.Contains(strings.ToLower(raw), "from:") {
					t.Fatalf("passes: %q", raw)
				}
			case policy.Fail, policy.PermError, policy.Neutral:
			default:
				t.Fatalf("%q: %+v", raw, o)
			}
		}
	})
}
