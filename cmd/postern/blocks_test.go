package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tried says of each block of the guides that is no configuration and no test of a policy where it is tried, by
// how it begins. Two things are not: Exchange, as the guide says, and what another machine would have to answer.
var tried = map[string]map[string]string{
	"../../README.md": {
		"SESSION  ":                    "printed by postern demo: testdata/script/demo.txtar",
		" sending MTA  ":               "a drawing",
		"go run ./cmd/postern demo":    "testdata/script/demo.txtar",
		"127.0.0.1:10025 inet":         "TestE2EGuides",
		"make build":                   "TestE2EGuides",
		"./bin/postern test-session":   "TestE2EGuides",
		"  pass  tag":                  "printed in TestE2EGuides",
		"To excuse them":               "printed in TestE2EGuides",
		"overrides:\n  - name: forwar": "printed in TestE2EGuides",
		"rules:\n  - {name: broken":    "TestE2EGuides",
		"  the same ":                  "printed in TestE2EGuides",
		"98: tag by":                   "printed in TestE2EGuides",
		"$ runuser -u postern -- post": "TestE2EGuides, of another machine",
		"$ postern ":                   "TestE2EGuides",
		"make help":                    "TestE2EGuides",
		"partner -> us    C: SELO":     "proxy/amtp/testdata/servers.txt and announce.txt",
	},
	"../../configs/README.md": {
		"203.0.113.0/24   # mail team": "lines of a list: TestBlocksAreTried, as the list forwarders",
	},
	"../../deploy/README.md": {
		"127.0.0.1:10025 inet":         "TestE2EBytesArriveAsSent, and all others with Postfix",
		"daemon_smtp_ports":            "TestE2EExtensionsByBackend, with Exim",
		"listen on 127.0.0.1":          "TestE2EExtensionsByBackend, with OpenSMTPD",
		"frontend smtp":                "TestE2EGuides",
		"apt install ./postern":        "make packages, by hand in a bare root",
		"make build\ninstall":          "TestE2EGuides",
		"# Names each fault":           "TestE2EGuides",
		"systemctl kill":               "TestE2EGuides",
		"docker build":                 "TestE2EImage runs what is in the image, without an engine",
		"swaks --server mx.example":    "TestE2EGuides",
		"cp -p /etc/postfix":           "TestE2EGuides",
		"systemctl disable":            "TestE2EGuides",
		"Set-TransportConfig":          "of Exchange, and said not to be tried",
		"#!/bin/sh\nset -e":            "TestE2EGuides",
		"ACL SETUSER":                  "TestE2EGuides",
		"postern held":                 "TestE2EGuides",
		"fast_flush_domains":           "TestE2EHold, with Postfix",
		"# /etc/postfix/main.cf: with": "what Postfix has without the policy service",
		"ssh -L":                       "of another machine",
		"openssl rand":                 "TestE2EGuides",
		"location / {":                 "TestE2EGuides",
		"curl -s":                      "TestE2EGuides",
		"# in prometheus.yml":          "TestE2EGuides",
		"postern amtp passwd":          "testdata/script/amtp-hold.txtar",
		"postern explain THE-ID":       "TestE2EGuides",
	},
}

var (
	isConfiguration = regexp.MustCompile(`^(?:#.*\n)*(?:lists|overrides|policy|milters|policy_services|control|hostname|listeners|backends):`)
	isIncluded      = regexp.MustCompile(`^(?:rules:|- name:)`)
)

// Whoever copies a block out of a guide gets what the guide says. Configurations are good, as files of their own or
// as included ones; tests of a policy pass; and of all else the table says where it is tried.
func TestBlocksAreTried(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	examples, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, path := range examples {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(filepath.Base(path), string(text))
	}
	list := write("forwarders.txt", BlockOf(t, "../../configs/README.md", "203.0.113.0/24   # mail team"))
	users := write("amtp-users", "")
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := makePair(cert, key, "mx.example.org", 90); err != nil {
		t.Fatal(err)
	}
	t.Setenv("POSTERN_CONFIG", "")

	var sources strings.Builder
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sources.Write(text)
	}

	loaded := 0
	for page, where := range tried {
		seen := map[string]bool{}
		for i, block := range BlocksOf(t, page) {
			begins := ""
			for b := range where {
				if strings.HasPrefix(block, b) && len(b) > len(begins) {
					begins = b
				}
			}
			if begins != "" {
				seen[begins] = true
				continue
			}
			name := fmt.Sprintf("tests/%d.yaml", i)
			args := []string{"check-config", "-c"}
			switch {
			case strings.Contains(block, "\ncases:\n"):
				args = []string{"policy", "test"}
			case isIncluded.MatchString(block):
				if strings.HasPrefix(block, "- ") {
					block = "rules:\n" + block
				}
				write(fmt.Sprintf("tests/included%d.yaml", i), block)
				block = fmt.Sprintf("policy: {include: [included%d.yaml]}\nlists: [{name: forwarders, file: %q}]\n", i, list)
			case !isConfiguration.MatchString(block):
				t.Errorf("%s: nobody tries this:\n%s", page, block)
				continue
			}
			block = strings.NewReplacer("/etc/postern/fullchain.pem", cert, "/etc/postern/key.pem", key, "/run/postern", dir, "/etc/postern/amtp-users", users).Replace(block)
			var said strings.Builder
			if err := run(t.Context(), append(args, write(name, block)), &said, io.Discard); err != nil {
				t.Errorf("%s: %v\n%s\n%s", page, err, said.String(), block)
			}
			loaded++
		}
		for begins := range where {
			if !seen[begins] {
				t.Errorf("%s has no block that begins with %q any more", page, begins)
			}
			if name := regexp.MustCompile(`Test\w+`).FindString(where[begins]); name != "" && !strings.Contains(sources.String(), "func "+name+"(t *testing.T)") {
				t.Errorf("%s: %q: there is no %s", page, begins, name)
			}
		}
	}
	if loaded < 14 {
		t.Errorf("only %d configurations", loaded)
	}
}
