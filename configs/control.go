package configs

import (
	"fmt"
	"strings"
)

// Control is the socket by which commands ask the proxy that runs.
type Control struct {
	Socket string `yaml:"socket" path:"file"` // its path, /run/postern/control; empty: none
}

// Retrieve is a host that keeps mail for a domain and sends it when it is asked to
// (ETRN, RFC 1985).
type Retrieve struct {
	Domain string `yaml:"domain"`                                  // of recipients
	Host   string `yaml:"host"`                                    // host:port
	TLS    string `yaml:"tls" words:"off verify" default:"verify"` // off | verify
	CA     string `yaml:"ca" path:"file"`                          // PEM file of the roots to verify by; empty: the system's
	// AtStart asks when the proxy has begun to serve.
	AtStart bool `yaml:"at_start"`

	Position Position `yaml:"-"`
}

// maxRetrieve bounds the hosts that are asked for mail.
const maxRetrieve = 1000

// retrieve notes what is wrong with the hosts that are asked for mail.
func (l *loader) retrieve(c *Config) {
	if n := len(c.Retrieve); n > maxRetrieve {
		l.fault("retrieve", "retrieve: %d hosts; at most %d", n, maxRetrieve)
	}
	seen := map[string]string{}
	for i, r := range c.Retrieve {
		p := fmt.Sprintf("retrieve[%d]", i)
		l.required(p+".domain", r.Domain)
		if r.Domain != "" && (!isHostname(r.Domain) || !strings.Contains(r.Domain, ".")) {
			l.fault(p+".domain", "%s.domain: %q is no domain, as recipients have it behind the @", p, r.Domain)
		}
		switch {
		case r.Host == "":
			l.required(p+".host", "")
		case !l.hostPort(p+".host", r.Host):
		case strings.HasPrefix(r.Host, ":"):
			l.fault(p+".host", "%s.host: %q has no host", p, r.Host)
		}
		if r.CA != "" && r.TLS != "verify" {
			l.fault(p+".ca", "%s.ca: says whom to verify by, but tls is %s: write tls: verify", p, r.TLS)
		}
		key := strings.ToLower(r.Domain + " " + r.Host)
		if other, twice := seen[key]; twice && r.Host != "" {
			l.fault(p+".host", "%s.host: %s is asked for %s by %s already", p, r.Host, r.Domain, other)
		}
		seen[key] = p
	}
}
