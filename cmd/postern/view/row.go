package view

import (
	"strings"
	"time"

	"postern/configs"
	"postern/policy/journal"
)

// Row is a record in one line of a list. What strangers wrote is printable, and has a bound.
type Row struct {
	Time    time.Time `json:"time"`
	At      string    `json:"at"` // the same, in the site's time zone
	ID      string    `json:"id"`
	Outcome string    `json:"outcome"`
	Says    string    `json:"says"` // what became of it, in words
	Tone    Tone      `json:"tone"`
	Said    string    `json:"said"` // the disposition and the rule
	Client  string    `json:"client"`
	Name    string    `json:"name,omitempty"` // of the client, forward-confirmed
	FromTo  string    `json:"fromTo"`
	Reply   string    `json:"reply,omitempty"` // of a refusal
}

// rowText is how many characters of a stranger's text a row has.
const rowText = 300

// NewRow makes a row of a record.
func NewRow(r *journal.Record) Row {
	cells := cellsOf(r)
	for i := range cells {
		cells[i] = clip(cells[i], rowText)
	}
	text := func(s string) string { return clip(oneLine(s), rowText) }
	return Row{
		Time: r.Time, At: cells[0], ID: cells[1], Outcome: cells[2], Says: text(capital(outcomeWords(r))), Tone: toneOf(r),
		Said: cells[3], Client: cells[4], Name: text(r.Facts.Client.Name), FromTo: cells[5], Reply: cells[6],
	}
}

// cellsOf are the texts of a line: when, the id, what became of it, what the policy said, the client,
// from whom to whom, and the reply that a refusal had. They are printable, and have no line ends.
func cellsOf(r *journal.Record) []string {
	cells := []string{Moment(r.Time), r.ID, string(r.Outcome), saidOf(r), clientOf(r), fromTo(r), refusalOf(r)}
	for i := range cells {
		cells[i] = oneLine(cells[i])
	}
	return cells
}

// oneLine makes a text printable, in one line.
func oneLine(s string) string { return strings.ReplaceAll(configs.Printable(s), "\n", " / ") }

// clip cuts a text off behind so many characters, and shows that.
func clip(s string, most int) string {
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i] + "…"
		}
	}
	return s
}
