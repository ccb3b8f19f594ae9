package checks

import (
	"bufio"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"io"
	"regexp"
	"strings"
)

// What the dkim package does with a DKIM-Signature before it verifies that: it
// empties b= by a pattern that finds "b=" anywhere. But the value of another tag
// may hold one, as in z=Date:Sat,=201=20Feb=202026 (RFC 6376 §3.5); then the
// signature does not verify, and nobody but we is wrong.
var emptiedByPackage = regexp.MustCompile(`(b\s*=)[^;]+`)

// withoutSignature returns a DKIM-Signature field as its signer had it, with
// nothing in b= (RFC 6376 §3.7).
func withoutSignature(field string) string {
	name, value, _ := strings.Cut(field, ":")
	tags := strings.Split(value, ";")
	for i, tag := range tags {
		if key, _, ok := strings.Cut(tag, "="); ok && strings.TrimSpace(key) == "b" {
			tags[i] = key + "="
		}
	}
	return name + ":" + strings.Join(tags, ";")
}

// misread says whether the package emptied more of a field than b=.
func misread(field string) bool {
	return emptiedByPackage.ReplaceAllString(field, "$1") != withoutSignature(field)
}

// notVerified begins the error of the package's last step.
const notVerified = "dkim: signature did not verify"

// verifyMisread verifies the n-th signature of a header section, which is s, where the
// package says notVerified for having misread it. It does no more than that step:
// that the package came so far says that the body hash is right, that the signature
// has all its tags and may be by that key, and that the key can be read.
func verifyMisread(fields []string, n int, s signature, key string) bool {
	for _, field := range fields {
		if !fieldIs(fieldName(field), "DKIM-Signature") {
			continue
		}
		if n--; n < 0 {
			_, value, _ := strings.Cut(field, ":")
			return misread(field) && readSignature(value) == s && verifyHeader(fields, field, key)
		}
	}
	return false
}

// verifyHeader verifies the signature in one of the fields over what it signs of
// them (RFC 6376 §3.7).
func verifyHeader(fields []string, field, key string) bool {
	_, value, _ := strings.Cut(field, ":")
	canonical := func(field string) string { return field }
	if c, _, _ := strings.Cut(squeeze(keyTag(value, "c")), "/"); c == "relaxed" {
		canonical = relaxedField
	}
	hash := sha256.New()
	taken := map[string]int{} // how many fields of a name were signed so far, from the bottom
	for name := range strings.SplitSeq(keyTag(value, "h"), ":") {
		name = strings.ToLower(squeeze(name))
		_, _ = io.WriteString(hash, canonical(fromBottom(fields, name, taken[name])))
		taken[name]++
	}
	_, _ = io.WriteString(hash, strings.TrimRight(canonical(withoutSignature(field)), "\r\n"))
	signature, err := base64.StdEncoding.DecodeString(squeeze(keyTag(value, "b")))
	return err == nil && verifyWith(key, hash.Sum(nil), signature)
}

// fromBottom returns the field of a name that has n of them below it; empty: there
// is none, and it was signed that there is none (RFC 6376 §5.4.2).
func fromBottom(fields []string, name string, n int) string {
	for i := len(fields) - 1; i >= 0; i-- {
		if !fieldIs(fieldName(fields[i]), name) {
			continue
		}
		if n--; n < 0 {
			return fields[i]
		}
	}
	return ""
}

// relaxedField is the canonicalization "relaxed" of a field (RFC 6376 §3.4.2).
func relaxedField(field string) string {
	if field == "" {
		return ""
	}
	_, value, _ := strings.Cut(field, ":")
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })
	return strings.ToLower(fieldName(field)) + ":" + strings.Join(words, " ") + "\r\n"
}

func fieldName(field string) string {
	name, _, _ := strings.Cut(field, ":")
	return strings.TrimSpace(name)
}

// headerFields reads the header section of a message again, octet for octet, and
// parts it as the dkim package does: whatever line does not begin with white space
// begins a field, whether it has a name or not. Each has its line ends.
func headerFields(msg Message) (fields []string) {
	lines := bufio.NewReader(io.NewSectionReader(msg.Whole, 0, msg.Size))
	var section strings.Builder
	var starts []int
	for {
		line, _ := lines.ReadString('\n')
		if line == "" || line == "\r\n" || line == "\n" {
			break
		}
		if starts == nil || line[0] != ' ' && line[0] != '\t' {
			starts = append(starts, section.Len())
		}
		section.WriteString(line)
	}
	starts = append(starts, section.Len())
	for i, start := range starts[:len(starts)-1] {
		fields = append(fields, section.String()[start:starts[i+1]])
	}
	return fields
}

// foldWork is how many octets the package copies when it joins the lines of a
// header section, each to those before it.
func foldWork(fields []string) (octets int) {
	for _, field := range fields {
		for at := strings.IndexByte(field, '\n') + 1; at > 0 && at < len(field); {
			octets += at
			next := strings.IndexByte(field[at:], '\n') + 1
			if next == 0 {
				break
			}
			at += next
		}
	}
	return octets
}

// pickWork is how many octets the package looks at when it goes through a header
// section for a field: the names, and the white space around the values.
func pickWork(fields []string) (octets int) {
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		octets += len(name) + len(value) - len(strings.TrimSpace(value))
	}
	return octets
}

// disguised says whether a line that is no field, and is one for nobody else, is
// one of those names for the dkim package: it is generous with white space (a
// vertical tab, a space of Unicode), with letters that have the case of others, and
// does without the colon. What was signed could hide in such a line, and another
// field of the name be shown in its place.
func disguised(fields []string, names map[string]bool) bool {
	for _, field := range fields {
		name, _, colon := strings.Cut(field, ":")
		if colon && plainFieldName(strings.TrimRight(name, " \t")) {
			continue
		}
		if names[strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "\u017f", "s")] { // the long s
			return true
		}
	}
	return false
}

// plainFieldName says whether s may be the name of a field (RFC 5322 §3.6.8).
func plainFieldName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// verifyWith verifies by a key record that the package has accepted.
func verifyWith(record string, hashed, signature []byte) bool {
	der, err := base64.StdEncoding.DecodeString(squeeze(keyTag(record, "p")))
	if err != nil {
		return false
	}
	if squeeze(keyTag(record, "k")) == "ed25519" {
		return len(der) == ed25519.PublicKeySize && ed25519.Verify(der, hashed, signature)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		public, err = x509.ParsePKCS1PublicKey(der) // erratum 3017 of RFC 6376: either form
	}
	key, ok := public.(*rsa.PublicKey)
	return err == nil && ok && rsa.VerifyPKCS1v15(key, crypto.SHA256, hashed, signature) == nil
}
