package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/view"
	"postern/policy/audit"
)

func newReport() *cobra.Command {
	var src journalSource
	var when period
	var format string
	var networks bool
	var top int
	cmd := &cobra.Command{
		Use: "report", Short: "Say who sends, what passes and fails, and who forwards", Args: noArguments,
		Long: `Read the journal and print, by the sender's domain, by source, by rule and by recipient, how
much mail there was and what SPF, DKIM, DMARC, SUBMITTER and the responsible address made of it.

Forwarders are sources that fail SPF for many domains that have nothing to do
with one another, and whose signatures pass: each comes with an override that may be put
into the configuration. Records that are broken come with the term that breaks.

Memory is bounded: of very many domains or sources, those with little mail are
added up in one row.`,
		Example: `  postern report --since 7d -c /etc/postern/postern.yaml
  postern report --format html > report.html`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := view.ReportFormats[format]
			if !ok {
				return usageError{fmt.Errorf("--format %q: it is text, csv, json or html", format)}
			}
			if top < 1 {
				return usageError{errors.New("--top: at least 1")}
			}
			q, done, err := when.query(cmd)
			if err != nil {
				return err
			}
			defer done()
			_, dir, err := src.open()
			if err != nil {
				return err
			}
			r, err := audit.Senders(cmd.Context(), dir, q, networks, time.Now())
			if err != nil {
				return err
			}
			r.Cut(top)
			if err := write(cmd.OutOrStdout(), r); err != nil {
				return err
			}
			return audit.Whole(r.Read)
		},
	}
	src.flags(cmd)
	f := cmd.Flags()
	when.flags(cmd)
	f.StringVar(&format, "format", "text", "text, csv, json or html")
	f.BoolVar(&networks, "networks", false, "sources are networks, IPv4 /24 and IPv6 /48, not single addresses")
	f.IntVar(&top, "top", 30, "how many domains and sources are shown; the rest is added up")
	return cmd
}
