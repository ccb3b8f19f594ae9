//go:build e2e

package spf

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Records made up at random, judged by us and by another implementation, in
// another language. Where the two part, the RFC is on our side, or leaves it open.
func TestE2EPySPF(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which has Debian's packages
	if out, err := exec.Command(python, "-c", "import spf").CombinedOutput(); err != nil {
		t.Fatalf("no pyspf (%v); on Debian: apt-get install python3-spf\n%s", err, out)
	}
	type judged struct {
		drawn
		ours Outcome
	}
	var cases []judged
	var in bytes.Buffer
	for _, odd := range []bool{false, true} {
		made := rapid.Custom(func(t *rapid.T) drawn { return draw(t, odd) })
		for seed := range 2000 {
			d := made.Example(seed)
			z, err := d.zone.load()
			if err != nil {
				t.Fatal(err)
			}
			cases = append(cases, judged{d, Evaluate(t.Context(), d.request(z))})
			line, err := json.Marshal(map[string]any{"client": d.client, "zone": d.zone})
			if err != nil {
				t.Fatal(err)
			}
			in.Write(append(line, '\n'))
		}
	}

	cmd := exec.Command(python, "testdata/pyspf.py")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	answers := bufio.NewScanner(bytes.NewReader(out))
	met := map[string]int{}
	for _, c := range cases {
		if !answers.Scan() {
			t.Fatalf("pyspf answered %d of %d", len(met), len(cases))
		}
		theirs, why, _ := strings.Cut(answers.Text(), "\t")
		switch {
		case theirs == string(c.ours.Result):
			met["none"]++
		case theirs == "permerror" && strings.HasPrefix(why, "include has trivial recursion"):
			met["an include of the domain itself, which pyspf takes for a syntax error; by RFC 7208 §4.6.4 evaluation finds it, if it gets there"]++
		case theirs == "permerror" && strings.HasPrefix(why, "Void lookup limit"):
			met["void look-ups, of which pyspf counts several to a term of ptr or mx; RFC 7208 §4.6.4 limits the terms"]++
		default:
			t.Errorf("%s: ours %s (%s), pyspf %s (%s)\n%v", c.client, c.ours.Result, c.ours.Reason, theirs, why, c.zone)
		}
	}
	for class, n := range met {
		t.Logf("%4d: %s", n, class)
	}
}
