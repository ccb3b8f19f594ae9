package checks

import (
	"context"
	"time"

	"postern/checks/spf"
	"postern/policy"
)

// SPF asks whether the client may use the domain of MAIL FROM, or of its HELO
// where the reverse-path is null (RFC 7208 §2.4).
func (d Deps) SPF() Check {
	return Check{
		Doc:  "SPF for MAIL FROM, or for postmaster@HELO if that is <> (RFC 7208).",
		Uses: AuthenticationResults | ReceivedSPF,
		begin: func(f *policy.Facts, _ Message) bool {
			id, which := spfIdentity(f)
			f.SPF = policy.SPF{Result: policy.Skipped, Domain: id.domain, Identity: which}
			return none(f, id, &f.SPF.Result, &f.SPF.Reason)
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			id, _ := spfIdentity(f)
			o := d.judged.spf.Evaluate(ctx, request(d, f, id, spf.MailFrom))
			f.SPF.Result, f.SPF.Reason = o.Result, printable(o.Reason, maxReason)
			if o.Result == policy.Fail {
				// A name server that keeps its words back must not use up the time
				// of the check, which would make a temperror of the fail.
				limit := maxExplanationWait
				if end, ok := ctx.Deadline(); ok {
					limit = min(limit, time.Until(end)/2)
				}
				ctx, cancel := context.WithTimeout(ctx, limit)
				defer cancel()
				f.SPF.Explanation = printable(o.Explanation(ctx), maxExplanation)
			}
		},
	}
}

// SPFHelo asks the same for the HELO domain, whatever MAIL FROM is
// (RFC 7208 §2.3).
func (d Deps) SPFHelo() Check {
	return Check{
		Doc:  "SPF for the HELO domain (RFC 7208 §2.3).",
		Uses: AuthenticationResults | ReceivedSPF,
		begin: func(f *policy.Facts, _ Message) bool {
			id := heloIdentity(f)
			f.SPFHelo = policy.SPFHelo{Result: policy.Skipped, Domain: id.domain}
			return none(f, id, &f.SPFHelo.Result, &f.SPFHelo.Reason)
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			o := d.judged.spf.Evaluate(ctx, request(d, f, heloIdentity(f), spf.MailFrom))
			f.SPFHelo.Result, f.SPFHelo.Reason = o.Result, printable(o.Reason, maxReason)
		},
	}
}

const (
	postmaster = "postmaster" // stands in for a missing local part (RFC 7208 §4.3)
	maxReason  = 500          // octets of a reason

	maxExplanationWait = 3 * time.Second
)

// identity is what a client claims to send as: domain as A-labels in lower case,
// local as received.
type identity struct{ local, domain string }

// spfIdentity is the identity that the transaction is judged by, and its name.
func spfIdentity(f *policy.Facts) (id identity, which string) {
	if f.Mail.From == "" {
		return heloIdentity(f), "helo"
	}
	return newIdentity(f.Mail.From, f.Mail.Domain), "mailfrom"
}

func heloIdentity(f *policy.Facts) identity { return newIdentity("", f.Helo.Domain) }

// newIdentity takes the local part from an address. It is cut at the last "@":
// one inside quotes is the local part's own. The domain becomes what DNS is
// asked for, if it is a domain.
func newIdentity(address, domain string) identity {
	local, _, _ := cutLast(address, '@')
	if local == "" {
		local = postmaster
	}
	if d, ok := domainName(domain); ok {
		domain = d
	}
	return identity{local, domain}
}

// none settles an identity whose domain nobody can publish anything for: a
// literal, a single label, a name the DNS cannot hold (RFC 7208 §4.3).
func none(f *policy.Facts, id identity, result *policy.Result, reason *string) bool {
	switch _, ok := checkable(id.domain); {
	case id.domain == "":
		*result, *reason = policy.None, "there is no domain to ask"
	case !ok:
		*result, *reason = policy.None, reasonMalformed
	case !f.Client.Addr().IsValid():
		*result, *reason = policy.None, "the client has no IP address"
	default:
		return false
	}
	return true
}

// request is what the evaluation of an identity wants to know.
func request(d Deps, f *policy.Facts, id identity, s spf.Scope) spf.Request {
	helo := f.Helo.Domain
	if helo == "" {
		helo = f.Helo.Name // %{h} is whatever was said; what comes of it in a name is checked then
	}
	return spf.Request{
		Resolver: d.Resolver, Scope: s, IP: f.Client.Addr(),
		Local: id.local, Domain: id.domain, Helo: helo, Hostname: d.Hostname,
	}
}
