package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/cmd/postern/view"
	"postern/configs"
)

// slowServer is a round trip that everybody would feel: SPF alone may take ten.
const slowServer = 500 * time.Millisecond

// publicResolvers are those that many DNS lists refuse to answer, since they count
// queries by who asks.
var publicResolvers = []netip.Prefix{
	netip.MustParsePrefix("8.8.8.8/32"), netip.MustParsePrefix("8.8.4.4/32"), netip.MustParsePrefix("2001:4860:4860::/48"), // Google
	netip.MustParsePrefix("1.1.1.0/24"), netip.MustParsePrefix("1.0.0.0/24"), netip.MustParsePrefix("2606:4700:4700::/48"), // Cloudflare
	netip.MustParsePrefix("9.9.9.0/24"), netip.MustParsePrefix("149.112.112.0/24"), netip.MustParsePrefix("2620:fe::/48"), // Quad9
	netip.MustParsePrefix("208.67.220.0/24"), netip.MustParsePrefix("208.67.222.0/24"), netip.MustParsePrefix("2620:119::/32"), // OpenDNS
}

func isPublicResolver(server string) bool {
	host, _, _ := net.SplitHostPort(server)
	ip, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(publicResolvers, func(p netip.Prefix) bool { return p.Contains(ip.Unmap()) })
}

// eachServer returns a resolver for each server that is asked, and what closes them.
func (d *patient) eachServer() (texts []string, each []*dnscache.Resolver, done func(), err error) {
	dns := d.Config.DNS
	if texts, err = dnscache.Servers(dnscache.Options{Servers: dns.Servers}); err != nil {
		return nil, nil, nil, err
	}
	done = func() {
		for _, r := range each {
			r.Close()
		}
	}
	for _, text := range texts {
		r, err := dnscache.New(dnscache.Options{Servers: []string{text}, Timeout: dns.Timeout, Total: dns.Total, Cache: dns.Cache})
		if err != nil {
			done()
			return nil, nil, nil, err
		}
		each = append(each, r)
	}
	return texts, each, done, nil
}

// resolvers asks every name server by itself, in every way, and then those that answer
// about the world and the DNS lists.
func (d *patient) resolvers(ctx context.Context, r *Report) {
	texts, each, done, err := d.eachServer()
	if err != nil {
		r.on("dns.server", "", "").Fault("name the servers in dns.servers", "%v", err)
		return
	}
	defer done()
	answers, names, lists := make([]Report, len(each)), make([]Report, len(each)), make([]Report, len(each))
	var wg sync.WaitGroup
	for i, server := range each {
		wg.Go(func() {
			x := server.Examine(ctx)
			if slow(x) {
				// The first question may have taken a resolver that has just started to the
				// root servers.
				x = server.Examine(ctx)
			}
			d.server(&answers[i], texts[i], x)
			if x.UDP.Code == "" && x.Stream.Code == "" {
				return
			}
			wg.Go(func() { d.namesBy(ctx, &names[i], texts[i], server) })
			wg.Go(func() { d.dnsLists(ctx, &lists[i], texts[i], server) })
		})
	}
	wg.Wait()
	for i := range each {
		r.join(answers[i], names[i])
	}
	if len(d.Config.DNS.Canaries) == 0 {
		r.on("dns.canaries", "", "").Warn("name two or three domains of different operators: dns: {canaries: [iana.org, ietf.org, ripe.net]}",
			"no dns.canaries are configured: an outage of these servers is told from one of other people's by the failures alone")
	}
	r.join(lists...)
}

// server tells of the ways in which a server answers.
func (d *patient) server(r *Report, text string, x dnscache.Examination) {
	it := r.on("dns.server", text, "").leading(text + " ")
	stream := "TCP"
	if x.TLS {
		stream = "TLS"
	}
	code := x.UDP.Code
	if x.TLS {
		code = x.Stream.Code
	}
	switch {
	case x.Stream.Err != nil && (x.TLS || x.UDP.Err != nil):
		why := x.Stream.Err
		if !x.TLS {
			why = x.UDP.Err
		}
		it.Fault("does it run, and does a firewall let this machine ask it? "+whereServers(d.Config), "does not answer: %v", why)
		return
	case x.UDP.Err != nil:
		it.Fault("let UDP port 53 through, or leave the server out", "answers by TCP, and not by UDP: %v", x.UDP.Err)
	case x.Stream.Err != nil:
		it.Fault("let TCP port 53 through: long SPF records and DKIM keys come by no other way", "answers by UDP, and not by TCP: %v", x.Stream.Err)
	}
	switch {
	case len(x.Invented) > 0:
		it.Fault("use a resolver that rewrites nothing: with this one every domain exists, and every client is listed or has a name",
			"makes answers up: a name below .invalid, which cannot exist, has the address %v", x.Invented[0])
	case code == "REFUSED":
		it.Fault("let this machine ask (Unbound: access-control; BIND: allow-recursion), or name another server", "refuses to answer us (REFUSED)")
	case code == "NOERROR":
		it.Warn("use a resolver that rewrites nothing: DMARC treats domains that do not exist by a rule of their own (np)",
			"says that a name below .invalid, which cannot exist, does (no NXDOMAIN)")
	}
	if x.Plain {
		it.Warn("let EDNS pass, or update the server: every answer of more than 512 octets costs a TCP connection",
			"understands no EDNS (RFC 6891)")
	}
	if x.Large.Err != nil {
		it.Fault("let TCP port 53 through: long SPF records and DKIM keys come by no other way", "cut an answer that was too large for a datagram, and did not give it by TCP: %v", x.Large.Err)
	}
	if x.Large.Datagram != nil {
		it.Warn("let datagrams of up to 1232 octets pass, with their fragments: each answer of that size costs a wait of dns.timeout",
			"sent no answer of %d octets by UDP, although it may: %v", x.Large.Octets, x.Large.Datagram)
	}
	if slow(x) {
		it.Warn("use a resolver that is nearer: a message may need twenty answers, one after the other", "is slow: %v for an answer", max(x.UDP.Took, x.Stream.Took).Round(time.Millisecond))
	}
	if len(r.Findings) > 0 {
		return
	}
	seen := fmt.Sprintf("answers by %s in %s", stream, short(x.Stream.Took))
	if !x.TLS {
		seen = fmt.Sprintf("answers by UDP in %s and by TCP in %s, with EDNS", short(x.UDP.Took), short(x.Stream.Took))
		switch {
		case x.Large.Truncated:
			seen += fmt.Sprintf("; what is too large (%d octets) is cut and comes by TCP", x.Large.Octets)
		case x.Large.Octets == 0:
			seen += "; large answers were not tried, as it has none for the root zone"
		}
	}
	it.OK("%s", seen)
}

// slow says whether a server answers, and takes too long for it.
func slow(x dnscache.Examination) bool {
	return x.Stream.Err == nil && x.UDP.Err == nil && max(x.UDP.Took, x.Stream.Took) > slowServer
}

func whereServers(cfg *configs.Config) string {
	if len(cfg.DNS.Servers) > 0 {
		return "See dns.servers"
	}
	return "It stands in /etc/resolv.conf"
}

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// namesBy asks a server about the world: names that are there, and names that are not.
func (d *patient) namesBy(ctx context.Context, r *Report, text string, server *dnscache.Resolver) {
	probes, names := r.on("dns.canaries", text, "").leading(text+" "), r.on("dns.names", text, "").leading(text+" ")
	canaries := d.Config.DNS.Canaries
	failed := d.canaries(ctx, server)
	switch {
	case len(canaries) == 0:
	case 2*len(failed) > len(canaries):
		probes.Fault("the server cannot reach the world, or these are bad canaries: take domains that are known to work", "does not resolve the canaries: %s", strings.Join(failed, "; "))
	case len(failed) > 0:
		probes.Warn("choose another one, if it stays so", "does not resolve all canaries: %s", strings.Join(failed, "; "))
	default:
		probes.OK("resolves %s: %s", view.Counted(len(canaries), "canary zone"), strings.Join(canaries, ", "))
	}

	// What providers rewrite are names below the domains that people mistype.
	name := strings.ToLower(rand.Text()) + ".com"
	switch addrs, err := server.LookupNetIP(ctx, "ip4", name); {
	case err == nil:
		names.Fault("use a resolver that rewrites nothing: with this one every domain exists", "makes answers up: %s, which nobody has registered, has the address %v", name, addrs[0])
	case dnscache.IsNXDomain(err):
		if _, err := server.LookupMX(ctx, "com"); dnscache.IsNXDomain(err) {
			names.Warn("if names below com do resolve, the server confuses a name without records with one that does not exist", "says that com does not exist")
			break
		}
		names.OK("tells names that do not exist (NXDOMAIN) from names without records")
	case isNoSuch(err):
		names.Warn("use a resolver that rewrites nothing: DMARC treats domains that do not exist by a rule of their own (np)", "says that %s, which nobody has registered, exists", name)
	case len(canaries) > 0 && 2*len(failed) <= len(canaries):
		names.Warn("right where the site has a DNS of its own; else look at the server's way to the root", "does not resolve names below com: %v", dnsWhy(err))
	default:
		names.Fault("the server has no way to the root. A site with a DNS of its own names domains in dns.canaries, and is judged by these", "does not resolve names below com: %v", dnsWhy(err))
	}
}

// canaries returns those that the server has no answer for, with the reason.
func (d *patient) canaries(ctx context.Context, r *dnscache.Resolver) []string {
	all := d.Config.DNS.Canaries
	why := make([]string, len(all))
	var wg sync.WaitGroup
	for i, name := range all {
		wg.Go(func() {
			// As the live proxy asks: the answer must come from the zone. That there is
			// no such name is a good one.
			_, err := r.LookupNetIP(ctx, "ip4", strings.ToLower(rand.Text()[:12])+"."+name)
			if err != nil && !isNoSuch(err) {
				why[i] = fmt.Sprintf("%s: %v", name, dnsWhy(err))
				return
			}
			if _, err := r.LookupMX(ctx, name); dnscache.IsNXDomain(err) {
				why[i] = name + ": there is no such domain"
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(why, func(s string) bool { return s == "" })
}

func isNoSuch(err error) bool {
	var de *net.DNSError
	return errors.As(err, &de) && de.IsNotFound
}

// dnsWhy leaves out of an error what has been said already.
func dnsWhy(err error) string {
	var de *net.DNSError
	if errors.As(err, &de) {
		return de.Err
	}
	return err.Error()
}

// keptSecret makes a fault of what was found of a DNS list whose key others can read.
func keptSecret(f Finding, z configs.DNSBLZone) Finding {
	if z.ZoneKeyFile == "" || f.Status == Fault {
		return f
	}
	if advice, seen := exposed(z.ZoneKeyFile); seen != "" {
		f.Status, f.Advice, f.Seen = Fault, advice, z.Zone+" "+seen
	}
	return f
}

// dnsLists asks every DNS list for its test points, by one name server.
func (d *patient) dnsLists(ctx context.Context, r *Report, text string, server *dnscache.Resolver) {
	zones := d.Config.Checks.DNSBL.Zones
	found := make([]Finding, len(zones))
	var wg sync.WaitGroup
	for i, z := range zones {
		wg.Go(func() {
			x, err := checks.ExamineDNSBL(ctx, server, z)
			f := Finding{Status: Fault, Advice: "see postern check-config"}
			if err == nil {
				f = d.dnsList(x, z)
			} else {
				f.Seen = err.Error()
			}
			f.Check, f.Subject, f.At = "dnsbl", z.Zone, z.Position.String()
			f.Seen = fmt.Sprintf("%s, asked by %s: %s", z.Zone, text, f.Seen)
			found[i] = keptSecret(f, z)
		})
	}
	wg.Wait()
	r.add(found...)
	if len(zones) > 0 && isPublicResolver(withoutScheme(text)) {
		r.on("dnsbl", text, "").Warn("run a resolver of your own (Unbound on this machine) and name it in dns.servers",
			"%s is a public resolver: many DNS lists do not answer it, or only at times", text)
	}
}

// withoutScheme makes a server of the configuration host:port.
func withoutScheme(text string) string {
	text = strings.TrimPrefix(text, "tls://")
	text, _, _ = strings.Cut(text, "#")
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return net.JoinHostPort(ip.String(), "53")
	}
	return text
}

func (d *patient) dnsList(x checks.DNSBLExamination, z configs.DNSBLZone) Finding {
	codes := func(a checks.DNSBLAnswer) string {
		var all []string
		for _, c := range a.Codes {
			all = append(all, c.String())
		}
		return strings.Join(all, ", ")
	}
	switch {
	case x.Listed.Refused || x.Unlisted.Refused:
		refusal := x.Listed
		if !refusal.Refused {
			refusal = x.Unlisted
		}
		return Finding{
			Status: Fault, Seen: "it refuses to answer us: " + codes(refusal),
			Advice: "the list's pages say what the code means: mostly a public resolver, or too many queries. Ask by a resolver of your own, or take the list out",
		}
	case len(x.Unlisted.Codes) > 0:
		return Finding{
			Status: Fault, Seen: fmt.Sprintf("it lists %s (%s), which no list may (RFC 5782): it lists everybody", x.Unlisted.Name, codes(x.Unlisted)),
			Advice: "take it out at once: lists that end do this, and so do resolvers that make answers up",
		}
	case x.Listed.Err != nil:
		return Finding{Status: Fault, Seen: "it cannot be read: " + dnsWhy(x.Listed.Err), Advice: "a list that does not answer lists nobody, and costs each message the wait (dns.total): take it out if it stays so"}
	case x.Unlisted.Err != nil:
		return Finding{Status: Fault, Seen: "it cannot be read: " + dnsWhy(x.Unlisted.Err), Advice: "a list that does not answer lists nobody, and costs each message the wait (dns.total): take it out if it stays so"}
	case len(x.Listed.Codes) == 0 && z.Of != "client":
		// Lists of names have test points of their own, often enough.
		return Finding{Status: Warn, Seen: fmt.Sprintf("it has no entry %s (RFC 5782 has lists of names have one)", x.Listed.Name), Advice: "try a test point that the list's own pages name: if it is not listed either, the zone's name is wrong, or the list has ended"}
	case len(x.Listed.Codes) == 0:
		return Finding{
			Status: Fault, Seen: fmt.Sprintf("it has no entry %s, which every list has (RFC 5782)", x.Listed.Name),
			Advice: "the zone's name is wrong, the list has ended, or it answers nothing to this resolver. A list of your own wants the entry too",
		}
	case !x.Counts:
		return Finding{Status: OK, Seen: fmt.Sprintf("the test entry is there (%s), and is none of the codes that count", codes(x.Listed))}
	}
	return Finding{Status: OK, Seen: fmt.Sprintf("the test entry is there (%s), and 127.0.0.1 is not listed", codes(x.Listed))}
}

// name looks at our own name as the world finds it.
func (d *patient) name(ctx context.Context, r *Report) {
	name := d.Settings.Hostname
	it := r.on("hostname", name, d.Config.At("hostname").String()).leading(name + " ")
	const say = "say hostname: with the name that the MX record has. It stands in the greeting, in Received, and as authserv-id: fields of that name from outside are removed"
	switch {
	case localName(name):
		it.Warn(say, "is a name that this machine or its network has for itself")
		return
	case d.Config.Hostname == "":
		it.Warn(say, "is the machine's name, as no hostname is configured")
		return
	}
	addrs, err := d.Resolver.LookupNetIP(ctx, "ip", name)
	switch {
	case isNoSuch(err):
		it.Warn("senders cannot find a host of that name: is it misspelt? The MX record's name is what is meant", "has no address in the DNS")
		return
	case err != nil:
		it.Warn("see the name servers above", "could not be looked up: %s", dnsWhy(err))
		return
	}
	var texts, strangers []string
	for i, addr := range addrs {
		texts = append(texts, addr.String())
		if i >= maxOwnAddresses {
			continue
		}
		names, err := d.Resolver.LookupAddr(ctx, addr.String())
		switch {
		case isNoSuch(err):
			strangers = append(strangers, addr.String()+" has no name")
		case err != nil:
			strangers = append(strangers, fmt.Sprintf("the name of %v could not be looked up (%s)", addr, dnsWhy(err)))
		case !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSuffix(n, "."), name) }):
			strangers = append(strangers, fmt.Sprintf("%v is called %s", addr, strings.TrimSuffix(names[0], ".")))
		}
	}
	if len(strangers) > 0 {
		it.Warn("no harm to mail that comes in; a machine that sends under this name will be refused by many. The reverse name is set by whoever gave you the address",
			"is at %s, and the way back does not lead here: %s", strings.Join(texts, ", "), strings.Join(strangers, "; "))
		return
	}
	it.OK("is at %s, and the reverse name leads back", strings.Join(texts, ", "))
}

// maxOwnAddresses bounds the reverse look-ups for our own name.
const maxOwnAddresses = 8

// localName says whether no other machine can mean us by a name.
func localName(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !strings.Contains(name, ".") || net.ParseIP(name) != nil {
		return true
	}
	for _, end := range []string{".localhost", ".localdomain", ".local", ".lan", ".home", ".internal", ".intranet", ".private", ".home.arpa", ".invalid"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}
