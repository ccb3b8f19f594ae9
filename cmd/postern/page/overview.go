package page

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
)

// overviewAge is for how long an overview is good: who asks meanwhile gets the same.
const overviewAge = time.Second

// overview is how things stand.
type overview struct {
	Hostname string `json:"hostname"`
	Version  string `json:"version"`
	Started  string `json:"started"` // in the site's time zone, as all times for people
	Now      string `json:"now"`
	Uptime   string `json:"uptime"`

	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"` // why not
	Mode    string   `json:"mode"`    // enforce, observe
	Policy  string   `json:"policy"`  // where the rules come from

	Sessions float64 `json:"sessions"`
	States   []state `json:"states"`

	Backends     []backendState `json:"backends"`
	Filters      []filterState  `json:"filters"`
	Listeners    []listener     `json:"listeners"`
	Certificates []certificate  `json:"certificates"`

	Hour sums `json:"hour"` // of the last hour
	Day  sums `json:"day"`
	// RefusedDomains and RefusedClients came most often since a time; counts are at the least.
	RefusedDomains []counted `json:"refusedDomains"`
	RefusedClients []counted `json:"refusedClients"`
	RefusedSince   string    `json:"refusedSince"`
}

// state is how one part of the proxy does.
type state struct {
	Name string    `json:"name"`
	Word string    `json:"word"` // one, as good as a colour: good, down, slow
	Says string    `json:"says"`
	Tone view.Tone `json:"tone"`
}

type backendState struct {
	Backend string `json:"backend"`
	Address string `json:"address"`
	Up      bool   `json:"up"`
}

type listener struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	TLS     string `json:"tls"`
}

type certificate struct {
	File  string    `json:"file"` // empty: it was made in memory
	Names []string  `json:"names"`
	Ends  string    `json:"ends"`
	Days  int       `json:"days"` // left, below zero: it has ended
	Tone  view.Tone `json:"tone"`
	Says  string    `json:"says"`
}

func (p *Page) serveOverview(w http.ResponseWriter, _ *http.Request) {
	text, err := p.overviewText()
	if err != nil {
		refuse(w, err)
		return
	}
	send(w, text)
}

// overviewText is the overview in JSON, made once for all who ask within overviewAge.
func (p *Page) overviewText() ([]byte, error) {
	p.overviewMu.Lock()
	defer p.overviewMu.Unlock()
	now := p.opt.Now()
	if age := now.Sub(p.overviewAt); p.overview != nil && age >= 0 && age < overviewAge {
		return p.overview, nil
	}
	text, err := encode(p.look(now))
	if err != nil {
		return nil, err
	}
	p.overview, p.overviewAt = text, now
	return text, nil
}

// look takes down how things stand.
func (p *Page) look(now time.Time) overview {
	s := p.opt.Service
	parts := s.Parts()
	o := overview{
		Hostname: parts.Settings.Hostname, Version: s.Version(), Started: view.Moment(s.Since()), Now: view.Moment(now),
		Uptime: lasting(now.Sub(s.Since())), Reasons: s.Ready(), Mode: parts.Config.Policy.Mode, Policy: service.PolicySource(parts.Config),
		Backends: []backendState{}, Listeners: []listener{}, Certificates: []certificate{},
	}
	o.Ready = len(o.Reasons) == 0
	if o.Ready {
		o.Reasons = []string{}
	}
	for _, l := range service.Listeners(parts.Config) {
		o.Listeners = append(o.Listeners, listener{l.Name, l.Address, l.TLS})
	}
	for _, a := range parts.Backends.Addresses() {
		o.Backends = append(o.Backends, backendState{a.Backend, a.Address, a.Up})
	}
	for i, pair := range parts.Certificates.Pairs() {
		c := certificate{Names: pair.Leaf.DNSNames, Ends: view.Moment(pair.Leaf.NotAfter)}
		if i < len(parts.Config.TLS.Certificates) {
			c.File = parts.Config.TLS.Certificates[i].Certificate
		}
		c.Days, c.Tone, c.Says = left(pair.Leaf.NotBefore, pair.Leaf.NotAfter, now)
		o.Certificates = append(o.Certificates, c)
	}
	g := s.Glance()
	o.Sessions = g.Sessions
	w := p.watch
	o.Hour, o.Day = w.sum(now.Add(-time.Hour)), w.sum(now.Add(-24*time.Hour))
	o.Filters = p.filterStates(o.Hour)
	o.States = p.states(&o, g.Held, g.Journal, g.OutcomeUnknown)
	w.mu.Lock()
	var since time.Time
	o.RefusedDomains, _ = w.domains.most(10, now)
	o.RefusedClients, since = w.clients.most(10, now)
	w.mu.Unlock()
	o.RefusedSince = view.Moment(since)
	return o
}

// soon is how many days before its end a certificate wants a person's eye.
const soon = 14

// left says how many days a certificate has left, and what to think of that.
func left(begins, ends, now time.Time) (days int, tone view.Tone, says string) {
	days = int(ends.Sub(now) / (24 * time.Hour))
	switch {
	case now.Before(begins):
		return days, view.Bad, "begins only on " + begins.Format(time.DateOnly)
	case !now.Before(ends):
		return min(days, -1), view.Bad, "has ended"
	case days < soon:
		return days, view.Waiting, view.Counted(days, "day") + " left"
	}
	return days, view.Good, view.Counted(days, "day") + " left"
}

// states says how each part does.
func (p *Page) states(o *overview, held, journal map[string]float64, unknown float64) (all []state) {
	s := p.opt.Service
	parts := s.Parts()
	add := func(good bool, name, word, says string, tone view.Tone) {
		if good {
			tone = view.Good
		}
		all = append(all, state{name, word, says, tone})
	}
	if o.Ready {
		add(true, "Mail", "served", view.Counted(int(o.Sessions), "session")+" open", "")
	} else {
		add(false, "Mail", "not ready", joined(o.Reasons), view.Bad)
	}
	if o.Mode == "observe" {
		add(false, "Rules", "observe", o.Policy+"; nothing is refused", view.Waiting)
	} else {
		add(true, "Rules", "in force", o.Policy, "")
	}
	up := 0
	for _, b := range o.Backends {
		if b.Up {
			up++
		}
	}
	switch says := fmt.Sprintf("%d of %s up", up, addresses(len(o.Backends))); {
	case up == len(o.Backends):
		add(true, "Mail server", "up", says, "")
	case up == 0:
		add(false, "Mail server", "down", says+": mail is put off", view.Bad)
	default:
		add(false, "Mail server", "in part", says, view.Waiting)
	}
	if parts.Resolver.Healthy() {
		add(true, "Name servers", "answer", "the DNS works", "")
	} else {
		add(false, "Name servers", "in trouble", "different domains fail together: mail whose checks need the DNS is put off", view.Bad)
	}
	if len(o.Filters) > 0 {
		answer, silent := 0, []string{}
		for _, f := range o.Filters {
			switch f.Tone {
			case view.Good:
				answer++
			case view.Bad:
				silent = append(silent, f.Name)
			}
		}
		switch says := fmt.Sprintf("%d of %d", answer, len(o.Filters)); {
		case len(silent) > 0:
			add(false, "Filters", "no answer", joined(silent)+": what becomes of mail meanwhile, your rules say", view.Bad)
		case answer == 0:
			add(false, "Filters", "not asked", "no message since the start", view.Neutral)
		default:
			add(true, "Filters", "answer", says, "")
		}
	}
	if files := parts.NetworkFiles(); len(files) > 0 {
		if i := slices.IndexFunc(files, func(f service.NetworkFile) bool { return f.Fault != "" }); i >= 0 {
			add(false, "Networks", "not read", files[i].Fault, view.Bad)
		} else {
			add(true, "Networks", "read", view.Counted(len(files), "file"), "")
		}
	}
	store := "in the memory of the process"
	if c := parts.Config.State; c.Path != "" {
		store = c.Path
	} else if len(c.Servers) > 0 {
		store = joined(c.Servers)
	}
	switch {
	case parts.Memory == nil:
		add(false, "State", "not used", "no rule asks for what was before", view.Neutral)
	case parts.Memory.Healthy():
		add(true, "State", "answers", store, "")
	default:
		add(false, "State", "silent", store+": mail is served without it, and nothing is held", view.Bad)
	}
	if parts.Memory != nil && parts.Memory.Healthy() {
		n := 0.0
		for _, k := range held {
			n += k
		}
		add(false, "Held mail", fmt.Sprint(int(n)), "asked to come again", view.Neutral)
	}
	switch lost := journal["dropped"] + journal["error"]; {
	case s.Journal().Path == "":
		add(false, "Journal", "none", "nothing can be searched or explained: set journal.path", view.Waiting)
	case lost > 0:
		add(false, "Journal", "has gaps", fmt.Sprintf("%.0f of %.0f records were lost since the start: the disk was slow or full", lost, lost+journal["written"]), view.Bad)
	default:
		add(true, "Journal", "written", s.Journal().Path, "")
	}
	if unknown > 0 {
		add(false, "Answers", fmt.Sprintf("%.0f lost", unknown), "messages whose answer from the mail server never came: they may arrive twice", view.Waiting)
	}
	worst := view.Good
	says := ""
	for _, c := range o.Certificates {
		if c.Tone != view.Good && worst != view.Bad {
			worst, says = c.Tone, c.Says
		}
	}
	switch {
	case worst != view.Good:
		add(false, "Certificates", "look", says, worst)
	case len(parts.Config.TLS.Certificates) == 0:
		add(false, "Certificates", "made up", "no file is configured: senders that check it do not deliver", view.Neutral)
	default:
		days := slices.MinFunc(o.Certificates, func(a, b certificate) int { return a.Days - b.Days }).Days
		add(true, "Certificates", "good", view.Counted(days, "day")+" left", "")
	}
	for _, r := range s.Reloads() {
		if r.Err != "" {
			add(false, r.Part, "not reloaded", "since "+view.Moment(r.At)+" the old one is in force: "+r.Err, view.Bad)
		} else {
			add(true, r.Part, "reloaded", view.Moment(r.At), "")
		}
	}
	return all
}

func addresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

func joined(texts []string) string {
	s := ""
	for i, t := range texts {
		if i > 0 {
			s += ", "
		}
		s += t
	}
	return s
}

// lasting is a time for people: of its largest units two.
func lasting(d time.Duration) string {
	d = d.Truncate(time.Second)
	days, hours := int(d/(24*time.Hour)), int(d%(24*time.Hour)/time.Hour)
	switch {
	case days > 0:
		return fmt.Sprintf("%dd %dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh %dm", hours, int(d%time.Hour/time.Minute))
	}
	return fmt.Sprintf("%dm %ds", int(d/time.Minute), int(d%time.Minute/time.Second))
}

// series is how things went, in steps of equal length.
type series struct {
	Step     int               `json:"step"`   // seconds
	Offset   int               `json:"offset"` // minutes of the site's time zone east of UTC
	Times    []int64           `json:"times"`  // of the begin of each, Unix seconds
	Fates    []named           `json:"fates"`  // messages a minute
	Lookups  []named           `json:"lookups"`
	Sessions []*float64        `json:"sessions"` // null: it was not looked
	Half     []*float64        `json:"half"`     // seconds; null: there was no message
	Most     []*float64        `json:"most"`
	Totals   map[string]uint64 `json:"totals"` // by fate
}

type named struct {
	Name   string     `json:"name"`
	Values []*float64 `json:"values"`
}

// history answers with how things went within the hour, or the day. The step that goes on is left out.
func (p *Page) history(r *http.Request) (any, error) {
	w, now := p.watch, p.opt.Now()
	var ring []step
	var length time.Duration
	switch r.URL.Query().Get("range") {
	case "", "hour":
		ring, length = w.fine[:], fineStep
	case "day":
		ring, length = w.wide[:], wideStep
	default:
		return nil, &problem{http.StatusBadRequest, "range: hour or day"}
	}
	w.mu.Lock()
	ring = slices.Clone(ring)
	w.mu.Unlock()

	seconds := int64(length / time.Second)
	s := series{Step: int(seconds), Totals: map[string]uint64{}}
	_, east := now.Local().Zone()
	s.Offset = east / 60
	for _, name := range fates {
		s.Fates = append(s.Fates, named{Name: name})
	}
	for _, name := range lookups {
		s.Lookups = append(s.Lookups, named{Name: name})
	}
	value := func(v float64, there bool) *float64 {
		if !there {
			return nil
		}
		return &v
	}
	last := now.Unix() / seconds
	for n := last - int64(len(ring)) + 1; n < last; n++ {
		at := n * seconds
		st := ring[int(n)%len(ring)]
		seen := at+seconds > w.began.Unix()
		if st.at != at {
			st = step{half: -1, most: -1} // nothing happened
		}
		s.Times = append(s.Times, at)
		for i := range s.Fates {
			s.Fates[i].Values = append(s.Fates[i].Values, value(float64(st.fates[i])*60/float64(seconds), seen))
			s.Totals[fates[i]] += uint64(st.fates[i])
		}
		for i := range s.Lookups {
			s.Lookups[i].Values = append(s.Lookups[i].Values, value(st.lookups[i]/float64(seconds), st.sampled))
		}
		s.Sessions = append(s.Sessions, value(st.sessions, st.sampled))
		s.Half = append(s.Half, value(st.half, st.half >= 0))
		s.Most = append(s.Most, value(st.most, st.most >= 0))
	}
	return s, nil
}
