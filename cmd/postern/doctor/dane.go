package doctor

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"

	"postern/checks/dnscache"
)

// The fields of a TLSA record (RFC 6698 §2.1, RFC 7218).
const (
	usageTA, usageEE = 2, 3 // the others are not for SMTP (RFC 7672 §3.1.3)

	selectorCertificate, selectorKey              = 0, 1
	matchingWhole, matchingSHA256, matchingSHA512 = 0, 1, 2
)

// judgeTLSA says whether a sender that goes by the records would deliver to the chain that
// is served to it.
func judgeTLSA(it topic, records []dnscache.TLSA, pair *tls.Certificate, name string) {
	var chain []*x509.Certificate
	if pair != nil {
		chain = certificatesOf(pair)
	}
	usable, matched := 0, []string{}
	for _, t := range records {
		if !usableTLSA(t) {
			continue
		}
		usable++
		for i, c := range chain {
			// DANE-EE is about the certificate itself, and no name counts (RFC 7672 §3.1.1);
			// DANE-TA is about one above it, and the name does (§3.1.2).
			fits := t.Usage == usageEE && i == 0 || t.Usage == usageTA && chain[0].VerifyHostname(name) == nil
			if fits && matchesTLSA(t, c) {
				matched = append(matched, textOfTLSA(t))
				break
			}
		}
	}
	var all []string
	for _, t := range records {
		all = append(all, textOfTLSA(t))
	}
	switch {
	case usable == 0:
		it.Warn("publish 3 1 1: the SHA-256 of the key that is served", "the signed TLSA records of %s (%s) are of no kind that mail goes by (RFC 7672): senders encrypt, and verify nothing", name, strings.Join(all, ", "))
	case len(matched) == 0:
		it.Fault("publish the record of the key that is served (openssl x509 -in fullchain.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum), or serve the pair that the record is of. Senders with DANE deliver nothing until then",
			"no TLSA record of %s (%s) fits the certificate that is served", name, strings.Join(all, ", "))
	default:
		it.OK("the TLSA record of %s (%s) fits the certificate that is served, and the resolver says that it is signed (AD)", name, strings.Join(matched, ", "))
	}
}

// usableTLSA says whether senders of mail go by a record.
func usableTLSA(t dnscache.TLSA) bool {
	length := map[uint8]int{matchingSHA256: sha256.Size, matchingSHA512: sha512.Size}[t.Matching]
	return (t.Usage == usageTA || t.Usage == usageEE) && t.Selector <= selectorKey && t.Matching <= matchingSHA512 && (length == 0 || len(t.Data) == length)
}

func matchesTLSA(t dnscache.TLSA, c *x509.Certificate) bool {
	of := c.Raw
	if t.Selector == selectorKey {
		of = c.RawSubjectPublicKeyInfo
	}
	switch t.Matching {
	case matchingSHA256:
		sum := sha256.Sum256(of)
		of = sum[:]
	case matchingSHA512:
		sum := sha512.Sum512(of)
		of = sum[:]
	}
	return bytes.Equal(of, t.Data)
}

// textOfTLSA is a record as people write it, with the beginning of its data.
func textOfTLSA(t dnscache.TLSA) string {
	const few = 4
	return fmt.Sprintf("%d %d %d %x...", t.Usage, t.Selector, t.Matching, t.Data[:min(len(t.Data), few)])
}
