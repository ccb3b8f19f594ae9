package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"slices"
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

// BroadSuites are the cipher suites of TLS 1.2 and before that are better than
// none: all that Go has, but for RC4.
func BroadSuites() (ids []uint16) {
	for _, c := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if !strings.Contains(c.Name, "RC4") {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// helloConn is the connection of a handshake, and keeps what its client offered.
type helloConn struct {
	net.Conn
	hello *tls.ClientHelloInfo
}

// KeepHello is the GetConfigForClient of what Handshake is given. It changes nothing; a
// handshake that fails can then say what would have helped.
func KeepHello(h *tls.ClientHelloInfo) (*tls.Config, error) {
	if c, ok := h.Conn.(*helloConn); ok {
		c.hello = h
	}
	return nil, nil
}

// advice says what the site could do about a handshake that failed with that
// configuration; empty: nothing that is known.
func (c *helloConn) advice(config *tls.Config) string {
	h := c.hello
	if h == nil || len(h.SupportedVersions) == 0 {
		return ""
	}
	newest := slices.Max(h.SupportedVersions)
	switch {
	case newest < tls.VersionTLS12:
		return "the client has nothing newer than " + tls.VersionName(newest) + ", which is not served"
	case newest < config.MinVersion:
		return "tls.min_version: \"1.2\" would serve this client"
	case newest > tls.VersionTLS12:
		return ""
	}
	rsa, ecdsa, broad := false, false, false
	for _, s := range h.CipherSuites {
		name := tls.CipherSuiteName(s)
		modern := strings.HasPrefix(name, "TLS_ECDHE_") && slices.ContainsFunc(tls.CipherSuites(), func(c *tls.CipherSuite) bool { return c.ID == s })
		rsa = rsa || modern && strings.HasPrefix(name, "TLS_ECDHE_RSA_")
		ecdsa = ecdsa || modern && strings.HasPrefix(name, "TLS_ECDHE_ECDSA_")
		broad = broad || !modern && slices.Contains(BroadSuites(), s)
	}
	certificate := &tls.Certificate{}
	if config.GetCertificate != nil {
		certificate, _ = config.GetCertificate(h)
	} else if len(config.Certificates) > 0 {
		certificate = &config.Certificates[0]
	}
	isRSA := certificate != nil && certificate.Leaf != nil && certificate.Leaf.PublicKeyAlgorithm == x509.RSA
	switch {
	case rsa && isRSA, ecdsa && !isRSA:
		return ""
	case rsa:
		return "a certificate with an RSA key would serve this client"
	case !broad:
		return "the client has no cipher suite that could be served"
	case config.CipherSuites != nil && isRSA:
		return ""
	case config.CipherSuites != nil:
		return "a certificate with an RSA key would serve this client"
	case isRSA:
		return "tls.suites: broad would serve this client"
	}
	return "tls.suites: broad, and a certificate with an RSA key, would serve this client"
}
