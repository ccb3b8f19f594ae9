package amtp

import (
	"fmt"
	"net"
	"net/netip"
)

// special are the addresses at which no server of a stranger is: private, shared and local ones, those that only stand
// for others or hold an IPv4 address within them, and what is set aside (RFC 6890 and the registries that it began;
// RFC 9637). Clouds keep what they tell a machine about itself within them.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16",
	"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

// Callable says why a server at an address is not called because somebody wants it; nil: it may be. An address that a
// prefix of allow holds may be called whatever it is. An IPv4 address written as IPv6 is that IPv4 address.
func Callable(a netip.Addr, allow []netip.Prefix) error {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return fmt.Errorf("amtp: there is no address")
	}
	for _, p := range allow {
		if p.Contains(a) {
			return nil
		}
	}
	for _, p := range special {
		if p.Contains(a) {
			return fmt.Errorf("amtp: %s is within %s, where no server is called: allow can list it", a, p)
		}
	}
	return nil
}

// OwnAddresses are those of this machine's interfaces now. They may change while we run.
func OwnAddresses() (own []netip.Addr, err error) {
	list, err := net.InterfaceAddrs()
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own, err
}
