package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes files below a new folder, whose name it returns.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestIncludedFilesComeInTheOrderOfTheirNames(t *testing.T) {
	dir := tree(t, map[string]string{
		"postern.yaml": `policy:
  include: [last.yaml, "conf.d/*.yaml", "conf.d/10-*.yaml"]
  rules: [{name: own, when: "true", do: tag, header: "X-A: b"}]
lists: [{name: first, file: first.txt}]
`,
		"conf.d/20-b.yaml": "rules: [{name: b, when: 'true', do: pass}]\n",
		"conf.d/10-a.yaml": `# two of them
lists:
  - {name: second, file: second.txt}
let: [{name: x, is: "true"}]
rules:
  - name: a1
    when: "x"
    do: pass
  - {name: a2, when: "x", do: pass}
`,
		"last.yaml": "overrides: [{name: o, proof: {address: [192.0.2.1]}, excuse: [spf], owner: a, reason: b, until: 2026-12-01}]\n",
	})
	c, err := Load(Options{File: filepath.Join(dir, "postern.yaml"), NoEnvironment: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range c.Policy.Rules {
		names = append(names, r.Name)
	}
	if d := cmp.Diff([]string{"own", "a1", "a2", "b"}, names); d != "" {
		t.Error(d)
	}
	if c.Policy.BuiltIn != BuiltInAfter || len(c.Policy.Let) != 1 || len(c.Overrides) != 1 || len(c.Policy.Overrides) != 1 {
		t.Errorf("%+v", c.Policy)
	}
	a := filepath.Join(dir, "conf.d/10-a.yaml")
	if got := c.Policy.Rules[1].WhenPosition; got != (Position{a, 7, 12}) {
		t.Error(got)
	}
	if got := c.At("policy.rules[2].name"); got != (Position{a, 9, 12}) {
		t.Error(got)
	}
	if got, want := c.Lists[1].File, filepath.Join(dir, "conf.d/second.txt"); got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if d := cmp.Diff([]string{filepath.Join(dir, "last.yaml"), filepath.Join(dir, "conf.d/*.yaml"), filepath.Join(dir, "conf.d/10-*.yaml")}, c.Included()); d != "" {
		t.Error(d)
	}
	// What is shown says the same, and includes nothing any more.
	text, err := c.YAML(false)
	if err != nil || strings.Contains(string(text), "include") || !strings.Contains(string(text), "name: a2") {
		t.Errorf("%v\n%s", err, text)
	}
	roundTrip(t, c)
}

// Lists alone leave the built-in rules in force.
func TestIncludedListsAreNoRules(t *testing.T) {
	dir := tree(t, map[string]string{
		"postern.yaml": "policy: {include: [l.yaml]}\n",
		"l.yaml":       "lists: [{name: trusted_forwarders, entries: [192.0.2.1]}]\n",
	})
	c, err := Load(Options{File: filepath.Join(dir, "postern.yaml"), NoEnvironment: true})
	if err != nil || c.Policy.BuiltIn != BuiltInAfter || len(c.Policy.Rules) != 0 || len(c.Lists) != 1 {
		t.Error(c, err)
	}
}

func TestDecodeIsAsStrictAsLoad(t *testing.T) {
	var into struct {
		A string   `yaml:"a" words:"x y"`
		B []int    `yaml:"b"`
		F string   `yaml:"f" path:"file"`
		P Position `yaml:"-"`
	}
	for text, want := range map[string]string{
		"a: x\nb: [1]\nf: g":  "",
		"a: x\nc: 1":          `t/a.yaml:2:1: unknown key "c"`,
		"a: z":                `t/a.yaml:1:4: a: "z" is none of x, y`,
		"a: x\nb: [1, two]\n": `t/a.yaml:2:8: b[1]: must be a whole number, not "two"`,
	} {
		got := ""
		if err := Decode("t/a.yaml", []byte(text), &into); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
	if err := Decode("t/a.yaml", []byte("a: x\nf: g"), &into); err != nil || into.F != "t/g" {
		t.Error(err, into.F)
	}
}

// A rule or a list that bears the mark of an override would be taken for one: for
// its hits, or for its proof.
func TestNamesOfOverridesAreTheirs(t *testing.T) {
	dir := tree(t, map[string]string{
		"postern.yaml": "lists:\n  - {name: 'override:gate:address', entries: [192.0.2.1]}\npolicy: {include: [rules.yaml]}\n",
		"rules.yaml":   "rules:\n  - {name: 'override:gate', when: 'true', do: pass}\n",
	})
	_, err := Load(Options{File: filepath.Join(dir, "postern.yaml"), NoEnvironment: true})
	if err == nil {
		t.Fatal("no fault")
	}
	got := strings.ReplaceAll(err.Error(), dir+"/", "")
	want := `postern.yaml:2:12: lists[0].name: "override:gate:address": names that begin with override: are those of overrides
rules.yaml:2:12: policy.rules[0].name: "override:gate": names that begin with override: are those of overrides`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}
