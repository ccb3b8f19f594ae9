package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"time"

	"postern/policy"
)

// tlsFacts tells rules what the handshake found.
//
// A client's certificate is verified here and not in the handshake: one that we
// cannot verify is no reason to refuse mail, only no reason to trust it.
func tlsFacts(cs *tls.ConnectionState, roots *x509.CertPool, now time.Time) policy.TLS {
	t := policy.TLS{
		Version: strings.TrimPrefix(tls.VersionName(cs.Version), "TLS "),
		Cipher:  tls.CipherSuiteName(cs.CipherSuite),
	}
	if len(cs.PeerCertificates) > 0 {
		leaf := cs.PeerCertificates[0]
		sum := sha256.Sum256(leaf.Raw)
		t.Peer.Fingerprint = hex.EncodeToString(sum[:])
		if t.Peer.Verified = len(cs.VerifiedChains) > 0; !t.Peer.Verified && roots != nil {
			between := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := leaf.Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between, CurrentTime: now,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			})
			t.Peer.Verified = err == nil
		}
		for _, n := range leaf.DNSNames {
			t.Peer.Names = append(t.Peer.Names, strings.ToLower(n))
		}
	}
	return t
}
