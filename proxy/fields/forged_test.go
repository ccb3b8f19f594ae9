package fields

import (
	"bytes"
	"strings"
	"testing"

	"postern/proxy/smtp"
)

// TestClaims: which Authentication-Results somebody might take for one of
// mx.example.org's.
func TestClaims(t *testing.T) {
	const id = "mx.example.org"
	for value, want := range map[string]bool{
		" mx.example.org; spf=pass smtp.mailfrom=x@bank.example": true,
		" MX.Example.ORG; spf=pass":                              true,
		" mx.example.org.; spf=pass":                             true,
		" mx.example.org..; spf=pass":                            true,
		" mx.example.org 1; spf=pass":                            true,
		" mx.example.org":                                        true,
		"\r\n\tmx.example.org\r\n ;\r\n spf=pass":                true,
		" (a (nested) comment) mx.example.org (b); none":         true,
		` "mx.example.org"; spf=pass`:                            true,
		` "mx\.example.org"; spf=pass`:                           true,
		` "mx.example.org/1"; spf=pass`:                          true,
		` "<mx.example.org>"; spf=pass`:                          true,
		` " mx.example.org"; spf=pass`:                           true,
		" mx.example.org/1; spf=pass":                            true,
		" mx.example.org=1; spf=pass":                            true,
		" mx.example.org, spf=pass":                              true,
		" mx.example.org\u00a0; spf=pass":                        true,
		" \u00a0mx.example.org; spf=pass":                        true,
		" \ufeffmx.example.org; spf=pass":                        true,
		" <mx.example.org>; spf=pass":                            true,
		" 'mx.example.org'; spf=pass":                            false, // a token, and another
		" mx.example.org:25; spf=pass":                           true,
		" [mx.example.org]; spf=pass":                            true,
		" mx.example.org\x01; spf=pass":                          true,
		" mx.exam\u00adple.org; spf=pass":                        true,
		" ｍｘ.example.org; spf=pass":                              true, // what IDNA maps to it

		// Of nobody.
		"":                              true,
		" ":                             true,
		" ; spf=pass":                   true,
		` ""; spf=pass`:                 true,
		" dkim=pass header.d=b.example": true,
		" dkim=pass; spf=pass":          true,
		" spf = pass":                   true,

		// Not to be parsed.
		" mx.other.example spf=pass":                             true,
		" mx.other.example mx.example.org; spf=pass":             true,
		" (mx.other.example; spf=pass":                           true,
		` "mx.other.example; spf=pass`:                           true,
		" mx.other.example; spf":                                 true,
		" mx.other.example; spf=":                                true,
		" mx.other.example; =pass":                               true,
		" mx.other.example; spf=pass (mx.example.org; dkim=pass": true,
		` mx.other.example; spf=pass reason="x; mx.example.org`:  true,
		" mx.other.example; none spf=pass":                       true,
		" @; spf=pass":                                           true,

		// Of others.
		" mx.other.example; spf=pass smtp.mailfrom=x@mx.example.org": false,
		" mx.other.example 1; none":                                  false,
		" mx.other.example;":                                         false,
		" mx.other.example; dkim/1=pass (2048-bit key) header.i=@x.example header.b=a/b+c=; spf=pass": false,
		" mx.other.example;\r\n dkim=fail reason=\"mx.example.org; spf=pass\" header.d=x.example":     false,
		" mx.example.org.other.example; spf=pass":                                                     false,
		" amx.example.org; spf=pass":                                                                  false,
		" mx.example.org-2; spf=pass":                                                                 false,
		` "mx.other.example"; spf=pass`:                                                               false,
		" (mx.example.org) mx.other.example; spf=pass":                                                false,
		" bücher.example; spf=pass":                                                                   false,
		" mx.google.com; dkim=pass header.i=@x.example header.s=s header.b=\"abc/d\"; spf=pass (google.com: domain of a@x.example designates 192.0.2.1 as permitted sender) smtp.mailfrom=a@x.example; dmarc=pass (p=NONE sp=NONE dis=NONE) header.from=x.example": false,
	} {
		if got := claims(value, id); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	for value, id := range map[string]string{" xn--bcher-kva.example; spf=pass": "bücher.example", " BÜCHER.example; none": "xn--bcher-kva.example"} {
		if !claims(value, id) {
			t.Errorf("%q is not taken for %s", value, id)
		}
	}
}

// FuzzClaims: quoted or not, an authserv-id is claimed alike.
func FuzzClaims(f *testing.F) {
	f.Add(" mx.example.org (x) 1; dkim/1=pass (y) header.d=z; none")
	f.Add(` "mx\.example.org"; spf=pass reason="a;b"`)
	f.Fuzz(func(t *testing.T, value string) {
		const id = "mx.example.org"
		claimed := claims(value, id)
		got, ok := parseAuthservID(value)
		if ok && (got == "" || claimed != (claims(" \""+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(got)+"\"", id)) && !strings.ContainsAny(got, "\r\n")) {
			t.Fatalf("%q: id %q, claimed %v", value, got, claimed)
		}
	})
}

// FuzzWithoutForged: what is left of a header section has no field that speaks in our
// name, nothing more goes when it is done again, and what goes are whole fields.
func FuzzWithoutForged(f *testing.F) {
	f.Add([]byte("Authentication-Results: mx.example.org; spf=pass\r\nFrom: a@b.example\r\nX-Tag: x\r\n y\r\n\r\n"))
	f.Add([]byte("rubbish\r\nAuthentication-Results\r\n : dkim=pass\r\nX-Tag\x7f: x\r\n\r\n"))
	f.Add([]byte("Authentication\u200b-Results: mx.other.example; none\r\n"))
	names := []string{"X-Tag"}
	f.Fuzz(func(t *testing.T, head []byte) {
		const id = "mx.example.org"
		h, bad := smtp.ParseHeader(head)
		kept := WithoutForged(head, h, bad, id, names)
		left := head // kept must be a subsequence of it
		for _, c := range kept {
			i := bytes.IndexByte(left, c)
			if i < 0 {
				t.Fatalf("%q became %q", head, kept)
			}
			left = left[i+1:]
		}
		h, _ = smtp.ParseHeader(kept)
		for i := range h {
			if equalFold(h[i].Name, "X-Tag") || equalFold(h[i].Name, authResults) && claims(h[i].Value, id) {
				t.Fatalf("%q is left of %q", kept, head)
			}
		}
	})
}
