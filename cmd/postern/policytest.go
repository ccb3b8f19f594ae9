package main

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/spf13/cobra"

	"postern/cmd/postern/trial"
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
			return reported(trial.PolicyTest(cmd.Context(), cmd.OutOrStdout(), args, only, verbose))
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "of the cases, those whose name fits the `pattern`")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "tell of the cases that pass, too")
	return cmd
}
