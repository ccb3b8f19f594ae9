package checks

import (
	"context"
	"strings"

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
func Submitter(d Deps) Check {
	return Check{
		Name:   "submitter",
		Doc:    "Sender ID for the SUBMITTER parameter, at MAIL (RFC 4405 §4.2).",
		Stage:  policy.Mail,
		Result: func(f *policy.Facts) *policy.Result { return &f.Submitter.Result },
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
func PRA(d Deps) Check {
	domainOnly := d.Config.Submitter.Match == "domain"
	return Check{
		Name:   "pra",
		Doc:    "Sender ID for the Purported Responsible Address of the header (RFC 4406, 4407).",
		Stage:  policy.Header,
		Result: func(f *policy.Facts) *policy.Result { return &f.PRA.Result },
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
	e := newEvaluation(d, f, id, scopePRA)
	o := e.run(ctx)
	switch {
	case e.nxdomain:
		// A domain that does not exist sends nothing (RFC 4406 §4.3). For the
		// identity's own domain alone: read to the letter the rule would also
		// make an include of a missing domain a mere "no match".
		return policy.Fail, reasonNoDomain
	case o.result == policy.Fail:
		return policy.Fail, reasonNotPermitted
	}
	return o.result, printable(o.reason, maxReason)
}

// selectRecord picks the record of a scope and returns its terms (RFC 7208
// §4.5, RFC 4406 §4.4). n is the number of records left: 0 is none, more than 1
// a permerror.
func selectRecord(txts []string, s scope) (terms string, n int) {
	var v1, v2 string
	var n1, n2 int
	for _, txt := range txts {
		version, rest, _ := strings.Cut(txt, " ")
		switch {
		case strings.EqualFold(version, "v=spf1"):
			v1, n1 = rest, n1+1
		case s == scopePRA && hasScope(version, "pra"):
			v2, n2 = rest, n2+1
		}
	}
	switch {
	case n2 == 1 && n1 <= 1:
		return v2, 1 // it displaces v=spf1
	case n2 == 0 && n1 == 1:
		return v1, 1
	}
	return "", n1 + n2
}

// hasScope says whether version is a well-formed spf2 version that names the
// scope as a whole word (RFC 4406 §3.1). The minor version is not looked at.
func hasScope(version, scope string) bool {
	const prefix = "spf2."
	if len(version) < len(prefix) || !strings.EqualFold(version[:len(prefix)], prefix) {
		return false
	}
	minor, scopes, ok := strings.Cut(version[len(prefix):], "/")
	if !ok || minor == "" || strings.Trim(minor, "0123456789") != "" {
		return false
	}
	found := false
	for s := range strings.SplitSeq(scopes, ",") {
		if !isScopeName(s) {
			return false
		}
		found = found || strings.EqualFold(s, scope)
	}
	return found
}

func isScopeName(s string) bool {
	if s == "" || !isAlpha(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
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

// HeaderFacts sums up the header section of a message.
func HeaderFacts(msg Message) policy.HeaderSum {
	a := ReadAuthors(msg)
	sum := policy.HeaderSum{Author: a.Word, FromCount: a.Fields, Count: len(msg.Header)}
	if a.Word == policy.AuthorOne && len(a.Domains) == 1 {
		sum.FromDomain = a.Domains[0]
	}
	return sum
}
