package policy

import (
	"fmt"
	"math/bits"
	"net/netip"

	"postern/configs"
)

// A network with more addresses than these prefixes leave is hardly one of somebody
// who forwards for a site: the ranges that large mail providers publish are wider.
const (
	widestForwarder4 = 22
	widestForwarder6 = 48
)

// WideForwarder says whether a network has more addresses than those who forward
// for one site are likely to have.
func WideForwarder(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < widestForwarder4
	}
	return p.Bits() < widestForwarder6
}

// wideForwarders returns a warning for each entry of TrustedForwarders that counts
// and is that wide. Whoever may send through a large provider could send through it
// as anybody whose domain has p=reject.
func (ls *Lists) wideForwarders() []configs.Fault {
	l := ls.of(TrustedForwarders)
	if l == nil {
		return nil
	}
	var warnings []configs.Fault
	for e := range l.Entries(ls.now) {
		p, err := configs.ParseNetwork(e.Value)
		if err != nil || !WideForwarder(p) {
			continue
		}
		warnings = append(warnings, configs.Fault{Position: e.Position, Text: fmt.Sprintf(
			"list %s: %s is %s: SPF and DMARC refuse nothing that comes from there; if it is a large mail provider's, each of its customers can send in the name of any domain, p=reject or not; list the few hosts that forward for you, or excuse spf alone by an override",
			TrustedForwarders, e.Value, addressesOf(p))})
	}
	return warnings
}

// addressesOf tells in words how many addresses a network has.
func addressesOf(p netip.Prefix) string {
	if n := p.Addr().BitLen() - p.Bits(); n < bits.UintSize-1 {
		return fmt.Sprintf("%d addresses", uint64(1)<<n)
	}
	return fmt.Sprintf("a /%d", p.Bits())
}
