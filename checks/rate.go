package checks

import (
	"context"

	"postern/checks/memory"
	"postern/policy"
)

// Rate asks what came of the client, and of the domain that is proven, within the hour.
func (d Deps) Rate() Check {
	reads := func(fact string) bool { return d.Reads == nil || d.Reads(fact) }
	surge := reads("rate.surge")
	ofDomain := surge || reads("rate.domain")
	return Check{
		Doc:   "What came within the hour: messages of the client, those refused, recipients that the MTA did not know, messages of the proven domain.",
		waits: true,
		begin: func(f *policy.Facts, _ Message) (settled bool) {
			f.Rate = policy.Rate{Result: policy.TempError}
			return !d.remembers()
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			k := MemoryKeys(f)
			if k.Who = (memory.Key{}); surge {
				k.Who = k.Domain
			}
			if !ofDomain {
				k.Domain = memory.Key{}
			}
			r, err := d.Memory.Recall(ctx, k)
			if err != nil {
				return // the memory says what is wrong, once
			}
			f.Rate = policy.Rate{Result: policy.Pass, Messages: r.Client.Messages, Refused: r.Client.Refused, Unknown: r.Client.Unknown, Domain: r.Domain, Surge: r.Surge(d.now())}
			if r.Client == (memory.Rate{}) && r.Domain == 0 {
				f.Rate.Result = policy.None
			}
		},
	}
}
