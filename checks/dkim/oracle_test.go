package dkim_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"postern/checks/dkim"
	"postern/policy"
)

// signer is a key and the record that publishes it.
type signer struct {
	key    crypto.Signer
	record string
}

// keys are made once: an RSA key takes its time.
var keys = sync.OnceValue(func() map[string]signer {
	public, private, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		panic(err)
	}
	out := map[string]signer{"ed25519": {private, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}}
	for name, bits := range map[string]int{"rsa1024": 1024, "rsa2048": 2048} {
		private, err := rsa.GenerateKey(crand.Reader, bits)
		if err != nil {
			panic(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
		if err != nil {
			panic(err)
		}
		out[name] = signer{private, "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)}
	}
	return out
})

// zone is key records by name.
type zone map[string][]string

func (z zone) lookup(_ context.Context, name string) ([]string, error) {
	txts, ok := z[strings.ToLower(name)]
	if !ok {
		return nil, dkim.ErrNoKey
	}
	return txts, nil
}

func split(raw string) dkim.Message {
	if strings.HasPrefix(raw, "\r\n") {
		return dkim.Message{Body: strings.NewReader(raw[2:])}
	}
	header, body, found := strings.Cut(raw, "\r\n\r\n")
	if found {
		header += "\r\n"
	}
	return dkim.Message{Header: []byte(header), Body: strings.NewReader(body)}
}

func verify(raw string, z zone) []dkim.Outcome {
	return dkim.Verify(context.Background(), split(raw), z.lookup, time.Now())
}

// made is a message that was made up, signed, and perhaps damaged.
type made struct {
	raw    string
	record string
	how    []string // what was done to it
}

// makeMessage makes a message up: folding, blanks, empty lines, fields twice or
// missing, every algorithm and canonicalization, and some damage to half of them.
func makeMessage(r *rand.Rand) made {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	some := func(n int, words ...string) string {
		var b strings.Builder
		for range r.IntN(n + 1) {
			b.WriteString(pick(words...))
		}
		return b.String()
	}
	header := "From: " + pick("a@d.example", "A  B <a@d.example>", "\"x\"\r\n\t<a@d.example>") + "\r\n"
	for range r.IntN(6) {
		header += pick("To", "Subject", "subject", "X-Y", "Received", "Date", "DKIM-Signature-X") + pick(":", ": ", ":  ", ":\t") +
			some(6, "word", " ", "\t", "\r\n ", "\r\n\t", ";", "=", "b=", "x", "\xc3\xa9") + "z\r\n"
	}
	body := some(12, "word", " ", "  ", "\t", "\r\n", "\r\n", "\r\n\r\n", ".", "=20", "-", "\xe4", "b=")
	if r.IntN(4) > 0 {
		body += "\r\n"
	}
	algorithm := pick("ed25519", "ed25519", "rsa1024", "rsa2048")
	key := keys()[algorithm]
	o := msgauth.SignOptions{
		Domain: pick("d.example", "D.example", "sub.d.example"), Selector: pick("sel", "a.b", "S_1"), Signer: key.key,
		HeaderCanonicalization: msgauth.Canonicalization(pick("", "simple", "relaxed")),
		BodyCanonicalization:   msgauth.Canonicalization(pick("", "simple", "relaxed")),
		HeaderKeys:             []string{"From"},
	}
	for range r.IntN(6) {
		o.HeaderKeys = append(o.HeaderKeys, pick("To", "Subject", "SUBJECT", "X-Y", "From", "Received", "Date", "List-Id"))
	}
	if r.IntN(3) == 0 {
		o.Identifier = pick("@", "joe@", "joe@x.") + pick(o.Domain, o.Domain, o.Domain, strings.ToUpper(o.Domain), "other.example")
	}
	if r.IntN(6) == 0 {
		o.Expiration = time.Now().Add(time.Duration(r.IntN(3)-1) * 1000 * time.Hour)
	}
	m := made{record: key.record, how: []string{algorithm}}
	if r.IntN(2) == 0 {
		var b bytes.Buffer
		if err := msgauth.Sign(&b, strings.NewReader(header+"\r\n"+body), &o); err != nil {
			panic(err)
		}
		m.raw = b.String()
	} else {
		// Signed by hand: with tags that the oracle's signer never writes.
		p := plan{header: header, body: body, key: key.key, domain: o.Domain, selector: o.Selector, names: o.HeaderKeys}
		p.headerForm, p.bodyForm = pick("simple", "relaxed"), pick("simple", "relaxed")
		whole := len(naiveBody(p.bodyForm, body))
		p.extra = pick("", "", "zz=1;", "z=x:b=20;", "d="+o.Domain+";", "x=99999999999;", "x=1;", "t=5; x=5;", "q=dns/txt;", "q=http;", "q=http:dns/txt;", ";",
			"l=0;", fmt.Sprintf("l=%d;", whole), fmt.Sprintf("l=%d;", whole+1), "l=-1;", "l=x;", "i=@"+strings.ToUpper(o.Domain)+";",
			"i=joe@x."+o.Domain+";", "i=jo=3De@"+o.Domain+";", "i=b=3Dx@"+o.Domain+";", "i=x."+o.Domain+";", "i=joe@other.example;", "i=joe@x"+o.Domain+";", "t=99999999999;", "t=x;", "noequals;", "b=AAAA;")
		p.white = pick("", " ", "\r\n\t")
		m.how = append(m.how, p.extra)
		m.raw = p.sign()
	}
	if r.IntN(2) == 0 {
		return m
	}
	change := func(name, was, is string) {
		m.how = append(m.how, name)
		m.raw = strings.Replace(m.raw, was, is, 1)
	}
	key2 := func(name, was, is string) {
		m.how = append(m.how, name)
		m.record = strings.Replace(m.record, was, is, 1)
	}
	for range 1 + r.IntN(2) {
		switch r.IntN(24) {
		case 0:
			change("a field added on top", "", pick("Subject: other\r\n", "X-Y: other\r\n", "From: other@o.example\r\n"))
		case 1:
			change("a field added below", "\r\n\r\n", "\r\n"+pick("Subject: other", "X-Y: other", "From: other@o.example")+"\r\n\r\n")
		case 2:
			change("empty lines at the end", "", "")
			m.raw += strings.Repeat("\r\n", 1+r.IntN(4))
		case 3:
			change("text at the end", "", "")
			m.raw += "more\r\n"
		case 4:
			change("blanks doubled", " ", "  ")
		case 5:
			change("a word changed", "word", "vord")
		case 6:
			change("no v=", "v=1;", "")
		case 7:
			change("v=2", "v=1;", "v=2;")
		case 8:
			change("a tag of no meaning", "s=", "zz=1; s=")
		case 9:
			change("a tag twice", "s=", "d=d.example; s=")
		case 10:
			change("another algorithm", "-sha256", pick("-sha1", "-sha512", ""))
		case 11:
			change("canonicalization", "c=", pick("c=relaxed; x=", "c=nothing/", "c=relaxed/"))
		case 12:
			change("h= without From", "h=From", "h=To")
		case 13:
			change("l=", "; s=", pick("; l=0; s=", "; l=99999; s=", "; l=-1; s=", "; l=x; s="))
		case 14:
			change("expires before it began", "; s=", "; x=1; s=")
		case 15:
			change("q=", "; s=", pick("; q=dns/txt; s=", "; q=http; s=", "; q=http:dns/txt; s="))
		case 16:
			change("b= in another tag", "; s=", "; z=x:b=20; s=")
		case 17:
			key2("key revoked", "p=", "p=; n=")
		case 18:
			key2("key of another kind", "k=", pick("k=x", "x=", "k=ed25519; x="))
		case 19:
			key2("key hash", "p=", pick("h=sha1; p=", "h=sha1:sha256; p=", "h=sha256; p="))
		case 20:
			key2("key service", "p=", pick("s=*; p=", "s=email; p=", "s=other; p=", "s=other:email; p="))
		case 21:
			key2("key version", "v=DKIM1;", pick("", "v=DKIM2;", "v=DKIM1; v=DKIM1;", "k=rsa; v=DKIM1;"))
		case 22:
			key2("key data", "p=", pick("p=A", "p= \t", "p=!"))
		case 23:
			key2("key flags", "p=", pick("t=s; p=", "t=y; p=", "t=y:s; p="))
		}
	}
	return m
}

// difference names the reason for which the verifier and the oracle may differ on
// a message; empty: there is none. In each the verifier is right by the RFC that
// is named.
func difference(m made, ours dkim.Outcome, oracle error) string {
	reason := ""
	if oracle != nil {
		reason = oracle.Error()
	}
	has := func(s string) bool { return strings.Contains(strings.Join(m.how, "|"), s) }
	switch {
	case reason == "dkim: domain mismatch" && !strings.Contains(ours.Reason, "mismatch"):
		return "i= and d= differ in letter case: the oracle compares octets (RFC 4343: no difference)"
	case strings.Contains(reason, "insecure body length"):
		return "l= covers the whole body: the oracle refuses every l= (RFC 6376 §3.5)"
	case (has("b=20") || has("b=3D") || has("b= in another tag")) && strings.HasPrefix(reason, "dkim: signature did not verify"):
		return "b= in the value of another tag: the oracle empties that too (RFC 6376 §3.7)"
	case strings.Contains(ours.Reason, "twice"):
		return "a tag twice: the oracle takes one of them (RFC 6376 §3.2: the list is invalid)"
	case strings.Contains(ours.Reason, "expires before"):
		return "x= is not behind t= (RFC 6376 §3.5)"
	case strings.Contains(ours.Reason, "t=s"):
		return "t=s: the oracle passes it over (RFC 6376 §3.6.1)"
	case ours.Reason == "i= has no domain":
		return "i= without @: the oracle looks at its end alone (RFC 6376 §3.5)"
	case strings.Contains(reason, "malformed signature tags") && has("|;"):
		return "an empty tag: the oracle refuses it; nothing can be read into it"
	case has("key service") && ours.Result == policy.Pass:
		return "s=* (RFC 6376 §3.6.1)"
	case strings.Contains(ours.Reason, "incompatible key version"):
		return "v= is not the first tag of the key (RFC 6376 §3.6.1)"
	}
	return ""
}

var messages = flag.Int("messages", 1000, "how many messages TestTheOracleAgrees makes up")

// TestTheOracleAgrees has messages that were made up judged by this verifier and by
// another one, and knows of each difference who is right.
func TestTheOracleAgrees(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 26))
	classes := map[string]int{}
	agreed := map[policy.Result]int{}
	for range *messages {
		m := makeMessage(r)
		z := zone{}
		for _, domain := range []string{"d.example", "sub.d.example"} {
			for _, selector := range []string{"sel", "a.b", "s_1"} {
				z[selector+"._domainkey."+domain] = []string{m.record}
			}
		}
		ours := verify(m.raw, z)
		theirs, err := msgauth.VerifyWithOptions(strings.NewReader(m.raw), &msgauth.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
			return z.lookup(t.Context(), name)
		}})
		if err != nil || len(theirs) != len(ours) || len(ours) != 1 {
			t.Fatalf("%d signatures of ours, %d of the oracle's, %v:\n%q", len(ours), len(theirs), err, m.raw)
		}
		if (ours[0].Result == policy.Pass) == (theirs[0].Err == nil) {
			agreed[ours[0].Result]++
			continue
		}
		class := difference(m, ours[0], theirs[0].Err)
		if class == "" {
			t.Errorf("%v: %s %q, and the oracle says %v:\n%q\n%s", m.how, ours[0].Result, ours[0].Reason, theirs[0].Err, m.raw, m.record)
		}
		classes[fmt.Sprintf("%-9s oracle %-5v %s", ours[0].Result, theirs[0].Err == nil, class)]++
	}
	for result, n := range agreed {
		t.Logf("%5d agreed: %s", n, result)
	}
	for class, n := range classes {
		t.Logf("%5d differ: %s", n, class)
	}
	if agreed[policy.Pass] < *messages/4 || agreed[policy.Fail]+agreed[policy.PermError] < *messages/8 {
		t.Errorf("too few of some kind: %v", agreed)
	}
}
