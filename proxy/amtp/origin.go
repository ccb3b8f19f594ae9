package amtp

import (
	"net/netip"

	"postern/policy"
)

// Origin is where mail comes from that did not come by SMTP, for the proxy to take it into a session like any.
type Origin struct {
	Session       string         // the id of the connection that it came by, under which the log has it; empty: a new one
	Listener      string         // on which it came, or was announced
	Client, Local netip.AddrPort // the two ends of the connection
	TLS           *policy.TLS    // of it; nil: in the clear
	// One of these is said, and is what proves the sender.
	User    string // the address of a user who has logged in
	Fetched string // the domain from whose own server, at Client, the mail was fetched
}
