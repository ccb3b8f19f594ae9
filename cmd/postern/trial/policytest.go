package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy"
)

// PolicyTest runs the files, says at the end how it went, and whether all cases passed.
func PolicyTest(ctx context.Context, out io.Writer, files []string, only *regexp.Regexp, verbose bool) (good bool, err error) {
	began := time.Now()
	passed, failed, faulty := 0, 0, 0
	for _, file := range files {
		results, err := runTestFile(ctx, file, only, verbose)
		if err != nil {
			faulty++
			_, _ = fmt.Fprintf(out, "FAIL  %s: cannot be run\n%s", file, indent(margin, configs.Render(err, nil)))
			continue
		}
		for _, r := range results {
			if r.failure == "" {
				passed++
				if verbose {
					_, _ = fmt.Fprintf(out, "ok    %s: %s (%s)\n", r.at, r.name, r.verdict)
				}
				continue
			}
			failed++
			_, _ = fmt.Fprintf(out, "FAIL  %s: %s\n%s", r.at, r.name, indent(margin, r.failure))
		}
	}
	_, err = fmt.Fprintf(out, "%s in %s: %d passed, %d failed", view.Counted(passed+failed, "case"), view.Counted(len(files), "file"), passed, failed)
	if faulty > 0 {
		_, err = fmt.Fprintf(out, "; %s could not be run", view.Counted(faulty, "file"))
	}
	_, _ = fmt.Fprintf(out, " (%s)\n", time.Since(began).Round(time.Millisecond))
	switch {
	case err != nil:
		return false, err
	case failed+faulty > 0:
		return false, nil
	case passed == 0:
		return false, errors.New("no case was run: nothing was tested")
	}
	return true, nil
}

// indent puts a margin before the lines of a text.
func indent(margin, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(margin + line)
	}
	return b.String()
}

// margin is that of what follows a FAIL.
const margin = "        "

// caseResult is what became of one case.
type caseResult struct {
	at      configs.Position
	name    string
	verdict string
	failure string // what is not as it should be, and why; empty: it passed
}

// runTestFile runs the cases of a file one after the other.
func runTestFile(ctx context.Context, file string, only *regexp.Regexp, verbose bool) ([]caseResult, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t, err := readTestFile(file, src)
	if err != nil {
		return nil, err
	}
	cases := slices.DeleteFunc(slices.Clone(t.Cases), func(c testCase) bool { return !only.MatchString(c.Name) })
	if len(cases) == 0 {
		return nil, nil
	}
	b, err := t.bench(ctx)
	if err != nil {
		return nil, err
	}
	defer b.rig.close()
	b.verbose = verbose
	results := make([]caseResult, 0, len(cases))
	for i := range cases {
		results = append(results, b.run(ctx, &cases[i]))
	}
	return results, nil
}

// run runs one case.
func (b *bench) run(ctx context.Context, c *testCase) caseResult {
	r := caseResult{at: c.Position, name: c.Name}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	from, m, err := b.session(c)
	if err != nil {
		r.failure = err.Error() + "\n"
		return r
	}
	b.networks.say(c.Network)
	b.services.say(c.Service, c.Milter)
	b.rig.remember(b.script, &Known{c.Past, c.Rate, c.Hold, c.State})
	t, err := b.rig.session(ctx, from, m)
	if err != nil {
		r.failure = err.Error() + "\n"
		return r
	}
	v := t.verdict()
	r.verdict = string(v.Disposition)
	if t.NoVerdict != nil {
		r.verdict = t.heard
	}
	if v.Rule != "" {
		r.verdict += " by " + v.Rule
	}
	if diff := c.Expect.differs(t); diff != "" {
		why := b.why(c, t)
		if t.NoVerdict != nil {
			why = t.NoVerdict.Error() + "\n" + why
		}
		r.failure = diff + "why:\n" + indent("  ", why)
	}
	return r
}

// why is the explanation of the verdict: the rules that matched and the one that
// was wanted, or all.
func (b *bench) why(c *testCase, t *Tested) string {
	if t.record.ID == "" {
		return "" // nothing was judged
	}
	e := t.chain.ExplainMeasured(&t.record.Facts, t.record.Measured())
	var text strings.Builder
	if b.verbose {
		view.WriteExplanation(&text, e)
		return text.String()
	}
	all := len(e.Rules)
	e.Rules = slices.DeleteFunc(e.Rules, func(r policy.RuleExplanation) bool {
		return r.Rule != c.Expect.Rule && (r.Outcome == "no match" || r.Outcome == "not reached")
	})
	e.Changes = nil
	view.WriteExplanation(&text, e)
	if left := all - len(e.Rules); left > 0 {
		fmt.Fprintf(&text, "  %s did not match or were not reached: -v shows them\n", view.Counted(left, "other rule"))
	}
	return text.String()
}

// differs lays out what was wanted and what came, line by line; empty: it is as
// it should be.
func (e *expectation) differs(t *Tested) string {
	v := t.verdict()
	var b strings.Builder
	line := func(what, want, got string) {
		for s, text := range map[*string]string{&want: "(none)", &got: "(none)"} {
			if *s == "" {
				*s = text
			}
		}
		fmt.Fprintf(&b, "%-12s want  %s\n%-12s got   %s\n", what, want, "", got)
	}
	for _, x := range []struct{ what, want, got string }{
		{"disposition", e.Disposition, string(v.Disposition)}, {"rule", e.Rule, v.Rule}, {"stage", e.Stage, v.Stage},
	} {
		if x.want == noRule {
			x.want = ""
		} else if x.want == "" {
			continue
		}
		if x.want != x.got {
			line(x.what, x.want, x.got)
		}
	}
	if e.Reply != "" && v.Reply != e.Reply && !strings.HasPrefix(v.Reply, e.Reply+" ") {
		line("reply", e.Reply, v.Reply)
	}
	lists := func(what string, want, got []string) {
		if want == nil || slices.Equal(want, got) {
			return
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				fmt.Fprintf(&b, "%-12s - %s\n", what, w)
			}
		}
		for _, g := range got {
			if !slices.Contains(want, g) {
				fmt.Fprintf(&b, "%-12s + %s\n", what, g)
			}
		}
		if len(want) == len(got) && slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))) {
			line(what, strings.Join(want, ", "), strings.Join(got, ", "))
		}
	}
	lists("tags", e.Tags, v.Tags)
	var refused []string
	for _, rcpt := range t.record.Recipients {
		if rcpt.Disposition.Refuses() {
			refused = append(refused, rcpt.Address)
		}
	}
	lists("refused", e.Refused, refused)
	return b.String()
}
