package checks

import (
	"context"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"postern/checks/dnscache"
	"postern/checks/memo"
	"postern/policy"
	"postern/proxy/smtp"
)

// DMARC evaluates the policy of the author's domain (RFC 9989): found by
// walking up the DNS, not by a list of public suffixes; np, psd and t are
// honoured, pct is no more.
//
// Temperror says that an answer which did not come might have made a pass of it,
// or that the policy could not be learned, never more: a fail that nothing could
// have turned stays one. The policy is there with a temperror as well, where it is known.
func (d Deps) DMARC() Check {
	return Check{
		Doc:    "The DMARC policy of the author's domain, by SPF and DKIM (RFC 9989).",
		stands: true,
		Run: func(ctx context.Context, f *policy.Facts, msg Message) {
			if author := f.Header.FromDomain; author != "" {
				f.DMARC = dmarcOf(ctx, d, f, author)
				return
			}
			a := ReadAuthors(msg)
			f.DMARC = dmarcOfAll(ctx, d, f, a.Domains, a.clear())
		},
	}
}

// dmarcOf evaluates the domain of a message's only author, who is known.
func dmarcOf(ctx context.Context, d Deps, f *policy.Facts, author string) policy.DMARC {
	var room [maxAligning]identifier
	ids, unread := identifiersOf(f, room[:0])
	of := aligning{author: author, count: len(ids), unread: unread, refusedBySPF: f.SPF.Result == policy.Fail}
	fits := copy(of.ids[:], ids) == len(ids)
	if fits {
		if known, ok := d.judged.dmarc.Known(ctx, d.Resolver, of); ok {
			return known
		}
	}
	w := memo.NewWitness(d.Resolver)
	m := newDMARCEvaluation(w, f, slices.Clone(ids), unread) // NOT: ids, whose room would be on the heap for all who are known
	found := m.judge(ctx, author)
	if fits {
		of = of.own()
		d.judged.dmarc.Keep(of, found, of.octets()+len(found.Domain), w)
	}
	return found
}

// maxAligning is how many identifiers a message may have for its evaluation to be
// remembered: few have more than that of SPF and two signatures.
const maxAligning = 4

// aligning is all that the evaluation of one author depends on besides answers.
type aligning struct {
	author               string
	ids                  [maxAligning]identifier
	count                int
	unread, refusedBySPF bool
}

// own returns a with texts of its own: those that it came with are parts of a message.
func (a aligning) own() aligning {
	a.author = strings.Clone(a.author)
	for i := range a.ids {
		a.ids[i].domain = strings.Clone(a.ids[i].domain)
	}
	return a
}

// octets are those of its texts.
func (a *aligning) octets() int {
	n := len(a.author)
	for i := range a.ids {
		n += len(a.ids[i].domain)
	}
	return n
}

// dmarcOfAll evaluates each author's domain and returns the worst result; not clear: there
// may be more of them, or they can be read in two ways. RFC 9989
// §5.3.1 lets a receiver end at more than one; but then whoever puts an address
// of his own, or rubbish, beside that of his victim would go unjudged (§11.5).
//
// The domains are judged side by side, in the time of one, and the first that is found
// to be refused ends it: a slow domain beside that of the victim buys nobody time.
func dmarcOfAll(ctx context.Context, d Deps, f *policy.Facts, authors []string, clear bool) policy.DMARC {
	ids, unread := identifiersOf(f, nil)
	m := newDMARCEvaluation(d.Resolver, f, ids, unread)
	found := make([]policy.DMARC, len(authors))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, author := range authors {
		wg.Go(func() {
			// A panic in a goroutine would end the process, not the check.
			defer func() {
				if p := recover(); p != nil {
					d.Log.Error("check panicked", "id", f.ID, "check", "dmarc", "panic", p, "stack", string(debug.Stack()))
					found[i] = policy.DMARC{Result: policy.TempError}
				}
			}()
			found[i] = m.judge(ctx, author)
			if badness(found[i]) == worstOfAll {
				cancel()
			}
		})
	}
	wg.Wait()

	worst := policy.DMARC{Result: policy.PermError}
	for i := range found {
		if i == 0 && clear || badness(found[i]) > badness(worst) {
			worst = found[i]
		}
	}
	if len(authors) > 1 && worst.Result == policy.None {
		worst.Result = policy.PermError
	}
	return worst
}

const worstOfAll = 8

// badness orders what may be found of several authors, by what the built-in
// policy makes of it. What might still turn out to be refused comes before what
// is let in for sure; but not a temperror that could at most come to a
// quarantine before a quarantine that is certain.
func badness(d policy.DMARC) int {
	switch {
	case d.Result == policy.Fail && d.Policy == "reject":
		return worstOfAll
	case d.Result == policy.TempError && d.Policy == "reject":
		return 7
	case d.Result == policy.TempError && d.Policy == "":
		return 6
	case d.Result == policy.Fail && d.Policy == "quarantine":
		return 5
	case d.Result == policy.TempError && d.Policy == "quarantine":
		return 4
	case d.Result == policy.PermError: // the domain cannot be judged
		return 3
	case d.Result == policy.Fail, d.Result == policy.TempError:
		return 2
	case d.Result == policy.None:
		return 1
	}
	return 0
}

// identifier is a domain that may authenticate the author (RFC 9989 §4.4).
type identifier struct {
	domain string
	dkim   bool
	sure   bool // the identifier passed; else its result is temperror, and nobody knows
}

// identifiersOf appends those of a message to ids, the sure ones first. unread: there
// may be others, of which not even the domain is known.
func identifiersOf(f *policy.Facts, ids []identifier) (_ []identifier, unread bool) {
	spf, ok := domainName(f.SPF.Domain)
	if ok && f.SPF.Result == policy.Pass {
		ids = append(ids, identifier{domain: spf, sure: true})
	}
	for _, d := range f.DKIM.Domains {
		if d, ok := domainName(d); ok {
			ids = append(ids, identifier{domain: d, dkim: true, sure: true})
		}
	}
	switch {
	case f.SPF.Result != policy.TempError:
	case ok:
		ids = append(ids, identifier{domain: spf})
	default:
		unread = true
	}
	known := false
	for _, s := range f.DKIM.Signatures {
		if s.Result == policy.TempError {
			known = true
			if d, ok := domainName(s.Domain); ok {
				ids = append(ids, identifier{domain: d, dkim: true})
			}
		}
	}
	return ids, unread || f.DKIM.Result == policy.TempError && !known
}

// dmarcEvaluation is that of one message, for all its authors.
type dmarcEvaluation struct {
	resolver     memo.Resolver
	identifiers  []identifier
	unread       bool // there may be identifiers that are not known
	refusedBySPF bool // so that it matters whether there is a record

	mu      sync.Mutex
	fetched map[string]fetched // by domain, so that what is slow is waited for once
}

// newDMARCEvaluation is told what identifiersOf says.
func newDMARCEvaluation(r memo.Resolver, f *policy.Facts, ids []identifier, unread bool) *dmarcEvaluation {
	return &dmarcEvaluation{resolver: r, identifiers: ids, unread: unread, refusedBySPF: f.SPF.Result == policy.Fail, fetched: map[string]fetched{}}
}

// fetched is what was found at one name.
type fetched struct {
	rec *dmarcRecord
	err error
}

// judge evaluates one author's domain.
func (m *dmarcEvaluation) judge(ctx context.Context, author string) policy.DMARC {
	rec, applies, err := m.discover(ctx, author)
	if err == nil && rec == nil {
		return policy.DMARC{Result: policy.None}
	}
	// The author's own domain is aligned, whatever a record says.
	own := slices.ContainsFunc(m.identifiers, func(id identifier) bool { return id.sure && id.domain == author })
	switch {
	case err != nil && own && !m.refusedBySPF:
		// No policy could refuse this. NOT: where SPF fails, and it is a signature
		// that passed, for a rule may want to know that DMARC excuses it.
		return policy.DMARC{Result: policy.None}
	case err != nil:
		return policy.DMARC{Result: policy.TempError}
	}
	out := policy.DMARC{Result: policy.Fail, Policy: applies, Domain: strings.Clone(rec.domain)}
	switch {
	case own:
		out.Result = policy.Pass
		return out
	case m.unread, applies == "":
		out.Result = policy.TempError
	}
	for _, id := range m.identifiers {
		if !id.sure && out.Result == policy.TempError {
			break // no more is to be learned
		}
		aligned, err := m.aligned(ctx, author, id, rec)
		switch {
		case err != nil, aligned && !id.sure:
			out.Result = policy.TempError // it might have been a pass; a later identifier may still be
		case aligned:
			out.Result = policy.Pass
			return out
		}
	}
	return out
}

// discover finds the record that applies to the author's domain and the policy
// it asks for (RFC 9989 §4.10.1), which is empty where there is a record, but
// which of its policies applies could not be found out. No record: nil.
func (m *dmarcEvaluation) discover(ctx context.Context, author string) (rec *dmarcRecord, applies string, err error) {
	own, err := m.fetch(ctx, author)
	if err != nil {
		return nil, "", err
	}
	if own != nil {
		return own, own.lowered(own.p), nil
	}
	found, err := m.walk(ctx, author)
	if err != nil || len(found) == 0 {
		return nil, "", err
	}
	org := organizational(found, author)
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
		// A name that does not exist, as opposed to one without addresses.
		_, err := m.resolver.LookupNetIP(ctx, "ip4", author)
		switch {
		case dnscache.IsNXDomain(err):
			applies = rec.np
		case err != nil && !dnscache.IsNotFound(err):
			return rec, "", nil
		}
	}
	return rec, rec.lowered(applies), nil
}

// aligned says whether an identifier belongs with the author (RFC 9989 §4.4).
func (m *dmarcEvaluation) aligned(ctx context.Context, author string, id identifier, rec *dmarcRecord) (bool, error) {
	switch {
	case id.domain == author:
		return true, nil
	case id.dkim && rec.strictDKIM, !id.dkim && rec.strictSPF, !related(id.domain, author):
		return false, nil
	}
	org, err := m.organizational(ctx, author)
	if err != nil || !smtp.WithinDomain(id.domain, org) {
		return false, err // an organizational domain is above its own, or the same
	}
	other, err := m.organizational(ctx, id.domain)
	return err == nil && other == org, err
}

// related says whether two names have as much as their last label in common, so
// that there can be an organizational domain above both.
func related(a, b string) bool {
	return a[strings.LastIndexByte(a, '.')+1:] == b[strings.LastIndexByte(b, '.')+1:]
}

func (m *dmarcEvaluation) organizational(ctx context.Context, domain string) (string, error) {
	found, err := m.walk(ctx, domain)
	if err != nil {
		return "", err
	}
	return organizational(found, domain), nil
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

// maxWalk bounds the queries of one walk (RFC 9989 §4.10).
const maxWalk = 8

// walk collects the records of domain and of the domains above it, nearest first
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
// are as good as none. It asks for each name once.
func (m *dmarcEvaluation) fetch(ctx context.Context, domain string) (*dmarcRecord, error) {
	m.mu.Lock()
	got, ok := m.fetched[domain]
	m.mu.Unlock()
	if !ok {
		got.rec, got.err = fetchDMARC(ctx, m.resolver, domain)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.fetched[domain] = got
	}
	return got.rec, got.err
}

// dmarcPrefix stands before a domain where its record is asked for.
const dmarcPrefix = "_dmarc."

func fetchDMARC(ctx context.Context, r memo.Resolver, domain string) (*dmarcRecord, error) {
	if len(dmarcPrefix)+len(domain) > smtp.MaxDomain {
		return nil, nil
	}
	txts, err := r.LookupTXT(ctx, dmarcPrefix+domain)
	if dnscache.IsNotFound(err) {
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
