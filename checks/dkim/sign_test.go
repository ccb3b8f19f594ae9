package dkim_test

import (
	"crypto"
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// plan is a signature to be made by hand.
type plan struct {
	header, body         string
	key                  crypto.Signer
	domain, selector     string
	names                []string
	headerForm, bodyForm string
	extra, white         string
}

// sign returns the message with its signature on top.
func (p plan) sign() string {
	algorithm, hash := "rsa-sha256", crypto.SHA256
	if _, ok := p.key.(ed25519.PrivateKey); ok {
		algorithm, hash = "ed25519-sha256", crypto.Hash(0)
	}
	bh := sha256.Sum256([]byte(naiveBody(p.bodyForm, p.body)))
	field := "DKIM-Signature: v=1;" + p.white + "a=" + algorithm + "; c=" + p.headerForm + "/" + p.bodyForm + ";" + p.white + p.extra + " d=" + p.domain +
		"; s=" + p.selector + "; h=" + strings.Join(p.names, p.white+":"+p.white) + "; bh=" + base64.StdEncoding.EncodeToString(bh[:]) + ";" + p.white + "b="
	var signed strings.Builder
	left := fieldsOf(p.header)
	for _, name := range p.names {
		for i := len(left) - 1; i >= 0; i-- {
			if n, _, _ := strings.Cut(left[i], ":"); strings.EqualFold(strings.TrimSpace(n), name) {
				signed.WriteString(naiveField(p.headerForm, left[i]))
				left = slices.Delete(left, i, i+1)
				break
			}
		}
	}
	signed.WriteString(strings.TrimSuffix(naiveField(p.headerForm, field+"\r\n"), "\r\n"))
	sum := sha256.Sum256([]byte(signed.String()))
	sig, err := p.key.Sign(crand.Reader, sum[:], hash)
	if err != nil {
		panic(err)
	}
	return field + base64.StdEncoding.EncodeToString(sig) + "\r\n" + p.header + "\r\n" + p.body
}

// fieldsOf parts a header section of fields alone.
func fieldsOf(header string) (fields []string) {
	for line := range strings.SplitAfterSeq(header, "\r\n") {
		if n := len(fields); n > 0 && line != "" && (line[0] == ' ' || line[0] == '\t') {
			fields[n-1] += line
		} else if line != "" {
			fields = append(fields, line)
		}
	}
	return fields
}

var (
	blanks  = regexp.MustCompile(`[ \t]+`)
	folding = regexp.MustCompile(`[ \t\r\n]+`)
)

// naiveField is the canonical form of a field, word for word as RFC 6376 §3.4.1
// and §3.4.2 say it.
func naiveField(form, field string) string {
	if form == "simple" {
		return field
	}
	name, value, _ := strings.Cut(field, ":")
	return strings.ToLower(strings.TrimRight(name, " \t")) + ":" + strings.Trim(folding.ReplaceAllString(value, " "), " ") + "\r\n"
}

// naiveBody is the canonical form of a body, word for word as RFC 6376 §3.4.3
// and §3.4.4 say it.
func naiveBody(form, body string) string {
	if form == "relaxed" {
		lines := strings.Split(body, "\r\n")
		for i, line := range lines {
			lines[i] = strings.TrimRight(blanks.ReplaceAllString(line, " "), " ")
		}
		body = strings.Join(lines, "\r\n")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body == "" && form == "relaxed" {
		return ""
	}
	return body + "\r\n"
}
