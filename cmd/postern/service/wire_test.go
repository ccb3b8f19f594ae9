package service

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/metrics"
)

// built loads a configuration and makes its parts, as a reload of old does.
func built(t *testing.T, text string, old *Parts) *Parts {
	t.Helper()
	file := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(file, []byte("dns: {servers: [127.0.0.1]}\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := configs.Load(configs.Options{File: file, NoEnvironment: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Log: slog.New(slog.DiscardHandler), metrics: metrics.New(), Fallback: InnerBackend("maildir", "none")}
	p, err := Build(cfg, w, old)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(old) })
	return p
}

// A reload loses nothing that is costly to get back, unless it was changed.
func TestReloadTakesOverWhatHasNotChanged(t *testing.T) {
	const backends = "backends: [{name: mta, addresses: [\"127.0.0.1:10025\"]}]\n"
	old := built(t, backends, nil)
	for text, kept := range map[string]string{
		backends + "limits: {recipients: 5}\n":         "resolver backends tls",
		"\n\n" + backends:                              "resolver backends tls", // other lines are no other words
		backends + "policy: {builtin: off}\n":          "resolver backends tls",
		backends + "timeouts: {backend_connect: 1s}\n": "resolver tls",
		strings.Replace(backends, "10025", "10026", 1): "resolver tls",
		backends + "tls: {min_version: \"1.3\"}\n":     "resolver backends",
		backends + "hostname: other.example\n":         "resolver",
		"":                                             "resolver tls",
	} {
		p := built(t, text, old)
		var got []string
		if p.Resolver == old.Resolver {
			got = append(got, "resolver")
		}
		if p.Backends == old.Backends {
			got = append(got, "backends")
		}
		if p.Settings.TLS == old.Settings.TLS {
			got = append(got, "tls")
		}
		if g := strings.Join(got, " "); g != kept {
			t.Errorf("%q keeps %q, not %q", text, g, kept)
		}
	}
}

// No check runs that nobody asks for.
func TestChecksRunForSomebody(t *testing.T) {
	const none = "headers: {received: false, received_spf: false, authentication_results: false}\n"
	for text, want := range map[string]string{
		"policy: {builtin: off}\n":        "iprev spf spf_helo submitter pra",
		none + "policy: {builtin: off}\n": "",
		none + "policy: {builtin: off, rules: [{name: a, when: spf.result == \"fail\", do: reject}]}\n": "spf",
		none + "policy: {builtin: off, rules: [{name: a, when: mx.result == \"fail\", do: reject}]}\n":  "mx",
		none: "mx spf submitter pra dkim dmarc", // the built-in policy
		none + "policy: {builtin: off, rules: [{name: a, when: client.name == \"\", do: reject}]}\n":               "iprev",
		none + "policy: {builtin: off, rules: [{name: a, when: '\"x.example\" in dkim.domains', do: pass}]}\n":     "dkim",
		none + "policy: {builtin: off}\nbackends: [{name: m, addresses: [\"a.example:25\"], identity: xclient}]\n": "iprev",
		none + "policy: {builtin: off}\njournal: {path: /nowhere}\n":                                               "iprev mx spf spf_helo submitter dnsbl pra",
		"headers: {received: false, received_spf: true, authentication_results: false}\npolicy: {builtin: off}\n":  "spf spf_helo submitter pra",
	} {
		p := built(t, text, nil)
		var got []string
		for _, name := range []string{"iprev", "mx", "spf", "spf_helo", "submitter", "dnsbl", "pra", "dkim", "dmarc"} {
			if p.Settings.Checks.Wants(name) {
				got = append(got, name)
			}
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%q runs %q, not %q", text, g, want)
		}
	}
}

func TestFaultsOfEveryPartAreToldTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "postern.yaml")
	text := `tls: {certificates: [{certificate: a, key: b}]}
lists: [{name: l, file: none}]
policy: {rules: [{name: r, when: 'in_list("k", client.ip)', do: reject}]}
backends: [{name: m, addresses: ["a.example:25"], tls: verify, ca: none}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(configs.Options{File: file, NoEnvironment: true})
	var faults configs.Faults
	if !errors.As(err, &faults) || len(faults) != 4 {
		t.Fatalf("%v", err)
	}
	for i, f := range faults {
		if f.Position.Line != i+1 || f.Position.File != file {
			t.Errorf("fault %d: %v", i, f)
		}
	}
}

func TestSelfSignedCertificate(t *testing.T) {
	now := time.Now()
	pair, err := selfSigned("mx.example", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Leaf.VerifyHostname("mx.example"); err != nil {
		t.Error(err)
	}
	if err := pair.Leaf.CheckSignature(pair.Leaf.SignatureAlgorithm, pair.Leaf.RawTBSCertificate, pair.Leaf.Signature); err != nil {
		t.Error(err)
	}
	if pair.Leaf.NotBefore.After(now) || pair.Leaf.NotAfter.Before(now.AddDate(9, 0, 0)) {
		t.Error(pair.Leaf.NotBefore, pair.Leaf.NotAfter)
	}
	// A name that is too long for a common name is still a name.
	if _, err := selfSigned(strings.Repeat("a.", 60)+"example", now); err != nil {
		t.Error(err)
	}
}
