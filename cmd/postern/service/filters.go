package service

import (
	"fmt"
	"slices"
	"strings"

	"postern/checks"
	"postern/checks/delegation"
	"postern/checks/milter"
	"postern/configs"
	"postern/policy"
)

// filter is a policy service with what the configuration says of it.
type filter struct {
	config configs.PolicyService
	*delegation.Service
}

// judge is a milter with what the configuration says of it.
type judge struct {
	config configs.Milter
	*milter.Filter
}

// buildFilters makes the policy services and the milters, and connects to nobody. Those that
// the old configuration had as well stay, with their connections and what was said of them.
func (p *Parts) buildFilters(w *World, old *Parts) {
	if old == nil {
		old = &Parts{}
	}
	for _, c := range p.Config.PolicyServices {
		c.Position = configs.Position{}
		if i := slices.IndexFunc(old.filters, func(f filter) bool { return f.config == c }); i >= 0 {
			p.filters = append(p.filters, old.filters[i])
			continue
		}
		p.filters = append(p.filters, filter{c, delegation.New(delegation.Options{Name: c.Name, Address: c.Address, Timeout: c.Timeout, Log: w.Log, Metrics: w.metrics})})
	}
	for _, c := range p.Config.Milters {
		c.Position = configs.Position{}
		if i := slices.IndexFunc(old.judges, func(j judge) bool { return j.config == c }); i >= 0 {
			p.judges = append(p.judges, old.judges[i])
			continue
		}
		p.judges = append(p.judges, judge{c, milter.New(milter.Options{Name: c.Name, Address: c.Address, Timeout: c.Timeout, AddFields: c.AddFields, Log: w.Log, Metrics: w.metrics})})
	}
}

// services are those that checks may ask.
func (p *Parts) services(w *World) []checks.Service {
	if w.Services != nil {
		return w.Services(p.Rules.Chain)
	}
	all := make([]checks.Service, len(p.filters))
	for i, f := range p.filters {
		all[i] = checks.Service{Name: f.config.Name, Timeout: f.config.Timeout, Ask: f.Ask}
	}
	return all
}

// milters are those that checks may ask.
func (p *Parts) milters(w *World) []checks.Milter {
	if w.Milters != nil {
		return w.Milters(p.Rules.Chain)
	}
	all := make([]checks.Milter, len(p.judges))
	for i, j := range p.judges {
		all[i] = checks.Milter{Name: j.config.Name, Timeout: j.Most(), Size: int64(j.config.Size), AddFields: j.config.AddFields, Ask: j.Ask}
	}
	return all
}

// Service returns the policy service of that name, for the doctor; nil: there is none.
func (p *Parts) Service(name string) *delegation.Service {
	for _, f := range p.filters {
		if f.config.Name == name {
			return f.Service
		}
	}
	return nil
}

// Milter returns the milter of that name, for the doctor; nil: there is none.
func (p *Parts) Milter(name string) *milter.Filter {
	for _, j := range p.judges {
		if j.config.Name == name {
			return j.Filter
		}
	}
	return nil
}

// NetworkFile is a file that says to which network and country an address belongs.
type NetworkFile struct {
	Path  string
	Fault string // why it cannot be read, what it said before being in force; empty: it was read
}

// NetworkFiles are those of checks.geo.files, in their order.
func (p *Parts) NetworkFiles() (all []NetworkFile) {
	if p.networks == nil {
		return nil
	}
	faults := p.networks.Faults()
	for i, path := range p.networks.Paths() {
		all = append(all, NetworkFile{path, faults[i]})
	}
	return all
}

// unreadNetworks is how many of them have a fault.
func (p *Parts) unreadNetworks() (n int) {
	for _, f := range p.NetworkFiles() {
		if f.Fault != "" {
			n++
		}
	}
	return n
}

// closeFilters lets go of the connections that other does not share.
func (p *Parts) closeFilters(other *Parts) {
	for _, f := range p.filters {
		if other == nil || !slices.ContainsFunc(other.filters, func(o filter) bool { return o.Service == f.Service }) {
			f.Close()
		}
	}
}

// laterWords are what a filter says of mail that is to come again.
var (
	laterOfMilters  = []string{milter.ActionTempfail}
	laterOfServices = []string{"defer", "defer_if_permit", "defer_if_reject"}
)

// filterWarnings tells of filters that nobody asks, and of answers that no rule has thought
// of: temperror, where the filter is away, and where a rule does what a filter says of bad mail, what it says of
// mail that is to come again.
func (p *Parts) filterWarnings() (warnings []configs.Fault) {
	warn := func(key string, i int, fact, name string, later []string, addsFields bool) {
		at, action := p.Config.At(fmt.Sprintf("%s[%d]", key, i)), fact+"."+name+".action"
		answers := func(word string) bool { return p.Rules.Chain.Answers(action, word) }
		reads := p.wants(fact + "." + name)
		if !reads && !addsFields {
			warnings = append(warnings, configs.Warning(at, "%s: no rule reads %s, so %s is never asked", key, action, name))
		}
		if reads && !answers(string(policy.TempError)) {
			warnings = append(warnings, configs.Warning(at, `%s: no rule says what becomes of mail while %s gives no answer, and it goes on as if nobody had been asked: when: %s == "temperror", do: defer`, key, name, action))
		}
		if reads && answers("reject") && !slices.ContainsFunc(later, answers) {
			warnings = append(warnings, configs.Warning(at, `%s: a rule says what becomes of mail where %s says reject, and none does where it says %s: that mail goes on as if it had nothing against it: when: %s in ["%s"], do: defer`,
				key, name, strings.Join(later, ", "), action, strings.Join(later, `", "`)))
		}
	}
	for i, c := range p.Config.PolicyServices {
		warn("policy_services", i, "service", c.Name, laterOfServices, false)
	}
	for i, c := range p.Config.Milters {
		warn("milters", i, "milter", c.Name, laterOfMilters, c.AddFields)
	}
	return warnings
}
