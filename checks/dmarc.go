package checks

import (
	"context"
	"slices"
	"strings"

	"postern/checks/dnscache"
	"postern/policy"
)

// DMARC evaluates the policy of the author's domain (RFC 9989): found by
// walking up the DNS, not by a list of public suffixes; np, psd and t are
// honoured, pct is no more.
func DMARC(d Deps) Check {
	return Check{
		Name:   "dmarc",
		Doc:    "The DMARC policy of the author's domain, by SPF and DKIM (RFC 9989).",
		Stage:  policy.Message,
		Result: func(f *policy.Facts) *policy.Result { return &f.DMARC.Result },
		needs:  []string{"spf", "dkim"},
		Run: func(ctx context.Context, f *policy.Facts, msg Message) {
			domains, all := authors(f, msg)
			f.DMARC = dmarcOf(ctx, d.Resolver, f, domains, all)
		},
	}
}

// authors returns the domains of the message's authors; not all: there are more
// of them, or none, or they can be read in two ways.
func authors(f *policy.Facts, msg Message) (domains []string, all bool) {
	if f.Header.FromDomain != "" {
		return []string{f.Header.FromDomain}, true
	}
	a := ReadAuthors(msg)
	return a.Domains, a.clear() && len(a.Domains) > 0
}

// dmarcOf evaluates each author's domain and returns the worst result. RFC 9989
// §5.3.1 lets a receiver end at more than one; but then whoever puts an address
// of his own, or rubbish, beside that of his victim would go unjudged (§11.5).
func dmarcOf(ctx context.Context, r Resolver, f *policy.Facts, authors []string, all bool) policy.DMARC {
	worst := policy.DMARC{Result: policy.PermError}
	for i, author := range authors {
		m := dmarcEvaluation{resolver: r, author: author, orgs: map[string]string{}}
		if got := m.run(ctx, f); i == 0 && all || badness(got) > badness(worst) {
			worst = got
		}
	}
	if len(authors) > 1 && worst.Result == policy.None {
		worst.Result = policy.PermError
	}
	return worst
}

// badness orders what may be found of several authors.
func badness(d policy.DMARC) int {
	switch {
	case d.Result == policy.Fail && d.Policy == "reject":
		return 6
	case d.Result == policy.Fail && d.Policy == "quarantine":
		return 5
	case d.Result == policy.TempError:
		return 4
	case d.Result == policy.PermError: // of those that cannot be judged
		return 3
	case d.Result == policy.Fail:
		return 2
	case d.Result == policy.None:
		return 1
	}
	return 0
}

// maxWalk bounds the queries of one walk (RFC 9989 §4.10).
const maxWalk = 8

// dmarcRecord is a policy record that can be used (RFC 9989 §4.7).
type dmarcRecord struct {
	domain     string // where it was found
	p, sp, np  string // none, quarantine or reject; sp and np may be empty
	psd        byte   // y, n, or u
	test       bool   // t=y
	strictDKIM bool
	strictSPF  bool
}

type dmarcEvaluation struct {
	resolver Resolver
	author   string
	orgs     map[string]string // organizational domains found so far
}

func (m *dmarcEvaluation) run(ctx context.Context, f *policy.Facts) policy.DMARC {
	rec, applies, err := m.discover(ctx)
	switch {
	case err != nil:
		return policy.DMARC{Result: policy.TempError}
	case rec == nil:
		return policy.DMARC{Result: policy.None}
	}
	out := policy.DMARC{Result: policy.Fail, Policy: applies, Domain: rec.domain}

	// Each result that may authenticate the author, and whether it did.
	type identifier struct {
		domain string
		strict bool
		result policy.Result
	}
	ids := []identifier{{f.SPF.Domain, rec.strictSPF, f.SPF.Result}}
	for _, d := range f.DKIM.Domains {
		ids = append(ids, identifier{d, rec.strictDKIM, policy.Pass})
	}
	unread := f.DKIM.Result == policy.TempError // which signatures there are is not known
	for _, s := range f.DKIM.Signatures {
		if s.Result == policy.TempError {
			ids, unread = append(ids, identifier{s.Domain, rec.strictDKIM, policy.TempError}), false
		}
	}
	if unread {
		out.Result = policy.TempError
	}
	for _, id := range ids {
		if id.result != policy.Pass && id.result != policy.TempError {
			continue
		}
		aligned, err := m.aligned(ctx, id.domain, id.strict)
		switch {
		case err != nil, aligned && id.result == policy.TempError:
			out.Result = policy.TempError // it might have been a pass; a later identifier may still be
		case aligned:
			out.Result = policy.Pass
			return out
		}
	}
	return out
}

// discover finds the record that applies to the author's domain and the policy
// it asks for (RFC 9989 §4.10.1). No record: nil.
func (m *dmarcEvaluation) discover(ctx context.Context) (rec *dmarcRecord, applies string, err error) {
	own, err := m.fetch(ctx, m.author)
	if err != nil {
		return nil, "", err
	}
	if own != nil {
		return own, own.lowered(own.p), nil
	}
	found, err := m.walk(ctx, m.author)
	if err != nil || len(found) == 0 {
		return nil, "", err
	}
	org := organizational(found, m.author)
	at := slices.IndexFunc(found, func(r *dmarcRecord) bool { return r.domain == org })
	if at < 0 {
		at = len(found) - 1 // none at the organizational domain: that of the public suffix above
	}
	rec = found[at]
	applies = rec.p
	if rec.sp != "" {
		applies = rec.sp
	}
	if rec.np != "" && rec.np != applies {
		// A name that does not exist, as opposed to one without addresses. Where
		// we cannot tell, the milder of the two.
		_, err := m.resolver.LookupNetIP(ctx, "ip4", m.author)
		if err != nil && (dnscache.IsNXDomain(err) || !isNotFound(err) && milder(rec.np, applies)) {
			applies = rec.np
		}
	}
	return rec, rec.lowered(applies), nil
}

// milder says whether policy a asks for less than b.
func milder(a, b string) bool { return a == "none" || a == "quarantine" && b == "reject" }

// lowered is the policy one level down where the record is under test.
func (r *dmarcRecord) lowered(p string) string {
	if !r.test {
		return p
	}
	if p == "reject" {
		return "quarantine"
	}
	return "none"
}

// aligned says whether an authenticated domain belongs with the author's
// (RFC 9989 §4.4).
func (m *dmarcEvaluation) aligned(ctx context.Context, domain string, strict bool) (bool, error) {
	domain, ok := domainName(domain)
	switch {
	case !ok:
		return false, nil
	case domain == m.author:
		return true, nil
	case strict:
		return false, nil
	}
	org, err := m.organizational(ctx, m.author)
	if err != nil || !isSubdomain(domain, org) {
		return false, err // an organizational domain is above its own, or the same
	}
	other, err := m.organizational(ctx, domain)
	return err == nil && other == org, err
}

func (m *dmarcEvaluation) organizational(ctx context.Context, domain string) (string, error) {
	if org, ok := m.orgs[domain]; ok {
		return org, nil
	}
	found, err := m.walk(ctx, domain)
	if err != nil {
		return "", err
	}
	org := organizational(found, domain)
	m.orgs[domain] = org
	return org, nil
}

// organizational picks the organizational domain out of the records found above
// start, nearest first (RFC 9989 §4.10.2).
func organizational(found []*dmarcRecord, start string) string {
	org := start
	for _, r := range found {
		switch {
		case r.psd == 'n':
			return r.domain
		case r.psd == 'y' && r.domain != start:
			// One label below the suffix, on the way down to start.
			below := strings.TrimSuffix(start, "."+r.domain)
			return below[strings.LastIndexByte(below, '.')+1:] + "." + r.domain
		}
		org = r.domain // the last one has the fewest labels
	}
	return org
}

// walk collects the records of domain and those above it, nearest first
// (RFC 9989 §4.10). Deep names are cut to seven labels after the first query,
// so that nobody can have us ask for more than eight names.
func (m *dmarcEvaluation) walk(ctx context.Context, domain string) ([]*dmarcRecord, error) {
	var found []*dmarcRecord
	for range maxWalk {
		rec, err := m.fetch(ctx, domain)
		if err != nil {
			return nil, err
		}
		if rec != nil {
			found = append(found, rec)
			if rec.psd != 'u' {
				break
			}
		}
		labels := strings.Count(domain, ".") + 1
		if labels == 1 {
			break
		}
		for drop := max(1, labels-(maxWalk-1)); drop > 0; drop-- {
			_, domain, _ = strings.Cut(domain, ".")
		}
	}
	return found, nil
}

// fetch returns the one usable record at domain, nil if there is none: several
// are as good as none.
func (m *dmarcEvaluation) fetch(ctx context.Context, domain string) (*dmarcRecord, error) {
	const prefix = "_dmarc."
	if len(prefix)+len(domain) > maxName {
		return nil, nil
	}
	txts, err := m.resolver.LookupTXT(ctx, prefix+domain)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var record string
	n := 0
	for _, txt := range txts {
		if isDMARC(txt) {
			record, n = txt, n+1
		}
	}
	if n != 1 {
		return nil, nil
	}
	rec := parseDMARC(record)
	if rec != nil {
		rec.domain = domain
	}
	return rec, nil
}

// isDMARC says whether a TXT record is of DMARC: the version comes first, and
// its letter case counts (RFC 9989 §4.7).
func isDMARC(txt string) bool {
	version, _, _ := strings.Cut(txt, ";")
	name, value, ok := strings.Cut(version, "=")
	return ok && strings.TrimRight(name, " \t") == "v" && strings.Trim(value, " \t") == "DMARC1"
}

// parseDMARC reads a record; nil: it cannot be used. What is not understood is
// ignored, pct of RFC 7489 with it.
func parseDMARC(txt string) *dmarcRecord {
	rec := &dmarcRecord{p: "none", psd: 'u'}
	var seen []string
	bad, reports := false, false
	for tag := range strings.SplitSeq(txt, ";") {
		name, value, ok := strings.Cut(tag, "=")
		name, value = strings.ToLower(strings.Trim(name, " \t")), strings.Trim(value, " \t")
		if !ok {
			continue
		}
		if slices.Contains(seen, name) {
			return nil // which of the two is meant? (RFC 6376 §3.2)
		}
		if len(seen) < 32 {
			seen = append(seen, name)
		}
		value = strings.ToLower(value)
		switch name {
		case "p", "sp", "np":
			if value != "none" && value != "quarantine" && value != "reject" {
				bad = true
				continue
			}
			switch name {
			case "p":
				rec.p = value
			case "sp":
				rec.sp = value
			case "np":
				rec.np = value
			}
		case "psd":
			if value == "y" || value == "n" {
				rec.psd = value[0]
			}
		case "t":
			rec.test = value == "y"
		case "adkim":
			rec.strictDKIM = value == "s"
		case "aspf":
			rec.strictSPF = value == "s"
		case "rua":
			for uri := range strings.SplitSeq(value, ",") {
				scheme, rest, ok := strings.Cut(strings.Trim(uri, " \t"), ":")
				reports = reports || ok && scheme != "" && rest != ""
			}
		}
	}
	if bad {
		if !reports {
			return nil
		}
		// Somebody reads the reports and will see the mistake: until then, no
		// policy (RFC 9989 §4.10.1).
		rec.p, rec.sp, rec.np = "none", "", ""
	}
	return rec
}
