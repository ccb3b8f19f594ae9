package main

import (
	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/audit"
)

func newCandidate() *cobra.Command {
	var src journalSource
	var when period
	var asJSON bool
	report := &cobra.Command{
		Use: "report", Short: "Say where the candidate policy disagreed with the active one", Args: noArguments,
		Long: `Print what the candidate policy (policy.candidate) said of live mail, where that was
otherwise than what the active one did: who would newly be refused or accepted,
by rule and by the sender's domain, with examples for postern explain.

The verdicts are those of the time, from the journal. Where the candidate file
has changed since, those of its former content are left out; replay judges old mail by new rules.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, done, err := when.query(cmd)
			if err != nil {
				return err
			}
			defer done()
			cfg, dir, err := src.open()
			if err != nil {
				return err
			}
			current := ""
			if file := cfg.Policy.Candidate; file != "" {
				r, err := service.LoadRules(file)
				if err != nil {
					return configs.FaultsOf(cfg.At("policy.candidate"), err).Sorted()
				}
				current = r.Chain.Fingerprint()
			}
			r, err := audit.Candidate(cmd.Context(), dir, q, current)
			if err != nil {
				return err
			}
			if err := view.Candidate(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			return audit.Whole(r.Read)
		},
	}
	src.flags(report)
	when.flags(report)
	report.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return group("candidate", "Look at the candidate policy", report)
}
