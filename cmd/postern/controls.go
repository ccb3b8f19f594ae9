package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/control"
	"postern/cmd/postern/view"
	"postern/configs"
)

// controlClient talks to the proxy that runs by a configuration.
func controlClient(opt configs.Options) (control.Client, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return control.Client{}, err
	}
	return control.Client{Path: cfg.Control.Socket}, nil
}

func newHeld() *cobra.Command {
	var opt configs.Options
	var f control.Filter
	var since string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "held", Short: "List the mail that was asked to come again", Args: noArguments,
		Long: `Print the notices that the running proxy has of mail that a rule holds: the id, since
when, how often it came, who sent it for whom, by which rule, and whether it was
released. The mail itself is at its sender's; postern release lets it in when it
comes again. What came last, or was released last, stands first.

It asks the proxy by its control socket (control.socket), which the group postern may
write to.`,
		Example: `  postern held --rcpt example.org --since 24h
  postern held --who 192.0.2.77
  postern held --json | jq -r '.notices[] | select(.tries > 3) | .id'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since != "" {
				d, err := configs.ParseDuration(since)
				if err != nil {
					return usageError{fmt.Errorf("--since: %w", err)}
				}
				f.Since = time.Now().Add(-d)
			}
			c, err := controlClient(opt)
			if err != nil {
				return err
			}
			v := view.NewHeld(cmd.OutOrStdout(), asJSON)
			if err := c.Held(cmd.Context(), f, v.Add); err != nil {
				return err
			}
			return v.End()
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().StringVar(&f.From, "from", "", "only mail of this `sender`, a mailbox or a domain")
	cmd.Flags().StringVar(&f.Rcpt, "rcpt", "", "only mail for this `recipient`, a mailbox or a domain")
	cmd.Flags().StringVar(&f.Who, "who", "", "only mail of this `holder`: a domain that was proven, a client's network or its address")
	cmd.Flags().StringVar(&since, "since", "", "only what came within this `duration`, such as 24h or 7d")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}

func newRelease() *cobra.Command {
	var opt configs.Options
	var domain string
	cmd := &cobra.Command{
		Use: "release ID... | --domain D", Short: "Let held mail in when it comes again",
		Long: `Release notices: the mail is let past the rule that holds it when its sender tries
again; the rules below still judge it. The ids are those of postern held and of
postern explain. --domain releases all mail of a domain: that which its client has
proven, or that which MAIL FROM names, which anybody can write. Look first:
postern held --from DOMAIN.

Hosts that the configuration names for the recipients' domains (retrieve) are asked to
send what they keep at once, by ETRN. Everybody else comes when they want to: public MX
hosts offer no ETRN.

The exit code is 1 if an id was not there, or was released before.`,
		Example: `  postern release 4k0m9d0x4qzr7k2m
  postern release --domain partner.example`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 == (domain != "") {
				return usageError{errors.New("release wants ids, or --domain and none")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for i := range args {
				args[i] = strings.ToLower(strings.TrimSpace(args[i]))
			}
			c, err := controlClient(opt)
			if err != nil {
				return err
			}
			v := view.NewReleased(cmd.OutOrStdout(), args)
			got, err := c.Release(cmd.Context(), args, domain, v.Add)
			all, errOut := v.End()
			if err == nil {
				err = errOut
			}
			if errOut := view.Retrievals(cmd.OutOrStdout(), got); err == nil {
				err = errOut
			}
			return reported(all, err)
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().StringVar(&domain, "domain", "", "release all mail of this `domain`")
	return cmd
}

func newRetrieve() *cobra.Command {
	var opt configs.Options
	cmd := &cobra.Command{
		Use: "retrieve DOMAIN", Short: "Ask the hosts that keep mail for a domain to send it now",
		Long: `Have the running proxy say ETRN (RFC 1985) to the hosts that the configuration names
for a domain (retrieve), as the backup MX that keeps mail while you were away. It asks
nobody else.

The exit code is 0 if one of them sends, or has nothing to send (250 to 253).`,
		Example: `  postern retrieve example.org`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("retrieve wants one domain")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := controlClient(opt)
			if err != nil {
				return err
			}
			got, err := c.Retrieve(cmd.Context(), args[0])
			if errOut := view.Retrievals(cmd.OutOrStdout(), got); err == nil {
				err = errOut
			}
			begun := false
			for _, r := range got {
				begun = begun || r.Begun
			}
			return reported(begun, err)
		},
	}
	configFlag(cmd, &opt.File)
	return cmd
}
