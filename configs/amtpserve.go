package configs

import (
	"fmt"
	"strings"
)

// ServesAMTP says whether a listener speaks AMTP.
func (c *Config) ServesAMTP() bool {
	for i := range c.Listeners {
		if c.Listeners[i].Protocol == ProtocolAMTP {
			return true
		}
	}
	return false
}

// amtp notes what is wrong with what the proxy serves by AMTP.
func (l *loader) amtp(c *Config) {
	a := &c.AMTP
	for i, d := range a.Domains {
		if !isHostname(d) || !strings.Contains(d, ".") {
			l.fault(fmt.Sprintf("amtp.domains[%d]", i), "amtp.domains: %q is no domain, as recipients have it behind the @", d)
		}
	}
	for i, text := range a.Allow {
		if _, err := ParsePrefix(text); err != nil {
			l.fault(fmt.Sprintf("amtp.allow[%d]", i), "amtp.allow: %q is neither an IP address nor a CIDR block", text)
		}
	}
	if a.Port > 65535 {
		l.fault("amtp.port", "amtp.port: %d is no port", a.Port)
	}
	if !c.ServesAMTP() {
		return
	}
	if len(a.Domains) == 0 {
		l.fault("amtp.domains", "amtp.domains: missing: a listener speaks AMTP, and no domain says whose mail it takes")
	}
	for i := range c.Listeners {
		ln, p := &c.Listeners[i], fmt.Sprintf("listeners[%d]", i)
		if ln.Protocol != ProtocolAMTP {
			continue
		}
		switch {
		case ln.TLS == "implicit":
			l.fault(p+".tls", "%s.tls: AMTP has STARTTLS, or off", p)
		case len(ln.ProxyProtocol) > 0:
			l.fault(p+".proxy_protocol", "%s.proxy_protocol: AMTP goes by the address of the connection, and cannot be told another one", p)
		case ln.Pregreet > 0:
			l.fault(p+".pregreet", "%s.pregreet: is for SMTP", p)
		}
	}
}
