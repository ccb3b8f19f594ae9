package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"postern/checks/memory"
	"postern/cmd/postern/control"
	"postern/configs"
)

// Held prints notices as they come, of which there may be very many: a line for each, or
// one JSON object of all.
type Held struct {
	w      io.Writer
	asJSON bool
	n      int
	block  strings.Builder // lines that have their columns in common
	tabs   *tabwriter.Writer
}

// heldBlock is how many lines have their columns in common.
const heldBlock = 1000

// NewHeld begins to print.
func NewHeld(w io.Writer, asJSON bool) *Held { return &Held{w: w, asJSON: asJSON} }

// Add prints a notice, perhaps later.
func (h *Held) Add(n memory.Notice) error {
	h.n++
	if h.asJSON {
		before := ",\n    "
		if h.n == 1 {
			before = "{\n  \"notices\": [\n    "
		}
		text, err := json.MarshalIndent(n, "    ", "  ")
		if err != nil {
			return err
		}
		_, err = io.WriteString(h.w, before+string(text))
		return err
	}
	if h.tabs == nil {
		h.tabs = tabwriter.NewWriter(&h.block, 0, 8, 2, ' ', 0)
	}
	if h.n == 1 {
		_, _ = fmt.Fprintln(h.tabs, "ID\tSINCE\tLAST\tTRIES\tFROM\tRCPT\tWHO\tRULE\tSTATE") // into a Builder, as below
	}
	state := "held"
	if n.Released {
		state = "released"
	}
	_, _ = fmt.Fprintf(h.tabs, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", n.ID, shortTime(n.First), shortTime(n.Last), n.Tries, n.From, n.Rcpt, n.Who, n.Rule, state)
	if h.n%heldBlock == 0 {
		return h.flush()
	}
	return nil
}

func (h *Held) flush() error {
	if h.tabs == nil {
		return nil
	}
	_ = h.tabs.Flush()
	_, err := io.WriteString(h.w, configs.Printable(h.block.String()))
	h.block.Reset()
	return err
}

// End prints what is left to print. Where not all came it is left out, so that half a list
// is not taken for a whole one.
func (h *Held) End() error {
	switch {
	case h.asJSON && h.n == 0:
		_, err := io.WriteString(h.w, "{\n  \"notices\": []\n}\n")
		return err
	case h.asJSON:
		_, err := io.WriteString(h.w, "\n  ]\n}\n")
		return err
	case h.n == 0:
		_, err := io.WriteString(h.w, "no mail is held\n")
		return err
	}
	return h.flush()
}

func shortTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Released prints notices that were released, as they come, and which of those that were
// wanted were not.
type Released struct {
	w      io.Writer
	wanted map[string]bool // the ids, as long as they are missed
	ids    []string
	n      int
}

// NewReleased begins to print; wanted are the ids that were named.
func NewReleased(w io.Writer, wanted []string) *Released {
	r := &Released{w: w, wanted: map[string]bool{}, ids: wanted}
	for _, id := range wanted {
		r.wanted[id] = true
	}
	return r
}

// Add prints a notice.
func (r *Released) Add(n memory.Notice) error {
	r.n++
	delete(r.wanted, n.ID)
	_, err := io.WriteString(r.w, configs.Printable(fmt.Sprintf("released %s: from %s for %s\n", n.ID, n.From, n.Rcpt)))
	return err
}

// End prints what was not released, and says whether that is nothing.
func (r *Released) End() (all bool, err error) {
	var b strings.Builder
	for _, id := range r.ids {
		if r.wanted[id] {
			fmt.Fprintf(&b, "not released %s: there is no such notice, or it was released before\n", id)
		}
	}
	if r.n == 0 && b.Len() == 0 {
		b.WriteString("nothing of that domain is held\n")
	}
	_, err = io.WriteString(r.w, configs.Printable(b.String()))
	return r.n > 0 && len(r.wanted) == 0, err
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
