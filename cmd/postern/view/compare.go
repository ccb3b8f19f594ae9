package view

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"postern/configs"
	"postern/policy/audit"
	"postern/policy/journal"
)

// Candidate prints what the candidate policy said, for people or for programs.
func Candidate(w io.Writer, r *audit.CandidateReport, asJSON bool) error {
	if asJSON {
		return JSON(w, r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\njudged by the candidate %s too\n\n", heading(r.Comparison), r.Candidate)
	writeComparison(&b, r.Comparison)
	if r.Earlier > 0 {
		fmt.Fprintf(&b, "\nJudged by other candidates, and left out: %s\n", Counted(r.Earlier, "transaction"))
	}
	b.WriteString(readTrouble(r.Read))
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}

// The bounds of the text.
const (
	shownDomains = 10 // of one change
	shownChanges = 40
)

// writeComparison prints sums and changes for people.
func writeComparison(b *strings.Builder, c *audit.Comparison) {
	table(b, func(row func(...string)) {
		line := func(what string, n int64, why string) {
			if n > 0 {
				row(what, fmt.Sprint(n), why)
			}
		}
		row("the same", fmt.Sprint(c.Same))
		row("newly rejected", fmt.Sprint(c.NewRejects))
		line("newly deferred", c.NewDefers, "")
		row("newly accepted", fmt.Sprint(c.NewAccepts))
		line("softened", c.Softened, "rejected before, deferred now")
		line("otherwise", c.Otherwise, "the client sees no difference: another rule, or other tags")
		line("undetermined", c.Undetermined, "for want of "+missing(c))
		line("not judged", c.Unjudged, "the transaction ended before its verdict")
	})
	rows := c.Rows()
	for i, r := range rows {
		if i == shownChanges {
			fmt.Fprintf(b, "\nand %s of change: see --json\n", Counted(len(rows)-i, "more kind"))
			break
		}
		fmt.Fprintf(b, "\n%d: %s, now %s\n", r.Count, byRule(r.Was, r.WasRule), byRule(r.Becomes, r.Rule))
		table(b, func(row func(...string)) {
			for j, d := range r.Domains {
				if j == shownDomains {
					row("and " + Counted(len(r.Domains)-j, "more domain"))
					break
				}
				row(d.Domain, fmt.Sprint(d.Count), strings.Join(d.Examples, " "))
			}
		})
	}
	if len(rows) > 0 {
		b.WriteString("\nThe ids are examples: postern explain ID\n")
	}
}

// missing names the facts that were wanted most.
func missing(c *audit.Comparison) string {
	facts := slices.SortedFunc(maps.Keys(c.Missing), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Missing[b], c.Missing[a]), cmp.Compare(a, b))
	})
	var all []string
	for _, f := range facts[:min(len(facts), 5)] {
		all = append(all, fmt.Sprintf("%s (%d)", f, c.Missing[f]))
	}
	if len(facts) > 5 {
		all = append(all, "...")
	}
	return strings.Join(all, ", ")
}

func byRule(disposition journal.Disposition, rule string) string {
	if rule == "" {
		return string(disposition) + " (no rule)"
	}
	return string(disposition) + " by " + rule
}

// Replay prints what came of a replay, for people or for programs.
func Replay(w io.Writer, r *audit.Replayed, asJSON bool) error {
	if asJSON {
		return JSON(w, r)
	}
	var b strings.Builder
	if r.Records == 0 {
		fmt.Fprintf(&b, "Nothing was compared: %v\n", audit.NoRecords(r.Journal, r.Read))
	} else {
		fmt.Fprintf(&b, "%s\nthrough %s: %.0f a second\n\n", heading(r.Comparison), r.Policy, r.PerSecond)
		writeComparison(&b, r.Comparison)
	}
	b.WriteString(readTrouble(r.Read))
	_, err := io.WriteString(w, configs.Printable(b.String()))
	return err
}

// heading says what was read.
func heading(c *audit.Comparison) string {
	const form = "2006-01-02 15:04"
	span := ""
	if c.Records > 0 {
		span = fmt.Sprintf(", from %s to %s", c.First.Local().Format(form), c.Last.Local().Format(form+" MST"))
	}
	return fmt.Sprintf("%s with %s, one for each recipient%s", Counted(c.Records, "transaction"), Counted(c.Verdicts, "verdict"), span)
}

// readTrouble tells of what could not be read.
func readTrouble(s journal.Stats) string {
	var b strings.Builder
	if s.Bad > 0 {
		fmt.Fprintf(&b, "\n%d lines of the journal are no records (torn, where the machine stopped)\n", s.Bad)
	}
	if s.Newer > 0 {
		fmt.Fprintf(&b, "\n%d records were written by a newer version of this program and left out\n", s.Newer)
	}
	for _, f := range s.Unreadable {
		fmt.Fprintf(&b, "\nnot read to its end: %s\n", f)
	}
	return b.String()
}
