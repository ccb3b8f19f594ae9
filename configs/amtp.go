package configs

import (
	"time"
)

// AMTP is the Authenticated Mail Transfer Protocol.
type AMTP struct {
	// Of listeners of that protocol: the proxy as the server of recipients.
	Users       string        `yaml:"users" path:"file"`       // of postern amtp passwd; empty: nobody logs in
	Domains     []string      `yaml:"domains"`                 // of recipients
	Lifetime    time.Duration `yaml:"lifetime" min:"1m"`       // how long mail that was announced is fetched for
	CallTimeout time.Duration `yaml:"call_timeout" min:"50ms"` // of each step of a call
	Port        int           `yaml:"port"`                    // of the servers that are called
	Allow       []string      `yaml:"allow"`                   // IPs, CIDRs that may be called although they are private

	Hold AMTPHold `yaml:"hold"`
}

// defaultAMTP is what is in effect where nothing is said.
func defaultAMTP() AMTP {
	return AMTP{Lifetime: 5 * day, CallTimeout: 30 * time.Second, Port: 26, Hold: defaultAMTPHold()}
}
