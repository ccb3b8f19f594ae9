// Package spf evaluates check_host() for one identity of one client: SPF
// (RFC 7208) and, by its second scope, Sender ID (RFC 4406). A request goes in, an
// outcome comes out; nothing is kept.
package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	library "blitiri.com.ar/go/spf"

	"postern/checks/dnscache"
	"postern/checks/memo"
	"postern/policy"
	"postern/proxy/smtp"
)

// Scope says which records an evaluation reads (RFC 4406 §3.1).
type Scope uint8

// The scopes.
const (
	MailFrom Scope = iota // v=spf1 alone (RFC 7208)
	PRA                   // spf2.0/pra, else v=spf1
)

// Resolver asks the DNS.
type Resolver = memo.Resolver

// Request is one identity of one client.
type Request struct {
	Resolver Resolver
	Scope    Scope
	IP       netip.Addr // of the client
	Local    string     // of the identity, as received: its macros want it so
	Domain   string     // of the identity, as A-labels in lower case, of two labels or more
	Helo     string     // for %{h}
	Hostname string     // our own, for %{r} in explanations (RFC 7208 §7.3); empty: unknown
}

// Outcome is what an evaluation comes to.
type Outcome struct {
	Result   policy.Result // of RFC 7208 §2.6
	Reason   string        // in words; may hold what others wrote
	NXDomain bool          // the identity's domain does not exist

	of *evaluation
}

// Evaluate evaluates a request. It asks no more than RFC 7208 §4.6.4 allows, and
// comes back soon after ctx ends, with temperror where that cut it short.
func Evaluate(ctx context.Context, r Request) Outcome {
	e := newEvaluation(r)
	o := e.run(ctx)
	o.NXDomain, o.of = e.nxdomain, e
	return o
}

// Explanation fetches and expands exp= of the record that failed (RFC 7208
// §6.2): of the one that redirect= led to, never of one included. Whatever goes
// wrong leaves no explanation, and so does a result that is no fail. It may hold
// what others wrote, in any length that a TXT record has.
func (o Outcome) Explanation(ctx context.Context) string {
	if o.Result != policy.Fail || o.of == nil {
		return ""
	}
	return o.of.explanation(ctx)
}

func newEvaluation(r Request) *evaluation {
	return &evaluation{
		resolver: r.Resolver, scope: r.Scope, ip: r.IP.Unmap().WithZone(""),
		id: identity{r.Local, r.Domain}, helo: r.Helo, hostname: r.Hostname,
	}
}

// identity is what a client claims to send as.
type identity struct{ local, domain string }

// evaluation is one run of check_host() (RFC 7208 §4).
//
// The spf package evaluates: the order of terms, qualifiers, include and
// redirect, the limits of §4.6.4. It does not check the whole record, the
// syntax of domains or the scope of Sender ID, and it knows no %{p} and no
// exp=. So it never sees a record or the DNS as they are. evaluation is its
// resolver: it reads each record, hands on a normal form of it, in which every
// name is a number ("a:=3"), and answers the look-up of a number with a plain
// yes or no. Names never travel through the package, so that neither a slash
// nor an odd octet in one can be taken for syntax.
type evaluation struct {
	resolver Resolver
	scope    Scope
	ip       netip.Addr // never IPv4-mapped
	id       identity
	helo     string
	hostname string

	root     *record
	targets  []target
	first    [1]target // where targets begins: many a record has no other
	names    []string  // of ip, confirmed
	reversed bool      // names was asked for
	void     bool      // ... and there are none
	lost     int       // hosts of mx terms that have no address
	nxdomain bool      // the identity's domain does not exist
	trouble  string    // the first look-up that failed: type and name
}

// target is what a number in the normal form stands for.
type target struct {
	rec  *record // that holds the term; nil for the identity's own domain
	term int     // index in rec.terms; -1: its redirect=
	mx   bool    // one of the hosts of an mx term:
	host string  // its name; empty if no query can be composed from it
}

// maxReverseNames bounds how many names of the client are confirmed (RFC 7208
// §4.6.4).
const maxReverseNames = 10

// yes is the address that the package is told the client has. Whether the true
// one matches, and which family it is of, was minded when the question was
// answered.
var (
	yes       = net.IP{192, 0, 2, 1}
	answerYes = []net.IPAddr{{IP: yes}}
	answerNo  = []net.IPAddr{{IP: net.IPv6unspecified}} // an answer, hence no void look-up, that never matches

	// Bare, or the package takes our trouble for the domain's (a permerror).
	errNotFound  = &net.DNSError{Err: "no such record", IsNotFound: true}
	errTemporary = &net.DNSError{Err: "look-up failed", IsTemporary: true}
)

// run evaluates the identity's domain, which the caller has checked.
func (e *evaluation) run(ctx context.Context) Outcome {
	e.targets = e.first[:]
	res, err := library.CheckHostWithSender(yes, "", "@=0", library.WithContext(ctx), library.WithResolver(e))
	if ctx.Err() != nil && e.trouble != "" {
		// A PTR look-up that failed is "no match" (RFC 7208 §5.5), but this one
		// failed because we gave up.
		res = library.TempError
	}
	if e.lost > maxLostHosts {
		res, err = library.PermError, errLostHosts
	}
	switch o := policy.Result(res); o {
	case policy.TempError:
		return Outcome{Result: o, Reason: "look-up failed: " + e.trouble}
	case policy.PermError:
		return Outcome{Result: o, Reason: permErrorReason(err)}
	case policy.None:
		if e.nxdomain {
			return Outcome{Result: o, Reason: "no such domain: " + e.id.domain}
		}
		return Outcome{Result: o, Reason: "no record at " + e.id.domain}
	default:
		return Outcome{Result: o, Reason: e.root.why(e.ip)}
	}
}

// maxLostHosts bounds the look-ups of hosts of mx terms that are answered with
// nothing. RFC 7208 §4.6.4 would end at two terms with such look-ups, which many
// honest domains have whose hosts lack IPv6; without any limit ten mx terms of
// ten hosts each have us ask somebody's name servers for a hundred names that
// they do not have (§11.1).
const maxLostHosts = 10

var errLostHosts = errors.New("more than 10 MX hosts without an address (RFC 7208, 4.6.4)")

// permErrorReason says what is wrong with the records.
func permErrorReason(err error) string {
	switch err {
	case library.ErrLookupLimitReached:
		return "more than 10 terms ask the DNS (RFC 7208, 4.6.4)"
	case library.ErrVoidLookupLimitReached:
		return "more than 2 look-ups were answered with nothing (RFC 7208, 4.6.4)"
	case library.ErrTooManyMXRecords:
		return "more than 10 MX records in one term (RFC 7208, 4.6.4)"
	case errLostHosts:
		return err.Error()
	case library.ErrNoResult:
		return "include or redirect leads to a domain without a record"
	}
	if e, ok := err.(*syntaxError); ok {
		return e.Error()
	}
	return "the record cannot be evaluated"
}

// LookupTXT answers the package's request for a record.
func (e *evaluation) LookupTXT(ctx context.Context, number string) ([]string, error) {
	t := e.target(number)
	name, ok := e.id.domain, true
	if t.rec != nil {
		spec := t.rec.redirect
		if t.term >= 0 {
			spec = t.rec.terms[t.term].spec
		}
		name, ok = e.targetName(ctx, spec, t.rec.domain)
	}
	if !ok {
		return nil, errNotFound // no query can be composed (RFC 7208 §4.3)
	}
	txts, err := e.resolver.LookupTXT(ctx, name)
	if err != nil {
		if t.rec == nil && dnscache.IsNXDomain(err) {
			e.nxdomain = true
		}
		return nil, e.failed(err, "TXT ", name)
	}
	text, n := selectRecord(txts, e.scope)
	switch {
	case n == 0:
		return nil, errNotFound
	case n > 1:
		return nil, &syntaxError{domain: name, text: "more than one record"}
	}
	rec, err := parseRecord(text)
	if err != nil {
		err.(*syntaxError).domain = name
		return nil, err
	}
	rec.domain = name
	switch {
	case t.rec == nil:
		e.root = rec
	case t.term < 0:
		t.rec.redirected = rec
	default:
		t.rec.terms[t.term].included = rec
	}
	return []string{e.normalForm(rec)}, nil
}

// normalForm writes what the package is to evaluate. Addresses were compared
// here, in a form that cannot be misread: ip4 and ip6 terms that do not hold the
// client's are left out, and behind the first term that is sure to match nothing
// can count any more.
func (e *evaluation) normalForm(rec *record) string {
	b := append(make([]byte, 0, 16+12*len(rec.terms)), "v=spf1"...)
	for i := range rec.terms {
		t := &rec.terms[i]
		switch t.mech {
		case mechAll:
			return string(append(b, ' ', t.qualifier, 'a', 'l', 'l'))
		case mechIP4, mechIP6:
			if t.matchesIP(e.ip) {
				b = append(b, ' ', t.qualifier)
				return string(append(b, "ip4:192.0.2.1"...))
			}
		case mechPTR:
			// exists: because the package would compare names itself, and ask
			// again for each of them.
			b = e.number(append(b, ' ', t.qualifier), "exists:", rec, i)
		default:
			b = e.number(append(b, ' ', t.qualifier), mechanismNames[t.mech]+":", rec, i)
		}
	}
	if rec.redirect != "" {
		b = e.number(append(b, ' '), "redirect=", rec, -1)
	}
	return string(b)
}

func (e *evaluation) number(b []byte, term string, rec *record, i int) []byte {
	b = append(append(b, term...), '=')
	b = strconv.AppendInt(b, int64(len(e.targets)), 10)
	e.targets = append(e.targets, target{rec: rec, term: i})
	return b
}

func (e *evaluation) target(number string) target {
	n, _ := strconv.Atoi(number[1:])
	return e.targets[n]
}

// LookupIPAddr answers whether an a, exists or ptr term matches, or one host
// of an mx term.
func (e *evaluation) LookupIPAddr(ctx context.Context, number string) ([]net.IPAddr, error) {
	tg := e.target(number)
	t := &tg.rec.terms[tg.term]
	switch {
	case tg.mx && (t.matched || tg.host == ""):
		return answerNo, nil // matched: another host of the same term did
	case tg.mx:
		addrs, err := e.address(ctx, tg.host, t)
		if err == errNotFound {
			if e.lost++; e.lost > maxLostHosts {
				return nil, errTemporary // which ends the evaluation; run knows better why
			}
		}
		return addrs, err
	}
	name, ok := e.targetName(ctx, t.spec, tg.rec.domain)
	switch {
	case t.mech == mechPTR:
		return e.ptr(ctx, name, t)
	case !ok:
		return nil, errNotFound
	}
	return e.address(ctx, name, t)
}

// address looks name up and compares, as t says.
func (e *evaluation) address(ctx context.Context, name string, t *term) ([]net.IPAddr, error) {
	network, rrtype := "ip4", "A "
	if !e.ip.Is4() && t.mech != mechExists { // exists: always asks for A (RFC 7208 §5.7)
		network, rrtype = "ip6", "AAAA "
	}
	addrs, err := e.resolver.LookupNetIP(ctx, network, name)
	switch {
	case err != nil:
		return nil, e.failed(err, rrtype, name)
	case len(addrs) == 0:
		return nil, errNotFound
	}
	for _, a := range addrs {
		if t.mech == mechExists || t.holds(e.ip, a) {
			t.matched = true
			return answerYes, nil
		}
	}
	return answerNo, nil
}

// LookupMX answers with the hosts of an mx term, as numbers.
func (e *evaluation) LookupMX(ctx context.Context, number string) ([]*net.MX, error) {
	tg := e.target(number)
	name, ok := e.targetName(ctx, tg.rec.terms[tg.term].spec, tg.rec.domain)
	if !ok {
		return nil, errNotFound
	}
	mxs, err := e.resolver.LookupMX(ctx, name)
	if err != nil && len(mxs) == 0 {
		return nil, e.failed(err, "MX ", name)
	}
	out := make([]*net.MX, 0, len(mxs))
	for _, mx := range mxs {
		host := strings.TrimSuffix(mx.Host, ".")
		if !smtp.Askable(host) {
			host = "" // a null MX (RFC 7505), or nonsense
		}
		out = append(out, &net.MX{Host: "=" + strconv.Itoa(len(e.targets))})
		e.targets = append(e.targets, target{rec: tg.rec, term: tg.term, mx: true, host: host})
	}
	return out, nil
}

// LookupAddr is never called: ptr terms are put as exists.
func (e *evaluation) LookupAddr(context.Context, string) ([]string, error) {
	return nil, errNotFound
}

// ptr answers whether a confirmed name of the client is target or below it.
// Errors of the reverse zone, which is the client's, match nothing and are no
// errors of the record (RFC 7208 §5.5).
func (e *evaluation) ptr(ctx context.Context, target string, t *term) ([]net.IPAddr, error) {
	first := !e.reversed
	for _, n := range e.reverseNames(ctx) {
		if smtp.WithinDomain(n, target) {
			t.matched = true
			return answerYes, nil
		}
	}
	if first && e.void {
		return nil, errNotFound
	}
	return answerNo, nil
}

// reverseNames returns the confirmed names of the client, of the first ten.
func (e *evaluation) reverseNames(ctx context.Context) []string {
	if e.reversed {
		return e.names
	}
	e.reversed = true
	names, err := e.resolver.LookupAddr(ctx, e.ip.String())
	if err != nil || len(names) == 0 {
		e.void = e.failed(err, "PTR ", e.ip.String()) == errNotFound
		return nil
	}
	for _, n := range names[:min(len(names), maxReverseNames)] {
		n = strings.TrimSuffix(n, ".")
		if !smtp.Askable(n) {
			continue
		}
		addrs, err := e.resolver.LookupNetIP(ctx, dnscache.Network(e.ip), n)
		if err != nil {
			_ = e.failed(err, "address of ", n)
			continue
		}
		for _, a := range addrs {
			if a.Unmap() == e.ip {
				e.names = append(e.names, n)
				break
			}
		}
	}
	return e.names
}

// validatedName is the value of %{p}: domain itself, else a name below it, else
// any confirmed name (RFC 7208 §7.3).
func (e *evaluation) validatedName(ctx context.Context, domain string) string {
	best := ""
	for _, n := range e.reverseNames(ctx) {
		switch {
		case strings.EqualFold(n, domain):
			return n
		case smtp.WithinDomain(n, domain) && (best == "" || !smtp.WithinDomain(best, domain)), best == "":
			best = n
		}
	}
	if best == "" {
		return "unknown"
	}
	return best
}

// targetName expands a domain-spec. Where it grows too long, labels go from the
// left (RFC 7208 §7.3). Not ok: no query can be composed.
func (e *evaluation) targetName(ctx context.Context, spec, domain string) (string, bool) {
	name := domain
	switch {
	case spec == "":
	case strings.IndexByte(spec, '%') < 0:
		name = spec
	default:
		name = string(e.expandTo(ctx, nil, spec, domain))
	}
	if len(name) > maxExpansion {
		return "", false
	}
	name = strings.TrimSuffix(name, ".")
	for len(name) > smtp.MaxDomain {
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			break
		}
		name = name[dot+1:]
	}
	return name, smtp.Askable(name)
}

// failed turns a resolver's error into the two that the package understands,
// and remembers the first that was trouble.
func (e *evaluation) failed(err error, rrtype, name string) error {
	if err == nil || dnscache.IsNotFound(err) {
		return errNotFound
	}
	if e.trouble == "" {
		e.trouble = rrtype + name
	}
	return errTemporary
}

// explanation is Outcome.Explanation.
func (e *evaluation) explanation(ctx context.Context) string {
	rec := e.root
	for rec.redirected != nil {
		rec = rec.redirected
	}
	if rec.exp == "" {
		return ""
	}
	name, ok := e.targetName(ctx, rec.exp, rec.domain)
	if !ok {
		return ""
	}
	txts, err := e.resolver.LookupTXT(ctx, name)
	if err != nil || len(txts) != 1 {
		return ""
	}
	for i := range len(txts[0]) {
		if c := txts[0][i]; c < 0x20 || c > 0x7e {
			return ""
		}
	}
	if _, err := checkMacroString("", txts[0], true); err != nil {
		return ""
	}
	return string(e.expandTo(ctx, nil, txts[0], rec.domain))
}
