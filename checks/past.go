package checks

import (
	"context"

	"postern/checks/memory"
	"postern/policy"
)

// Past asks what this site remembers of the sender.
func (d Deps) Past() Check {
	return Check{
		Doc:   "What this site remembers of the sender: for how many days it is known, messages delivered and refused.",
		waits: true,
		begin: func(f *policy.Facts, _ Message) (settled bool) {
			f.Past = policy.Past{Result: policy.TempError}
			return !d.remembers()
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			r, err := d.Memory.Recall(ctx, memory.Keys{Who: MemoryKeys(f).Who})
			if err != nil {
				return // the memory says what is wrong, once
			}
			f.Past = policy.Past{Result: policy.Pass, Days: r.Past.Days(d.now()), Delivered: r.Past.Delivered, Refused: r.Past.Refused}
			if r.Past.First.IsZero() {
				f.Past.Result = policy.None
			}
		},
	}
}

// remembers says whether there is any use in asking what lasts between sessions.
func (d Deps) remembers() bool { return d.Memory != nil && d.Memory.Healthy() }
