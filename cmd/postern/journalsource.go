package main

import (
	"errors"

	"github.com/spf13/cobra"

	"postern/configs"
)

// journalSource is where commands that read the journal find it.
type journalSource struct {
	opt configs.Options
	dir string
}

func (s *journalSource) flags(cmd *cobra.Command) {
	configFlag(cmd, &s.opt.File)
	cmd.Flags().StringVar(&s.dir, "journal", "", "the journal's `folder`, in place of the configured one")
}

// open returns the configuration and the folder of the journal.
func (s *journalSource) open() (*configs.Config, string, error) {
	cfg, err := configs.Load(s.opt)
	if err != nil {
		return nil, "", err
	}
	switch {
	case s.dir != "":
		return cfg, s.dir, nil
	case cfg.Journal.Path != "":
		return cfg, cfg.Journal.Path, nil
	}
	return nil, "", usageError{errors.New("no journal is configured: name its folder with --journal, or a configuration that has journal.path with -c")}
}

// folder is that of the journal; empty: there is none.
func (s *journalSource) folder(cfg *configs.Config) string {
	if s.dir != "" {
		return s.dir
	}
	return cfg.Journal.Path
}
