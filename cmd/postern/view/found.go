package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal"
)

// Moment writes a time as people at this site have it, with the name of their zone.
func Moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// FoundLine prints a record in one line: when, its id, what became of it, what the policy said,
// the client, from whom to whom, and the reply that a refusal had. Where nobody looks the
// columns are separated by tabs; on a terminal that is too narrow the second half has a line of
// its own.
func FoundLine(w io.Writer, t Terminal, r *journal.Record) error {
	cells := cellsOf(r)
	if t.Width == 0 {
		_, err := fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
		return err
	}
	const first = 4 // cells of the first half
	for i, least := range []int{0, 12, 15, 16, 15} {
		cells[i] += strings.Repeat(" ", max(least-configs.Cells(cells[i]), 0))
	}
	between := "  "
	if configs.Cells(strings.Join(cells, "  ")) > t.Width {
		between = "\n    "
	}
	cells[2] = t.paint(outcomeColour(r), cells[2])
	left, right := strings.Join(cells[:first], "  "), strings.TrimRight(strings.Join(cells[first:], "  "), " ")
	if between[0] == '\n' {
		left = strings.TrimRight(left, " ")
	}
	_, err := fmt.Fprintln(w, left+between+right)
	return err
}

// RecordLine prints a record as the journal has it, in one line.
func RecordLine(w io.Writer, r *journal.Record) error {
	line, err := r.Line()
	if err != nil {
		return err
	}
	_, err = w.Write(line)
	return err
}

// saidOf is what the policy said, and by which rule.
func saidOf(r *journal.Record) string {
	text := string(r.Disposition)
	if r.Rule != "" {
		text += ":" + r.Rule
	}
	if r.Observed {
		text += " (observed)"
	}
	return text
}

// clientOf is the client's address, with its network where that is known.
func clientOf(r *journal.Record) string {
	if network := networkOf(&r.Facts.Client); network != "" {
		return fmt.Sprintf("%s (%s)", r.Facts.Client.IP, network)
	}
	return r.Facts.Client.IP
}

// networkOf is the number of a client's network and its country, as far as they are known.
func networkOf(c *policy.Client) string {
	var text string
	if c.ASN != 0 {
		text = fmt.Sprintf("AS%d", c.ASN)
	}
	return strings.TrimSpace(text + " " + c.Country)
}

// fromTo names the sender and the recipients, the first of them by name.
func fromTo(r *journal.Record) string {
	if r.Facts.Mail.From == "" && len(r.Recipients) == 0 && r.Facts.Rcpt.Address == "" && r.Reached < "m" {
		return "HELO " + r.Facts.Helo.Name // it came no further
	}
	text := "<" + r.Facts.Mail.From + ">"
	switch n := len(r.Recipients); {
	case n == 1:
		text += " > " + r.Recipients[0].Address
	case n > 1:
		text += fmt.Sprintf(" > %s and %s", r.Recipients[0].Address, Counted(n-1, "other"))
	case r.Facts.Rcpt.Address != "":
		text += " > " + r.Facts.Rcpt.Address
	}
	return text
}

// refusalOf is the reply that says why not, as the client heard it.
func refusalOf(r *journal.Record) string {
	refuses := func(reply string) bool { return strings.HasPrefix(reply, "4") || strings.HasPrefix(reply, "5") }
	if refuses(r.Reply) {
		return r.Reply
	}
	for i := range r.Recipients {
		if refuses(r.Recipients[i].Reply) {
			return r.Recipients[i].Reply
		}
	}
	return ""
}

func outcomeColour(r *journal.Record) string {
	switch r.Outcome {
	case journal.OutcomeDelivered:
		return green
	case journal.OutcomeRefused, journal.OutcomeBackendRefused:
		return red
	}
	return yellow
}
