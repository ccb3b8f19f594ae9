//go:build e2e

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/checks/dnstest"
)

// A new check is one file and its place in the facts. The program is built with
// the two laid over the tree, and everything else in it knows the check: rules,
// default replies, overrides, the journal and what is private in it, explanations,
// the judgement on records that lack it, metrics, `policy show`.
func TestANewCheckIsTwoFiles(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	check, err := os.ReadFile("testdata/newcheck/greeting.go.txt")
	if err != nil {
		t.Fatal(err)
	}
	factsFile := filepath.Join(root, "policy/facts.go")
	facts, err := os.ReadFile(factsFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}

	edited := string(facts)
	for _, add := range []struct{ before, text string }{
		{"\n}\n\n// Client is the SMTP client", "\n\tGreeting Greeting `json:\"greeting\" expr:\"greeting\" stage:\"mail\" identity:\"mail.domain\"`"},
		{"\n// MessageIs is what is known", `
// Greeting is what a domain thinks of greetings.
type Greeting struct {
	Result  Result ` + "`json:\"result\" expr:\"result\" results:\"none pass fail temperror skipped\" trouble:\"fail temperror\" refusal:\"7.1 That was no greeting.\"`" + `
	Contact string ` + "`json:\"contact\" expr:\"contact\" form:\"address\"`" + `
	Reason  string ` + "`json:\"reason\" expr:\"reason\" reason:\"\"`" + `
}
`},
		{"\n}\n", "\n\tf.Greeting.Result = Skipped"}, // the last one is the end of Begin
	} {
		at := strings.LastIndex(edited, add.before)
		if at < 0 {
			t.Fatalf("facts.go has no %q", add.before)
		}
		edited = edited[:at] + add.text + edited[at:]
	}
	changed := map[string]string{
		filepath.Join(root, "checks/greeting.go"): write("greeting.go", string(check)),
		factsFile: write("facts.go", edited),
	}
	diff, _ := exec.Command("diff", "-u", factsFile, changed[factsFile]).Output() // it exits 1 where there is one
	t.Logf("policy/facts.go:\n%s\nchecks/greeting.go, new:\n%s", diff, check)

	overlay, err := json.Marshal(map[string]any{"Replace": changed})
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "postern")
	build := exec.Command("go", "build", "-overlay", write("overlay.json", string(overlay)), "-o", binary, "./cmd/postern")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	postern := func(want []string, args ...string) {
		t.Helper()
		out, err := exec.Command(binary, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		for _, w := range want {
			if !regexp.MustCompile(w).Match(out) {
				t.Errorf("postern %s: no %s in\n%s", strings.Join(args, " "), w, out)
			}
		}
	}

	const zone = "_greeting.rude.example. TXT \"go away\"\n_greeting.kind.example. TXT hello\n"
	write("greeting.test.yaml", `
builtin: off
rules: [{name: greeting, when: greeting.result == "fail", do: reject}]
overrides: [{name: old-friend, proof: {address: [192.0.2.7]}, excuse: [greeting], owner: o, reason: r, until: 2027-01-01}]
now: 2026-11-30
zone: |
  _greeting.rude.example. TXT "go away"
  _greeting.kind.example. TXT hello
defaults: {client: 192.0.2.1}
cases:
  - {name: kind, mail_from: a@kind.example, expect: {disposition: pass, rule: none}}
  - {name: rude, mail_from: a@rude.example, expect: {disposition: reject, rule: greeting, reply: "550 5.7.1 That was no greeting."}}
  - {name: excused, client: 192.0.2.7, mail_from: a@rude.example, expect: {disposition: pass, rule: "override:old-friend"}}
`)
	postern([]string{`3 passed, 0 failed`}, "policy", "test", "greeting.test.yaml")

	z, err := dnstest.Parse(zone)
	if err != nil {
		t.Fatal(err)
	}
	dns, stop := z.Serve()
	t.Cleanup(stop)
	config := `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
dns: {servers: ["` + dns + `"]}
journal: {path: journal, hash_local_parts: true, hash_key: key}
`
	write("key", strings.Repeat("k", 32))
	a := write("a.yaml", config+`policy: {builtin: off, rules: [{name: greeting, when: greeting.result == "fail", do: reject}]}`)
	postern([]string{`greeting +at mail +runs +Whether the domain`}, "policy", "show", "--checks", "-c", a)
	postern([]string{`1\. greeting: reject\n.*\n +decided at mail: reads greeting\.result\n`}, "policy", "show", "-c", a)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // for a test that hangs
	defer cancel()
	serve := exec.CommandContext(ctx, binary, "serve", "-c", a)
	log, err := serve.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	await := func(pattern string) string {
		t.Helper()
		for lines.Scan() {
			if m := regexp.MustCompile(pattern).FindStringSubmatch(lines.Text()); m != nil {
				return m[1]
			}
		}
		t.Fatalf("the log ended without %s", pattern)
		return ""
	}
	address := await(`"listening".*"address":"([^"]+)"`)
	admin := await(`"admin","address":"([^"]+)"`)
	client, err := smtp.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	if err = client.Mail("a@rude.example"); err == nil {
		err = client.Rcpt("b@example.org")
	}
	_ = client.Close()
	if err == nil || !strings.Contains(err.Error(), "That was no greeting.") {
		t.Errorf("the client heard %v", err)
	}
	id := await(`"transaction","id":"([^"]+)".*"greeting":\{"result":"fail","contact":"[a-z.]+@rude.example"`)
	answer, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if !regexp.MustCompile(`check="greeting",result="fail"\} 1\n`).Match(metrics) {
		t.Error("no metric counts the check")
	}
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // the log to its end, which is the program's
		continue
	}
	if err := serve.Wait(); err != nil {
		t.Error(err)
	}

	files, err := filepath.Glob("journal/*.jsonl*")
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	record, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	greeting := regexp.MustCompile(`"greeting":\{"result":"fail","contact":"~[0-9a-f]{16}@rude.example","reason":"go away, says ~[0-9a-f]{16}@rude.example"\}`)
	if !greeting.Match(record) || strings.Contains(string(record), "manners") || strings.Contains(string(record), "humphrey") {
		t.Errorf("the journal has\n%s", record)
	}
	postern([]string{`\n  greeting +fail +\S+ +go away, says ~`, `greeting.result == "fail"    with greeting.result = "fail"`}, "explain", id, "-c", a)

	// A record from before there was the check does not know what it would have said.
	if err := os.Mkdir("old", 0o700); err != nil {
		t.Fatal(err)
	}
	old := regexp.MustCompile(`,"greeting":\{[^}]*\}`).ReplaceAllString(string(record), "")
	write(filepath.Join("old", filepath.Base(files[0])), old)
	b := write("b.yaml", strings.Replace(config, "path: journal", "path: old", 1)+`policy: {builtin: off, rules: [{name: greeting, when: greeting.result == "pass", do: reject}]}`)
	postern([]string{`undetermined, for want of greeting.result`}, "explain", id, "-c", b)
}
