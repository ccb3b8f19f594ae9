package configs

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// referenceRow is a line of a table of the reference: key, default, example.
var referenceRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| `([^`]*)` \\| .+ \\|$")

// The reference knows every key, its defaults are those of the code, and its
// examples are of the right type.
func TestReference(t *testing.T) {
	src, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	want := map[string]string{}
	types := map[string]reflect.Type{}
	reference(reflect.ValueOf(Default()).Elem(), "", want, types)
	for _, m := range referenceRow.FindAllStringSubmatch(string(src), -1) {
		key, def, example := m[1], m[2], m[3]
		if documented[key] {
			t.Errorf("%s is documented twice", key)
		}
		documented[key] = true
		if _, ok := want[key]; !ok {
			t.Errorf("%s is documented and does not exist", key)
			continue
		}
		if def != want[key] {
			t.Errorf("the default of %s is %s, not %s", key, want[key], def)
		}
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(example), &doc); err != nil {
			t.Errorf("example of %s: %v", key, err)
			continue
		}
		l := newLoader()
		l.convert(&source{lines: []string{example}}, doc.Content[0], types[key], key)
		if len(l.faults) > 0 {
			t.Errorf("example of %s: %v", key, l.faults)
		}
	}
	for key := range maps.Keys(want) {
		if !documented[key] {
			t.Errorf("%s is not documented", key)
		}
	}
}

// reference lists every key with its default as the table writes it, those of list elements too.
func reference(v reflect.Value, path string, defaults map[string]string, types map[string]reflect.Type) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		key := keyOf(sf)
		if key == "" {
			continue
		}
		p, f := join(path, key), v.Field(i)
		switch {
		case isSection(sf.Type):
			reference(f, p, defaults, types)
			continue
		case sf.Type.Kind() == reflect.Slice && isSection(sf.Type.Elem()):
			reference(reflect.New(sf.Type.Elem()).Elem(), p+"[]", defaults, types)
			continue
		}
		types[p] = sf.Type
		def := sf.Tag.Get("default")
		if def == "" && !f.IsZero() {
			def = toNode(f, reflect.Value{}, false).Value
		}
		if def == "" {
			def = "-"
		}
		defaults[p] = def
	}
}

// elements are what an element of a list needs besides the key in question.
var elements = map[string]map[string]string{
	"listeners":              {"name": "mx", "address": `":25"`},
	"tls.certificates":       {"certificate": "a.pem", "key": "a.key"},
	"amtp.hold.certificates": {"certificate": "a.pem", "key": "a.key"},
	"backends":               {"name": "mta", "addresses": `["192.0.2.1:25"]`, "tls": "verify"},
	"routes":                 {"recipients": "[example.net]", "backend": "mta"},
	"checks.dnsbl.zones":     {"zone": "bl.example"},
	"lists":                  {"name": "some"},
	"policy.let":             {"name": "some", "is": `"true"`},
	"policy.rules":           {"name": "some", "when": `"true"`, "do": "pass"},
	"policy.rules.for":       {"do": "hold"},
	"milters":                {"name": "some", "address": `"127.0.0.1:11332"`},
	"policy_services":        {"name": "some", "address": `"127.0.0.1:10023"`},
	"retrieve":               {"domain": "example.org", "host": `"backup.example:25"`},
	"overrides":              {"name": "some", "owner": "me", "reason": "why", "until": "2027-01-01"},
	"overrides.excuse":       {"proof": "{address: [192.0.2.1]}"},
	"overrides.do":           {"proof": "{address: [192.0.2.1]}"},
	"overrides.match":        {"proof": "{address: [192.0.2.1]}", "excuse": "[spf]"},
	"overrides.proof":        {"excuse": "[spf]"},
	"overrides.unsafe":       {"excuse": "[spf]", "match": "{domains: [example.net]}"},
	"overrides.otherwise":    {"excuse": "[spf]", "proof": "{address: [192.0.2.1]}"},
}

// Each example of the reference is not only of the right type: a file that says it, and what
// belongs to it, has no fault, and says something.
func TestExamplesOfTheReferenceLoad(t *testing.T) {
	src, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := referenceRow.FindAllStringSubmatch(string(src), -1)
	if len(rows) < 70 {
		t.Fatalf("only %d keys found", len(rows))
	}
	for _, m := range rows {
		key, example := m[1], m[3]
		text := example
		list, sub, inList := strings.Cut(key, "[].")
		if inList {
			element := maps.Clone(elements[list])
			first, rest, deep := strings.Cut(sub, ".")
			more, ok := elements[list+"."+first]
			if !ok && list == "overrides" {
				more = elements["overrides.otherwise"]
			}
			maps.Copy(element, more)
			if element[first] = example; deep {
				element[first] = "{" + rest + ": " + example + "}"
			}
			var pairs []string
			for _, k := range slices.Sorted(maps.Keys(element)) {
				pairs = append(pairs, k+": "+element[k])
			}
			text = "[{" + strings.Join(pairs, ", ") + "}]"
			key = list
		}
		steps := strings.Split(key, ".")
		for _, step := range slices.Backward(steps[1:]) {
			text = "{" + step + ": " + text + "}"
		}
		text = steps[0] + ": " + text + "\n"
		switch m[1] {
		case "routes[].recipients", "routes[].backend":
			text += `backends: [{name: mta, addresses: ["192.0.2.1:25"]}]` + "\n"
		case "listeners[].protocol":
			text += "amtp: {domains: [example.org]}\n"
		case "amtp.hold.addresses":
			text = "amtp: {hold: {users: u, spool: s, smarthost: {address: \"127.0.0.1:25\"}, " + strings.TrimPrefix(text, "amtp: {hold: {")
		case "amtp.hold.smarthost.ca":
			text = strings.Replace(text, "{ca:", "{tls: verify, ca:", 1)
		case "amtp.hold.spool_size_per_user", "amtp.hold.entries":
			text = strings.Replace(text, "{hold: {", "{hold: {spool_size: 5GiB, entries_per_user: 10, ", 1)
		case "journal.hash_local_parts":
			text = "journal: {hash_local_parts: true, hash_key: a.key}\n"
		case "state.tls", "state.password_file":
			text = "state: {servers: [valkey.example:6379], " + strings.TrimPrefix(text, "state: {")
		case "state.user":
			text = "state: {servers: [valkey.example:6379], password_file: a.key, " + strings.TrimPrefix(text, "state: {")
		case "state.ca":
			text = "state: {servers: [valkey.example:6379], tls: verify, " + strings.TrimPrefix(text, "state: {")
		}
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "postern.yaml")
		for name, content := range map[string]string{file: text, filepath.Join(dir, "conf.d", "included.yaml"): "lists: [{name: included}]\n"} {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := Load(Options{File: file, NoEnvironment: true})
		if err != nil {
			t.Errorf("example of %s: %v\n%s", m[1], err, text)
			continue
		}
		if cfg.Equal(Default()) {
			t.Errorf("example of %s is the default\n%s", m[1], text)
		}
	}
}
