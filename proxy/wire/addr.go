package wire

import (
	"net"
	"net/netip"
)

// AddrPort reads a socket's address; the zero AddrPort if it has none, as a
// pipe in memory.
func AddrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
