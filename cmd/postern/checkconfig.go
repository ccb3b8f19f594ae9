package main

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"postern/configs"
)

func newCheckConfig() *cobra.Command {
	var opt configs.Options
	cmd := &cobra.Command{
		Use: "check-config", Short: "Say whether a configuration is good", Args: noArguments,
		Long: `Build everything that the configuration asks for, listen to nothing and connect
to nobody. Each fault is told with file:line:column, and the exit code is 1.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := load(opt)
			if err != nil {
				return err
			}
			defer p.close(nil)
			for _, w := range p.warnings(time.Now()) {
				w.Text += " (warning)"
				if _, err := io.WriteString(cmd.ErrOrStderr(), configs.Render(&w, nil)); err != nil {
					return err
				}
			}
			what := opt.File
			if what == "" {
				what = "the configuration"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", what)
			return err
		},
	}
	configFlag(cmd, &opt.File)
	return cmd
}

// load reads a configuration and builds its parts, for commands that look and
// do not serve.
func load(opt configs.Options) (*parts, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return nil, err
	}
	return build(cfg, &world{log: slog.New(slog.DiscardHandler), fallback: innerBackend("maildir", "xclient")}, nil)
}
