package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"postern/configs"
)

// amtp looks whether other servers of AMTP find this one: they call the hosts that mail for the domain goes to, at port 26.
func (d *patient) amtp(ctx context.Context, r *Report) {
	if !d.Config.ServesAMTP() {
		return
	}
	at := d.Config.At("amtp.domains").String()
	for i, domain := range d.Config.AMTP.Domains {
		if i >= maxDomains {
			break
		}
		it := r.on("amtp", domain, at)
		servers := d.mailHosts(ctx, domain)
		if len(servers) == 0 {
			it.Fault("give the domain an MX record whose name has an A or AAAA record of this machine", "no server of AMTP can be found for %s: neither its MX records nor itself lead to an address", domain)
			continue
		}
		port := strconv.Itoa(d.Config.AMTP.Port)
		var seen []string
		found := false
		for _, a := range servers {
			greeting, err := greetingOf(ctx, configs.Listener{Address: net.JoinHostPort(a.String(), port), TLS: "off"})
			switch {
			case err != nil:
				seen = append(seen, fmt.Sprintf("%s does not answer (%v)", a, err))
			case greeting != d.Settings.Hostname+" AMTP":
				seen = append(seen, fmt.Sprintf("%s greets with %q", a, greeting))
			default:
				found = true
				it.OK("%s: %s greets at port %s as we do, so that mail can be announced there", domain, a, port)
			}
			if found {
				break
			}
		}
		switch {
		case found:
		case !d.running.up:
			it.Warn("start the proxy and look again", "%s: port %s cannot be tried while no proxy runs here: %s", domain, port, strings.Join(seen, "; "))
		default:
			it.Fault("open port "+port+" on the way here, and let the MX of the domain be this machine", "%s: nobody can announce mail at port %s: %s", domain, port, strings.Join(seen, "; "))
		}
	}
}

// mailHosts are the addresses that mail for a domain goes to: of its MX, or its own (RFC 5321 §5.1); four at most.
func (d *patient) mailHosts(ctx context.Context, domain string) (list []netip.Addr) {
	names := []string{domain}
	if mx, err := d.Resolver.LookupMX(ctx, domain); err == nil && len(mx) > 0 {
		names = hosts(mx)
	}
	for _, name := range names {
		for _, network := range []string{"ip4", "ip6"} {
			found, err := d.Resolver.LookupNetIP(ctx, network, name)
			if err != nil {
				continue
			}
			for _, a := range found {
				if len(list) < 4 {
					list = append(list, a.Unmap())
				}
			}
		}
	}
	return list
}
