package configs

import (
	"fmt"
	"strings"
	"time"
)

// AMTPHold is `postern amtp hold`: the server of senders, which keeps their mail until it is fetched.
type AMTPHold struct {
	Addresses    []string      `yaml:"addresses"` // host:port; none: there is no such server
	Certificates []Certificate `yaml:"certificates"`
	Users        string        `yaml:"users" path:"file"`
	Spool        string        `yaml:"spool" path:"file"` // folder
	Smarthost    Smarthost     `yaml:"smarthost"`
	Fallback     string        `yaml:"fallback" words:"smtp report"` // where the domain has no server of AMTP: smtp | report
	Port         int           `yaml:"port"`                         // of the servers that mail is announced to
	Lifetime     time.Duration `yaml:"lifetime" min:"1s"`
	Retry        time.Duration `yaml:"retry"`
	CallTimeout  time.Duration `yaml:"call_timeout"` // of each step of a call
	Allow        []string      `yaml:"allow"`        // IPs, CIDRs that may be called although they are private

	// Of what waits, in all and of one user. An entry is one recipient of one message.
	SpoolSize        Size `yaml:"spool_size"`
	SpoolSizePerUser Size `yaml:"spool_size_per_user"`
	Entries          int  `yaml:"entries"`
	EntriesPerUser   int  `yaml:"entries_per_user"`
}

// Smarthost is a mail server that takes by SMTP what the others do not fetch, and reports for users.
type Smarthost struct {
	Address string `yaml:"address"`                              // host:port; unix:/path
	TLS     string `yaml:"tls" words:"off opportunistic verify"` // off | opportunistic | verify
	CA      string `yaml:"ca" path:"file"`                       // PEM file of the roots to verify by; empty: the system's
}

// Configured says whether there is such a server.
func (h *AMTPHold) Configured() bool { return len(h.Addresses) > 0 }

// defaultAMTPHold is what is in effect where nothing is said.
func defaultAMTPHold() AMTPHold {
	return AMTPHold{
		Smarthost: Smarthost{TLS: "opportunistic"}, Fallback: "smtp", Port: 26,
		Lifetime: 5 * day, Retry: 5 * time.Minute, CallTimeout: 30 * time.Second,
		SpoolSize: GiB, SpoolSizePerUser: 100 * MiB, Entries: 10_000, EntriesPerUser: 1000,
	}
}

// maxHoldEntries bounds amtp.hold.entries: each is some 500 octets of memory.
const maxHoldEntries = 1_000_000

// hold notes what is wrong with the server of senders.
func (l *loader) hold(h *AMTPHold) {
	const p = "amtp.hold"
	for i, a := range h.Addresses {
		l.hostPort(fmt.Sprintf("%s.addresses[%d]", p, i), a)
	}
	for i, cert := range h.Certificates {
		at := fmt.Sprintf("%s.certificates[%d]", p, i)
		l.required(at+".certificate", cert.Certificate)
		l.required(at+".key", cert.Key)
	}
	if h.Configured() {
		l.required(p+".users", h.Users)
		l.required(p+".spool", h.Spool)
		l.required(p+".smarthost.address", h.Smarthost.Address)
	}
	if h.Smarthost.Address != "" {
		l.filterAddress(p+".smarthost.address", h.Smarthost.Address)
	}
	if h.Smarthost.CA != "" && h.Smarthost.TLS != "verify" {
		l.fault(p+".smarthost.ca", "%s.smarthost.ca: says whom to verify by, but tls is %s: write tls: verify", p, h.Smarthost.TLS)
	}
	if h.Port > 65535 {
		l.fault(p+".port", "%s.port: %d is no port", p, h.Port)
	}
	for i, text := range h.Allow {
		if _, err := ParsePrefix(strings.TrimSpace(text)); err != nil {
			l.fault(fmt.Sprintf("%s.allow[%d]", p, i), "%s.allow: %q is neither an IP address nor a CIDR block", p, text)
		}
	}
	if h.Entries > maxHoldEntries {
		l.fault(p+".entries", "%s.entries: at most %d", p, maxHoldEntries)
	}
	if h.SpoolSizePerUser > h.SpoolSize {
		l.fault(p+".spool_size_per_user", "%s.spool_size_per_user: is more than spool_size, which all have together", p)
	}
	if h.EntriesPerUser > h.Entries {
		l.fault(p+".entries_per_user", "%s.entries_per_user: is more than entries, which all have together", p)
	}
}
