package page

import (
	"slices"
	"strings"
	"time"

	"postern/cmd/postern/view"
	"postern/policy"
	"postern/policy/journal"
)

// filterState is how a filter of somebody else's does: a milter, or a policy service.
type filterState struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"` // milter, policy service
	Address string    `json:"address"`
	Word    string    `json:"word"` // answers, no answer, not asked
	Says    string    `json:"says"`
	Tone    view.Tone `json:"tone"`
	Half    *float64  `json:"half"` // seconds within which the half of the last filterTimes messages had their answer; null: there was none
	Last    *float64  `json:"last"` // seconds that the latest took
	Results []counted `json:"results"`
}

// The facts that filters have, each followed by the filter's name.
const (
	milterFact  = "milter."
	serviceFact = "service."
)

// filterTimes is of how many messages the times are remembered, for each filter.
const filterTimes = 128

// heardOf is what records told of one filter.
type heardOf struct {
	result policy.Result // the latest that says how the filter does
	since  time.Time     // since when it has answered, or has not
	times  [filterTimes]float32
	count  uint64 // of those that it was tried to ask; times holds the latest of them
}

func (h *heardOf) silent() bool { return h.result == policy.TempError }

// filtered takes down what the filters said of a message. One that nobody tried to ask has shown nothing of how
// it does, and took no time: the message is too large for it, say, or it is left alone since those before had no answer.
func (w *watch) filtered(r *journal.Record, now time.Time) {
	for i := range r.Checks {
		c := &r.Checks[i]
		if !strings.HasPrefix(c.Name, milterFact) && !strings.HasPrefix(c.Name, serviceFact) || c.Result == policy.Skipped || !r.Facts.TriedFilter(c.Name) {
			continue
		}
		h := w.filters[c.Name]
		if h == nil {
			if len(w.filters) >= maxKinds {
				continue // of configurations that are gone
			}
			h = &heardOf{since: now}
			w.filters[c.Name] = h
		}
		if was := h.silent(); h.count > 0 && was != (c.Result == policy.TempError) {
			h.since = now
		}
		h.result = c.Result
		h.times[h.count%filterTimes] = float32(c.Took)
		h.count++
	}
}

// filterStates says how each filter of the configuration does, by what records told. hour has the results
// of all checks.
func (p *Page) filterStates(hour sums) []filterState {
	c, all := p.opt.Service.Parts().Config, []filterState{}
	add := func(fact, kind, name, address string) {
		f := filterState{Name: name, Kind: kind, Address: address, Word: "not asked", Says: "no message since the start", Tone: view.Neutral, Results: []counted{}}
		for _, check := range hour.Checks {
			if check.Check == fact+name {
				f.Results = check.Results
			}
		}
		p.watch.mu.Lock()
		defer p.watch.mu.Unlock()
		if h := p.watch.filters[fact+name]; h != nil {
			f.Word, f.Says, f.Tone = "answers", "since "+view.Moment(h.since), view.Good
			if h.silent() {
				f.Word, f.Tone = "no answer", view.Bad
			}
			times := slices.Clone(h.times[:min(h.count, filterTimes)])
			last := float64(h.times[(h.count-1)%filterTimes])
			slices.Sort(times)
			half := float64(times[len(times)/2])
			f.Half, f.Last = &half, &last
		}
		all = append(all, f)
	}
	for _, s := range c.PolicyServices {
		add(serviceFact, "policy service", s.Name, s.Address)
	}
	for _, m := range c.Milters {
		add(milterFact, "milter", m.Name, m.Address)
	}
	return all
}
