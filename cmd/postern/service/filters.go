package service

import (
	"fmt"
	"slices"

	"postern/checks"
	"postern/checks/delegation"
	"postern/configs"
	"postern/policy"
)

// filter is a policy service with what the configuration says of it.
type filter struct {
	config configs.PolicyService
	*delegation.Service
}

// buildFilters makes the policy services, and connects to nobody. Those that the old
// configuration had as well keep their connections.
func (p *Parts) buildFilters(w *World, old *Parts) {
	for _, c := range p.Config.PolicyServices {
		c.Position = configs.Position{}
		if old != nil {
			if i := slices.IndexFunc(old.filters, func(f filter) bool { return f.config == c }); i >= 0 {
				p.filters = append(p.filters, old.filters[i])
				continue
			}
		}
		p.filters = append(p.filters, filter{c, delegation.New(delegation.Options{Name: c.Name, Address: c.Address, Timeout: c.Timeout, Log: w.Log})})
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

// Service returns the policy service of that name, for the doctor; nil: there is none.
func (p *Parts) Service(name string) *delegation.Service {
	for _, f := range p.filters {
		if f.config.Name == name {
			return f.Service
		}
	}
	return nil
}

// closeFilters lets go of the connections that other does not share.
func (p *Parts) closeFilters(other *Parts) {
	for _, f := range p.filters {
		if other == nil || !slices.ContainsFunc(other.filters, func(o filter) bool { return o.Service == f.Service }) {
			f.Close()
		}
	}
}

// filterWarnings tells of filters that nobody asks, and of an answer that no rule has thought
// of: temperror, where the filter is away.
func (p *Parts) filterWarnings() (warnings []configs.Fault) {
	for i, c := range p.Config.PolicyServices {
		at := p.Config.At(fmt.Sprintf("policy_services[%d]", i))
		if !p.wants("service." + c.Name) {
			warnings = append(warnings, configs.Warning(at, "policy_services: no rule reads service.%s.action, so %s is never asked", c.Name, c.Name))
		} else if !p.Rules.Chain.Compares("service."+c.Name+".action", string(policy.TempError)) {
			warnings = append(warnings, configs.Warning(at, `policy_services: no rule says what becomes of mail while %s gives no answer, and it goes on as if nobody had been asked: when: service.%s.action == "temperror", do: defer`, c.Name, c.Name))
		}
	}
	return warnings
}
