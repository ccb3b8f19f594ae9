package view

import (
	"fmt"
	"strings"

	"postern/policy"
	"postern/policy/audit"
)

// proofs says in words what the words of identity.level stand for.
var proofs = map[string]string{
	policy.LevelIprev: "the reverse name, which leads back to the address", policy.LevelAMTP: "AMTP",
	policy.LevelSPF: "SPF", policy.LevelSubmitter: "SUBMITTER", policy.LevelTLS: "a certificate of a root that we trust",
}

// remembered says what was known of the sender before, as far as a rule asked.
func remembered(f *policy.Facts) string {
	var parts []string
	switch p := &f.Past; p.Result {
	case policy.Pass:
		parts = append(parts, fmt.Sprintf("known for %s, %d delivered, %d refused", Counted(p.Days, "day"), p.Delivered, p.Refused))
	case policy.None:
		parts = append(parts, "never seen before")
	}
	switch r := &f.Rate; r.Result {
	case policy.Pass:
		parts = append(parts, fmt.Sprintf("within the hour %s of this client, %d refused, %s", Counted(int(r.Messages), "message"), r.Refused, Counted(int(r.Unknown), "unknown recipient")))
		if r.Domain > 0 {
			text := fmt.Sprintf("%d of the domain", r.Domain)
			if r.Surge > 1 {
				text += fmt.Sprintf(", %d times its usual", r.Surge)
			}
			parts = append(parts, text)
		}
	case policy.None:
		parts = append(parts, "nothing within the hour")
	}
	if f.Past.Result == policy.TempError || f.Rate.Result == policy.TempError {
		parts = append(parts, "the store did not tell: rules that hang on it do not match")
	}
	return strings.Join(parts, "; ")
}

// known is the line on how much mail came from senders that are known; empty where no
// record tells.
func known(r *audit.SenderReport) string {
	all := int64(0)
	for _, n := range r.Identity {
		all += n
	}
	if all == 0 {
		return ""
	}
	share := func(n int64) string { return fmt.Sprintf("%d %%", (200*n+all)/(2*all)) }
	var levels []string
	for i := len(policy.Levels) - 1; i > 0; i-- {
		if n := r.Identity[policy.Levels[i]]; n > 0 {
			levels = append(levels, policy.Levels[i]+" "+share(n))
		}
	}
	text := share(all-r.Identity[policy.LevelNone]) + " of mail came from senders that are known"
	if len(levels) > 0 {
		text += ", by level: " + strings.Join(levels, ", ")
	}
	return text
}
