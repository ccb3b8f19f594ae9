package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/journal"
)

func newExplain() *cobra.Command {
	var src journalSource
	var w wanted
	var asJSON, short bool
	cmd := &cobra.Command{
		Use: "explain [ID]", Short: "Say why a transaction ended as it did, from the journal",
		Long: `Print what the journal has of a transaction: what happened, in sentences for a
colleague who knows no SMTP (the page has the same), who was named and how that is known,
the checks, the DNS answers, the rules with the value of each part, the replies,
and the smallest changes of facts that would have turned the verdict.

The id stands at the end of each refusal, in brackets, and in the log. It may be given
in any case, with what stands around it, or as the whole line from a bounce. Who does
not know it says what is known: the last transaction of which all that holds is explained.

The rules are those in force now; where they are not those that judged, that is said, and
what they make of it.`,
		Example: `  postern explain 7k2m9d0x4qzr -c /etc/postern/postern.yaml
  postern explain --from ann@example.org --refused
  postern explain --rcpt bob@example.net --since 1h --short
  postern explain 7k2m9d0x4qzr --json | jq .plain.changes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id := strings.Join(args, " ")
			recipient := w.Rcpt // of a transaction that is named, the flag chooses one
			switch looked := w; {
			case id == "" && !w.any():
				return usageError{errors.New("explain wants an id, as it stands at the end of a refusal, or what is known of the transaction: --from, --rcpt, --client and others")}
			case id != "":
				if looked.Rcpt = ""; looked.any() {
					return usageError{errors.New("explain wants an id, or what is known of the transaction, not both")}
				}
			}
			v, err := explain(cmd, src, journal.IDIn(id), w, recipient)
			switch {
			case err != nil:
				return err
			case asJSON:
				return view.JSON(cmd.OutOrStdout(), struct {
					view.Transaction
					Plain view.Plain `json:"plain"`
				}{v, v.Plain()})
			case short:
				return v.WriteShort(cmd.OutOrStdout())
			}
			return v.WriteText(cmd.OutOrStdout())
		},
	}
	src.flags(cmd)
	w.flags(cmd)
	cmd.Flags().StringVar(&w.Rcpt, "rcpt", "", "of the recipients, the `mailbox` in question; without an id also a domain, or *.domain")
	cmd.Flags().BoolVar(&short, "short", false, "the verdict, the sentences, who was named, and the replies, and no more")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	return cmd
}

// explain finds a record, by its id or by what is known of it, and explains it by the policy
// in force.
func explain(cmd *cobra.Command, src journalSource, id string, w wanted, recipient string) (view.Transaction, error) {
	none := view.Transaction{}
	cfg, dir, err := src.open()
	if err != nil {
		return none, err
	}
	now, err := service.BuildRules(cfg)
	if err != nil {
		return none, configs.FaultsOf(cfg.At("policy"), err).Sorted()
	}
	f, done, err := w.filter(cmd, cfg)
	if err != nil {
		return none, err
	}
	defer done()
	if id != "" {
		f.ID, f.Recipient = id, ""
	}
	r, err := journal.Last(cmd.Context(), dir, f)
	switch {
	case errors.Is(err, journal.ErrNotFound) && id == "":
		return none, fmt.Errorf("%s has no such transaction of that time%s", dir, unread(err))
	case errors.Is(err, journal.ErrNotFound):
		return none, noTransaction(cmd, dir, f, err)
	case err != nil:
		return none, err
	}
	if id == "" {
		recipient = f.Meant(r)
	} else if recipient != "" && !r.Has(recipient) {
		return none, usageError{fmt.Errorf("--rcpt %s: the transaction has no such recipient", recipient)}
	}
	return view.NewTransaction(r, now.Chain, service.PolicySource(cfg), recipient), nil
}

// unread says what could not be read, where that may be why nothing was found.
func unread(err error) string {
	_, text, _ := strings.Cut(err.Error(), journal.ErrNotFound.Error())
	return text
}

// noTransaction says why an id may not be there.
func noTransaction(cmd *cobra.Command, dir string, f journal.Filter, err error) error {
	// Replies that are about no transaction bear the id of the connection.
	id := f.ID
	f.ID, f.Session = "", id
	if of, err := journal.Last(cmd.Context(), dir, f); err == nil {
		return fmt.Errorf("%s is a connection; a transaction in it is %s", id, of.ID)
	}
	if unread(err) != "" {
		return fmt.Errorf("there is no transaction %s in %s, as far as it can be read: %w", id, dir, err)
	}
	return fmt.Errorf("there is no transaction %s in %s: records of that day may have been removed (journal.keep); or it is the id of a connection that ended before MAIL FROM, and the log has it; or the record was lost, since mail does not wait for a disk that is slow or full: postern_journal_records_total{result=\"dropped\"} and {result=\"error\"} count those, and the log has the transaction all the same", id, dir)
}
