package proxy

import (
	"net/netip"
	"testing"

	"postern/configs"
)

// TestBalancersHealthCheck: what a balancer asks for itself is not counted as
// that of a client; what it brings is.
func TestBalancersHealthCheck(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) {
		c.Limits.ConnectionsPerClient, c.Limits.ConnectionRate = 2, 2
	}})
	l := Listener{Name: "mx", TLS: "starttls", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}
	hello := func(header, want string) {
		t.Helper()
		c := r.dialFrom("198.51.100.7", l)
		c.send(header)
		c.expect(want)
	}
	const local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	for range 5 {
		hello(local, "220 ")
	}
	hello("PROXY TCP4 192.0.2.1 198.51.100.25 40000 25\r\n", "220 ")
	hello("PROXY TCP4 192.0.2.1 198.51.100.25 40001 25\r\n", "220 ")
	hello("PROXY TCP4 192.0.2.1 198.51.100.25 40002 25\r\n", "421 4.7.0 ")
	hello(local, "220 ")
}
