package doctor

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"postern/checks"
	"postern/cmd/postern/service"
	"postern/cmd/postern/view"
	"postern/policy"
	"postern/policy/journal"
)

// The bounds of what is asked about domains of the site.
const (
	maxDomains   = 8
	maxSelectors = 5 // of one domain
)

// domains looks at what the site's own domains publish: where their mail goes, what senders are told to verify
// (MTA-STS, DANE), and whether their own mail would be let in here.
func (d *patient) domains(ctx context.Context, r *Report) {
	names := d.siteDomains(ctx)
	if len(names) == 0 {
		r.on("domain", "", "").OK("which domains are yours cannot be told: routes names none, and %s has no MX record that leads here", parentOf(d.Settings.Hostname))
	}
	var recent []journal.Record
	if d.Config.Journal.Path != "" {
		recent, _ = journal.Tail(d.Config.Journal.Path, tailRecords) // without it no selector is known
	}
	own := make([]Report, len(names)+1)
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			d.mailServers(ctx, &own[i], name)
			d.transportPolicy(ctx, &own[i], name)
			d.ownMail(ctx, &own[i], name, selectorsOf(recent, name))
		})
	}
	wg.Go(func() { d.dane(ctx, &own[len(names)]) })
	wg.Wait()
	r.join(own...)
}

// siteDomains are the domains of the routes, and the one above our name where its mail comes here.
func (d *patient) siteDomains(ctx context.Context) (names []string) {
	add := func(name string) {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name != "" && !slices.Contains(names, name) && len(names) < maxDomains {
			names = append(names, name)
		}
	}
	for _, route := range d.Config.Routes {
		for _, to := range route.Recipients {
			if _, domain, ok := strings.Cut(to, "@"); ok {
				to = domain
			}
			if !strings.HasPrefix(to, "*") && !strings.HasPrefix(to, ".") {
				add(to)
			}
		}
	}
	name := d.Settings.Hostname
	if localName(name) {
		return names
	}
	for _, candidate := range []string{parentOf(name), name} {
		if mx, err := d.Resolver.LookupMX(ctx, candidate); err == nil && slices.ContainsFunc(hosts(mx), func(h string) bool { return strings.EqualFold(h, name) }) {
			add(candidate)
		}
	}
	return names
}

func parentOf(name string) string {
	_, parent, _ := strings.Cut(strings.ToLower(name), ".")
	return parent
}

// mailServers says whether the domain's mail comes to us.
func (d *patient) mailServers(ctx context.Context, r *Report, domain string) {
	it := r.on("domain", domain, "")
	mx, err := d.Resolver.LookupMX(ctx, domain)
	all := hosts(mx)
	switch {
	case isNoSuch(err):
		it.Warn("publish one: it names the host that takes the domain's mail, which is hostname here", "%s has no MX record", domain)
	case err != nil:
		it.Warn("see the name servers above", "the MX record of %s could not be looked up: %s", domain, dnsWhy(err))
	case !slices.ContainsFunc(all, func(h string) bool { return strings.EqualFold(h, d.Settings.Hostname) }):
		it.Warn("right where another host passes it on to this one; else say hostname: with the name that the MX record has, or change the record",
			"mail for %s goes to %s, and not to %s", domain, strings.Join(all, ", "), d.Settings.Hostname)
	default:
		it.OK("mail for %s goes to %s", domain, strings.Join(all, ", "))
	}
}

// ownMail says what the site's own rules would make of the domain's mail: what a domain
// publishes about itself wrongly hurts it everywhere, and here first.
func (d *patient) ownMail(ctx context.Context, r *Report, domain string, selectors []string) {
	it := r.on("domain.records", domain, "")
	client, known := d.ownAddress(ctx)
	x := checks.ExamineDomain(ctx, d.Resolver, domain, client, selectors)
	told := len(r.Findings)

	switch rule := d.refuses(domain, x, policy.PermError); {
	case x.SPF == policy.None:
		it.Warn("publish one that lists every server that sends for it, and ends in -all or ~all; v=spf1 -all where nobody does", "%s has no SPF record: anybody can use its name, here as well", domain)
	case x.SPF == policy.PermError && rule != "":
		it.Fault("correct it: until then mail of your own is refused, here and elsewhere", "the SPF record of %s is broken (%s), and rule %s refuses what comes under its name", domain, x.SPFReason, rule)
	case x.SPF == policy.PermError:
		it.Warn("correct it: others refuse mail for that", "the SPF record of %s is broken: %s", domain, x.SPFReason)
	case x.SPF == policy.TempError:
		it.Warn("see the name servers above", "the SPF record of %s could not be looked up: %s", domain, x.SPFReason)
	}
	switch {
	case x.DMARCFault != "":
		it.Warn("correct it: v=DMARC1; p=none to look, quarantine or reject to be obeyed", "_dmarc.%s: %s", domain, x.DMARCFault)
	case x.Err != nil:
		it.Warn("see the name servers above", "the DMARC record of %s could not be looked up: %s", domain, dnsWhy(x.Err))
	case x.DMARC == "" && x.DMARCAt == "":
		it.Warn("publish v=DMARC1; p=none; rua=mailto:... to begin with", "%s has no DMARC record: a forged From is refused nowhere", domain)
	}
	for _, k := range x.Keys {
		switch name := k.Selector + "._domainkey." + domain; {
		case k.Err != nil:
			it.Warn("see the name servers above", "%s could not be looked up: %s", name, dnsWhy(k.Err))
		case !k.Found:
			it.Warn("publish it, or have the signer use a selector that is published; mail that was signed by it lately counts as unsigned", "%s has no key, and mail of %s was signed by it", name, domain)
		case k.Fault != "":
			it.Warn("publish a key of 2048 bits: no signature verifies by this one", "%s: %s", name, k.Fault)
		}
	}
	if rule := d.refuses(domain, x, x.SPF); known && x.SPF == policy.Fail && rule != "" {
		it.Warn("list it, if it sends: with a signature of the domain's own (DKIM) DMARC lets it pass all the same",
			"unsigned mail of %s from this machine's own address %v would be refused by rule %s, since its SPF record does not list it", domain, client, rule)
	}
	if len(r.Findings) == told {
		it.OK("%s has an SPF record, DMARC with p=%s, and %s that were seen: all can be read", domain, x.DMARC, view.Counted(len(x.Keys), "DKIM key"))
	}
}

// ownAddress is an address of the host that we are called by: what sends from there is ours.
func (d *patient) ownAddress(ctx context.Context) (a netip.Addr, known bool) {
	if addrs, err := d.Resolver.LookupNetIP(ctx, "ip", d.Settings.Hostname); err == nil && len(addrs) > 0 {
		return addrs[0].Unmap(), true
	}
	return netip.MustParseAddr("192.0.2.1"), false // of documentation: whether the record can be read does not depend on it
}

// refuses names the rule by which unsigned mail of the domain would be refused where SPF comes
// to that result; empty: none.
func (d *patient) refuses(domain string, x checks.DomainExamination, spf policy.Result) string {
	from := "postmaster@" + domain
	var f policy.Facts
	f.Client.IP, f.Helo.Name, f.Helo.Domain = "192.0.2.1", domain, domain
	f.Mail.From, f.Mail.Domain = from, domain
	f.SPF.Result, f.SPF.Domain, f.SPF.Identity = spf, domain, "mailfrom"
	f.MX.Result, f.Iprev.Result, f.SPFHelo.Result = policy.Pass, policy.Pass, spf
	f.Submitter.Result, f.PRA.Result, f.PRA.Address, f.PRA.Domain = policy.None, policy.None, from, domain
	f.Rcpt.Address, f.Rcpt.Domain = "somebody@"+domain, domain
	f.DNS.Healthy, f.State.Healthy = true, true
	f.Header.FromDomain, f.Header.Author, f.Header.FromCount = domain, "one", 1
	f.DKIM.Result = policy.None
	f.DMARC.Result, f.DMARC.Policy, f.DMARC.Domain = policy.None, x.DMARC, x.DMARCAt
	if x.DMARC != "" {
		if f.DMARC.Result = policy.Fail; spf == policy.Pass {
			f.DMARC.Result = policy.Pass
		}
	}
	if v := d.Rules.Chain.Decide(policy.Message, &f); v.Disposition == policy.DispositionReject {
		return v.Rule
	}
	return ""
}

// selectorsOf are those by which mail of the domain was signed lately, as the journal has it.
func selectorsOf(records []journal.Record, domain string) (names []string) {
	for i := range records {
		for _, s := range records[i].Facts.DKIM.Signatures {
			if s.Domain == domain && s.Selector != "" && !slices.Contains(names, s.Selector) && len(names) < maxSelectors {
				names = append(names, s.Selector)
			}
		}
	}
	return names
}

// dane compares what the DNS says of our certificate (RFC 6698, RFC 7672) with what is served.
func (d *patient) dane(ctx context.Context, r *Report) {
	name := d.Settings.Hostname
	if localName(name) || !service.OffersTLS(d.Config) {
		return
	}
	it := r.on("dane", name, "")
	records, authentic, err := d.Resolver.LookupTLSA(ctx, "_25._tcp."+name)
	switch {
	case err != nil:
		it.Warn("see the name servers above", "the TLSA records of %s could not be looked up: %s", name, dnsWhy(err))
	case len(records) == 0:
		it.OK("%s has no TLSA record: senders with DANE verify nothing", name)
	case !authentic:
		it.Warn("senders go by signed records alone: sign the zone; or this resolver does not validate, which an Unbound of your own does",
			"%s has %s, and the resolver does not say (AD) that they are signed", name, view.Counted(len(records), "TLSA record"))
	default:
		judgeTLSA(it, records, d.Certificates.Served(name), name)
	}
}
