package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/configs"
)

func newCheckConfig() *cobra.Command {
	var opt configs.Options
	cmd := &cobra.Command{
		Use: "check-config", Short: "Say whether a configuration is good", Args: noArguments,
		Long: `Build everything that the configuration asks for, listen to nothing and connect
to nobody. Each fault is told with file:line:column, and the exit code is 1.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := service.Load(opt)
			if err != nil {
				return err
			}
			defer p.Close(nil)
			for _, w := range append(p.Warnings(time.Now()), unreadable(p.Config, opt.File)...) {
				if _, err := io.WriteString(cmd.ErrOrStderr(), configs.Render(&w, nil)); err != nil {
					return err
				}
			}
			what := opt.File
			if what == "" { // NOT: that the configuration is good, which nobody has seen
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "there is no %s: the defaults and the environment are good\n", defaultConfig)
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", what)
			return err
		},
	}
	configFlag(cmd, &opt.File)
	return cmd
}
