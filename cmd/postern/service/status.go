package service

import (
	"os"
	"sync/atomic"
	"time"

	"postern/metrics/admin"
)

// The parts of a configuration that are read again each for itself.
const (
	partConfiguration = iota // all of it
	partCertificates
	partLists
	partCount
)

// reloads is how the last attempt to read each part again ended; nil: there was none.
type reloads [partCount]atomic.Pointer[reload]

type reload struct {
	at  time.Time
	err error // nil: it is in force
}

// reloaded notes how an attempt to read a part again ended.
func (s *Service) reloaded(part int, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	s.metrics.ConfigReload(result)
	if part == partConfiguration && err == nil {
		for i := range s.reloads {
			s.reloads[i].Store(nil) // it brought them along
		}
	}
	s.reloads[part].Store(&reload{time.Now(), err})
}

// adminHosts are the names by which somebody may ask the admin address.
func (s *Service) adminHosts() []string {
	p := s.parts.Load()
	names := append([]string{p.Settings.Hostname, p.Config.Admin.Address}, p.Config.Admin.Hosts...)
	if machine, err := os.Hostname(); err == nil {
		names = append(names, machine)
	}
	return names
}

// status is what the page of the admin address tells a person. It is asked from other
// goroutines.
func (s *Service) status() (all []admin.Detail) {
	p := s.parts.Load()
	add := func(name, value string, bad bool) {
		all = append(all, admin.Detail{Name: name, Value: value, Bad: bad})
	}
	for part, name := range [partCount]string{"Configuration", "Certificates", "Lists"} {
		r := s.reloads[part].Load()
		switch {
		case r == nil:
		case r.err == nil:
			add(name, "reloaded at "+r.at.UTC().Format(time.RFC3339), false)
		default:
			add(name, "not reloaded at "+r.at.UTC().Format(time.RFC3339)+", the old ones are in force: "+oneLine(r.err), true)
		}
	}
	policy := PolicySource(p.Config)
	if p.Config.Policy.Mode == "observe" {
		policy += ", mode observe: nothing is refused"
	}
	add("Policy", policy, false)
	for _, l := range Listeners(p.Config) {
		add("Listener", l.Name+" "+l.Address+", tls "+l.TLS, false)
	}
	for _, a := range p.Backends.Addresses() {
		state := "up"
		if !a.Up {
			state = "down"
		}
		add("Backend", a.Backend+" "+a.Address+", "+state, !a.Up)
	}
	if p.Memory != nil && p.Memory.Healthy() {
		add("State store", "answers", false)
	} else if p.Memory != nil {
		add("State store", "gives no sign of life: mail is served without it", true)
	}
	if p.Resolver.Healthy() {
		add("Name servers", "answer", false)
	} else {
		add("Name servers", "in trouble: different domains fail together", true)
	}
	return all
}
