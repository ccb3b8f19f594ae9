package view

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/policy"
)

var update = flag.Bool("update", false, "write testdata/explain-*.txt anew")

// The explanations that policy tests as data, as text.
func TestExplanations(t *testing.T) {
	files, err := filepath.Glob("../../../policy/testdata/explain-*.json")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var e policy.Explanation
		if err := json.Unmarshal(data, &e); err != nil {
			t.Fatal(file, err)
		}
		var b strings.Builder
		WriteExplanation(&b, e)
		golden := filepath.Join("testdata", strings.TrimSuffix(filepath.Base(file), ".json")+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(b.String()), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

// What was never measured is said to be wanting.
func TestExplanationOfWhatWasNotMeasured(t *testing.T) {
	var b strings.Builder
	WriteExplanation(&b, policy.Explanation{
		Undetermined: []string{"dmarc.result"},
		Changes: []policy.Change{{
			Facts:        []policy.FactChange{{Fact: "spf.result", From: `"temperror"`, To: []string{`"none"`, `"neutral"`}}},
			Undetermined: []string{"dmarc.result"},
		}},
	})
	for _, line := range []string{
		"undetermined, for want of dmarc.result\n",
		`  undetermined if spf.result had been "none" or "neutral", not "temperror", for want of dmarc.result` + "\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no %q in\n%s", line, b.String())
		}
	}
}
