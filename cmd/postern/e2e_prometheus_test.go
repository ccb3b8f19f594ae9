//go:build e2e

package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"postern/proxy/smtptest"
)

// prometheus is a private one, which scrapes a Postern every second.
type prometheus struct {
	port int
}

// startPrometheus runs it with the alert and recording rules that we ship. Alerts fire as soon
// as they hold: promtool's tests are about how long they wait.
func startPrometheus(t *testing.T, scraped int) *prometheus {
	t.Helper()
	needs(t, "prometheus", "promtool")
	dir := t.TempDir()
	for _, name := range []string{"alerts.yml", "recording.yml"} {
		rules := string(readFile(t, "../../deploy/prometheus/"+name))
		writeFile(t, dir+"/"+name, regexp.MustCompile(`(?m)^ *for: .*\n`).ReplaceAllString(rules, ""))
	}
	writeFile(t, dir+"/prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml, recording.yml]
scrape_configs:
  - job_name: postern
    static_configs: [{targets: ["127.0.0.1:%d"]}]
`, scraped))
	p := &prometheus{port: smtptest.FreePort(t)}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data",
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", p.port), "--enable-feature=exemplar-storage")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log.Close()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus' log:\n%s", readFile(t, dir+"/log"))
		}
	})
	eventually(t, "Prometheus to be ready", func() bool {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/-/ready", p.port))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// ask returns the data of an answer of the HTTP API, or what it complains of.
func (p *prometheus) ask(path string, query url.Values) (json.RawMessage, error) {
	resp, err := (&http.Client{Timeout: patience}).Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/%s?%s", p.port, path, query.Encode()))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s", answer.Error)
	}
	return answer.Data, nil
}

// series asks for an expression and returns how many series it has now.
func (p *prometheus) series(expr string) (int, error) {
	data, err := p.ask("query", url.Values{"query": {expr}})
	if err != nil {
		return 0, err
	}
	var result struct{ Result []json.RawMessage }
	err = json.Unmarshal(data, &result)
	return len(result.Result), err
}

// dashboardQueries are those of the panels and annotations, with what Grafana fills in.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	fill := strings.NewReplacer("$instance", ".*", "$__rate_interval", "15s")
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if expr, ok := v["expr"].(string); ok {
				queries = append(queries, fill.Replace(expr))
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	var dashboard any
	if err := json.Unmarshal(readFile(t, "../../deploy/grafana/postern.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	walk(dashboard)
	if len(queries) < 40 {
		t.Fatalf("only %d queries in the dashboard", len(queries))
	}
	return queries
}

// rules are the expressions of a file of rules, by name.
func rules(t *testing.T, file string) map[string]string {
	t.Helper()
	var f struct {
		Groups []struct {
			Rules []struct{ Alert, Record, Expr string }
		}
	}
	if err := yaml.Unmarshal(readFile(t, file), &f); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			all[r.Alert+r.Record] = r.Expr
		}
	}
	return all
}

// A metric that is renamed, a label that is gone, a query that Prometheus does not read: alert
// and panel stay silent, for ever. So a Prometheus scrapes a Postern under load, and is asked
// everything that the dashboard and the alerts ask.
func TestE2EPrometheus(t *testing.T) {
	needs(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yml", "recording.yml"}, {"test", "rules", "alerts_test.yml", "recording_test.yml"}} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = "../../deploy/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}

	mta := startPostfix(t)
	candidate := filepath.Join(t.TempDir(), "candidate.yaml")
	writeFile(t, candidate, `policy: {builtin: off, rules: [{name: nobody, when: 'mail.from contains "forged"', do: reject}]}`+"\n")
	postern := startPosternOn(t, smtptest.FreePort(t), mta.port, fmt.Sprintf(`
journal: {path: %q}
state: {path: %q}
policy_services: [{name: gone, address: "127.0.0.1:9"}]
policy:
  candidate: %q
  rules:
    - {name: first-contact, when: 'mail.domain == "plain.example" and not hold.released', do: hold, for: 10m}
    - {name: asks, when: 'service.gone.action == "reject"', do: reject}
`, t.TempDir(), filepath.Join(t.TempDir(), "state"), candidate))

	// Before the first mail: every rule has its series, so that nobody misses a first refusal.
	_, page := postern.get("/metrics")
	for _, rule := range []string{`disposition="reject",rule="spf-fail"`, `disposition="hold",rule="first-contact"`, `disposition="pass",rule="none"`} {
		if !strings.Contains(page, "postern_transactions_total{"+rule+"} 0") {
			t.Errorf("no series from the start: %s", rule)
		}
	}

	prom := startPrometheus(t, postern.admin)
	load := &traffic{addr: postern.addr()}
	load.ctx, load.stop = context.WithCancel(t.Context())
	load.repeat("passed", "127.0.0.7", func(int) string { return "a@sender.example" })
	load.repeat("refused", "127.0.0.66", func(int) string { return "a@sender.example" })
	load.repeat("deferred", "127.0.0.8", func(int) string { return "a@broken.example" })
	load.repeat("held", "127.0.0.9", func(i int) string { return fmt.Sprintf("a%d@plain.example", i%50) })
	load.repeat("disagreed on", "127.0.0.9", func(int) string { return "forged@sender.example" })

	// What it takes to have data: a rate wants two scrapes, a recording an evaluation more,
	// and what is remembered is counted once a minute at the latest.
	var missing map[string]error
	soonEmpty := func(expr string) {
		n, err := prom.series(expr)
		if n == 0 || err != nil {
			missing[expr] = err
		}
	}
	// No restart happened, and "first certificate to end" and the like have data without load.
	empty := []string{`changes(process_start_time_seconds{instance=~".*",job="postern"}[2m]) > 0`}
	queries := dashboardQueries(t)
	queries = slices.DeleteFunc(queries, func(q string) bool { return slices.Contains(empty, q) })
	for _, e := range rules(t, "../../deploy/prometheus/recording.yml") {
		queries = append(queries, e)
	}
	for name := range rules(t, "../../deploy/prometheus/recording.yml") {
		queries = append(queries, name)
	}
	alerts := rules(t, "../../deploy/prometheus/alerts.yml")
	selector := regexp.MustCompile(`\b(?:postern_\w+|process_\w+|up)(?:\{[^}]*\})?`)
	for _, expr := range alerts {
		for _, of := range selector.FindAllString(expr, -1) { // what an alert compares is there, though the comparison is false
			if !slices.Contains(queries, of) {
				queries = append(queries, of)
			}
		}
	}
	for end := time.Now().Add(8 * patience); ; time.Sleep(time.Second) {
		missing = map[string]error{}
		for _, q := range queries {
			soonEmpty(q)
		}
		if len(missing) == 0 || time.Now().After(end) {
			break
		}
	}
	for q, err := range missing {
		t.Errorf("no data (%v): %s", err, q)
	}
	for _, q := range empty {
		if _, err := prom.series(q); err != nil {
			t.Errorf("%v: %s", err, q)
		}
	}
	for name, expr := range alerts {
		if _, err := prom.series(expr); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Logf("%d queries have data, %d alerts are read", len(queries), len(alerts))

	exemplar(t, prom, postern)
	load.end(t)

	// And an alert that must come, comes.
	mta.kill(t)
	eventually(t, "the alert PosternBackendDown", func() bool {
		_, _ = deliver(postern.addr(), "127.0.0.7", "a@sender.example")
		return prom.firing(t, "PosternBackendDown")
	})
	if prom.firing(t, "PosternDown") {
		t.Error("PosternDown fires while Postern answers")
	}
}

func (p *prometheus) firing(t *testing.T, alert string) bool {
	t.Helper()
	data, err := p.ask("alerts", nil)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list.Alerts, func(a struct {
		Labels map[string]string
		State  string
	},
	) bool {
		return a.Labels["alertname"] == alert && a.State == "firing"
	})
}

// exemplar follows a point of the graph of final replies to the explanation of its message.
func exemplar(t *testing.T, prom *prometheus, postern *postern) {
	t.Helper()
	var id string
	eventually(t, "an exemplar of the final reply", func() bool {
		data, err := prom.ask("query_exemplars", url.Values{
			"query": {"postern_time_to_final_reply_seconds_bucket"},
			"start": {fmt.Sprint(time.Now().Add(-time.Minute).Unix())}, "end": {fmt.Sprint(time.Now().Unix() + 1)},
		})
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`"labels":\{"id":"([^"]+)"\}`).FindSubmatch(data)
		if m != nil {
			id = string(m[1])
		}
		return m != nil
	})
	if text := postern.command(t, "explain", id); !strings.Contains(text, "sender.example") {
		t.Errorf("explain %s says\n%s", id, text)
	}
}
