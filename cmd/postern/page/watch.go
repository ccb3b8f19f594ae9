package page

import (
	"slices"
	"strings"
	"sync"
	"time"

	"postern/metrics"
	"postern/policy/journal"
)

// How much is remembered, and how finely.
const (
	fineStep   = 10 * time.Second
	fineLength = int(time.Hour / fineStep)
	wideStep   = 5 * time.Minute
	wideLength = int(24 * time.Hour / wideStep)

	maxLast  = 100 // transactions that are kept to be shown
	maxKinds = 500 // of verdicts, and of results, that are counted apart in a wide step
)

// fates are what can become of a transaction, in words that need no SMTP; fateOf says which.
var fates = []string{"delivered", "refused", "held", "put off", "refused by the MTA", "other"}

func fateOf(r *journal.Record) int {
	switch r.Outcome {
	case journal.OutcomeDelivered:
		return 0
	case journal.OutcomeBackendRefused:
		return 4
	case journal.OutcomeFailed, journal.OutcomeUnknown:
		return 3
	case journal.OutcomeRefused:
		switch r.Disposition {
		case journal.DispositionReject:
			return 1
		case journal.DispositionHold:
			return 2
		case journal.DispositionDefer:
			return 3
		}
	}
	return 5
}

// lookups are how a look-up in the DNS can be answered.
var lookups = []string{"hit", "miss", "negative", "stale", "error"}

// step is what happened in a piece of time.
type step struct {
	at       int64 // Unix seconds of its begin, a multiple of its length; 0: nothing was seen yet
	fates    [6]uint32
	lookups  [5]float64
	sessions float64 // the most
	sampled  bool
	half     float64 // of the messages were answered within so many seconds; below zero: there were none
	most     float64 // 95 in 100 of them

	verdicts map[verdict]uint32 // of wide steps
	results  map[result]uint32  // of wide steps
}

// verdict is a disposition by a rule.
type verdict struct {
	disposition journal.Disposition
	rule        string
	observed    bool
}

type result struct{ check, result string }

// watch counts transactions as they end. All of it is bounded.
type watch struct {
	began time.Time

	mu      sync.Mutex
	fine    [fineLength + 1]step
	wide    [wideLength + 1]step
	domains lately              // of senders that were refused
	clients lately              // that were
	filters map[string]*heardOf // by the names of their facts
	last    [maxLast]journal.Record
	count   uint64 // of all; last holds the latest of them
	glance  metrics.Glance
	looked  bool // there is a glance
}

func newWatch(now time.Time) *watch {
	return &watch{began: now, domains: newLately(now), clients: newLately(now), filters: map[string]*heardOf{}}
}

// stepAt is the step of a time in a ring, begun anew where that was another's.
func stepAt(ring []step, length time.Duration, now time.Time) *step {
	seconds := int64(length / time.Second)
	n := now.Unix() / seconds
	s := &ring[int(n)%len(ring)]
	if s.at != n*seconds {
		*s = step{at: n * seconds, half: -1, most: -1}
	}
	return s
}

// record counts one that has ended, whose record is the session's. It is called in the goroutine of that.
func (w *watch) record(r *journal.Record, now time.Time) {
	fate := fateOf(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	stepAt(w.fine[:], fineStep, now).fates[fate]++
	s := stepAt(w.wide[:], wideStep, now)
	s.fates[fate]++
	if s.verdicts == nil {
		s.verdicts, s.results = map[verdict]uint32{}, map[result]uint32{}
	}
	count(s.verdicts, verdict{r.Disposition, r.Rule, r.Observed})
	for i := range r.Checks {
		count(s.results, result{r.Checks[i].Name, string(r.Checks[i].Result)})
	}
	w.filtered(r, now)
	if fate == 1 || r.Observed && r.Disposition == journal.DispositionReject {
		w.domains.add(r.Facts.Mail.Domain, now)
		w.clients.add(r.Facts.Client.IP, now)
	}
	r.CopyTo(&w.last[w.count%maxLast])
	w.count++
}

// count adds one, unless there are too many different ones already.
func count[K comparable](m map[K]uint32, k K) {
	if _, there := m[k]; there || len(m) < maxKinds {
		m[k]++
	}
}

// sample takes down the counts of what is no transaction.
func (w *watch) sample(g metrics.Glance, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.glance
	w.glance = g
	first := !w.looked
	w.looked = true
	if first {
		return // there is nothing to compare with
	}
	half, most := quantiles(before.Reply, g.Reply)
	// What is seen now happened in the step that ends.
	at := now.Add(-fineStep / 2)
	for _, s := range []*step{stepAt(w.fine[:], fineStep, at), stepAt(w.wide[:], wideStep, at)} {
		s.sampled = true
		s.sessions = max(s.sessions, g.Sessions)
		s.half, s.most = max(s.half, half), max(s.most, most)
		for i, name := range lookups {
			s.lookups[i] += g.DNS[name] - before.DNS[name]
		}
	}
}

// quantiles are the seconds within which the half, and 95 in 100, of those were answered that a histogram
// has more than before; below zero: there were none.
func quantiles(before, now metrics.Cumulated) (half, most float64) {
	if len(now.Counts) == 0 {
		return -1, -1
	}
	more := slices.Clone(now.Counts)
	if len(before.Counts) == len(more) {
		for i := range more {
			more[i] -= before.Counts[i]
		}
	}
	total := more[len(more)-1] // what took longer than the last bound counts as that
	if total == 0 {
		return -1, -1
	}
	within := func(share float64) float64 {
		want := share * float64(total)
		lower, below := 0.0, 0.0
		for i, n := range more {
			if float64(n) >= want {
				return lower + (now.Bounds[i]-lower)*(want-below)/(float64(n)-below)
			}
			lower, below = now.Bounds[i], float64(n)
		}
		return lower
	}
	return within(.5), within(.95)
}

// since returns the records after the first n, the oldest first, at most most of them and the latest;
// and how many there were in all.
func (w *watch) since(n uint64, most int) (records []*journal.Record, count uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := max(n, w.count-min(w.count, uint64(min(most, maxLast))))
	for i := from; i < w.count; i++ {
		records = append(records, w.last[i%maxLast].Clone())
	}
	return records, w.count
}

// sums adds up what happened since a time.
type sums struct {
	Verdicts []verdictSum `json:"verdicts"`
	Checks   []checkSum   `json:"checks"`
	Fates    []counted    `json:"fates"`
}

type verdictSum struct {
	Disposition string `json:"disposition"`
	Rule        string `json:"rule"`
	Observed    bool   `json:"observed,omitempty"`
	Count       uint64 `json:"count"`
}

type checkSum struct {
	Check   string    `json:"check"`
	Results []counted `json:"results"`
}

func (w *watch) sum(since time.Time) sums {
	verdicts, results := map[verdict]uint64{}, map[result]uint64{}
	var of [6]uint64
	w.mu.Lock()
	for i := range w.wide {
		if s := &w.wide[i]; s.at > since.Add(-wideStep).Unix() {
			for k, n := range s.verdicts {
				verdicts[k] += uint64(n)
			}
			for k, n := range s.results {
				results[k] += uint64(n)
			}
			for k, n := range s.fates {
				of[k] += uint64(n)
			}
		}
	}
	w.mu.Unlock()

	all := sums{Verdicts: []verdictSum{}, Checks: []checkSum{}}
	for i, name := range fates {
		all.Fates = append(all.Fates, counted{name, of[i]})
	}
	for k, n := range verdicts {
		all.Verdicts = append(all.Verdicts, verdictSum{string(k.disposition), k.rule, k.observed, n})
	}
	slices.SortFunc(all.Verdicts, func(a, b verdictSum) int {
		switch {
		case a.Count != b.Count:
			return int(min(max(int64(b.Count)-int64(a.Count), -1), 1))
		case a.Rule != b.Rule:
			return strings.Compare(a.Rule, b.Rule)
		}
		return strings.Compare(a.Disposition, b.Disposition)
	})
	all.Verdicts = all.Verdicts[:min(len(all.Verdicts), 50)]
	by := map[string][]counted{}
	for k, n := range results {
		by[k.check] = append(by[k.check], counted{k.result, n})
	}
	for check, list := range by {
		slices.SortFunc(list, func(a, b counted) int { return strings.Compare(a.Value, b.Value) })
		all.Checks = append(all.Checks, checkSum{check, list})
	}
	slices.SortFunc(all.Checks, func(a, b checkSum) int { return strings.Compare(a.Check, b.Check) })
	return all
}
