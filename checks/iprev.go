package checks

import (
	"context"
	"net/netip"
	"slices"

	"postern/checks/dnscache"
	"postern/policy"
)

// maxReverseNames bounds how many names of one address are confirmed, for
// iprev as RFC 7208 §4.6.4 does for ptr: the reverse zone is the client's.
const maxReverseNames = 10

// Iprev looks the client's address up and confirms the name by looking that up
// again (RFC 8601 §2.7.3).
func (d Deps) Iprev() Check {
	return Check{
		Doc:    "The client's reverse name, confirmed by a forward look-up (RFC 8601 §2.7.3).",
		Uses:   AuthenticationResults | ClientName,
		stands: true,
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			f.Iprev = iprev(ctx, d.Resolver, f.Client)
		},
	}
}

// iprev returns the first confirmed name of a client, and the first that is published.
// Permerror: none is. Fail: names are, and none leads back. Temperror: a look-up
// failed before any name was confirmed; without a published name it was that for
// the names.
func iprev(ctx context.Context, r Resolver, client policy.Client) (found policy.Iprev) {
	ip := client.Addr()
	found.Result = policy.PermError
	if !ip.IsValid() {
		return found
	}
	names, err := r.LookupAddr(ctx, client.IP)
	switch {
	case dnscache.IsNotFound(err) || err == nil && len(names) == 0:
		return found
	case err != nil:
		found.Result = policy.TempError
		return found
	}
	found.Result = policy.Fail
	for _, n := range names[:min(len(names), maxReverseNames)] {
		name, ok := domainName(n)
		if !ok {
			continue // NOT: shown to anyone. A reverse zone may hold any octet.
		}
		if found.Reverse == "" {
			found.Reverse = name
		}
		addrs, err := r.LookupNetIP(ctx, dnscache.Network(ip), name)
		if err != nil && !dnscache.IsNotFound(err) {
			found.Result = policy.TempError
			continue
		}
		if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == ip.Unmap() }) {
			found.Name, found.Reverse, found.Result = name, name, policy.Pass
			return found
		}
	}
	return found
}
