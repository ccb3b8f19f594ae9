package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"postern/cmd/postern/trial"
	"postern/configs"
)

func newTestSession() *cobra.Command {
	var opt configs.Options
	var ip, messageFile, remembered string
	var asJSON bool
	var m trial.Mail
	cmd := &cobra.Command{
		Use:   "test-session --ip ADDRESS --helo NAME --from MAILBOX --rcpt MAILBOX...",
		Short: "Show the facts, the DNS answers and the verdict on a session, without a server",
		Args:  noArguments,
		Long: `Run one session through the very code that serves, with the configured policy
and the configured DNS, and an MTA that takes everything and keeps nothing.
Print the facts, the DNS answers and the verdict.

Without --message a short one is made up, whose header agrees with the
envelope: From is --from, and Sender is --submitter. In a file, lines may end in
LF, which is read as CRLF.

The store of what lasts between sessions is not asked: the sender is a stranger, unless
--known says what is remembered of it, as a case of postern policy test would.

The exit code is 0 whenever a verdict was reached, whatever it is.`,
		Example: `  postern test-session --ip 192.0.2.1 --helo mail.example.org --from a@example.org --rcpt b@example.net
  postern test-session --ip 192.0.2.1 --helo h.example --from '<>' --rcpt b@example.net --json | jq .verdict
  postern test-session --ip 192.0.2.1 --helo h.example --from a@example.org --rcpt b@example.net --known 'past: {delivered: 12}, hold: {age: 600}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"ip", "helo", "from", "rcpt"} {
				if !cmd.Flags().Changed(name) {
					return usageError{fmt.Errorf("--%s is missing", name)}
				}
			}
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return usageError{fmt.Errorf("--ip %q is no IP address", ip)}
			}
			if err := trial.Clean(&m); err != nil {
				return usageError{err}
			}
			if messageFile == "" {
				m.Message = trial.MadeUp(m)
			} else if m.Message, err = trial.ReadMessage(messageFile, cmd.InOrStdin()); err != nil {
				return err
			}
			var known *trial.Known
			if remembered != "" {
				if known, err = trial.ReadKnown("--known", remembered); err != nil {
					return usageError{err}
				}
			}
			r, err := trial.Session(cmd.Context(), opt, addr, m, known, cmd.ErrOrStderr())
			if err == nil {
				err = r.NoVerdict
			}
			if err != nil {
				return err
			}
			if asJSON {
				return r.WriteJSON(cmd.OutOrStdout())
			}
			return r.WriteText(cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &opt.File)
	f := cmd.Flags()
	f.StringVar(&ip, "ip", "", "the client's `address`")
	f.StringVar(&m.Helo, "helo", "", "the `name` it gives with EHLO")
	f.StringVar(&m.From, "from", "", "the reverse-path, a `mailbox`; '<>' is the null one")
	f.StringArrayVar(&m.Recipients, "rcpt", nil, "a recipient's `mailbox`; may be repeated")
	f.StringVar(&m.Submitter, "submitter", "", "the SUBMITTER parameter (RFC 4405): a `mailbox`, not encoded")
	f.StringVar(&messageFile, "message", "", "a `file` with the message; - is standard input")
	f.StringVar(&remembered, "known", "", "what is `remembered` of the sender: 'past: {delivered: 12}, rate: {unknown: 30}, hold: {age: 600, tries: 2}'")
	f.BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}
