package view

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"postern/configs"
	"postern/policy/audit"
)

// Overrides prints the list for people.
func Overrides(w io.Writer, l *audit.OverrideList) error {
	var b strings.Builder
	switch {
	case len(l.Overrides) == 0:
		b.WriteString("There are no overrides.\n")
	default:
		tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		_, _ = fmt.Fprintln(tw, "OVERRIDE\tSTATE\tHITS\tLAST\tUNTIL\tPROOF\tEFFECT\tOWNER\tREASON") // into a Builder, as below
		for _, o := range l.Overrides {
			last := "-"
			if o.Last != nil {
				last = o.Last.UTC().Format(time.DateOnly)
			}
			_, _ = fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Name, o.State, o.Hits, last, o.Until, o.Proof, o.Effect, o.Owner, o.Reason)
		}
		_ = tw.Flush()
	}
	switch {
	case l.Journal == "":
		b.WriteString("\nNo journal is kept, so nobody knows which are used.\n")
	case l.Since != nil:
		fmt.Fprintf(&b, "\n%s since %s\n", Counted(l.Transactions, "transaction"), l.Since.UTC().Format("2006-01-02 15:04"))
	default:
		b.WriteString("\nThe journal has no transactions of that time.\n")
	}
	b.WriteString(readTrouble(l.Read))
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}
