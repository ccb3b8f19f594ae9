package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
)

func newExplain() *cobra.Command {
	var src journalSource
	var recipient string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "explain ID", Short: "Say why a transaction ended as it did, from the journal",
		Long: `Print what the journal has of a transaction: who was named and how that is known,
the checks, the DNS answers, the rules with the value of each part, the replies,
and the smallest changes of facts that would have turned the verdict.

The id stands at the end of each refusal, in brackets, and in the log. It may be given
in any case, with what stands around it, or as the whole line from a bounce. The rules
are those in force now; where they are not those that judged, that is said, and
what they make of it.`,
		Example: `  postern explain 7k2m9d0x4qzr -c /etc/postern/postern.yaml
  postern explain 7k2m9d0x4qzr --json | jq .explanation.changes`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("explain wants an id, as it stands at the end of a refusal")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := explain(cmd.Context(), src, idIn(strings.Join(args, " ")), recipient)
			if err != nil {
				return err
			}
			if asJSON {
				return view.JSON(cmd.OutOrStdout(), v)
			}
			return v.WriteText(cmd.OutOrStdout())
		},
	}
	src.flags(cmd)
	cmd.Flags().StringVar(&recipient, "rcpt", "", "of the recipients, the `mailbox` in question; without it the one that the verdict is about")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}

var (
	bracketed = regexp.MustCompile(`\(([0-9a-hj-km-np-tv-z]{12})\)`)
	bare      = regexp.MustCompile(`\b[0-9a-hj-km-np-tv-z]{12}\b`)
)

// idIn finds the id in what somebody has pasted: the last one that stands in brackets,
// as a refusal has it, or the last word that looks like one. What has none is looked
// for as it is.
func idIn(pasted string) string {
	text := strings.ToLower(pasted)
	if all := bracketed.FindAllStringSubmatch(text, -1); all != nil {
		return all[len(all)-1][1]
	}
	if all := bare.FindAllString(text, -1); all != nil {
		return all[len(all)-1]
	}
	return strings.Trim(text, "()[]<>\"'.,;: \t\r\n")
}

// explain finds a record and explains it by the policy in force.
func explain(ctx context.Context, src journalSource, id, recipient string) (view.Transaction, error) {
	cfg, dir, err := src.open()
	if err != nil {
		return view.Transaction{}, err
	}
	now, err := service.BuildRules(cfg)
	if err != nil {
		return view.Transaction{}, configs.FaultsOf(cfg.At("policy"), err).Sorted()
	}
	r, err := journal.Find(ctx, dir, id)
	if errors.Is(err, journal.ErrNotFound) {
		// Replies that are about no transaction bear the id of the connection.
		if of, err := journal.Last(ctx, dir, journal.Filter{Session: id}, nil); err == nil {
			return view.Transaction{}, fmt.Errorf("%s is a connection; a transaction in it is %s", id, of.ID)
		}
		if err.Error() != journal.ErrNotFound.Error() { // it says what could not be read
			return view.Transaction{}, fmt.Errorf("there is no transaction %s in %s, as far as it can be read: %w", id, dir, err)
		}
		return view.Transaction{}, fmt.Errorf("there is no transaction %s in %s: its day is over (journal.keep), or the id is that of a connection that had none, of which the log tells; or its record was lost, since mail does not wait for a disk that is slow or full: postern_journal_records_total{result=\"dropped\"} and {result=\"error\"} count those, and the log has the transaction all the same", id, dir)
	}
	if err != nil {
		return view.Transaction{}, err
	}
	if recipient != "" && !hasRecipient(r, recipient) {
		return view.Transaction{}, usageError{fmt.Errorf("--rcpt %s: the transaction has no such recipient", recipient)}
	}
	return view.NewTransaction(r, now.Chain, service.PolicySource(cfg), recipient), nil
}

func hasRecipient(r *journal.Record, address string) bool {
	for i := range r.Recipients {
		if r.Recipients[i].Address == address {
			return true
		}
	}
	return r.Facts.Rcpt.Address == address
}
