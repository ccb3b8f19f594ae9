package checks

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"postern/policy"
)

// signField signs canonical fields, the last of which is the signature's own.
func signField(t *testing.T, key crypto.Signer, data string) string {
	t.Helper()
	hashed, hash := sha256.Sum256([]byte(data)), crypto.Hash(0)
	if _, ok := key.(*rsa.PrivateKey); ok {
		hash = crypto.SHA256
	}
	signature, err := key.Sign(rand.Reader, hashed[:], hash)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

// A signer may copy the fields into z=, for those who look for what changed, or
// have an "=" in i=: "b=" is found where it is not the signature. In February it
// is in each Date.
func TestASignatureThatQuotesFields(t *testing.T) {
	edPublic, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaPrivate, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPublic, err := x509.MarshalPKIXPublicKey(&rsaPrivate.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	z := records{}
	z.add("ed._domainkey.d.example", "TXT", "v=DKIM1; k=ed25519; p="+base64.StdEncoding.EncodeToString(edPublic))
	z.add("ed-strict._domainkey.d.example", "TXT", "v=DKIM1; k=ed25519; t=s; p="+base64.StdEncoding.EncodeToString(edPublic))
	z.add("rsa._domainkey.d.example", "TXT", "v=DKIM1; p="+base64.StdEncoding.EncodeToString(rsaPublic))
	z.add("rsa1._domainkey.d.example", "TXT", "p="+base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&rsaPrivate.PublicKey)))
	body := sha256.Sum256([]byte("Hello.\r\n"))
	bh := base64.StdEncoding.EncodeToString(body[:])

	const header = "Date: Sat, 21 Feb 2026 10:00:00 +0000\r\nFrom: A  <a@d.example>\r\nSubject: Job\r\n offer\r\n"
	const relaxed = "from:A <a@d.example>\r\ndate:Sat, 21 Feb 2026 10:00:00 +0000\r\nsubject:Job offer\r\n"
	const simple = "From: A  <a@d.example>\r\nDate: Sat, 21 Feb 2026 10:00:00 +0000\r\nSubject: Job\r\n offer\r\n"
	for name, tc := range map[string]struct {
		field string // %: the signature
		plain string // it, and what is signed of it
		data  string // signed before it
		key   crypto.Signer
		want  policy.Result
	}{
		"relaxed": {
			"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed; d=d.example; s=ed; h=From:Date:Subject:Cc:From;\r\n\tbh=" + bh + ";\r\n z=Date:Sat,=2021=20Feb=202026|Subject:Job=20offer;\r\n b=%\r\n",
			"dkim-signature:v=1; a=ed25519-sha256; c=relaxed; d=d.example; s=ed; h=From:Date:Subject:Cc:From; bh=" + bh + "; z=Date:Sat,=2021=20Feb=202026|Subject:Job=20offer; b=",
			relaxed, edPrivate, policy.Pass,
		},
		"simple, RSA, the signature in the middle": {
			"DKIM-Signature: v=1; a=rsa-sha256; d=d.example; s=rsa; h=From:Date:Subject; b=%;\r\n z=Subject:Job=20offer; bh=" + bh + "\r\n",
			"DKIM-Signature: v=1; a=rsa-sha256; d=d.example; s=rsa; h=From:Date:Subject; b=;\r\n z=Subject:Job=20offer; bh=" + bh,
			simple, rsaPrivate, policy.Pass,
		},
		"the other form of an RSA key": {
			"DKIM-Signature: v=1; a=rsa-sha256; d=d.example; s=rsa1; h=From:Date:Subject; z=b=20; bh=" + bh + "; b=%\r\n",
			"DKIM-Signature: v=1; a=rsa-sha256; d=d.example; s=rsa1; h=From:Date:Subject; z=b=20; bh=" + bh + "; b=",
			simple, rsaPrivate, policy.Pass,
		},
		"an agent with an equals sign": {
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; i=bob=3Dx@sub.d.example; h=From:Date:Subject; bh=" + bh + "; b=%\r\n",
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; i=bob=3Dx@sub.d.example; h=From:Date:Subject; bh=" + bh + "; b=",
			simple, edPrivate, policy.Pass,
		},
		"a key for the domain alone is so all the same": {
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed-strict; i=bob=3Dx@sub.d.example; h=From:Date:Subject; bh=" + bh + "; b=%\r\n",
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed-strict; i=bob=3Dx@sub.d.example; h=From:Date:Subject; bh=" + bh + "; b=",
			simple, edPrivate, policy.PermError,
		},
		"the copy was changed on the way": {
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; h=From:Date:Subject; z=Subject:Job=20off; bh=" + bh + "; b=%\r\n",
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; h=From:Date:Subject; z=Subject:Job=20offer; bh=" + bh + "; b=",
			simple, edPrivate, policy.Fail,
		},
		"another key": {
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; h=From:Date:Subject; z=Subject:Job=20offer; bh=" + bh + "; b=%\r\n",
			"DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; h=From:Date:Subject; z=Subject:Job=20offer; bh=" + bh + "; b=",
			simple, rsaPrivate, policy.Fail,
		},
	} {
		t.Run(name, func(t *testing.T) {
			field := strings.Replace(tc.field, "%", signField(t, tc.key, tc.data+tc.plain), 1)
			raw := field + header + "\r\nHello.\r\n"
			got := runDKIMCheck(t, z.zone(t), raw)
			if got.Result != tc.want {
				t.Errorf("%+v", got)
			}
			// Others above and below it make no difference.
			other := "DKIM-Signature: v=1; a=ed25519-sha256; d=d.example; s=ed; h=From; bh=" + bh + "; z=b=20; b=AAAA\r\n"
			got = runDKIMCheck(t, z.zone(t), other+field+other+header+"\r\nHello.\r\n")
			if len(got.Signatures) != 3 || got.Signatures[1].Result != tc.want || got.Signatures[0].Result != policy.Fail || got.Signatures[2].Result != policy.Fail {
				t.Errorf("in the middle: %+v", got)
			}
			if tc.want != policy.Pass {
				return
			}
			// What was signed is signed still.
			for was, is := range map[string]string{"a@d.example>": "b@d.example>", "Subject: Job": "Subject: Nob", "Hello": "Hallo", "21 Feb": "22 Feb"} {
				changed := strings.Replace(raw, was, is, 1)
				if got := runDKIMCheck(t, z.zone(t), changed); changed == raw || got.Result != policy.Fail {
					t.Errorf("%q for %q: %+v", is, was, got)
				}
			}
		})
	}
}

// Of every signature that the package verifies, and it knows more than we do, we
// say the same of the header.
func TestOurHeaderHashIsThePackages(t *testing.T) {
	files, err := filepath.Glob("testdata/dkim/*/*")
	if err != nil {
		t.Fatal(err)
	}
	football, _ := footballMessage(t)
	messages := []string{football}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, crlf(string(data)))
	}
	verified := 0
	for _, o := range []dkim.SignOptions{
		{}, {HeaderCanonicalization: dkim.CanonicalizationRelaxed}, {BodyCanonicalization: dkim.CanonicalizationRelaxed},
	} {
		for _, raw := range messages {
			if !strings.Contains(raw, "\r\n\r\n") || !strings.HasPrefix(strings.ToLower(raw), "from:") && !strings.Contains(strings.ToLower(raw), "\r\nfrom:") {
				continue
			}
			o.Domain = "d.example"
			signed, z := sign(t, raw, "", o, 1)
			zone := z.zone(t)
			verifs, err := dkim.VerifyWithOptions(strings.NewReader(signed), &dkim.VerifyOptions{MaxVerifications: 1, LookupTXT: func(name string) ([]string, error) {
				return zone.LookupTXT(t.Context(), name)
			}})
			if len(verifs) != 1 || err != nil && err != dkim.ErrTooManySignatures {
				continue // what is no message
			}
			fields := headerFields(held(signed))
			txts, err := zone.LookupTXT(t.Context(), "sel._domainkey.d.example")
			if err != nil {
				t.Fatal(err)
			}
			if ours := verifyHeader(fields, fields[0], txts[0]); ours != (verifs[0].Err == nil) {
				t.Errorf("package %v, we %v:\n%.300s", verifs[0].Err, ours, signed)
			}
			if verifs[0].Err == nil {
				verified++
			}
		}
	}
	if verified < 100 {
		t.Errorf("only %d signatures", verified)
	}
}

// FuzzDKIMField: whatever stands in a signature, b= is all that is taken out of it.
func FuzzDKIMField(f *testing.F) {
	f.Add(" v=1; a=rsa-sha256; z=Subject:Job=20offer; h=From:from; b=AAAA", "p=AAAA")
	f.Add("b\t=\r\n AA; bb=x;b", "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Add("c=relaxed/;h=:x::;;=;b=====", "")
	f.Fuzz(func(t *testing.T, value, key string) {
		field := "DKIM-Signature:" + value + "\r\n"
		got := withoutSignature(field)
		_, rest, _ := strings.Cut(got, ":")
		was, is := strings.Split(value+"\r\n", ";"), strings.Split(rest, ";")
		if len(was) != len(is) {
			t.Fatalf("%q of %q", got, field)
		}
		for i := range was {
			name, _, ok := strings.Cut(was[i], "=")
			if signature := ok && strings.TrimSpace(name) == "b"; signature && is[i] != name+"=" || !signature && is[i] != was[i] {
				t.Fatalf("%q of %q", got, field)
			}
		}
		raw := field + "From: a@d.example\r\n\r\nx\r\n"
		if verifyMisread(headerFields(held(raw)), 0, readSignature(value), key) && !misread(field) {
			t.Fatalf("%q was read well", field)
		}
	})
}
