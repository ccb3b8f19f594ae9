//go:build e2e

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	guides "postern/cmd/postern"
)

// The guides are followed to the letter on a Debian with Postfix: what they show to be typed is typed as it
// stands, by root, with its own files and ports, in namespaces of its own (mount, network, processes). There
// is no systemd in them, so systemctl and journalctl are stand-ins that do what the installed unit says.

const readme, deployGuide = "../../README.md", "../../deploy/README.md"

// aStep is a piece of a guide that is followed, or what a reader does by hand between two of them.
type aStep struct {
	what   string
	script string
	says   []string // patterns that the output must have
	never  string   // one that it must not have
}

// instead replaces what a guide leaves to its reader: names of machines, ids.
func instead(block string, pairs ...string) string {
	return strings.NewReplacer(pairs...).Replace(block)
}

func TestE2EGuides(t *testing.T) {
	needs(t, "unshare", "postfix", "swaks", "unbound", "openssl", "jq", "curl", "haproxy", "redis-server", "promtool", "nginx", "setpriv", "runuser", "ss", "systemd-sysusers")
	binary, err := build()
	if err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	deploy := func(begins string, pairs ...string) string {
		return instead(guides.BlockOf(t, deployGuide, begins), pairs...)
	}
	front := func(begins string, pairs ...string) string {
		return instead(guides.BlockOf(t, readme, begins), pairs...)
	}
	const good = "--local-interface 198.51.100.7 --ehlo mail.good.example"
	config := func(more string) string {
		return "cat >/etc/postern/postern.yaml <<'END'\n" + deploy("hostname: mx.example.org") + more + "END\npostern check-config -c /etc/postern/postern.yaml\n"
	}
	steps := []aStep{
		// README, Quick start.
		{what: "quick start: the door", script: "cat >>/etc/postfix/master.cf <<'END'\n" + front("127.0.0.1:10025 inet") + "END\npostfix start 2>&1\n"},
		{what: "quick start: serve", script: "mkdir -p bin && install -m 0755 /mnt/postern bin/postern\n" +
			strings.TrimSuffix(strings.TrimPrefix(front("make build\n"), "make build\n"), "\n") + " >/tmp/serve.log 2>&1 &\necho $! >/tmp/serve.pid\n" +
			`until curl -sf -o /dev/null http://127.0.0.1:9125/readyz; do sleep 0.1; done` + "\n"},
		{what: "quick start: send it something", script: inlineOf(t, readme, "swaks --server localhost") + "\n", says: []string{`(?m)^<-  250 2\.0\.0 Ok`}},
		{what: "quick start: test-session", script: front("./bin/postern test-session"), says: []string{`(?m)^Verdict$`, `(?m)^In words$`}},
		{what: "quick start: back", script: "kill $(cat /tmp/serve.pid)\ncp /etc/postfix/master.cf.debian /etc/postfix/master.cf\npostfix reload 2>&1\n"},

		// deploy/README, The service, from the sources.
		{what: "install", script: strings.TrimPrefix(deploy("make build\ninstall"), "make build\n") + "id postern\n", says: []string{`gid=\d+\(postern\)`}},
		{what: "a certificate", script: "mkdir -p /etc/letsencrypt/live/mx /etc/letsencrypt/renewal-hooks/deploy && cd /etc/letsencrypt/live/mx\n" +
			"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 60 -subj /CN=mx.example.org -addext subjectAltName=DNS:mx.example.org -keyout privkey.pem -out fullchain.pem 2>/dev/null\n" +
			"cat >/etc/letsencrypt/renewal-hooks/deploy/postern <<'END'\n" + deploy("#!/bin/sh\nset -e") + "END\nchmod 755 /etc/letsencrypt/renewal-hooks/deploy/postern\n" +
			"RENEWED_LINEAGE=$PWD /etc/letsencrypt/renewal-hooks/deploy/postern\nstat -c '%a %U' /etc/postern/key.pem\n", says: []string{`(?m)^600 postern$`}},
		{what: "the configuration", script: config(""), says: []string{"postern.yaml is good"}, never: "warning"},
		{what: "a second door", script: "cat >>/etc/postfix/master.cf <<'END'\n" + guidesService(t) + "END\npostfix reload 2>&1\nuntil ss -ltn 'sport = :10025' | grep -q LISTEN; do sleep 0.1; done\n" +
			inlineOf(t, deployGuide, "ss -ltn 'sport = :10025'") + "\n", says: []string{`127\.0\.0\.1:10025`}},
		{what: "check, doctor, start, reload", script: "set -e\n" + deploy("# Names each fault"), says: []string{"postern.yaml is good", `\n0 faults, `}},
		{what: "try it, beside", script: deploy("swaks --server mx.example.org", "--from you@your-domain.example", good+" --from ann@good.example", "you@example.org", "you@example.org") +
			"until grep -q '^From ann@good.example' /var/mail/you; do sleep 0.1; done\nsed -n '/^From ann/,/^$/p' /var/mail/you\n", says: []string{`(?m)^<~  250 2\.0\.0 Ok`, `(?m)^Received: from mail\.good\.example \(\S+ \[198\.51\.100\.7\]\)`, `(?m)^Authentication-Results: mx\.example\.org;\n\tspf=pass`}},
		{what: "a renewed certificate", script: "RENEWED_LINEAGE=/etc/letsencrypt/live/mx /etc/letsencrypt/renewal-hooks/deploy/postern\n"},

		// Port 25 goes over, is looked at, and comes back.
		{what: "move port 25", script: "set -e\n" + deploy("cp -p /etc/postfix/master.cf"), says: []string{"postern.yaml is good", `\n0 faults, `}},
		{what: "who has port 25", script: inlineOf(t, deployGuide, "ss -ltnp 'sport = :25'") + "\n", says: []string{`"postern"`}},
		{what: "no open relay", script: instead(inlineOf(t, deployGuide, "swaks --server mx.example.org --from a@example.com"), "--quit-after", good+" --quit-after") + " || true\n", says: []string{`(?m)^<\*\* (554|550) `}},
		{what: "readyz", script: inlineOf(t, deployGuide, "curl -s http://127.0.0.1:9125/readyz") + "\n", says: []string{`(?m)^ready$`}},
		{what: "metrics", script: deploy("curl -s http://127.0.0.1:9125/metrics"), says: []string{`(?m)^postern_transactions_total\{disposition="pass",rule="none"\} \d`}},
		{what: "a refusal", script: "swaks --server mx.example.org --local-interface 198.51.100.9 --ehlo h.strict.example --from ann@strict.example --to you@example.org | grep -o '^<.* 550 .*' || true\n" +
			`until postern find --refused --rule spf-fail --json 2>/dev/null | jq -e .id >/dev/null; do sleep 0.1; done` + "\n", says: []string{`550 5\.7\.23 SPF validation failed\. \(\w+\)`}},
		{what: "somebody calls", script: "id=$(postern find --refused --rule spf-fail --json 2>/dev/null | jq -r .id)\nqueued=$(postern find --from ann@good.example --json 2>/dev/null | jq -r .backend_reply | tail -1 | sed 's/.* //')\ncat >/tmp/calls <<'END'\n" +
			deploy("postern explain THE-ID", "ann@example.org", "ann@strict.example") + "END\nsed -i \"s/THE-ID/$id/g; s/4RbQ0n1zXyz/$queued/\" /tmp/calls\nbash -e /tmp/calls\n",
			says: []string{`(?m)^Transaction \w+ of .*: refused by policy$`, `(?m)^  The rule .spf-fail. refused it`, `delivered\s.*<ann@good\.example>`, `(?m)^\S+\t\w+\tspf-fail\t198\.51\.100\.9\tann@strict\.example$`}},
		{what: "an upgrade", script: "install -m 0755 /mnt/postern /usr/local/bin/postern\nbefore=$(systemctl show -p MainPID --value postern)\n" + deploy("systemctl kill --signal=USR2") + "until [ \"$(systemctl show -p MainPID --value postern)\" != \"$before\" ] && curl -sf -o /dev/null http://127.0.0.1:9125/readyz; do sleep 0.1; done\n"},
		{what: "a token for the page", script: "set -e\n" + deploy("openssl rand -hex 32") + config("admin: {token_file: /etc/postern/page.token, hosts: [postern.example.org]}\n") +
			"sed -i 's/:2525/:25/' /etc/postern/postern.yaml\nsystemctl reload postern\nuntil [ \"$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9125/)\" = 401 ]; do sleep 0.1; done\n" +
			"curl -s -u me:$(cat /etc/postern/page.token) http://127.0.0.1:9125/ | grep '<title>'\n", says: []string{"<title>Postern</title>"}},
		{what: "the page behind nginx", script: "cat >/tmp/nginx.conf <<'END'\npid /tmp/nginx.pid; error_log /tmp/nginx.log; events {}\nhttp { access_log off; server { listen 127.0.0.1:8080; server_name postern.example.org;\n" +
			deploy("location / {") + "} }\nEND\nnginx -c /tmp/nginx.conf\ntoken=$(cat /etc/postern/page.token)\n" +
			"curl -s -D - -o /dev/null -u me:$token -H 'Host: postern.example.org' http://127.0.0.1:8080/\n" +
			"curl -s -N -m 3 -u me:$token -H 'Host: postern.example.org' http://127.0.0.1:8080/api/events | head -1\n" +
			"curl -s -o /dev/null -w 'the form: %{http_code}\\n' -u me:$token -H 'Content-Type: application/json' -H 'Host: postern.example.org:8080' -H 'Origin: http://postern.example.org:8080' -d '{}' http://127.0.0.1:8080/api/test-session\n" +
			"curl -s -o /dev/null -w 'the form, by another page: %{http_code}\\n' -u me:$token -H 'Content-Type: application/json' -H 'Host: postern.example.org:8080' -H 'Origin: http://evil.example' -d '{}' http://127.0.0.1:8080/api/test-session\n" +
			"curl -s -o /dev/null -w 'without a token: %{http_code}\\n' -H 'Host: postern.example.org' http://127.0.0.1:8080/\n" +
			"curl -s -o /dev/null -w 'by another name: %{http_code}\\n' -u me:$token -H 'Host: evil.example' http://127.0.0.1:8080/\n",
			says: []string{`HTTP/1\.1 200`, `Content-Security-Policy: default-src 'none'`, `(?m)^event: `, `the form: 400`, `the form, by another page: 403`, `without a token: 401`, `by another name: 421`}},
		{what: "mail that is held", script: "set -e\n" + config(deploy("control: {socket:")+"policy: {rules: [{name: first, when: 'spf.result == \"none\"', do: hold}]}\n") + "sed -i 's/:2525/:25/' /etc/postern/postern.yaml\nsystemctl restart postern\n" +
			"swaks --server mx.example.org --local-interface 198.51.100.9 --ehlo h.new.example --from ann@new.example --to you@example.org --quit-after RCPT | grep '^<.* 451 ' || true\n" +
			"id=$(postern held --json 2>/dev/null | jq -r '.notices[].id')\ncat >/tmp/held <<'END'\n" + deploy("postern held --since 24h") + "END\nsed -i \"s/4k0m9d0x4qzr7k2m/$id/\" /tmp/held\nbash /tmp/held || [ $? = 1 ] # there is no such backup MX\n",
			says: []string{`451 4\.7\.1 Held`, `ann@new\.example`, `released`, `backup\.provider\.example`}},
		{what: "the server of the state", script: "set -e\nredis-server --port 6379 --bind 127.0.0.1 --daemonize yes --save '' --dir /tmp >/dev/null\nuntil redis-cli ping >/dev/null 2>&1; do sleep 0.1; done\n" +
			"install -m 0640 -g postern /dev/stdin /etc/postern/valkey.password <<<secret-of-the-state\nredis-cli " + deploy("ACL SETUSER postern", ">PASSWORD", "'>secret-of-the-state'", "~postern:*", "'~postern:*'", "&*", "'&*'", "cluster|", "cluster'|'") +
			config("state: {servers: [\"127.0.0.1:6379\"], user: postern, password_file: /etc/postern/valkey.password}\npolicy: {rules: [{name: stranger, when: past.delivered == 0, do: tag, header: \"X-Stranger: yes\"}]}\n") +
			"sed -i 's/:2525/:25/' /etc/postern/postern.yaml\nsystemctl restart postern\nfor i in 1 2; do swaks --server mx.example.org " + good + " --from ann@good.example --to you@example.org | grep '^<-  250 2.0.0'; done\n" +
			"until [ \"$(redis-cli --scan | grep -c ^postern:)\" -gt 0 ]; do sleep 0.1; done\nrunuser -u postern -- postern doctor\ncurl -s http://127.0.0.1:9125/metrics | grep ^postern_state_healthy\n",
			says: []string{"(?m)^OK$", `postern_state_healthy 1`, `\n0 faults, `}},
		{what: "and back", script: "set -e\n" + deploy("systemctl disable --now postern.socket postern") + "until ss -ltnp 'sport = :25' | grep -q master; do sleep 0.1; done\n" +
			"swaks --server mx.example.org " + good + " --from ann@good.example --to you@example.org\n", says: []string{`(?m)^<-  250 2\.0\.0 Ok: queued`}},

		// What the scripts of the packages do with a proxy that runs.
		{what: "a package is upgraded", script: "set -e\nmkdir -p /run/systemd/system\nsed -i 's/:25\"/:2525\"/' /etc/postern/postern.yaml\nsystemctl start postern\nbefore=$(systemctl show -p MainPID --value postern)\n" +
			"sh deploy/packaging/preremove upgrade 0.2\nsh deploy/packaging/postremove upgrade 0.2\nsh deploy/packaging/postinstall configure 0.1\n" +
			"until [ \"$(systemctl show -p MainPID --value postern)\" != \"$before\" ] && curl -sf -o /dev/null http://127.0.0.1:9125/readyz; do sleep 0.1; done\n", never: "nothing was started"},
		{what: "a package is removed", script: "set -e\nsh deploy/packaging/preremove remove\n[ -z \"$(systemctl show -p MainPID --value postern)\" ]\nsh deploy/packaging/postremove remove\nls /etc/postern/postern.yaml /var/lib/postern/journal\n"},
		{what: "a package is purged", script: "set -e\nmkdir -p /var/lib/postern-amtp/spool /var/lib/postern/Maildir/new\ntouch /var/lib/postern-amtp/spool/1.message /var/lib/postern/Maildir/new/1\nsh deploy/packaging/postremove purge\n" +
			"[ -e /var/lib/postern/Maildir/new/1 ]\nrm /var/lib/postern/Maildir/new/1\nsh deploy/packaging/postremove purge\n[ ! -e /etc/postern ] && [ ! -e /var/lib/postern ] && [ -e /var/lib/postern-amtp/spool/1.message ]\n" +
			"rm /var/lib/postern-amtp/spool/1.message\nsh deploy/packaging/postremove purge\n[ ! -e /var/lib/postern-amtp ]\nmkdir /etc/postern\nsh deploy/packaging/postinstall configure ''\nstat -c '%a %U %G' /var/lib/postern\n",
			says: []string{"mail that nobody else has is left in ", "nothing was started", "(?m)^750 postern postern$"}},

		// What others read.
		{what: "HAProxy", script: "cat >/tmp/haproxy.cfg <<'END'\n" + deploy("frontend smtp") + "END\nhaproxy -c -f /tmp/haproxy.cfg\n", says: []string{"Configuration file is valid"}},
		{what: "Prometheus", script: "mkdir -p /etc/prometheus && cp deploy/prometheus/alerts.yml deploy/prometheus/recording.yml /etc/prometheus/\ncat >/tmp/prometheus.yml <<'END'\n" + deploy("# in prometheus.yml") + "END\npromtool check config /tmp/prometheus.yml\n", says: []string{"SUCCESS"}},
		{what: "make help", script: strings.SplitAfter(front("make help"), "\n")[0], says: []string{`make e2e`}},
	}
	steps = append(steps, morning(t)...)

	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var all strings.Builder
	for i, s := range steps {
		write(fmt.Sprintf("step%02d", i), "set -o pipefail\n"+s.script)
		fmt.Fprintf(&all, "echo '=== %d'; (timeout 600 bash /mnt/steps/step%02d </dev/null 2>&1) >/mnt/steps/out%02d; echo $? >/mnt/steps/rc%02d\n", i, i, i, i)
	}
	for _, name := range []string{"setting", "systemctl", "journalctl"} {
		write(name, string(readFile(t, "testdata/e2e/guides/"+name)))
	}
	write("all", all.String())
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "bash", filepath.Join(dir, "setting"), dir, root, binary)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, s := range steps {
		said := string(readFile(t, filepath.Join(dir, fmt.Sprintf("out%02d", i))))
		if rc := strings.TrimSpace(string(readFile(t, filepath.Join(dir, fmt.Sprintf("rc%02d", i))))); rc != "0" {
			t.Errorf("%s: exit code %s\n%s\n%s", s.what, rc, s.script, last(said))
			continue
		}
		for _, pattern := range s.says {
			if !regexp.MustCompile(pattern).MatchString(said) {
				t.Errorf("%s: it does not say %s\n%s\n%s", s.what, pattern, s.script, last(said))
			}
		}
		if s.never != "" && strings.Contains(said, s.never) {
			t.Errorf("%s: it says %s\n%s", s.what, s.never, said)
		}
	}
}

// last is the end of what was said.
func last(said string) string { return said[max(0, len(said)-6000):] }

// inlineOf is the one command between backquotes of a page that begins so.
func inlineOf(t *testing.T, file, begins string) string {
	t.Helper()
	found := regexp.MustCompile("`("+regexp.QuoteMeta(begins)+"[^`]*)`").FindAllStringSubmatch(string(readFile(t, file)), -1)
	if len(found) == 0 {
		t.Fatalf("%s does not say %q", file, begins)
	}
	return found[0][1]
}

// morning is the chapter "A morning with it" of the README: its commands as they stand, and between them
// what its sentences tell to write into files.
func morning(t *testing.T) (steps []aStep) {
	_, chapter, _ := strings.Cut(string(readFile(t, readme)), "\n## A morning with it\n")
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	says := func(line string) string { return "printf '%s\\n' '" + inlineOf(t, readme, line) + "'" }
	const noPolicy = "sed -i '/^policy:/d; /^  mode:/d' morning/postern.yaml\n"
	replays := 0
	for _, m := range regexp.MustCompile(`(?m)^    \$ (.*)$`).FindAllStringSubmatch(chapter, -1) {
		s, by := aStep{what: "a morning: " + m[1], script: "cd /tmp\n" + m[1] + "\n"}, aStep{}
		switch command := m[1]; {
		case strings.HasPrefix(command, "postern report"):
			s.script = "cd /tmp\n" + command + " | tee report\n"
			s.says = []string{"(?m)^  - name: forwarder-192-0-2-11$"}
			by = aStep{what: "write a candidate", script: "{ sed '/^overrides:/d' <<'END'\n" + guides.BlockOf(t, readme, "rules:\n") + "END\nsed -n '/^overrides:/,/^$/p' report; } >morning/rules.yaml\n" +
				says("policy: {include: [rules.yaml]}") + " >morning/candidate.yaml\n" + noPolicy + says("policy: {mode: observe, candidate: candidate.yaml}") + " >>morning/postern.yaml\n"}
		case strings.HasPrefix(command, "postern replay"):
			if replays++; replays == 1 { // the rule that was too eager
				s.script = "cd /tmp\n! " + command + "\n"
				s.says = []string{`(?m)^postern: new rejects: [1-9]\d*, and 0 are allowed$`}
				by = aStep{what: "delete the rule broken-record", script: "sed -i /broken-record/d morning/rules.yaml\n"}
			} else {
				s.says = []string{`(?m)^  newly rejected +0$`}
				by = aStep{what: "promote it", script: noPolicy + says("policy: {mode: enforce, include: [rules.yaml]}") + " >>morning/postern.yaml\n"}
			}
		case strings.HasPrefix(command, "postern overrides"):
			s.says = []string{`(?m)^forwarder-192-0-2-11 +in use `}
			by = aStep{what: "an id that a sender saw", script: "postern find -c morning/postern.yaml --from books.example --refused --rule spf-fail --json | jq -r .id | head -1 >id\n[ -s id ]\n"}
		case strings.HasPrefix(command, "postern explain") && !strings.Contains(command, "--from"):
			s.script = "cd /tmp\n" + regexp.MustCompile(`explain \w+`).ReplaceAllString(command, "explain $(cat id)") + "\n"
			s.says = []string{`(?m)^  reject by rule spf-fail `, `(?m)^  It was refused for good: `}
		case strings.HasPrefix(command, "postern find"):
			s.says = []string{`reject:spf-fail`}
		}
		if steps = append(steps, s); by.script != "" {
			by.script = "set -e\ncd /tmp\n" + by.script
			steps = append(steps, by)
		}
	}
	if len(steps) < 14 {
		t.Fatalf("the chapter has only %d steps", len(steps))
	}
	return steps
}
