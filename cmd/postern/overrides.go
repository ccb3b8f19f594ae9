package main

import (
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/audit"
)

func newOverrides() *cobra.Command {
	var src journalSource
	var when period
	var asJSON bool
	cmd := &cobra.Command{
		Use: "overrides", Short: "List the overrides: how often each was needed, which are unused or expire", Args: noArguments,
		Long: `Print the overrides of the configuration with how often each decided, by the
journal: those that nobody needs, those that end within 30 days, those that have ended.

The exit code is 1 if one has expired: take it out, or give it another day.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, done, err := when.query(cmd)
			if err != nil {
				return err
			}
			defer done()
			cfg, err := configs.Load(src.opt)
			if err != nil {
				return err
			}
			l := audit.ListOverrides(cfg.Overrides, time.Now())
			if dir := src.folder(cfg); dir != "" {
				if err := l.Count(cmd.Context(), dir, q); err != nil {
					return err
				}
			}
			if asJSON {
				err = view.JSON(cmd.OutOrStdout(), l)
			} else {
				err = view.Overrides(cmd.OutOrStdout(), l)
			}
			if err == nil {
				err = audit.Whole(l.Read)
			}
			if err == nil && l.Expired > 0 {
				err = errReported
			}
			return err
		},
	}
	src.flags(cmd)
	when.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}
