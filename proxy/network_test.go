package proxy

import (
	"net/netip"
	"testing"

	"postern/checks"
	"postern/checks/dnstest"
	"postern/checks/network"
	"postern/configs"
	"postern/policy"
)

// countries stands in for files of networks.
type countries map[string]string

func (c countries) Lookup(a netip.Addr) (network.Found, bool) {
	return network.Found{ASN: 64500, Name: "Example", Country: c[a.String()]}, true
}

// A rule on the client's network refuses in place of the greeting, and the records of a client
// that is let in have its network.
func TestNetworkOfTheClient(t *testing.T) {
	zone, err := dnstest.Parse(rigZone)
	if err != nil {
		t.Fatal(err)
	}
	p := configs.Policy{Rules: []configs.Rule{{Name: "far", When: `client.country == "XX" and client.asn == 64500`, Do: "reject"}}}
	set := rigSettings(t, rigOptions{policy: &p})
	set.Checks = checks.NewSet(checks.Deps{
		Hostname: "mx.test", Resolver: zone, Uses: checks.Journal, Networks: countries{"192.0.2.1": "DE", "192.0.2.2": "XX"},
	}, set.Chain.Needs)
	r := newRig(t, rigOptions{settings: set})
	c := r.connect("192.0.2.1")
	c.ehlo()
	c.cmd("MAIL FROM:<alice@good.example>", "250 ")
	c.cmd("RCPT TO:<rcpt@local.example>", "250 ")
	c.cmd("RSET", "250 ")
	r.quiet()
	f := r.last().Facts
	if f.Client.ASN != 64500 || f.Client.Country != "DE" || f.Client.ASName != "Example" || f.Network.Result != policy.Pass {
		t.Errorf("%+v %+v", f.Client, f.Network)
	}
	if f.Client.Name != "mail.good.example" {
		t.Errorf("the name of the client is %q", f.Client.Name)
	}
	far := r.dialFrom("192.0.2.2", Listener{Name: "mx"})
	far.expect("554 ")
	far.cmd("QUIT", "221 ")
	r.quiet()
	if rec := r.last(); rec.Rule != "far" || rec.Facts.Client.Country != "XX" || rec.Stage != "connect" {
		t.Errorf("%s at %s: %+v", rec.Rule, rec.Stage, rec.Facts.Client)
	}
}
