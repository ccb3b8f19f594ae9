package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/trial"
	"postern/cmd/postern/view"
)

func newDemo() *cobra.Command {
	var stay bool
	var messages int
	var folder string
	var seed uint64
	cmd := &cobra.Command{
		Use: "demo", Short: "See it work: a DNS zone, an MTA, the proxy and six sessions, all on loopback", Args: noArguments,
		Long: `Bring up a DNS zone, an MTA in small that writes a Maildir, and the proxy with its
built-in policy, all on loopback. Send six mails: one passes, one is tagged, three
are refused, one meets broken DNS and is deferred. Print what each heard and why.

The exit code is 0 if all went as it should.

With --mail, send so many messages of many kinds instead, from senders that are
made up (forwarders, lists, broken domains, forgers), by the configuration that
is in the folder, postern.yaml, and into its journal: something for postern report, candidate,
replay and explain to work on. Where the folder has none, it is begun with one.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("mail") {
				if messages < 1 || messages > 10_000_000 {
					return usageError{errors.New("--mail: from 1 to 10000000")}
				}
				if !cmd.Flags().Changed("seed") {
					seed = uint64(time.Now().UnixNano())
				}
				bar := view.NewBar(cmd.ErrOrStderr())
				defer bar.Clear()
				return trial.DemoMixed(cmd.Context(), cmd.OutOrStdout(), folder, messages, seed, func(done, total int64) {
					if bar.Show(done, total, "messages"); done >= total {
						bar.Clear() // what came of them is about to be printed
					}
				})
			}
			return reported(trial.Demo(cmd.Context(), cmd.OutOrStdout(), buildVersion(), newPage, stay))
		},
	}
	cmd.Flags().BoolVar(&stay, "stay", false, "stay until Ctrl-C, to play with")
	cmd.Flags().IntVar(&messages, "mail", 0, "send so many mixed messages")
	cmd.Flags().Uint64Var(&seed, "seed", 0, "a `number` that makes --mail send the same again")
	cmd.Flags().StringVar(&folder, "folder", "postern-demo", "the `folder` with the configuration and the journal of --mail")
	return cmd
}
