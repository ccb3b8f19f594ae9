package main

import (
	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/configs"
)

func newServe() *cobra.Command {
	var opt configs.Options
	var listen, to string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the proxy", Args: noArguments,
		Long: `Run the proxy until SIGTERM, which lets messages under way end (timeouts.drain);
a second one ends it at once. SIGHUP reads the configuration again; a file with
a fault changes nothing, and the log says where the fault is. SIGUSR2 starts the
binary anew on the same sockets, waits until it serves, and ends this process
when its sessions have come to their end: an upgrade that refuses nobody.

With neither a file nor --backend, mail goes into a Maildir below the working
folder, on port 2525: something to try.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt.Set = serveFlags(cmd, listen, to)
			return service.Run(cmd.Context(), opt, buildVersion(), newPage, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().StringVar(&listen, "listen", "", "the `address` to listen on, in place of the listeners of the file")
	cmd.Flags().StringVar(&to, "backend", "", "the MTA's `address`, in place of the backends and routes of the file")
	return cmd
}

// serveFlags puts flags into the form of the file.
func serveFlags(cmd *cobra.Command, listen, to string) map[string]any {
	set := map[string]any{}
	if cmd.Flags().Changed("listen") {
		set["listeners"] = []any{map[string]any{"name": "mx", "address": listen}}
	}
	if cmd.Flags().Changed("backend") {
		set["backends"] = []any{map[string]any{"name": "mta", "addresses": []any{to}}}
		set["routes"] = []any{}
	}
	return set
}
