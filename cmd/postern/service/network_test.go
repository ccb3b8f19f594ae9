package service

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/checks/leaktest"
	"postern/checks/logtest"
	"postern/checks/network/networktest"
	"postern/configs"
)

// A file of networks that is missing is no reason not to start: it is said once, warned of, and
// read when it comes.
func TestFilesOfNetworks(t *testing.T) {
	defer leaktest.None(t)
	dir := t.TempDir()
	file, path := filepath.Join(dir, "postern.yaml"), filepath.Join(dir, "asn.mmdb")
	write(t, file, quiet+"checks: {geo: {files: [asn.mmdb]}}\npolicy: {rules: [{name: far, when: client.asn == 64500, do: reject}]}\n")
	opt := configs.Options{File: file, NoEnvironment: true}
	cfg, err := configs.Load(opt)
	if err != nil {
		t.Fatal(err)
	}
	log := &logtest.Log{}
	s := New(Options{Config: opt, Log: slog.New(slog.NewTextHandler(log, nil)), Maildir: filepath.Join(dir, "Maildir")})
	if err := s.Start(cfg, nil, nil); err != nil {
		t.Fatal(err)
	}
	defer s.Stop(nil)
	p := s.parts.Load()
	if warnings := p.networkWarnings(); len(warnings) != 1 || !strings.Contains(warnings[0].Text, path) || warnings[0].Position.Line == 0 {
		t.Errorf("%+v", warnings)
	}
	known := func() bool {
		found, ok := p.networks.Lookup(netip.MustParseAddr("192.0.2.1"))
		return ok && found.ASN == 64500
	}
	if known() {
		t.Error("it is known, and there is no file")
	}
	if n := strings.Count(log.String(), "a file of networks cannot be read"); n != 1 {
		t.Errorf("said %d times", n)
	}
	networktest.Write(t, path, map[string]networktest.Record{"192.0.2.0/24": networktest.System(64500, "Example")})
	for end := time.Now().Add(patience); !known(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the file has come, and nobody has read it")
		}
	}
	if warnings := p.networkWarnings(); warnings != nil {
		t.Errorf("%+v", warnings)
	}
	if err := s.tryReload(); err != nil {
		t.Fatal(err)
	}
	if p = s.parts.Load(); !known() {
		t.Error("a reload has forgotten the file")
	}
}

func TestRulesOnNetworksWithoutFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "postern.yaml")
	write(t, file, quiet+"policy: {rules: [{name: far, when: client.country == \"XX\", do: reject}]}\n")
	p, err := Load(configs.Options{File: file, NoEnvironment: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(nil)
	var found []string
	for _, w := range p.ConfigurationWarnings() {
		if strings.Contains(w.Text, "checks.geo.files") {
			found = append(found, w.Error())
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], `rule "far" reads client.country`) {
		t.Errorf("%q", found)
	}
}
