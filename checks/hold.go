package checks

import (
	"context"
	"time"

	"postern/checks/memory"
	"postern/policy"
)

// Hold looks for a notice of this mail: whether it was held before, from this sender
// to the recipient in question.
func (d Deps) Hold() Check {
	return Check{
		Doc:    "Whether this mail was held before, since when and how often, and whether an operator released it.",
		Result: func(f *policy.Facts) *policy.Result { return &f.Hold.Result },
		waits:  true,
		begin: func(f *policy.Facts, _ Message) (settled bool) {
			f.Hold = policy.Hold{Result: policy.TempError}
			return !d.remembers()
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			n, err := d.Memory.Notice(ctx, NoticeOf(f).ID)
			switch {
			case err != nil: // the memory says what is wrong, once
			case n.First.IsZero():
				f.Hold.Result = policy.None
			default:
				age := max(d.now().Sub(n.First), 0) // the clocks of a fleet may differ
				f.Hold = policy.Hold{Result: policy.Pass, Age: int(age / time.Second), Tries: n.Tries, Released: n.Released, Notice: n.ID}
			}
		},
	}
}

func (d Deps) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}

// NoticeOf is the notice of mail that has not been held yet.
func NoticeOf(f *policy.Facts) memory.Notice {
	who := f.Identity.Domain
	if who == "" {
		who = memory.Network(f.Client.Addr())
	}
	return memory.Notice{
		ID:  memory.NoticeID(MemoryKeys(f).Who, f.Mail.From, f.Rcpt.Address),
		Who: who, From: f.Mail.From, Rcpt: f.Rcpt.Address,
	}
}
