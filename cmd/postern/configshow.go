package main

import (
	"github.com/spf13/cobra"

	"postern/configs"
)

func newConfig() *cobra.Command {
	var opt configs.Options
	var all bool
	show := &cobra.Command{
		Use: "show", Short: "Print what differs from the defaults, or everything in effect", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configs.Load(opt)
			if err != nil {
				return err
			}
			text, err := cfg.YAML(all)
			if err != nil {
				return err
			}
			if len(text) == 0 {
				text = []byte("# Nothing differs from the defaults.\n")
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	configFlag(show, &opt.File)
	show.Flags().BoolVar(&all, "all", false, "everything in effect")
	return group("config", "Look at the configuration", show)
}
