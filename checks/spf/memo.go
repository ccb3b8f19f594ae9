package spf

import (
	"context"
	"net/netip"
	"strings"

	"postern/checks/memo"
	"postern/policy"
)

// Memo remembers what evaluations came to, see memo.Memo. nil remembers nothing.
type Memo memo.Memo[identified, Outcome]

// identified is all that an evaluation depends on besides answers, where no record
// of it has a macro.
type identified struct {
	scope  Scope
	ip     netip.Addr
	domain string
}

// NewMemo returns an empty Memo.
func NewMemo() *Memo { return (*Memo)(memo.New[identified, Outcome]()) }

// Evaluate is Evaluate, with the same outcome.
func (m *Memo) Evaluate(ctx context.Context, r Request) Outcome {
	if m == nil {
		return Evaluate(ctx, r)
	}
	known := (*memo.Memo[identified, Outcome])(m)
	who := identified{r.Scope, r.IP.Unmap().WithZone(""), r.Domain}
	if o, ok := known.Known(ctx, r.Resolver, who); ok {
		return o
	}
	w := memo.NewWitness(r.Resolver)
	r.Resolver = w
	o := Evaluate(ctx, r)
	// The explanation of a fail has macros, what is no answer is no foundation, and a macro may
	// name the sender, the time, or whatever else is not in identified.
	if o.Result != policy.Fail && o.Result != policy.TempError && !w.Saw('%') {
		kept := o
		kept.of = nil
		who.domain = strings.Clone(who.domain)
		known.Keep(who, kept, len(who.domain)+len(kept.Reason), w)
	}
	return o
}
