package checks

import (
	"context"

	"postern/policy"
)

// Network looks up to which network the client's address belongs.
func (d Deps) Network() Check {
	return Check{
		Doc:      "The client's autonomous system and country, by the files of checks.geo.",
		forRules: d.Networks == nil,
		// It asks nobody, so it is done with where others begin.
		begin: func(f *policy.Facts, _ Message) (settled bool) {
			f.Network.Result = policy.TempError
			f.Client.ASN, f.Client.ASName, f.Client.Country = 0, "", ""
			if d.Networks == nil {
				return true
			}
			found, ok := d.Networks.Lookup(f.Client.Addr())
			switch {
			case !ok:
			case found.ASN == 0 && found.Name == "" && found.Country == "":
				f.Network.Result = policy.None
			default:
				f.Network.Result = policy.Pass
				f.Client.ASN, f.Client.ASName, f.Client.Country = found.ASN, found.Name, found.Country
			}
			return true
		},
		Run: func(context.Context, *policy.Facts, Message) {},
	}
}
