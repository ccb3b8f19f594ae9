package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"postern/checks"
	"postern/configs"
	"postern/policy"
)

func newPolicy() *cobra.Command {
	var opt configs.Options
	var listChecks bool
	show := &cobra.Command{
		Use: "show", Short: "Print the rules in order, the stage each is decided at, and why", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := load(opt)
			if err != nil {
				return err
			}
			defer p.close(nil)
			var b strings.Builder
			if listChecks {
				showChecks(&b, p)
			} else {
				showPolicy(&b, p)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), b.String())
			return err
		},
	}
	configFlag(show, &opt.File)
	show.Flags().BoolVar(&listChecks, "checks", false, "the checks instead: what is measured, when, and whether somebody wants it")
	return group("policy", "Look at the policy, and test it", show, newPolicyTest())
}

func showPolicy(b *strings.Builder, p *parts) {
	source := "The policy of " + p.config.At("policy.rules").File
	if p.config.Policy.BuiltIn {
		source = "No rules are configured: the built-in policy"
	}
	fmt.Fprintf(b, "%s, mode %s.\n", source, p.config.Policy.Mode)
	if p.config.Policy.Mode == "observe" {
		b.WriteString("It is computed, logged and counted; nothing is refused.\n")
	}
	steps := p.rules.chain.Plan()
	if len(steps) == 0 {
		b.WriteString("There are no rules: everything passes.\n")
	} else {
		b.WriteString("The first reject, defer or pass that matches decides; no match: pass.\n")
	}
	for _, l := range p.rules.chain.Lets() {
		fmt.Fprintf(b, "\n let %s\n    is      %s\n", l.Name, strings.Join(strings.Fields(l.Is), " "))
	}
	for i, s := range steps {
		fmt.Fprintf(b, "\n%2d. %s: %s\n", i+1, s.Rule, s.Do)
		fmt.Fprintf(b, "    when    %s\n", strings.Join(strings.Fields(s.When), " "))
		fmt.Fprintf(b, "    decided at %s: %s\n", s.Stage, s.Why)
		if s.HoldsMessage {
			b.WriteString("    cost    holds the message: the backend hears of it only after its end\n")
		}
		if s.OneDomain {
			b.WriteString("    cost    one recipient domain a transaction: the others hear 452 and come again\n")
		}
		if !p.config.Policy.BuiltIn || strings.HasPrefix(s.Rule, configs.OverrideMark) {
			fmt.Fprintf(b, "    from    %s\n", s.Position)
		}
	}
	for _, w := range p.rules.chain.Warnings() {
		b.WriteString("\nwarning: " + configs.Render(&w, nil))
	}
	if p.config.Policy.BuiltIn {
		fmt.Fprintf(b, "\nAs a configuration file would have it:\n\n%s", policy.BuiltInYAML)
	}
}

func showChecks(b *strings.Builder, p *parts) {
	b.WriteString("What can be measured. A check runs only if a rule, a header field or the journal wants it.\n\n")
	for _, make := range checks.All {
		c := make(checks.Deps{})
		runs := "runs"
		if !p.settings.Checks.Wants(c.Name) {
			runs = "does not run"
		}
		fmt.Fprintf(b, "%-10s  at %-7s  %-12s  %s\n", c.Name, c.Stage, runs, c.Doc)
	}
}
