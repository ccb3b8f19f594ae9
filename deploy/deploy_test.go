// Package deploy holds files for other programs. Its test keeps them true to
// the program that they are about.
package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"postern/configs"
	"postern/policy"
)

// Whoever renames a metric or a label breaks alerts and dashboards in silence:
// Prometheus takes an expression over nothing for one that is never true.
func TestMetricsOfAlertsAndDashboardExist(t *testing.T) {
	families := goldenMetrics(t)
	recorded := recordings(t)
	used := map[string]bool{}
	for file, expressions := range map[string][]string{
		"prometheus/alerts.yml":    alertExpressions(t),
		"grafana/postern.json":     dashboardExpressions(t),
		"prometheus/recording.yml": slices.Collect(maps.Values(recorded)),
	} {
		if len(expressions) < 8 {
			t.Errorf("%s: only %d expressions found", file, len(expressions))
		}
		for _, e := range expressions {
			e = recordedNames.ReplaceAllStringFunc(e, func(name string) string {
				used[name] = true
				if recorded[name] == "" {
					t.Errorf("%s: nobody records %s", file, name)
				}
				return "(" + recorded[name] + ")"
			})
			for _, fault := range unknownNames(e, families) {
				t.Errorf("%s: %s in %s", file, fault, e)
			}
		}
	}
	for name := range recorded {
		if !used[name] {
			t.Errorf("%s is recorded, and nobody asks for it", name)
		}
	}
}

// recordedNames are those that Prometheus' own rules give: level:metric:operations.
var recordedNames = regexp.MustCompile(`\b\w+:postern_\w+:\w+`)

// recordings are the recording rules: the expression, by name.
func recordings(t *testing.T) map[string]string {
	t.Helper()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct{ Record, Expr string }
		}
	}
	decodeYAML(t, "prometheus/recording.yml", &rules)
	all := map[string]string{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all[r.Record] = r.Expr
		}
	}
	return all
}

func TestUnknownNamesAreFound(t *testing.T) {
	families := map[string]family{"postern_x_total": {"counter", []string{"code"}}, "postern_y_seconds": {"histogram", nil}}
	for expression, faults := range map[string]int{
		`rate(postern_x_total{code="1",instance="a"}[5m])`:           0,
		`sum by (le, instance) (rate(postern_y_seconds_bucket[5m]))`: 0,
		`postern_z_total`:                 1,
		`postern_x_total{kode="1"}`:       1,
		`sum by (kode) (postern_x_total)`: 1,
		`postern_y_seconds`:               1, // a histogram has no sample of its bare name
		`postern_x_total_bucket`:          1,
		`go_gorountines`:                  1,
		`process_open_fds{job="postern"}`: 0,
	} {
		if got := unknownNames(expression, families); len(got) != faults {
			t.Errorf("%s: %q, want %d faults", expression, got, faults)
		}
	}
}

type family struct {
	kind   string
	labels []string
}

// goldenMetrics reads the list that the room metrics keeps of itself.
func goldenMetrics(t *testing.T) map[string]family {
	t.Helper()
	b, err := os.ReadFile("../metrics/testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]family{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && strings.HasPrefix(fields[0], "postern_") {
			families[fields[0]] = family{fields[1], strings.FieldsFunc(fields[2], func(r rune) bool { return strings.ContainsRune("{,}", r) })}
		}
	}
	if len(families) == 0 {
		t.Fatal("no metrics in ../metrics/testdata/names.txt")
	}
	return families
}

var (
	quoted    = regexp.MustCompile(`"[^"]*"`)
	names     = regexp.MustCompile(`\b(?:postern|go|process|up)\w*\b`)
	matchers  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*""`)
	groupings = regexp.MustCompile(`\b(?:by|on)\s*\(([^)]*)\)`)
)

// Collectors of the client library that the files use.
var collectors = []string{
	"up", "go_goroutines", "go_memstats_heap_inuse_bytes", "process_cpu_seconds_total", "process_max_fds", "process_open_fds",
	"process_resident_memory_bytes", "process_start_time_seconds",
}

// unknownNames returns what an expression names and no scrape has.
func unknownNames(expression string, families map[string]family) []string {
	var faults []string
	bare := quoted.ReplaceAllString(expression, `""`)
	labels := []string{"instance", "job", "le"}
	for _, name := range names.FindAllString(bare, -1) {
		base, sample := name, true
		if f, ok := families[name]; ok {
			sample = f.kind != "histogram"
		} else {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if cut, ok := strings.CutSuffix(name, suffix); ok && families[cut].kind == "histogram" {
					base = cut
				}
			}
		}
		f, ours := families[base]
		if !sample || !ours && !slices.Contains(collectors, name) {
			faults = append(faults, "no metric "+name)
		}
		labels = append(labels, f.labels...)
	}
	used := []string{}
	for _, m := range matchers.FindAllStringSubmatch(bare, -1) {
		used = append(used, m[1])
	}
	for _, m := range groupings.FindAllStringSubmatch(bare, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			used = append(used, strings.TrimSpace(label))
		}
	}
	for _, label := range used {
		if !slices.Contains(labels, label) {
			faults = append(faults, "no label "+label)
		}
	}
	return faults
}

type alert struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

// alerts are the rules, by name.
func alerts(t *testing.T) map[string]alert {
	t.Helper()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	decodeYAML(t, "prometheus/alerts.yml", &rules)
	all := map[string]alert{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if _, ok := all[r.Alert]; ok {
				t.Errorf("%s is there twice", r.Alert)
			}
			all[r.Alert] = r
		}
	}
	return all
}

func alertExpressions(t *testing.T) []string {
	t.Helper()
	var expressions []string
	for _, r := range alerts(t) {
		if s := r.Labels["severity"]; s != "page" && s != "ticket" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: severity is page or ticket, and whoever is woken needs a summary and a description", r.Alert)
		}
		expressions = append(expressions, r.Expr)
	}
	return expressions
}

// promtool is not everywhere, and what it would find at once can be found here: a test of
// an alert that is gone, or whose words were changed on one side only.
func TestAlertTestsFitTheAlerts(t *testing.T) {
	var tests struct {
		RuleFiles          []string `yaml:"rule_files"`
		EvaluationInterval string   `yaml:"evaluation_interval"`
		Tests              []struct {
			Name, Interval string
			Series         []struct{ Series, Values string } `yaml:"input_series"`
			Alerts         []struct {
				At       string `yaml:"eval_time"`
				Name     string `yaml:"alertname"`
				Expected []struct {
					Labels      map[string]string `yaml:"exp_labels"`
					Annotations map[string]string `yaml:"exp_annotations"`
				} `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	decodeYAML(t, "prometheus/alerts_test.yml", &tests)
	families, rules := goldenMetrics(t), alerts(t)
	template := regexp.MustCompile(`\\{\\{.*?\\}\\}`)
	fired := map[string]bool{}
	for _, test := range tests.Tests {
		for _, s := range test.Series {
			for _, fault := range unknownNames(s.Series, families) {
				t.Errorf("%s: %s in %s", test.Name, fault, s.Series)
			}
		}
		for _, a := range test.Alerts {
			rule, ok := rules[a.Name]
			if !ok {
				t.Errorf("%s: there is no alert %s", test.Name, a.Name)
			}
			for _, e := range a.Expected {
				fired[a.Name] = true
				if e.Labels["severity"] != rule.Labels["severity"] {
					t.Errorf("%s: %s is %s, not %s", test.Name, a.Name, rule.Labels["severity"], e.Labels["severity"])
				}
				for key, text := range rule.Annotations {
					form := "^" + template.ReplaceAllString(regexp.QuoteMeta(text), ".+") + "$"
					if !regexp.MustCompile(form).MatchString(e.Annotations[key]) {
						t.Errorf("%s: the %s of %s is %q, and %q is expected", test.Name, key, a.Name, text, e.Annotations[key])
					}
				}
			}
		}
	}
	for name := range rules {
		if !fired[name] {
			t.Errorf("no test makes %s fire", name)
		}
	}
}

func dashboardExpressions(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("grafana/postern.json")
	if err != nil {
		t.Fatal(err)
	}
	type target struct{ Expr string }
	var dashboard struct {
		Title       string
		Annotations struct{ List []target }
		Panels      []struct {
			ID      int
			Title   string
			Type    string
			Targets []target
			GridPos struct{ X, Y, W, H int }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	var expressions []string
	ids := map[int]bool{}
	for _, a := range dashboard.Annotations.List {
		expressions = append(expressions, a.Expr)
	}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: doubled id, no title, no query, or wider than the page", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			expressions = append(expressions, q.Expr)
		}
	}
	return expressions
}

// decodeYAML reads a file and refuses keys that v has not.
func decodeYAML(t *testing.T, path string, v any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Every configuration that the guides and the compose file show must load.
func TestConfigurationsOfTheGuidesLoad(t *testing.T) {
	guide, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	compose, err := os.ReadFile("compose/postern.yaml")
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{"compose/postern.yaml": string(compose)}
	// Indented blocks whose first line is a key of the configuration.
	for _, block := range regexp.MustCompile(`(?m)^    (?:hostname|listeners):.*\n(?:    .*\n)*`).FindAllString(string(guide), -1) {
		first, _, _ := strings.Cut(strings.TrimSpace(block), "\n")
		examples["README.md: "+first] = strings.ReplaceAll(block, "\n    ", "\n")[4:]
	}
	for _, inline := range regexp.MustCompile("`((?:backends|policy|admin): [^`]*)`").FindAllStringSubmatch(string(guide), -1) {
		examples["README.md: "+inline[1]] = inline[1] + "\n"
	}
	front, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, fenced := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(front), -1) {
		examples[fmt.Sprintf("../README.md, %d", i+1)] = fenced[1]
	}
	if len(examples) < 6 {
		t.Fatalf("only %d examples found", len(examples))
	}
	for name, text := range examples {
		if faults := load(t, text); faults != nil {
			t.Errorf("%s: %v\n%s", name, faults, text)
		}
	}
}

func load(t *testing.T, text string) error {
	t.Helper()
	path := t.TempDir() + "/postern.yaml"
	// The certificates of the examples are those of another machine.
	text = regexp.MustCompile(`(?m)^tls:\n  certificates: .*\n`).ReplaceAllString(text, "")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := configs.Load(configs.Options{File: path, NoEnvironment: true})
	if err != nil {
		return err
	}
	lists, err := policy.NewLists(c.Lists, os.ReadFile, time.Now)
	if err != nil {
		return err
	}
	_, err = policy.Compile(c.Policy, lists)
	return err
}

// The units' limits must fit the program's defaults.
func TestUnitFitsTheDefaults(t *testing.T) {
	for _, name := range []string{"postern.service", "postern-amtp-hold.service"} {
		t.Run(name, func(t *testing.T) { unitFits(t, "systemd/"+name) })
	}
}

func unitFits(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	unit := string(b)
	number := func(key string) int {
		m := regexp.MustCompile(`(?m)^` + key + `=(\d+)$`).FindStringSubmatch(unit)
		if m == nil {
			t.Fatalf("no number %s in the unit", key)
		}
		n := 0
		for _, digit := range m[1] {
			n = 10*n + int(digit-'0')
		}
		return n
	}
	c := configs.Default()
	if got, least := number("TimeoutStopSec"), int(c.Timeouts.Drain.Seconds())+10; got < least {
		t.Errorf("TimeoutStopSec=%d kills before timeouts.drain (%v) is over", got, c.Timeouts.Drain)
	}
	if got, least := number("LimitNOFILE"), 2*c.Limits.Connections+1000; got < least {
		t.Errorf("LimitNOFILE=%d is too few for %d connections", got, c.Limits.Connections)
	}
	for _, line := range []string{
		"Type=notify", "User=postern", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
		"SystemCallFilter=@system-service", "MemoryMax=1G", "KillSignal=SIGTERM",
		"RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK", // net.InterfaceAddrs asks by netlink
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lost %s", line)
		}
	}
}

// TestFail2banFilter: the filter finds in lines that the proxy has logged those who were refused by a
// rule or did not speak SMTP, and nobody else, whatever they said.
// `fail2ban-regex deploy/fail2ban/testdata/log.jsonl deploy/fail2ban/filter.conf` asks fail2ban itself.
func TestFail2banFilter(t *testing.T) {
	filter, err := os.ReadFile("fail2ban/filter.conf")
	if err != nil {
		t.Fatal(err)
	}
	var rules []*regexp.Regexp
	for line := range strings.Lines(string(filter)) {
		_, rule, ok := strings.Cut(line, `^(?:\{"time"`)
		if ok {
			rules = append(rules, regexp.MustCompile(strings.ReplaceAll(`^(?:\{"time"`+strings.TrimSpace(rule), "<ADDR>", `(?P<addr>[0-9a-f:.]+)`)))
		}
	}
	if len(rules) != 2 {
		t.Fatalf("%d rules in the filter", len(rules))
	}
	lines, err := os.ReadFile("fail2ban/testdata/log.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(lines)) {
		for _, r := range rules {
			if m := r.FindStringSubmatch(line); m != nil {
				found = append(found, m[r.SubexpIndex("addr")])
			}
		}
	}
	want := []string{"192.0.2.1", "2001:db8::1", "192.0.2.3", "2001:db8::3"}
	if !slices.Equal(found, want) {
		t.Errorf("found %q, not %q", found, want)
	}
	jail, err := os.ReadFile("fail2ban/jail.conf")
	if err != nil || !strings.Contains(string(jail), "\nenabled = false\n") {
		t.Errorf("the jail is on, or not there: %v", err)
	}
}

// TestPackageFiles: what the packages hold is there, but for what the build makes.
func TestPackageFiles(t *testing.T) {
	b, err := os.ReadFile("packaging/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Contents []struct{ Src, Dst string }
		Scripts  map[string]string
	}
	if err := yaml.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	files := slices.Collect(maps.Values(p.Scripts))
	held := map[string]bool{}
	for _, c := range p.Contents {
		held[c.Dst] = true
		if c.Src != "" && !strings.HasPrefix(c.Src, "bin/package/") {
			files = append(files, c.Src)
		}
	}
	for _, f := range files {
		if found, err := filepath.Glob("../" + f); err != nil || found == nil {
			t.Errorf("%s is not there", f)
		}
	}
	for _, dst := range []string{
		"/usr/bin/postern", "/usr/lib/systemd/system/postern.service", "/usr/lib/systemd/system/postern.socket", "/usr/lib/systemd/system/postern-amtp-hold.service", "/usr/lib/sysusers.d/postern.conf",
		"/usr/lib/tmpfiles.d/postern.conf", "/etc/fail2ban/filter.d/postern.conf", "/etc/fail2ban/jail.d/postern.conf", "/usr/share/man/man8/",
		"/usr/share/bash-completion/completions/postern", "/usr/share/doc/postern/copyright", "/usr/share/doc/postern/bom.cdx.json", "/usr/share/doc/postern/examples/",
	} {
		if !held[dst] {
			t.Errorf("the packages lost %s", dst)
		}
	}
	for what, script := range p.Scripts {
		text, err := os.ReadFile("../" + script)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "enable ") || strings.Contains(string(text), " start ") {
			t.Errorf("%s starts or enables something", what)
		}
	}
}

// A key that a page names and the configuration has not sends its reader the wrong way at night.
func TestKeysOfTheGuidesExist(t *testing.T) {
	reference, err := os.ReadFile("../configs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile("`((?:limits|timeouts|tls|listeners|backends|checks|dns|journal|admin|state|headers|log|control)(?:\\[\\])?\\.[a-z_.\\[\\]]+)(?:: [^`]*)?`")
	found := 0
	for _, file := range []string{"README.md", "replies.md", "reference.md", "../README.md"} {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range key.FindAllStringSubmatch(string(page), -1) {
			found++
			if name := m[1]; !strings.Contains(string(reference), "`"+name+"`") && !strings.Contains(string(reference), "`"+name+".") {
				t.Errorf("%s: %s is no key of configs/README.md", file, name)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d keys found", found)
	}
}
