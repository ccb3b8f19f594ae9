package checks

import (
	"context"
	"strings"

	"postern/checks/spf"
	"postern/policy"
	"postern/proxy/smtp"
)

// Reasons of Sender ID, in the words of RFC 4406's forerunners; the replies of
// RFC 4406 §5 repeat them.
const (
	reasonNotPermitted = "Not Permitted"
	reasonNoDomain     = "Domain Does Not Exist"
	reasonMalformed    = "Malformed Domain"
)

// Submitter asks whether the client may send for the domain of the SUBMITTER
// parameter (RFC 4405 §4.2). The result is provisional: it says nothing of the
// header, which the pra check compares.
func (d Deps) Submitter() Check {
	return Check{
		Doc:  "Sender ID for the SUBMITTER parameter, at MAIL (RFC 4405 §4.2).",
		Uses: ReceivedSPF,
		begin: func(f *policy.Facts, _ Message) bool {
			f.Submitter.Reason = ""
			if f.Submitter.Address == "" {
				f.Submitter.Result = policy.None
				return true
			}
			id := newIdentity(f.Submitter.Address, f.Submitter.Domain)
			return none(f, id, &f.Submitter.Result, &f.Submitter.Reason)
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			id := newIdentity(f.Submitter.Address, f.Submitter.Domain)
			f.Submitter.Result, f.Submitter.Reason = senderID(ctx, d, f, id)
		},
	}
}

// PRA determines the Purported Responsible Address of the header (RFC 4407),
// asks whether the client may send for its domain (RFC 4406), and compares it
// with SUBMITTER (RFC 4405 §4.2).
func (d Deps) PRA() Check {
	domainOnly := d.Config.Submitter.Match == "domain"
	return Check{
		Doc:  "Sender ID for the Purported Responsible Address of the header (RFC 4406, 4407).",
		Uses: ReceivedSPF,
		begin: func(f *policy.Facts, msg Message) bool {
			mailbox, _, ok := FindPRA(msg.Header)
			if !ok {
				f.PRA = policy.PRA{Result: policy.PermError, Reason: "no Purported Responsible Address"}
				return true
			}
			address := smtp.Address(mailbox)
			_, domain, _ := cutLast(address, '@')
			f.PRA = policy.PRA{Result: policy.Skipped, Address: address, Domain: domain}
			f.PRA.MatchesSubmitter = sameMailbox(f.Submitter.Address, address, domainOnly)
			if f.Client.User != "" {
				return true // see ofHost
			}
			if none(f, newIdentity(address, domain), &f.PRA.Result, &f.PRA.Reason) {
				return true
			}
			if f.Submitter.Result != policy.Skipped && sameMailbox(f.Submitter.Address, address, false) {
				// Asked at MAIL already. NOT: for an equal domain alone, since a
				// record may look at the local part.
				f.PRA.Result, f.PRA.Reason = f.Submitter.Result, f.Submitter.Reason
				return true
			}
			return false
		},
		Run: func(ctx context.Context, f *policy.Facts, _ Message) {
			id := newIdentity(f.PRA.Address, f.PRA.Domain)
			f.PRA.Result, f.PRA.Reason = senderID(ctx, d, f, id)
		},
	}
}

// senderID evaluates check_host() of RFC 4406 §4 with scope pra.
func senderID(ctx context.Context, d Deps, f *policy.Facts, id identity) (policy.Result, string) {
	o := d.judged.spf.Evaluate(ctx, request(d, f, id, spf.PRA))
	switch {
	case o.NXDomain:
		// A domain that does not exist sends nothing (RFC 4406 §4.3). For the
		// identity's own domain alone: read to the letter the rule would also
		// make an include of a missing domain a mere "no match".
		return policy.Fail, reasonNoDomain
	case o.Result == policy.Fail:
		return policy.Fail, reasonNotPermitted
	}
	return o.Result, printable(o.Reason, maxReason)
}

// sameMailbox compares two addresses: the local part octet by octet once the
// quotes are off, the domain as A-labels without regard to case.
func sameMailbox(a, b string, domainOnly bool) bool {
	aLocal, aDomain := cutAddress(a)
	bLocal, bDomain := cutAddress(b)
	return aDomain != "" && aDomain == bDomain && (domainOnly || aLocal == bLocal)
}

func cutAddress(s string) (local, domain string) {
	local, domain, ok := cutLast(s, '@')
	if !ok {
		return s, ""
	}
	if d, ok := domainName(domain); ok {
		return unquoteLocal(local), d
	}
	return unquoteLocal(local), strings.ToLower(domain)
}

// cutLast cuts s at the last c.
func cutLast(s string, c byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, c); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// HeaderFacts sums up the header section of a message. Like all facts, its texts are no
// parts of the section, which would stay in memory with them.
func HeaderFacts(msg Message) policy.HeaderSum {
	a := ReadAuthors(msg)
	sum := policy.HeaderSum{Author: a.Word, FromCount: a.Fields, Count: len(msg.Header)}
	if a.Word == policy.AuthorOne && len(a.Domains) == 1 {
		sum.FromDomain = strings.Clone(a.Domains[0])
	}
	return sum
}
