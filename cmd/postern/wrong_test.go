package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite pages that show what is printed")

// What the page says of ten wrong policies is what check-config prints. -update
// rewrites the page.
func TestWrongPolicies(t *testing.T) {
	page, err := filepath.Abs("../../policy/wrong-policies.md")
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```\n\n```text\n(.*?)```\n")
	t.Chdir(t.TempDir())
	n := 0
	fresh := example.ReplaceAllStringFunc(string(src), func(block string) string {
		n++
		m := example.FindStringSubmatch(block)
		if err := os.WriteFile("postern.yaml", []byte(m[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errout strings.Builder
		if err := run(t.Context(), []string{"check-config", "-c", "postern.yaml"}, &out, &errout); err != nil {
			report(&errout, err)
		}
		if errout.Len() == 0 {
			t.Errorf("policy %d: nothing is wrong with it", n)
		}
		if d := cmp.Diff(m[2], errout.String()); d != "" && !*update {
			t.Errorf("policy %d: -page +said\n%s", n, d)
		}
		return "```yaml\n" + m[1] + "```\n\n```text\n" + errout.String() + "```\n"
	})
	if n != 10 {
		t.Errorf("%d policies", n)
	}
	if *update {
		if err := os.WriteFile(page, []byte(fresh), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
