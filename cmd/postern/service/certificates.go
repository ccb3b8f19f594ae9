package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/proxy/wire"
)

// certificates are the pairs that clients meet. They are read anew without a
// new tls.Config, which would end the TLS sessions that clients resume.
type certificates struct {
	files   []configs.Certificate
	current atomic.Pointer[[]*tls.Certificate]
	metrics *metrics.Metrics
}

// inMemory is the name in the metrics of the certificate that has no file.
const inMemory = "memory"

// loadCertificates reads the pairs, or makes one for name where there are none.
func loadCertificates(files []configs.Certificate, name string, m *metrics.Metrics) (*certificates, error) {
	c := &certificates{files: files, metrics: m}
	if len(files) == 0 {
		pair, err := selfSigned(name, time.Now())
		if err != nil {
			return nil, err
		}
		c.current.Store(&[]*tls.Certificate{pair})
		return c, nil
	}
	return c, c.reload()
}

// reload reads the files again. If one pair is wrong, all stay as they are.
func (c *certificates) reload() error {
	if len(c.files) == 0 {
		return nil
	}
	var pairs []*tls.Certificate
	var faults []error
	for _, f := range c.files {
		pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			faults = append(faults, &configs.Fault{Position: f.Position, Text: fmt.Sprintf("certificate %s with key %s: %v", f.Certificate, f.Key, err)})
			continue
		}
		pairs = append(pairs, &pair)
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	c.current.Store(&pairs)
	return nil
}

// publish tells the metrics until when the certificates are good.
func (c *certificates) publish() {
	c.metrics.ForgetCertificates()
	for i, pair := range c.Pairs() {
		name := inMemory
		if i < len(c.files) {
			name = c.files[i].Certificate
		}
		c.metrics.CertificateNotAfter(name, pair.Leaf.NotAfter)
	}
}

// Pairs are those in use, in the order of their files.
func (c *certificates) Pairs() []*tls.Certificate { return *c.current.Load() }

// Served is the pair that a client meets who asks for a name.
func (c *certificates) Served(name string) *tls.Certificate {
	pairs := c.Pairs()
	for _, pair := range pairs {
		if pair.Leaf != nil && pair.Leaf.VerifyHostname(name) == nil {
			return pair
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	return pairs[0]
}

// OffersTLS says whether any listener does.
func OffersTLS(cfg *configs.Config) bool {
	return slices.ContainsFunc(Listeners(cfg), func(l configs.Listener) bool { return l.TLS != "off" })
}

// get chooses a certificate for a handshake: the first that has the name the
// client asks for, and that it can use; else the first. NOT: an error for a name
// that we do not have. Most MTAs do not verify, and would go on in the clear.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs := c.Pairs()
	if len(pairs) > 1 && hello.ServerName != "" {
		for _, pair := range pairs {
			if pair.Leaf.VerifyHostname(hello.ServerName) == nil && hello.SupportsCertificate(pair) == nil {
				return pair, nil
			}
		}
	}
	return pairs[0], nil
}

// warnings tells of certificates that have ended, or soon will, or have not begun, and of a hostname
// that none of them is for; an empty one is not looked for.
func (c *certificates) warnings(now time.Time, hostname string) (warnings []configs.Fault) {
	const soon = 7 * 24 * time.Hour
	pairs := c.Pairs()
	fits := func(pair *tls.Certificate) bool { return pair.Leaf.VerifyHostname(hostname) == nil }
	if len(c.files) > 0 && hostname != "" && !slices.ContainsFunc(pairs, fits) {
		warnings = append(warnings, configs.Warning(c.files[0].Position,
			"no certificate is for %s, which is our hostname: senders that check the name (MTA-STS) will not deliver", hostname))
	}
	for i, pair := range pairs {
		if i >= len(c.files) {
			break
		}
		f, begin, end := c.files[i], pair.Leaf.NotBefore, pair.Leaf.NotAfter
		switch {
		case now.Before(begin):
			warnings = append(warnings, configs.Fault{Position: f.Position, Text: fmt.Sprintf("certificate %s begins only on %s", f.Certificate, begin.Format(time.DateOnly))})
		case now.After(end):
			warnings = append(warnings, configs.Warning(f.Position, "certificate %s ended on %s", f.Certificate, end.Format(time.DateOnly)))
		case now.Add(soon).After(end):
			warnings = append(warnings, configs.Warning(f.Position, "certificate %s ends on %s", f.Certificate, end.Format(time.DateOnly)))
		}
	}
	return warnings
}

// buildTLS makes the tls.Config, or takes the old one where only the files may
// have changed.
func (p *Parts) buildTLS(name string, w *World, old *Parts) (*tls.Config, error) {
	cfg := p.Config.TLS
	var pool *x509.CertPool
	if file := cfg.ClientCertificates.CA; file != "" {
		at := p.Config.At("tls.client_certificates.ca")
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, &configs.Fault{Position: at, Text: fmt.Sprintf("tls.client_certificates.ca: %v", err)}
		}
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, &configs.Fault{Position: at, Text: fmt.Sprintf("tls.client_certificates.ca: %s holds no certificate in PEM", file)}
		}
		p.roots = string(pem)
	}
	if old != nil && old.roots == p.roots && hostname(old.Config) == name && same(configs.Config{TLS: cfg}, configs.Config{TLS: old.Config.TLS}) {
		p.Certificates = old.Certificates
		return old.Settings.TLS, p.Certificates.reload()
	}
	var err error
	if p.Certificates, err = loadCertificates(cfg.Certificates, name, w.metrics); err != nil {
		return nil, err
	}
	config := &tls.Config{
		GetCertificate:     p.Certificates.get,
		GetConfigForClient: wire.KeepHello,
		MinVersion:         tls.VersionTLS12,
		ClientCAs:          pool,
	}
	if cfg.Suites == "broad" {
		config.CipherSuites = wire.BroadSuites()
	}
	if cfg.MinVersion == "1.3" {
		config.MinVersion = tls.VersionTLS13
	}
	switch cfg.ClientCertificates.Mode {
	// NOT: VerifyClientCertIfGiven. Many MTAs present whatever certificate they
	// have; one that is not signed by our partners' root would have no TLS at all.
	// It is shown as not verified.
	case "request":
		config.ClientAuth = tls.RequestClientCert
	case "require":
		config.ClientAuth = tls.RequireAnyClientCert
	}
	return config, nil
}

// selfSigned makes a certificate for opportunistic TLS: it hides the mail from
// those who listen, and proves nothing. ECDSA, since an RSA handshake costs five times as much.
func selfSigned(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name[:min(len(name), 64)]},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-time.Hour), // for clients whose clock is behind
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
