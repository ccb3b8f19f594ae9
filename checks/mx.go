package checks

import (
	"context"
	"net"
	"slices"
	"strings"

	"postern/checks/dnscache"
	"postern/policy"
)

// MX asks whether the domain of MAIL FROM takes mail, as somebody must be told
// if this message cannot be delivered (RFC 5321 §5.1, RFC 7505).
//
// It asks for MX, and where there are none for A and then AAAA. NOT: for the
// addresses of the exchangers. Their names are the sender's to choose, and that a
// host is missing from the DNS today says nothing of the mail of next week.
func (d Deps) MX() Check {
	return Check{
		Doc: "Whether the domain of MAIL FROM takes mail: by MX or by address, or not by a null MX (RFC 5321 §5.1, RFC 7505).",
		begin: func(f *policy.Facts, _ Message) bool {
			f.MX = policy.MX{Result: policy.Skipped}
			switch _, ok := checkable(f.Mail.Domain); {
			case f.Mail.From == "":
				f.MX = policy.MX{Result: policy.None, Reason: "the reverse-path is null"}
			case strings.HasPrefix(f.Mail.Domain, "["):
				f.MX = policy.MX{Result: policy.None, Reason: "an address literal is no domain"}
			case !ok:
				// NOT: asked for. What the rest of the world cannot look up
				// ("localhost") takes no mail from it (RFC 5321 §2.3.5).
				f.MX = policy.MX{Result: policy.PermError, Reason: reasonMalformed}
			default:
				return false
			}
			return true
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			domain, _ := checkable(f.Mail.Domain)
			f.MX = takesMail(ctx, d.Resolver, domain)
		},
	}
}

// takesMail asks for the mail exchangers of a domain. Pass: there are some, or an
// address in their place. Fail: a null MX. Permerror: neither. Temperror: a
// look-up failed before anything was found.
func takesMail(ctx context.Context, r Resolver, domain string) policy.MX {
	mxs, err := r.LookupMX(ctx, domain)
	switch {
	case dnscache.IsNXDomain(err):
		return policy.MX{Result: policy.PermError, Reason: "no such domain"}
	case dnscache.IsNotFound(err) || err == nil && len(mxs) == 0:
		return implicitMX(ctx, r, domain)
	case err != nil:
		return policy.MX{Result: policy.TempError, Reason: lookupFailed("MX ", domain)}
	case slices.ContainsFunc(mxs, func(mx *net.MX) bool { return mx.Host != "." }):
		// RFC 7505 §3 lets nothing stand beside a null MX. Where something does
		// the domain is in error, and has said where its mail goes.
		return policy.MX{Result: policy.Pass}
	case len(mxs) == 1 && mxs[0].Pref == 0:
		return policy.MX{Result: policy.Fail, Reason: "null MX"}
	}
	// The root with another preference, or more than once: no null MX, and no host.
	// NOT: by address, which counts only where there is no MX at all (RFC 5321 §5.1).
	return policy.MX{Result: policy.PermError, Reason: "MX without a host"}
}

// implicitMX asks for the address that stands in for the MX of a domain without
// (RFC 5321 §5.1). One is enough, so most domains cost one query.
func implicitMX(ctx context.Context, r Resolver, domain string) policy.MX {
	trouble := ""
	for _, q := range [...]struct{ network, rrtype string }{{"ip4", "A "}, {"ip6", "AAAA "}} {
		addrs, err := r.LookupNetIP(ctx, q.network, domain)
		switch {
		case len(addrs) > 0:
			return policy.MX{Result: policy.Pass, Reason: "no MX, but an address"}
		case err != nil && !dnscache.IsNotFound(err) && trouble == "":
			trouble = lookupFailed(q.rrtype, domain)
		}
	}
	if trouble != "" {
		return policy.MX{Result: policy.TempError, Reason: trouble}
	}
	return policy.MX{Result: policy.PermError, Reason: "neither MX nor address"}
}

func lookupFailed(rrtype, name string) string { return "look-up failed: " + rrtype + name }
