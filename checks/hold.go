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
		Doc:   "Whether this mail was held before, since when and how often, and whether an operator released it.",
		waits: true,
		begin: func(_ *policy.Facts, msg Message) (settled bool) {
			msg.Rcpt.Hold = policy.Hold{Result: policy.TempError}
			return !d.remembers()
		},
		Run: func(ctx context.Context, f *policy.Facts, msg Message) {
			n, err := d.Memory.Notice(ctx, NoticeOf(f, msg.Rcpt).ID)
			switch {
			case err != nil: // the memory says what is wrong, once
			case n.First.IsZero():
				msg.Rcpt.Hold.Result = policy.None
			default:
				age := max(d.now().Sub(n.First), 0) // the clocks of a fleet may differ
				msg.Rcpt.Hold = policy.Hold{Result: policy.Pass, Age: int(age / time.Second), Tries: n.Tries, Released: n.Released, Notice: n.ID}
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

// NoticeOf is the notice of mail to a recipient that has not been held yet.
func NoticeOf(f *policy.Facts, to *policy.Recipient) memory.Notice {
	who := f.Identity.Domain
	if who == "" {
		who = memory.Network(f.Client.Addr())
	}
	return memory.Notice{
		ID:  memory.NoticeID(MemoryKeys(f).Who, f.Mail.From, to.Rcpt.Address),
		Who: who, From: f.Mail.From, Rcpt: to.Rcpt.Address,
	}
}
