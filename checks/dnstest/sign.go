package dnstest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"

	"github.com/emersion/go-msgauth/dkim"
)

// selector is where the key of a Signer stands below each domain.
const selector = "made-up"

// Signer signs mail (RFC 6376) with a key that it has made up, for whatever domain
// one wants: a zone that has its Record makes the signature pass. The key is good
// as long as the Signer.
type Signer struct {
	private ed25519.PrivateKey
}

// NewSigner returns a Signer with a new key.
func NewSigner() *Signer {
	_, private, _ := ed25519.GenerateKey(nil) // crypto/rand does not fail
	return &Signer{private}
}

// Record is the key's record for a domain, a line of a zone.
func (s *Signer) Record(domain string) string {
	public, _ := s.private.Public().(ed25519.PublicKey)
	return fmt.Sprintf("%s._domainkey.%s. TXT \"v=DKIM1; k=ed25519; p=%s\"\n", selector, key(domain), base64.StdEncoding.EncodeToString(public))
}

// Sign returns the message with a signature of the domain on top. The message
// has a From field, and lines that end in CRLF.
func (s *Signer) Sign(message []byte, domain string) ([]byte, error) {
	var signed bytes.Buffer
	if err := dkim.Sign(&signed, bytes.NewReader(message), &dkim.SignOptions{
		Domain: key(domain), Selector: selector, Signer: s.private, HeaderKeys: []string{"From", "Subject", "To", "Date"},
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
	}); err != nil {
		return nil, fmt.Errorf("dnstest: sign for %s: %w", domain, err)
	}
	return signed.Bytes(), nil
}
