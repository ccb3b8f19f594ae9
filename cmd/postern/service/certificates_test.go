package service

import (
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/checks/logtest"
	"postern/configs"
)

// writePair writes a certificate that was made for mx.example.org at that time, and its key.
func writePair(t *testing.T, dir string, made time.Time) {
	t.Helper()
	pair, err := selfSigned("mx.example.org", made)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// A certificate that has ended, soon will, or has not begun is warned of whichever way it
// comes in: at the start (which a hand-over is too), by a reload, and as its file changes.
func TestCertificatesAreWarnedOfWhicheverWayTheyCome(t *testing.T) {
	const good, ended, soon, early = "", "cert.pem ended on ", "cert.pem ends on ", "cert.pem begins only on "
	made := map[string]time.Time{
		good: time.Now(), ended: time.Now().AddDate(-10, 0, -1), soon: time.Now().AddDate(-10, 0, 3), early: time.Now().AddDate(0, 0, 2),
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "postern.yaml")
	write(t, file, quiet+"hostname: mx.example.org\ntls: {certificates: [{certificate: cert.pem, key: key.pem}]}\n")
	opt := configs.Options{File: file, NoEnvironment: true}
	for _, at := range []string{ended, soon, early, good} {
		writePair(t, dir, made[at])
		cfg, err := configs.Load(opt)
		if err != nil {
			t.Fatal(err)
		}
		var log logtest.Log
		s := New(Options{Config: opt, Log: slog.New(slog.NewTextHandler(&log, nil)), Maildir: filepath.Join(t.TempDir(), "Maildir")})
		check := func(way, want string) {
			t.Helper()
			// What is logged meanwhile by others is none of ours.
			said := log.Take()
			found := strings.Count(said, "cert.pem ")
			if want == good && found != 0 || want != good && (found != 1 || !strings.Contains(said, want)) {
				t.Errorf("%s, wanted %q:\n%s", way, want, said)
			}
		}
		if err := s.Start(cfg, nil, nil); err != nil {
			t.Fatal(err)
		}
		s.endWatch() // the files change when we say so
		check("at the start", at)
		for _, next := range []string{good, soon, ended, early, good} {
			writePair(t, dir, made[next])
			s.reloadCertificates(s.parts.Load())
			check("as the file changes", next)
		}
		for _, next := range []string{ended, good, early} {
			writePair(t, dir, made[next])
			s.reload()
			s.endWatch()
			check("by a reload", next)
		}
		s.Stop(nil)
	}
}
