package service

import (
	"net"
	"net/netip"
	"testing"
)

// The holder calls from an address that it listens on, where that is one which can reach the other.
func TestHolderCallsFromItsAddress(t *testing.T) {
	h := &holding{}
	for _, at := range []string{"0.0.0.0:26", "127.0.0.2:26", "192.0.2.1:26", "[2001:db8::1]:26"} {
		h.own = append(h.own, netip.MustParseAddrPort(at))
	}
	for to, want := range map[string]string{"127.0.0.9": "127.0.0.2:0", "198.51.100.1": "192.0.2.1:0", "2001:db8::9": "[2001:db8::1]:0"} {
		if got := h.from(netip.MustParseAddr(to)); got == nil || got.String() != want {
			t.Errorf("%s is called from %v, not %s", to, got, want)
		}
	}
	h.own = h.own[:2]
	if got := h.from(netip.MustParseAddr("198.51.100.1")); got != nil {
		t.Errorf("loopback calls the world: %v", got)
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	conn, err := h.dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got, _, _ := net.SplitHostPort(conn.LocalAddr().String()); got != "127.0.0.2" {
		t.Errorf("called from %s", got)
	}
}
