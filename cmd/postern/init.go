package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/setup"
	"postern/configs"
)

// machineRoot is where the machine's files are.
var machineRoot = "/"

func newInit() *cobra.Command {
	m := setup.Machine{Root: machineRoot, Now: time.Now()}
	var file, journal string
	cmd := &cobra.Command{
		Use: "init", Short: "Look at this machine and write a first configuration", Args: noArguments,
		Long: `Look which MTA is here and who answers, at the name servers and the certificates;
write a short configuration with comments, which observes and refuses nothing; and
print what the MTA needs, and what to do next.

Nothing that is there is overwritten, and the MTA is not touched.`,
		Example: `  postern init
  postern init --hostname mx.example.org --backend 127.0.0.1:10025 -c postern.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(file); err == nil {
				return fmt.Errorf("%s is there already, and was left as it is: another file is named with -c", file)
			}
			s := setup.Look(cmd.Context(), m)
			err := setup.Write(file, s.Configuration(journal))
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already, and was left as it is", file)
			}
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), configs.Printable(s.Report(file)))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", defaultConfig, "the `file` to write")
	f.StringVar(&m.Hostname, "hostname", "", "the `name` in your MX record; without it that of the MTA, or of the machine")
	f.StringVar(&m.Backend, "backend", "", "where the MTA listens for us, `host:port`; without it 127.0.0.1:10025")
	f.StringVar(&journal, "journal", "/var/lib/postern/journal", "the `folder` of the journal")
	return cmd
}
