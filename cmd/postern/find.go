package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/view"
	"postern/configs"
	"postern/policy/audit"
	"postern/policy/journal"
)

// wanted is what is looked for in the journal, as flags say it.
type wanted struct{ journal.Ask }

// flags adds all but --rcpt, whose meaning is the command's.
func (w *wanted) flags(cmd *cobra.Command) {
	periodFlags(cmd, &w.Since, &w.Until)
	f := cmd.Flags()
	f.StringVar(&w.From, "from", "", "the sender: an `address`, a domain, *.domain, or '<>'; by MAIL FROM, SUBMITTER or the header")
	f.StringVar(&w.Client, "client", "", "the client's `address`, or a network such as 192.0.2.0/24")
	f.StringVar(&w.ASN, "asn", "", "the `number` of the client's autonomous system, as 64500 or AS64500 (checks.geo)")
	f.StringVar(&w.Country, "country", "", "the client's country, two `letters` (checks.geo)")
	f.StringVar(&w.Disposition, "disposition", "", "what the policy concluded: pass, tag, hold, defer, reject or none; `word`")
	f.StringVar(&w.Outcome, "outcome", "", "what became of it: delivered, refused, backend_refused, failed, abandoned or unknown; `word`")
	f.StringVar(&w.Rule, "rule", "", "the `name` of the rule that decided")
	f.BoolVar(&w.Refused, "refused", false, "only where the client heard a refusal (4yz, 5yz), ours or the backend's")
	f.StringVar(&w.QueueID, "queue-id", "", "the `id` under which the backend keeps the message, as in its log")
}

// any says whether anything is looked for.
func (w *wanted) any() bool { return *w != wanted{} }

// filter is what is looked for in the journal that a configuration describes. It shows how far the
// reading has come where somebody looks; done takes that away.
func (w *wanted) filter(cmd *cobra.Command, cfg *configs.Config) (f journal.Filter, done func(), err error) {
	if f, err = w.Filter(cfg.Journal, time.Now()); err != nil {
		return f, nil, flagged(err)
	}
	f.Progress, done = progress(cmd)
	return f, done, nil
}

func newFind() *cobra.Command {
	var src journalSource
	var w wanted
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "find", Short: "Find transactions in the journal: by sender, recipient, client, rule, time", Args: noArguments,
		Long: `Print those transactions of the journal for which all holds that is asked for, the
last one first, a line each: when, the id for postern explain, what became of it, what the
policy said and by which rule, the client, from whom to whom, and the reply of a refusal.

The sender is looked for in MAIL FROM, SUBMITTER and the header (the responsible address,
and the author's domain). With --rcpt, rule, disposition and refusal are those of that
recipient. Times are those of this machine's time zone, and the journal's: when a
transaction began.

Files that are closed have an index beside them, so that days take no longer than minutes
would. Where one is missing it is made first, which takes a while, once.

The exit code is 1 where nothing was found, or not all could be read.`,
		Example: `  postern find --from example.org --refused --since 7d
  postern find --rcpt bob@example.net --since yesterday --until yesterday
  postern find --client 192.0.2.0/24 --rule spf-fail --limit 1000 --json | jq .facts.spf.reason
  postern find --asn 64500 --since 7d --refused
  postern find --queue-id 4RbQ0n1zXyz`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usageError{errors.New("--limit: at least 1")}
			}
			cfg, dir, err := src.open()
			if err != nil {
				return err
			}
			f, done, err := w.filter(cmd, cfg)
			if err != nil {
				return err
			}
			defer done()
			t := view.Looked(cmd.OutOrStdout())
			print := func(r *journal.Record) error { return view.FoundLine(cmd.OutOrStdout(), t, r) }
			if asJSON {
				print = func(r *journal.Record) error { return view.RecordLine(cmd.OutOrStdout(), r) }
			}
			n, found, err := find(cmd.Context(), dir, f, limit, func(r *journal.Record) error {
				done()
				return print(r)
			})
			done()
			if err != nil {
				return err
			}
			return told(cmd, dir, n, limit, found)
		},
	}
	src.flags(cmd)
	w.flags(cmd)
	cmd.Flags().StringVar(&w.Rcpt, "rcpt", "", "a recipient: an `address`, a domain, or *.domain")
	cmd.Flags().IntVar(&limit, "limit", 100, "print at most so many")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the records as the journal has them, an object a line, and nothing else")
	return cmd
}

// errEnough ends a search.
var errEnough = errors.New("enough")

// find prints at most limit records. n is how many there are, up to one more than that.
func find(ctx context.Context, dir string, f journal.Filter, limit int, print func(*journal.Record) error) (n int, found journal.Found, err error) {
	found, err = journal.Search(ctx, dir, f, func(r *journal.Record) error {
		if n++; n > limit {
			return errEnough
		}
		return print(r)
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return n, found, err
}

// told says what there is to say of a search besides what it found.
func told(cmd *cobra.Command, dir string, n, limit int, found journal.Found) error {
	if lost := found.Indexed - found.Kept; lost > 0 {
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "postern: the indexes of %s could not be kept in %s: the next search makes them again, unless the proxy's user, or root, searches once\n", view.Counted(lost, "file"), dir)
		if err != nil {
			return err
		}
	}
	if n > limit {
		if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "postern: these are the last %d; there are more: --limit, or a shorter time\n", limit); err != nil {
			return err
		}
	}
	if err := audit.Whole(found.Stats); err != nil {
		return err
	}
	switch {
	case found.Files == 0:
		return fmt.Errorf("%s has no file of a journal from that time: is it the folder of journal.path", dir)
	case n == 0:
		return fmt.Errorf("%s has no such transaction of that time", dir)
	}
	return nil
}
