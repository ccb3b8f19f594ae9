package main

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

	"github.com/spf13/cobra"

	"postern/configs"
	"postern/policy"
)

func newPolicyTest() *cobra.Command {
	var run string
	var verbose bool
	cmd := &cobra.Command{
		Use: "test FILE...", Short: "Run tests of a policy: client, sender, DNS zone -> verdict",
		Long: `Run the cases of test files: each is a session through the very code that
serves, with the DNS of a zone in the file and an MTA that takes everything.
For a case that fails, print what was wanted and what came, and how the rules came
to it.

The exit code is 0 if all cases pass, 1 if one fails or a file has a fault.
configs/README.md describes the files, configs/tests has some to begin with.`,
		Example: `  postern policy test tests/*.test.yaml
  postern policy test --run 'forged' -v university.test.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("policy test wants the files with the tests")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			only, err := regexp.Compile(run)
			if err != nil {
				return usageError{fmt.Errorf("--run: %w", err)}
			}
			return policyTest(cmd.Context(), cmd.OutOrStdout(), args, only, verbose)
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "of the cases, those whose name fits the `pattern`")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "tell of the cases that pass, too")
	return cmd
}

// policyTest runs the files, and says at the end how it went.
func policyTest(ctx context.Context, out io.Writer, files []string, only *regexp.Regexp, verbose bool) error {
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
	_, err := fmt.Fprintf(out, "%s in %s: %d passed, %d failed", counted(passed+failed, "case"), counted(len(files), "file"), passed, failed)
	if faulty > 0 {
		_, err = fmt.Fprintf(out, "; %s could not be run", counted(faulty, "file"))
	}
	_, _ = fmt.Fprintf(out, " (%s)\n", time.Since(began).Round(time.Millisecond))
	switch {
	case err != nil:
		return err
	case failed+faulty > 0:
		return errReported
	case passed == 0:
		return errors.New("no case was run: nothing was tested")
	}
	return nil
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
	t, err := b.rig.session(ctx, from, m)
	if err != nil {
		r.failure = err.Error() + "\n"
		return r
	}
	v := t.verdict()
	r.verdict = v.Disposition
	if v.Rule != "" {
		r.verdict += " by " + v.Rule
	}
	if diff := c.Expect.differs(t); diff != "" {
		why := b.why(c, t)
		if t.noVerdict != nil {
			why = t.noVerdict.Error() + "\n" + why
		}
		r.failure = diff + "why:\n" + indent("  ", why)
	}
	return r
}

// why is the explanation of the verdict: the rules that matched and the one that
// was wanted, or all.
func (b *bench) why(c *testCase, t *tested) string {
	e := t.chain.ExplainMeasured(&t.record.Facts, t.record.Measured())
	if b.verbose {
		return e.String()
	}
	all := len(e.Rules)
	e.Rules = slices.DeleteFunc(e.Rules, func(r policy.RuleExplanation) bool {
		return r.Rule != c.Expect.Rule && (r.Outcome == "no match" || r.Outcome == "not reached")
	})
	e.Changes = nil
	text := e.String()
	if left := all - len(e.Rules); left > 0 {
		text += fmt.Sprintf("  %s did not match or were not reached: -v shows them\n", counted(left, "other rule"))
	}
	return text
}

// differs lays out what was wanted and what came, line by line; empty: it is as
// it should be.
func (e *expectation) differs(t *tested) string {
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
		{"disposition", e.Disposition, v.Disposition}, {"rule", e.Rule, v.Rule}, {"stage", e.Stage, v.Stage},
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
		if d := rcpt.Disposition; d == "reject" || d == "defer" {
			refused = append(refused, rcpt.Address)
		}
	}
	lists("refused", e.Refused, refused)
	return b.String()
}
