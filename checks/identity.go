package checks

import (
	"strings"

	"postern/checks/memory"
	"postern/policy"
	"postern/proxy/smtp"
)

// strongest is the strongest proof of who the sender is, of those that were measured.
//
// NOT: a check of its own. It asks nobody, and every record tells it.
func strongest(f *policy.Facts) policy.Identity {
	switch {
	case f.TLS.Peer.Verified:
		return policy.Identity{Level: policy.LevelTLS, Domain: certified(f.TLS.Peer.Names)}
	case f.Submitter.Result == policy.Pass:
		return policy.Identity{Level: policy.LevelSubmitter, Domain: f.Submitter.Domain}
	case f.SPF.Result == policy.Pass:
		return policy.Identity{Level: policy.LevelSPF, Domain: f.SPF.Domain}
	case f.Client.Fetched != "":
		return policy.Identity{Level: policy.LevelAMTP, Domain: f.Client.Fetched}
	case f.Client.User != "":
		_, domain, _ := smtp.CutAddress(f.Client.User)
		return policy.Identity{Level: policy.LevelAMTP, Domain: domain}
	case f.Iprev.Result == policy.Pass:
		return policy.Identity{Level: policy.LevelIprev, Domain: f.Iprev.Name}
	}
	return policy.Identity{Level: policy.LevelNone}
}

// certified is the domain that a certificate's names speak for: the first of them.
func certified(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return strings.TrimPrefix(names[0], "*.")
}

// MemoryKeys are what a message is remembered by: the domain that is proven, or where
// there is none the client and its network.
func MemoryKeys(f *policy.Facts) memory.Keys {
	ip := f.Client.Addr()
	k := memory.Keys{Client: memory.ClientKey(ip), Domain: memory.DomainKey(f.Identity.Domain)}
	if k.Who = k.Domain; k.Who.IsZero() {
		k.Who = memory.NetworkKey(ip)
	}
	return k
}
