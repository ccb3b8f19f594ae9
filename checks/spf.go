package checks

import (
	"context"
	"strings"

	"postern/policy"
)

// SPF asks whether the client may use the domain of MAIL FROM, or of its HELO
// where the reverse-path is null (RFC 7208 §2.4).
func SPF(d Deps) Check {
	return Check{
		Name:   "spf",
		Doc:    "SPF for MAIL FROM, or for postmaster@HELO if that is <> (RFC 7208).",
		Stage:  policy.Mail,
		Result: func(f *policy.Facts) *policy.Result { return &f.SPF.Result },
		trivial: func(f *policy.Facts, _ Message) bool {
			id, which := spfIdentity(f)
			f.SPF.Domain, f.SPF.Identity = id.domain, which
			return none(f, &id, &f.SPF.Result, &f.SPF.Reason)
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			id, which := spfIdentity(f)
			f.SPF.Domain, f.SPF.Identity = id.domain, which
			if none(f, &id, &f.SPF.Result, &f.SPF.Reason) {
				return
			}
			e := newEvaluation(d, f, id, scopeSPF)
			o := e.run(ctx)
			f.SPF.Result, f.SPF.Reason = o.result, printable(o.reason, maxReason)
			if o.result == policy.Fail {
				f.SPF.Explanation = e.explanation(ctx)
			}
		},
	}
}

// SPFHelo asks the same for the HELO domain, whatever MAIL FROM is
// (RFC 7208 §2.3).
func SPFHelo(d Deps) Check {
	return Check{
		Name:   "spf_helo",
		Doc:    "SPF for the HELO domain (RFC 7208 §2.3).",
		Stage:  policy.Mail,
		Result: func(f *policy.Facts) *policy.Result { return &f.SPFHelo.Result },
		trivial: func(f *policy.Facts, _ Message) bool {
			id := identity{postmaster, f.Helo.Domain}
			f.SPFHelo.Domain = id.domain
			return none(f, &id, &f.SPFHelo.Result, &f.SPFHelo.Reason)
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			id := identity{postmaster, f.Helo.Domain}
			f.SPFHelo.Domain = id.domain
			if none(f, &id, &f.SPFHelo.Result, &f.SPFHelo.Reason) {
				return
			}
			o := newEvaluation(d, f, id, scopeSPF).run(ctx)
			f.SPFHelo.Result, f.SPFHelo.Reason = o.result, printable(o.reason, maxReason)
		},
	}
}

const (
	postmaster = "postmaster" // stands in for a missing local part (RFC 7208 §4.3)
	maxReason  = 500          // octets of a reason
)

// spfIdentity is the identity that the transaction is judged by.
func spfIdentity(f *policy.Facts) (id identity, which string) {
	if f.Mail.From == "" {
		return identity{postmaster, f.Helo.Domain}, "helo"
	}
	return newIdentity(f.Mail.From, f.Mail.Domain), "mailfrom"
}

// newIdentity takes the local part from an address. It is cut at the last "@":
// one inside quotes is the local part's own.
func newIdentity(address, domain string) identity {
	local := address
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		local = address[:at]
	}
	if local == "" {
		local = postmaster
	}
	return identity{local, domain}
}

// none settles an identity whose domain nobody can publish anything for: a
// literal, a single label, a name the DNS cannot hold (RFC 7208 §4.3). Else it
// leaves id's domain in the form that is asked for.
func none(f *policy.Facts, id *identity, result *policy.Result, reason *string) bool {
	domain, ok := checkable(id.domain)
	switch {
	case !ok:
		*result, *reason = policy.None, "Malformed Domain"
	case !f.Client.Addr().IsValid():
		*result, *reason = policy.None, "the client has no IP address"
	default:
		id.domain = domain
		return false
	}
	return true
}

func newEvaluation(d Deps, f *policy.Facts, id identity, s scope) *evaluation {
	helo := f.Helo.Domain
	if helo == "" {
		helo = f.Helo.Name // %{h} is whatever was said; what comes of it in a name is checked then
	}
	return &evaluation{
		resolver: d.Resolver, scope: s, ip: f.Client.Addr().Unmap().WithZone(""),
		id: id, helo: helo, hostname: d.Hostname,
	}
}
