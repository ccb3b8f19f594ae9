package configs

import (
	"fmt"
	"regexp"
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

const (
	// MaxFilters bounds the policy services of a configuration.
	MaxFilters = 8
	// maxFilterTime is how long a filter may take for one recipient: clients wait for five
	// minutes (RFC 5321 §4.5.3.2.3).
	maxFilterTime = 2 * time.Minute
)

// filterName is the name of a filter, which stands in the names of facts.
var filterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// filters notes what is wrong with other people's filters, and tells the policy their names.
func (l *loader) filters(c *Config) {
	if n := len(c.PolicyServices); n > MaxFilters {
		l.fault("policy_services", "policy_services: %d of them; at most %d", n, MaxFilters)
	}
	seen := map[string]string{}
	for i, s := range c.PolicyServices {
		p := fmt.Sprintf("policy_services[%d]", i)
		switch other := seen[s.Name]; {
		case s.Name == "":
			l.required(p+".name", "")
		case !filterName.MatchString(s.Name):
			l.fault(p+".name", "%s.name: %q stands in the names of facts, as service.%s.action: a small letter, then small letters, digits and _, at most 32", p, s.Name, "grey")
		case other != "":
			l.fault(p+".name", "%s.name: %s has the name %s already", p, other, s.Name)
		default:
			seen[s.Name] = p
		}
		l.filterAddress(p+".address", s.Address)
		if s.Timeout > maxFilterTime {
			l.fault(p+".timeout", "%s.timeout: %s is too long: clients give up after five minutes, and the most is %s", p, FormatDuration(s.Timeout), FormatDuration(maxFilterTime))
		}
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
	c.Policy.Services = nil
	for i := range min(len(c.PolicyServices), MaxFilters) {
		if name := c.PolicyServices[i].Name; filterName.MatchString(name) {
			c.Policy.Services = append(c.Policy.Services, name)
		}
	}
}
