package audit

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"postern/policy"
	"postern/policy/journal"
)

// SenderReport is who sent what, and what came of it.
type SenderReport struct {
	Journal string    `json:"journal"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Total   Traffic   `json:"total"`
	// Identity counts the messages that were passed to a backend or refused, by the
	// proof of who the sender is (identity.level).
	Identity   map[string]int64 `json:"identity"`
	Domains    []*SenderRow     `json:"domains"` // by volume; the last may be all others
	Sources    []*SenderRow     `json:"sources"`
	Systems    []*SenderRow     `json:"systems,omitempty"`   // autonomous systems of the clients, "AS64500", where they are known
	Countries  []*SenderRow     `json:"countries,omitempty"` // the same for countries, "DE"
	Rules      []*SenderRow     `json:"rules"`               // one message counts for each recipient, by the rule that decided on it
	Recipients []*SenderRow     `json:"recipients"`          // the same
	Forwarders []Forwarder      `json:"forwarders"`
	Broken     []broken         `json:"broken"`
	Read       journal.Stats    `json:"read"`
}

// Traffic is how much there was and what was found and decided.
type Traffic struct {
	Messages  int64 `json:"messages"` // transactions
	Bytes     int64 `json:"bytes"`
	Passed    int64 `json:"passed"`
	Tagged    int64 `json:"tagged"`
	Held      int64 `json:"held"`
	Deferred  int64 `json:"deferred"`
	Rejected  int64 `json:"rejected"`
	Delivered int64 `json:"delivered"`
	Observed  int64 `json:"observed"` // of the held, deferred and rejected, those that were not refused: the policy only observed

	SPF       Results `json:"spf"`
	DKIM      Results `json:"dkim"`
	DMARC     Results `json:"dmarc"`
	Submitter Results `json:"submitter"`
	PRA       Results `json:"pra"`
}

// Results counts those of one check. Other are softfail and neutral, Error
// both kinds of error, None what the domain says nothing about; where a check did
// not run it counts nowhere.
type Results struct {
	Pass  int64 `json:"pass"`
	Fail  int64 `json:"fail"`
	Other int64 `json:"other"`
	Error int64 `json:"error"`
	None  int64 `json:"none"`
}

func (t *Results) add(r policy.Result) {
	switch r {
	case policy.Pass:
		t.Pass++
	case policy.Fail:
		t.Fail++
	case policy.SoftFail, policy.Neutral:
		t.Other++
	case policy.TempError, policy.PermError:
		t.Error++
	case policy.None:
		t.None++
	}
}

func (t *Results) merge(u Results) {
	t.Pass += u.Pass
	t.Fail += u.Fail
	t.Other += u.Other
	t.Error += u.Error
	t.None += u.None
}

// add counts a transaction.
func (t *Traffic) add(r *journal.Record) {
	t.Messages++
	t.Bytes += r.Bytes
	switch r.Disposition {
	case journal.DispositionPass:
		t.Passed++
	case journal.DispositionTag:
		t.Tagged++
	case journal.DispositionHold:
		t.Held++
	case journal.DispositionDefer:
		t.Deferred++
	case journal.DispositionReject:
		t.Rejected++
	}
	if r.Outcome == journal.OutcomeDelivered {
		t.Delivered++
	}
	if r.Observed && r.Disposition.Refuses() {
		t.Observed++
	}
	f := &r.Facts
	t.SPF.add(f.SPF.Result)
	t.DKIM.add(f.DKIM.Result)
	t.DMARC.add(f.DMARC.Result)
	t.PRA.add(f.PRA.Result)
	if f.Submitter.Address != "" {
		t.Submitter.add(f.Submitter.Result)
	}
}

func (t *Traffic) merge(u *Traffic) {
	t.Messages += u.Messages
	t.Bytes += u.Bytes
	t.Passed += u.Passed
	t.Tagged += u.Tagged
	t.Held += u.Held
	t.Deferred += u.Deferred
	t.Rejected += u.Rejected
	t.Delivered += u.Delivered
	t.Observed += u.Observed
	t.SPF.merge(u.SPF)
	t.DKIM.merge(u.DKIM)
	t.DMARC.merge(u.DMARC)
	t.Submitter.merge(u.Submitter)
	t.PRA.merge(u.PRA)
}

// Refused counts what the policy would not have.
func (t *Traffic) Refused() int64 { return t.Held + t.Deferred + t.Rejected }

// SenderRow is a domain or a source.
type SenderRow struct {
	Name string `json:"name"`
	// Of a source: its confirmed name, of an autonomous system its holder; empty where it
	// has none or several.
	Host string `json:"host,omitempty"`
	Traffic

	// Of a source: the domains for which it failed SPF and a signature of theirs
	// passed; how often so, and how often SPF failed at all.
	vouched        set
	signed, failed int64
	hosts          set
	others         int64 // how many were added up in it; 0: it is one
	// Of a domain: what is wrong with its record.
	reason string
	errors int64
}

// set holds the first few of what is in it, which is enough to tell many from few.
type set map[string]struct{}

// SetSize is how many are told from many.
const SetSize = 32

func (s *set) add(name string) {
	if *s == nil {
		*s = set{}
	}
	if len(*s) < SetSize {
		(*s)[name] = struct{}{}
	}
}

func (s *set) merge(t set) {
	for name := range t {
		s.add(name)
	}
}

func (s set) names() []string {
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// named is the row that others were added up in.
func (r *SenderRow) named(others int64, what string) *SenderRow {
	r.others, r.Name = others, fmt.Sprintf("(%d other %s)", others, what)
	return r
}

func (r *SenderRow) merge(o *SenderRow) {
	r.Traffic.merge(&o.Traffic)
	r.vouched.merge(o.vouched)
	r.hosts.merge(o.hosts)
	r.signed += o.signed
	r.failed += o.failed
	r.errors += o.errors
	if r.reason == "" {
		r.reason = o.reason
	}
}

// senderTable is rows by name, of which it keeps those with the most mail.
type senderTable struct {
	rows map[string]*SenderRow
	rest SenderRow // what was added up
	cut  int64     // how many rows that were
}

// maxRows is how many rows a table holds. Where there are more, the half with the
// least mail is added up; who comes back later begins anew.
const maxRows = 20000

func (t *senderTable) row(name string) *SenderRow {
	r := t.rows[name]
	if r == nil {
		if t.rows == nil {
			t.rows = map[string]*SenderRow{}
		}
		if len(t.rows) >= maxRows {
			t.shrink(maxRows / 2)
		}
		r = &SenderRow{Name: name}
		t.rows[name] = r
	}
	return r
}

// shrink leaves the n rows with the most mail.
func (t *senderTable) shrink(n int) {
	all := t.sorted()
	for _, r := range all[min(n, len(all)):] {
		t.rest.merge(r)
		t.cut++
		delete(t.rows, r.Name)
	}
	t.rest.vouched, t.rest.hosts = nil, nil // of many sources together they say nothing
}

// sorted returns the rows, those with the most mail first.
func (t *senderTable) sorted() []*SenderRow {
	all := make([]*SenderRow, 0, len(t.rows))
	for _, r := range t.rows {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *SenderRow) int {
		if a.Messages != b.Messages {
			return int(b.Messages - a.Messages)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

func (t *senderTable) merge(u *senderTable) {
	for name, r := range u.rows {
		t.row(name).merge(r)
	}
	t.rest.merge(&u.rest)
	t.cut += u.cut
}

// gathering is what one reader of the journal has found.
type gathering struct {
	networks          bool
	from, to          time.Time
	total             Traffic
	identity          map[string]int64 // messages by identity.level
	domains, sources  senderTable
	systems           senderTable
	countries         senderTable
	rules, recipients senderTable
}

// nullSender stands for the null reverse-path among the domains.
const nullSender = "<>"

func (g *gathering) add(r *journal.Record) {
	if g.from.IsZero() || r.Time.Before(g.from) {
		g.from = r.Time
	}
	if r.Time.After(g.to) {
		g.to = r.Time
	}
	f := &r.Facts
	g.total.add(r)
	g.each(r)
	if i := slices.Index(policy.Levels, f.Identity.Level); i >= 0 && r.Outcome.IsMessage() {
		g.identify(policy.Levels[i], 1)
	}
	name := strings.Clone(f.Mail.Domain) // the record is read into again
	if name == "" {
		name = nullSender
	}
	d := g.domains.row(name)
	d.add(r)
	if f.SPF.Result == policy.PermError {
		d.errors++
		d.reason = brokenTerm(r)
	}
	s := g.sources.row(sourceOf(f.Client.IP, g.networks))
	s.add(r)
	if f.Client.Name != "" {
		s.hosts.add(strings.Clone(f.Client.Name))
	}
	g.located(r)
	if f.SPF.Result == policy.Fail {
		s.failed++
		if domain, ok := vouchedFor(f); ok {
			s.signed++
			s.vouched.add(domain)
		}
	}
}

// located counts a transaction by the network and the country that its client is in.
func (g *gathering) located(r *journal.Record) {
	c := &r.Facts.Client
	if c.ASN != 0 {
		s := g.systems.row(fmt.Sprintf("AS%d", c.ASN))
		s.add(r)
		if c.ASName != "" {
			s.hosts.add(strings.Clone(c.ASName)) // the record is read into again
		}
	}
	if c.Country != "" {
		g.countries.row(strings.Clone(c.Country)).add(r)
	}
}

// brokenTerm is what is wrong with the record. Where the check says only that a term
// leads to nothing, the DNS answers tell which.
func brokenTerm(r *journal.Record) string {
	reason := strings.Clone(r.Facts.SPF.Reason)
	for i := range r.DNS {
		lost := &r.DNS[i]
		if lost.Type != "TXT" || len(lost.Answer) > 0 || lost.LeftOff > 0 {
			continue
		}
		for j := range r.DNS {
			for _, text := range r.DNS[j].Answer {
				for _, term := range []string{"include:" + lost.Name, "redirect=" + lost.Name} {
					if r.DNS[j].Type == "TXT" && slices.Contains(strings.Fields(strings.ToLower(text)), term) {
						return fmt.Sprintf("%s: %q of %s", reason, term, r.DNS[j].Name)
					}
				}
			}
		}
	}
	return reason
}

func (g *gathering) identify(level string, n int64) {
	if g.identity == nil {
		g.identity = map[string]int64{}
	}
	g.identity[level] += n
}

func (g *gathering) merge(h *gathering) {
	if g.from.IsZero() || !h.from.IsZero() && h.from.Before(g.from) {
		g.from = h.from
	}
	if h.to.After(g.to) {
		g.to = h.to
	}
	g.total.merge(&h.total)
	for level, n := range h.identity {
		g.identify(level, n)
	}
	g.domains.merge(&h.domains)
	g.sources.merge(&h.sources)
	g.systems.merge(&h.systems)
	g.countries.merge(&h.countries)
	g.rules.merge(&h.rules)
	g.recipients.merge(&h.recipients)
}

// sourceOf is the address, or the network that goes by one owner as a rule.
func sourceOf(ip string, network bool) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !network {
		return strings.Clone(ip)
	}
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	p, _ := addr.Prefix(bits) // the bits fit
	return p.String()
}

// vouchedFor returns the organization whose signature speaks for the sender.
func vouchedFor(f *policy.Facts) (string, bool) {
	for _, signer := range f.DKIM.Domains {
		org := organization(signer)
		if org == organization(f.Mail.Domain) || org == organization(f.Header.FromDomain) {
			return strings.Clone(org), true
		}
	}
	return "", false
}

// organization is the domain that somebody registered; names that are next to
// each other below it are related.
func organization(domain string) string {
	if org, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
		return org
	}
	return domain
}

// Senders reads the journal.
func Senders(ctx context.Context, dir string, q journal.Query, networks bool, now time.Time) (*SenderReport, error) {
	var all *gathering
	stats, err := inParallel(ctx, dir, q, func() (func(*journal.Record), func()) {
		mine := &gathering{networks: networks}
		return mine.add, func() {
			if all == nil {
				all = mine
			} else {
				all.merge(mine)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if all.total.Messages == 0 {
		return nil, NoRecords(dir, stats)
	}
	r := &SenderReport{Journal: dir, From: all.from, To: all.to, Total: all.total, Identity: all.identity, Read: stats}
	r.Domains, r.Sources = all.domains.list("domains"), all.sources.list("sources")
	r.Systems, r.Countries = all.systems.list("networks"), all.countries.list("countries")
	r.Rules, r.Recipients = all.rules.list("rules"), all.recipients.list("recipients")
	for _, s := range all.sources.sorted() {
		if f, ok := s.forwarder(now); ok {
			r.Forwarders = append(r.Forwarders, f)
		}
	}
	for _, d := range all.domains.sorted() {
		if d.errors > 0 {
			r.Broken = append(r.Broken, broken{Domain: d.Name, Messages: d.errors, Reason: d.reason})
		}
	}
	return r, nil
}

// list is the rows in order, with those that were added up at the end.
func (t *senderTable) list(what string) []*SenderRow {
	all := t.sorted()
	for _, r := range all {
		if names := r.hosts.names(); len(names) == 1 {
			r.Host = names[0]
		}
	}
	if t.cut > 0 {
		all = append(all, t.rest.named(t.cut, what))
	}
	return all
}

// Cut leaves the first n rows of each list, and adds up the others.
func (r *SenderReport) Cut(n int) {
	for what, list := range map[string]*[]*SenderRow{"domains": &r.Domains, "sources": &r.Sources, "networks": &r.Systems, "countries": &r.Countries, "rules": &r.Rules, "recipients": &r.Recipients} {
		if len(*list) <= n+1 {
			continue
		}
		rest := &SenderRow{}
		others := int64(0)
		for _, row := range (*list)[n:] {
			rest.merge(row)
			others += max(1, row.others)
		}
		*list = append((*list)[:n:n], rest.named(others, what))
	}
	r.Forwarders = r.Forwarders[:min(n, len(r.Forwarders))]
	r.Broken = r.Broken[:min(n, len(r.Broken))]
}

// broken is a domain whose SPF record has an error.
type broken struct {
	Domain   string `json:"domain"`
	Messages int64  `json:"messages"`
	Reason   string `json:"reason"` // with the term that breaks
}

// Forwarder is a source that sends other people's mail on.
type Forwarder struct {
	Source   string   `json:"source"`
	Host     string   `json:"host,omitempty"`
	Failed   int64    `json:"spf_failed"`
	Signed   int64    `json:"signed"`  // of these, with a signature that speaks for the sender
	Domains  []string `json:"domains"` // some of those that signed
	Override string   `json:"override"`
}

// What makes a forwarder: it fails SPF for so many organizations whose
// signatures pass, and most of what fails is signed.
const (
	forwardedDomains = 3
	forwardedShare   = 0.5
)

// forwarder says whether the source is one.
func (r *SenderRow) forwarder(now time.Time) (Forwarder, bool) {
	if len(r.vouched) < forwardedDomains || float64(r.signed) < forwardedShare*float64(r.failed) {
		return Forwarder{}, false
	}
	f := Forwarder{Source: r.Name, Host: r.Host, Failed: r.failed, Signed: r.signed, Domains: r.vouched.names()}
	proof := fmt.Sprintf("address: [%q]", r.Name)
	if r.Host != "" {
		// A name outlives a change of address, and is confirmed each time.
		proof = fmt.Sprintf("name: [%q]", r.Host)
	}
	f.Override = fmt.Sprintf(`  - name: forwarder-%s
    proof: {%s}
    excuse: [spf]
    owner: postmaster
    reason: "forwards for %s and others: %d of %d messages that failed SPF bore a good signature (report of %s)"
    until: %s
`, strings.Trim(strings.Map(nameOctet, r.Name), "-"), proof, strings.Join(f.Domains[:min(2, len(f.Domains))], ", "),
		r.signed, r.failed, now.UTC().Format(time.DateOnly), now.UTC().AddDate(1, 0, 0).Format(time.DateOnly))
	return f, true
}

// nameOctet makes an address a part of a name.
func nameOctet(c rune) rune {
	if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' {
		return c
	}
	return '-'
}
