package checks

import (
	"context"
	"net/netip"

	"postern/checks/dkim"
	"postern/checks/dnscache"
	"postern/checks/spf"
	"postern/policy"
)

// DomainExamination is what a domain publishes about its own mail, and what is wrong with it. A
// fault is in words, and empty where the record is well or where there is none.
type DomainExamination struct {
	SPF       policy.Result // for the client that was asked about; none: there is no record
	SPFReason string

	DMARC      string // the policy that applies to the domain's mail: none, quarantine, reject; empty: there is no record
	DMARCAt    string // the domain whose record that is
	DMARCFault string // a record that everybody passes over
	Err        error  // DMARC could not be looked up

	Keys []KeyExamination
}

// KeyExamination is a key of DKIM that was looked up.
type KeyExamination struct {
	Selector string
	Found    bool
	Fault    string
	Err      error
}

// ExamineDomain looks at the records of a domain, and at those of the selectors that are named.
// client is a machine that might send its mail.
func ExamineDomain(ctx context.Context, r Resolver, domain string, client netip.Addr, selectors []string) DomainExamination {
	o := spf.Evaluate(ctx, spf.Request{Resolver: r, IP: client, Local: "postmaster", Domain: domain, Helo: domain})
	x := DomainExamination{SPF: o.Result, SPFReason: o.Reason}
	m := &dmarcEvaluation{resolver: r, fetched: map[string]fetched{}}
	rec, applies, err := m.discover(ctx, domain)
	switch {
	case err != nil:
		x.Err = err
	case rec != nil:
		x.DMARC, x.DMARCAt = applies, rec.domain
	}
	if txts, err := r.LookupTXT(ctx, dmarcPrefix+domain); err == nil {
		n := 0
		for _, txt := range txts {
			if isDMARC(txt) {
				n++
				if parseDMARC(txt) == nil {
					x.DMARCFault = "the record cannot be read, and is passed over"
				}
			}
		}
		switch {
		case n > 1:
			x.DMARCFault = "there are several records, and all are passed over"
		case n == 0 && len(txts) > 0:
			x.DMARCFault = "what stands there does not begin with v=DMARC1"
		}
	}
	for _, s := range selectors {
		k := KeyExamination{Selector: s}
		txts, err := r.LookupTXT(ctx, s+"._domainkey."+domain)
		switch {
		case dnscache.IsNotFound(err):
		case err != nil:
			k.Err = err
		default:
			k.Found, k.Fault = true, dkim.KeyFault(txts)
		}
		x.Keys = append(x.Keys, k)
	}
	return x
}
