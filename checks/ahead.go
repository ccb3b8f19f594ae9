package checks

import (
	"context"

	"postern/policy"
)

// asksAhead is a resolver that can be asked for what will be wanted later, so that the
// answer is on its way while something else is waited for.
type asksAhead interface {
	AheadTXT(ctx context.Context, name string)
	AheadAddr(ctx context.Context, addr string) (asked bool)
}

// Expect asks ahead for what stage mail will want to know of a client who has said HELO, on
// behalf of his first message, whose context is ctx, and says whether it did. It waits for nothing.
//
// NOT: when he connects. Many who connect say nothing that is of interest.
func (s *Set) Expect(ctx context.Context, c policy.Client) (asked bool) {
	return s.ahead != nil && c.User == "" && s.Wants("iprev") && s.ahead.AheadAddr(ctx, c.IP)
}

// expectAuthor asks ahead for the DMARC record of the domain of MAIL FROM, which most often is
// the author's, when something is waited for at stage mail anyway: so a domain that is new to us
// costs one wait, and not another one when its header has come.
//
// NOT: where everything was at hand. Then the domain is known, and its record most often with it.
func (s *Set) expectAuthor(ctx context.Context, st policy.Stage, f *policy.Facts) {
	if st != policy.Mail || s.ahead == nil || f.Client.User != "" || !s.Wants("dmarc") {
		return
	}
	if domain, ok := checkable(f.Mail.Domain); ok && f.Mail.From != "" {
		s.ahead.AheadTXT(ctx, dmarcPrefix+domain)
	}
}
