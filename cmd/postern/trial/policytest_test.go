package trial

import (
	"path/filepath"
	"regexp"
	"testing"
)

// The tests that come with the policies: that of the built-in one, and those of
// the examples in configs. Every example has tests.
func TestPoliciesThatAreShipped(t *testing.T) {
	files, err := filepath.Glob("../../../configs/tests/*.test.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	field, err := filepath.Glob("../../../policy/testdata/field/*.test.yaml")
	if err != nil || len(field) < 3 {
		t.Fatal(field, err)
	}
	files = append(append(files, "../../../policy/builtin.test.yaml"), field...)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			results, err := runTestFile(t.Context(), file, regexp.MustCompile(""), true)
			if err != nil {
				t.Fatal(err)
			}
			if len(results) == 0 {
				t.Error("no cases")
			}
			for _, r := range results {
				if r.failure != "" {
					t.Errorf("%s: %s\n%s", r.at, r.name, r.failure)
				}
			}
		})
	}
	for _, name := range []string{"university", "company-behind-load-balancer", "isp", "strict-partner-gateway", "observe-first-week"} {
		if found, _ := filepath.Glob("../../../configs/tests/" + name + ".test.yaml"); len(found) != 1 {
			t.Errorf("configs/%s.yaml has no tests", name)
		}
	}
}

// FuzzTestFile: whatever is in a file of tests, it is read or refused.
func FuzzTestFile(f *testing.F) {
	f.Add("cases: [{name: a, expect: {disposition: pass}}]")
	f.Add("zone: |\n  a TXT\ncases:\n  - {name: a, client: ::1, mail_from: <>, sign: [a.example], expect: {rule: none, tags: []}}\n")
	f.Add("defaults: {certificate: {names: [a], verified: true}}\nnow: 2026-01-01\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := readTestFile("a.test.yaml", []byte(text))
		if err != nil {
			return
		}
		for i := range file.Cases {
			c := &file.Cases[i]
			if c.Name == "" || c.Helo == "" || len(c.Rcpt) == 0 || c.Expect.empty() {
				t.Errorf("%+v", c)
			}
		}
	})
}
