package main

import (
	"github.com/spf13/cobra"

	"postern/cmd/postern/doctor"
	"postern/cmd/postern/view"
	"postern/configs"
)

func newDoctor() *cobra.Command {
	var opt configs.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say whether this installation is sound: DNS, certificates, MTA, who the client is", Args: noArguments,
		Long: `Try what the configuration relies on, before the port is opened and afterwards; the
proxy may run meanwhile, or not. Each line says what was seen:

  ok        as it should be
  warning   mail flows; something is missing, or will end
  fault     mail is deferred, refused, judged wrongly or lost from sight

and below a warning or a fault stands what to do about it. The name servers are
asked over UDP and TCP, for names that do not exist, canaries and the test
points of DNS lists; the MTA-STS policy, the TLSA records and the SPF, DMARC and
DKIM records of the site's own domains are compared with what is served; each MTA is greeted and told of a client with an address
of documentation, and no transaction begins; nothing is changed on the disk.

Run it as the user that the proxy runs as, or its rights are not tested. It ends
within about 20 seconds. The exit code is 1 where there is a fault.`,
		Example: `  runuser -u postern -- postern doctor -c /etc/postern/postern.yaml
  postern doctor --json | jq '.[] | select(.status != "ok")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := doctor.Examine(cmd.Context(), opt, buildVersion())
			if err != nil && !asJSON {
				return err
			}
			if asJSON {
				err = view.JSON(cmd.OutOrStdout(), r.Findings)
			} else {
				err = r.WriteText(cmd.OutOrStdout())
			}
			return reported(!r.Failed(), err)
		},
	}
	configFlag(cmd, &opt.File)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON list and nothing else")
	return cmd
}
