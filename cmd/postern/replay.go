package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/audit"
)

func newReplay() *cobra.Command {
	var src journalSource
	var when period
	var file string
	var allowed int64
	var asJSON bool
	cmd := &cobra.Command{
		Use: "replay --policy FILE", Short: "Judge the journal by another policy: what changes", Args: noArguments,
		Long: `Read the transactions of the journal and judge each by the rules (and lists) of
another file, for each of its recipients. Print what would have been otherwise,
by rule and by the sender's domain, with examples for postern explain.

Only facts that were measured count. Where the verdict hangs on another one (a
check that did not run, a header that was never sent since the client had been
refused) it is undetermined, and counted apart.`,
		Example: `  postern replay --since 24h --policy tomorrow.yaml
  postern replay --policy tomorrow.yaml --fail-if-new-rejects 0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{errors.New("--policy is missing: the file with the other rules")}
			}
			q, done, err := when.query(cmd)
			if err != nil {
				return err
			}
			defer done()
			_, dir, err := src.open()
			if err != nil {
				return err
			}
			other, err := service.LoadRules(file)
			if err != nil {
				return configs.FaultsOf(configs.Position{File: file}, err).Sorted()
			}
			r, err := audit.Replay(cmd.Context(), dir, q, other.Chain)
			if err != nil {
				return err
			}
			r.Policy = file
			if err := view.Replay(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if err := audit.Whole(r.Read); err != nil {
				return err // a script that goes by new rejects must not take a part for the whole
			}
			switch limited := cmd.Flags().Changed("fail-if-new-rejects"); {
			case limited && r.Verdicts == r.Undetermined+r.Unjudged:
				// A wrong folder must not look like a policy that refuses nobody.
				return fmt.Errorf("%s: no verdict could be compared, so nothing is known of new rejects", dir)
			case limited && r.NewRejects > allowed:
				return fmt.Errorf("new rejects: %d, and %d are allowed", r.NewRejects, allowed)
			}
			return nil
		},
	}
	src.flags(cmd)
	f := cmd.Flags()
	when.flags(cmd)
	f.StringVar(&file, "policy", "", "the `file` with the other rules: a configuration, of which policy, lists and overrides count")
	f.Int64Var(&allowed, "fail-if-new-rejects", 0, "exit with 1 if more than `N` verdicts become rejects, or if no verdict could be compared")
	f.BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}
