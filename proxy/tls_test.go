package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"postern/proxy/wire"
)

// rsaCertificate is one with a key that RSA key exchange can use.
func rsaCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"}, DNSNames: []string{"mx.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// An old sender is served where the site wants it; where it is not, the log of the
// handshake says what would help.
func TestOldSendersAndTLS(t *testing.T) {
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}
	rsaOnly := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	ancient := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	twelve := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
	withRSA, withECDSA := rsaCertificate(t), rigCertificate()
	withECDSA.Leaf, _ = x509.ParseCertificate(withECDSA.Certificate[0])
	for _, tc := range []struct {
		name   string
		client *tls.Config
		server *tls.Config
		advice string // empty: it is served; -: it is not, and nothing is said
	}{
		{"modern, RSA key exchange", old, &tls.Config{Certificates: []tls.Certificate{withRSA}}, "tls.suites: broad would serve this client"},
		{"and an ECDSA certificate", old, &tls.Config{Certificates: []tls.Certificate{withECDSA}}, "tls.suites: broad, and a certificate with an RSA key, would serve this client"},
		{"broad", old, &tls.Config{Certificates: []tls.Certificate{withRSA}, CipherSuites: wire.BroadSuites()}, ""},
		{"broad with an ECDSA certificate", old, &tls.Config{Certificates: []tls.Certificate{withECDSA}, CipherSuites: wire.BroadSuites()}, "a certificate with an RSA key would serve this client"},
		{"RSA signatures only", rsaOnly, &tls.Config{Certificates: []tls.Certificate{withECDSA}}, "a certificate with an RSA key would serve this client"},
		{"and an RSA certificate", rsaOnly, &tls.Config{Certificates: []tls.Certificate{withRSA}}, ""},
		{"TLS 1.1", ancient, &tls.Config{Certificates: []tls.Certificate{withRSA}}, "the client has nothing newer than TLS 1.1, which is not served"},
		{"TLS 1.2 where 1.3 is wanted", twelve, &tls.Config{Certificates: []tls.Certificate{withRSA}, MinVersion: tls.VersionTLS13}, `tls.min_version: "1.2" would serve this client`},
		{"TLS 1.2 with broad", twelve, &tls.Config{Certificates: []tls.Certificate{withECDSA}, CipherSuites: wire.BroadSuites()}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.server.GetConfigForClient = wire.KeepHello
			tc.server.MinVersion = max(tc.server.MinVersion, tls.VersionTLS12)
			var log bytes.Buffer
			r := newRig(t, rigOptions{})
			r.set.TLS = tc.server
			r.srv.log = slog.New(slog.NewJSONHandler(&log, nil))
			c := r.connect("192.0.2.1")
			c.ehlo()
			c.cmd("STARTTLS", "220")
			tc2 := tls.Client(c.conn, tc.client)
			err := tc2.Handshake()
			_ = c.conn.Close()
			<-c.done
			switch {
			case tc.advice == "" && err != nil:
				t.Errorf("%v\n%s", err, log.String())
			case tc.advice != "" && err == nil:
				t.Error("it is served")
			case tc.advice != "" && !strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), `"advice":"`+tc.advice+`"`):
				t.Errorf("want the advice %q\n%s", tc.advice, log.String())
			}
		})
	}
}
