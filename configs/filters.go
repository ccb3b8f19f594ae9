package configs

import (
	"fmt"
	"strings"
	"time"
)

// PolicyService is a policy service of somebody else's, in the protocol of Postfix's
// policy delegation.
type PolicyService struct {
	Name    string        `yaml:"name"`                 // rules read service.NAME.action
	Address string        `yaml:"address"`              // host:port, or unix:/path
	Timeout time.Duration `yaml:"timeout" default:"5s"` // of one question, the connection included

	Position Position `yaml:"-"`
}

// Milter is a mail filter of somebody else's, in the protocol of libmilter.
type Milter struct {
	Name    string        `yaml:"name"`                  // rules read milter.NAME.action
	Address string        `yaml:"address"`               // host:port, or unix:/path
	Timeout time.Duration `yaml:"timeout" default:"30s"` // of one answer
	Size    Size          `yaml:"size" default:"20MiB"`  // of the largest message that it gets
	// AddFields puts the fields on top that it adds.
	AddFields bool `yaml:"add_fields"`

	Position Position `yaml:"-"`
}

const (
	// MaxFilters bounds the policy services of a configuration, and its milters.
	MaxFilters = 8
	// maxMilterTime is how long a milter may take for one answer: four of them are less than
	// what clients wait for at the end of a message (RFC 5321 §4.5.3.2.6).
	maxMilterTime = 90 * time.Second
	// maxFilterTime is how long a filter may take for one recipient: clients wait for five
	// minutes (RFC 5321 §4.5.3.2.3).
	maxFilterTime = 2 * time.Minute
)

// filters notes what is wrong with other people's filters, and tells the policy their names.
func (l *loader) filters(c *Config) {
	services, milters := map[string]string{}, map[string]string{}
	l.fewFilters("policy_services", len(c.PolicyServices))
	for i, s := range c.PolicyServices {
		l.filter(fmt.Sprintf("policy_services[%d]", i), s.Name, s.Address, s.Timeout, maxFilterTime, services)
	}
	l.fewFilters("milters", len(c.Milters))
	for i, m := range c.Milters {
		l.filter(fmt.Sprintf("milters[%d]", i), m.Name, m.Address, m.Timeout, maxMilterTime, milters)
	}
}

func (l *loader) fewFilters(key string, n int) {
	if n > MaxFilters {
		l.fault(key, "%s: %d of them; at most %d", key, n, MaxFilters)
	}
}

// filter notes what is wrong with one, and with the names of those seen before.
func (l *loader) filter(p, name, address string, timeout, most time.Duration, seen map[string]string) {
	switch other := seen[name]; {
	case name == "":
		l.required(p+".name", "")
	case !isFilterName(name):
		l.fault(p+".name", "%s.name: %q stands in the names of facts, as service.grey.action: a small letter, then small letters, digits and _, at most 32", p, name)
	case other != "":
		l.fault(p+".name", "%s.name: %s has the name %s already", p, other, name)
	default:
		seen[name] = p
	}
	l.filterAddress(p+".address", address)
	if timeout > most {
		l.fault(p+".timeout", "%s.timeout: %s is too long: clients give up, and the most is %s", p, FormatDuration(timeout), FormatDuration(most))
	}
}

// filterAddress notes what is wrong with where a filter is.
func (l *loader) filterAddress(path, address string) {
	if socket, ok := strings.CutPrefix(address, "unix:"); ok {
		if !strings.HasPrefix(socket, "/") {
			l.fault(path, "%s: %q: the path of a socket begins with a slash", path, address)
		}
		return
	}
	switch {
	case address == "":
		l.required(path, "")
	case !l.hostPort(path, address):
	case strings.HasPrefix(address, ":"):
		l.fault(path, "%s: %q has no host", path, address)
	}
}

// FilterNames tells the policy which filters its rules may read.
func (c *Config) FilterNames() {
	c.Policy.Services, c.Policy.Milters = nil, nil
	for i := range min(len(c.PolicyServices), MaxFilters) {
		if name := c.PolicyServices[i].Name; isFilterName(name) {
			c.Policy.Services = append(c.Policy.Services, name)
		}
	}
	for i := range min(len(c.Milters), MaxFilters) {
		if name := c.Milters[i].Name; isFilterName(name) {
			c.Policy.Milters = append(c.Policy.Milters, name)
		}
	}
}
