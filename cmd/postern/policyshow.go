package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postern/checks"
	"postern/cmd/postern/service"
	"postern/configs"
	"postern/policy"
)

func newPolicy() *cobra.Command {
	var opt configs.Options
	var listChecks, asYAML bool
	show := &cobra.Command{
		Use: "show", Short: "Print the rules in order, the stage each is decided at, and why", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := service.Load(opt)
			if err != nil {
				return err
			}
			defer p.Close(nil)
			var b strings.Builder
			switch {
			case listChecks && asYAML:
				return usageError{errors.New("say --checks or --yaml, not both")}
			case asYAML:
				text, err := policyYAML(p.Config)
				if err != nil {
					return err
				}
				b.Write(text)
			case listChecks:
				showChecks(&b, p)
			default:
				showPolicy(&b, p)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), b.String())
			return err
		},
	}
	configFlag(show, &opt.File)
	show.Flags().BoolVar(&listChecks, "checks", false, "the checks instead: what is measured, when, and whether somebody wants it")
	show.Flags().BoolVar(&asYAML, "yaml", false, "the resulting rules, with lists and overrides, as a configuration file would have them: to copy")
	return group("policy", "Look at the policy, and test it", show, newPolicyTest())
}

func showPolicy(b *strings.Builder, p *service.Parts) {
	source := service.PolicySource(p.Config)
	fmt.Fprintf(b, "%s, mode %s.\n", strings.ToUpper(source[:1])+source[1:], p.Config.Policy.Mode)
	if p.Config.Policy.Mode == "observe" {
		b.WriteString("It is computed, logged and counted; nothing is refused.\n")
	}
	steps := p.Rules.Chain.Plan()
	builtIn := map[string]bool{}
	for _, r := range policy.BuiltIn().Rules {
		builtIn[r.Name] = p.Config.Policy.BuiltIn == configs.BuiltInAfter
	}
	if len(steps) == 0 {
		b.WriteString("There are no rules: everything passes.\n")
	} else {
		b.WriteString("The first reject, defer or pass that matches decides; no match: pass.\n")
	}
	for _, l := range p.Rules.Chain.Lets() {
		fmt.Fprintf(b, "\n let %s\n    is      %s\n", l.Name, strings.Join(strings.Fields(l.Is), " "))
	}
	for i, s := range steps {
		fmt.Fprintf(b, "\n%2d. %s: %s\n", i+1, s.Rule, s.Do)
		fmt.Fprintf(b, "    when    %s\n", strings.Join(strings.Fields(s.When), " "))
		fmt.Fprintf(b, "    decided at %s: %s\n", s.Stage, s.Why)
		if s.HoldsMessage {
			b.WriteString("    cost    holds the message: the backend hears of it only after its end\n")
		}
		if len(s.Asks) > 0 {
			fmt.Fprintf(b, "    cost    asks %s, where a message gets so far\n", strings.Join(s.Asks, ", "))
		}
		if s.OneDomain {
			b.WriteString("    cost    one recipient domain a transaction: the others hear 452 and come again\n")
		}
		from := origin(s, builtIn)
		if next := slices.IndexFunc(steps[i:], func(s policy.Step) bool { return !s.BuiltIn && !strings.HasPrefix(s.Rule, configs.OverrideMark) }); s.BuiltIn && next > 0 {
			from += fmt.Sprintf(": it stands above rule %q, which waits for the message, since recipients cannot be told apart any more then", steps[i+next].Rule)
		}
		fmt.Fprintf(b, "    from    %s\n", from)
	}
	for _, w := range append(p.Rules.Chain.Warnings(), p.Rules.Chain.Gaps()...) {
		w.Severity = configs.SeverityError // it is said to be a warning in front
		b.WriteString("\nwarning: " + configs.Render(&w, nil))
	}
}

// origin says where a rule comes from.
func origin(s policy.Step, builtIn map[string]bool) string {
	switch {
	case s.BuiltIn:
		return "the built-in policy"
	case builtIn[s.Rule]:
		return s.Position + ", in place of the built-in rule of this name"
	}
	return s.Position
}

// policyYAML is everything that makes the policy, with the rules as they result from
// own, included and built-in ones: it can be copied into a configuration, or stand
// as a candidate by itself.
func policyYAML(cfg *configs.Config) ([]byte, error) {
	p := policy.Whole(cfg.Policy)
	p.BuiltIn, p.Include, p.Candidate = configs.BuiltInOff, nil, ""
	comments := policy.BuiltInComments()
	for i := range p.Rules {
		r := &p.Rules[i]
		r.Comment = "From " + r.Position.String() + "."
		if r.BuiltIn {
			r.Comment = strings.TrimSpace("Built-in.\n" + comments[r.Name])
		}
	}
	text, err := (&configs.Config{Lists: cfg.Lists, Policy: p, Overrides: cfg.Overrides}).YAMLOf("lists", "policy", "overrides")
	if err != nil {
		return nil, err
	}
	return append([]byte("# The policy as it results, by postern policy show --yaml.\n"), text...), nil
}

func showChecks(b *strings.Builder, p *service.Parts) {
	b.WriteString("What can be measured. A check runs only if a rule, a header field or the journal wants it.\n\n")
	var named []checks.Service
	for _, name := range p.Rules.Chain.Services() {
		named = append(named, checks.Service{Name: name})
	}
	var judging []checks.Milter
	for _, name := range p.Rules.Chain.Milters() {
		judging = append(judging, checks.Milter{Name: name})
	}
	for _, c := range checks.All(checks.Deps{Services: named, Milters: judging}) {
		runs := "runs"
		if !p.Settings.Checks.Wants(c.Name) {
			runs = "does not run"
		}
		fmt.Fprintf(b, "%-10s  at %-7s  %-12s  %s\n", c.Name, c.Stage, runs, c.Doc)
	}
}
