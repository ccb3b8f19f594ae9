package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"postern/checks/memory"
	"postern/cmd/postern/control"
	"postern/configs"
)

// Held is mail that was asked to come again.
type Held struct {
	Notices []memory.Notice `json:"notices"`
	More    bool            `json:"more"` // there may be others
}

// WriteText prints a line for each.
func (h Held) WriteText(w io.Writer) error {
	if len(h.Notices) == 0 {
		_, err := io.WriteString(w, "no mail is held\n")
		return err
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "ID\tSINCE\tLAST\tTRIES\tFROM\tRCPT\tWHO\tRULE\tSTATE") // into a Builder, as below
	for _, n := range h.Notices {
		state := "held"
		if n.Released {
			state = "released"
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", n.ID, shortTime(n.First), shortTime(n.Last), n.Tries, n.From, n.Rcpt, n.Who, n.Rule, state)
	}
	_ = tw.Flush()
	if h.More {
		fmt.Fprintf(&b, "and perhaps more: %s were asked for. Narrow it down: --from, --rcpt, --since\n", Counted(len(h.Notices), "notice"))
	}
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}

func shortTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Released says which notices were released, and which of those wanted were not.
func Released(w io.Writer, list []memory.Notice, wanted []string) error {
	var b strings.Builder
	for _, n := range list {
		fmt.Fprintf(&b, "released %s: from %s for %s\n", n.ID, n.From, n.Rcpt)
	}
	for _, id := range wanted {
		if !slices.ContainsFunc(list, func(n memory.Notice) bool { return n.ID == id }) {
			fmt.Fprintf(&b, "not released %s: there is no such notice, or it was released before\n", id)
		}
	}
	if b.Len() == 0 {
		b.WriteString("nothing of that domain is held\n")
	}
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}

// Retrievals says what hosts answered that were asked for mail.
func Retrievals(w io.Writer, list []control.Retrieval) error {
	var b strings.Builder
	for _, r := range list {
		said := r.Reply
		if said == "" {
			said = r.Error
		}
		how := "sends, or has nothing to send"
		if !r.Begun {
			how = "does not send"
		}
		fmt.Fprintf(&b, "%s for %s: %s: %s\n", r.Host, r.Domain, how, said)
	}
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}
