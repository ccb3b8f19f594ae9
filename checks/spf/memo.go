package spf

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"postern/checks/dnscache"
	"postern/policy"
)

const (
	// memoEntries and memoOctets bound a Memo: to 8 MiB where everybody publishes what
	// takes most, and to less than 2 MiB with the records of honest domains.
	memoEntries = 2048
	memoOctets  = 4 << 10
	// memoQuestions is more than the ten of RFC 7208 §4.6.4, since the hosts of an mx term
	// are asked for besides.
	memoQuestions = 24
)

// Memo remembers what evaluations came to, together with the answers that each rests on.
// An evaluation asks the same questions again, in the same order, and heeds the same
// limits; only where each answer is what it was, the outcome is taken as known. So a record
// that changes counts at once, and nothing is remembered for longer than the resolver says.
// Where an answer has changed, the look-ups before it are made, and traced, once more.
//
// It is for use by several goroutines; nil remembers nothing.
type Memo struct {
	known *lru.Cache[identified, *judgement]
}

// identified is all that an evaluation depends on besides answers, where no record
// of it has a macro.
type identified struct {
	scope  Scope
	ip     netip.Addr
	domain string
}

// judgement is an outcome with what it rests on.
type judgement struct {
	outcome Outcome
	asked   []question
}

// NewMemo returns an empty Memo of at most 2,048 outcomes.
func NewMemo() *Memo {
	known, err := lru.New[identified, *judgement](memoEntries)
	if err != nil {
		panic(err) // its only error is a size below 1
	}
	return &Memo{known: known}
}

// Evaluate is Evaluate, with the same outcome.
func (m *Memo) Evaluate(ctx context.Context, r Request) Outcome {
	if m == nil {
		return Evaluate(ctx, r)
	}
	who := identified{r.Scope, r.IP.Unmap().WithZone(""), r.Domain}
	if j, ok := m.known.Get(who); ok && j.holds(ctx, r.Resolver) {
		return j.outcome
	}
	w := &witness{Resolver: r.Resolver, asked: make([]question, 0, 4)}
	r.Resolver = w
	o := Evaluate(ctx, r)
	// The explanation of a fail has macros, and what is no answer is no foundation.
	if o.Result != policy.Fail && o.Result != policy.TempError && w.usable() {
		known := o
		known.of = nil
		m.known.Add(who, &judgement{known, slices.Clip(w.asked)})
	}
	return o
}

// holds asks all questions again, and says whether all answers are the same.
func (j *judgement) holds(ctx context.Context, r Resolver) bool {
	for i := range j.asked {
		if !j.asked[i].holds(ctx, r) {
			return false
		}
	}
	return true
}

// question is a look-up with its answer.
type question struct {
	kind    questionKind
	network string // of addresses
	name    string
	found
}

type questionKind uint8

const (
	askTXT questionKind = iota
	askMX
	askPTR
	askAddress
)

// found is an answer: of texts, hosts and addrs one, or none where nothing is there.
type found struct {
	texts    []string
	hosts    []*net.MX
	addrs    []netip.Addr
	missing  bool
	nxdomain bool
	trouble  bool // it is no answer
}

func (f *found) same(g *found) bool {
	return !f.trouble && !g.trouble && f.missing == g.missing && f.nxdomain == g.nxdomain && slices.Equal(f.texts, g.texts) && slices.Equal(f.addrs, g.addrs) &&
		slices.EqualFunc(f.hosts, g.hosts, func(a, b *net.MX) bool { return *a == *b })
}

// failed notes what an error means.
func (f *found) failed(err error) {
	f.missing = err != nil && dnscache.IsNotFound(err)
	f.nxdomain = f.missing && dnscache.IsNXDomain(err)
	f.trouble = err != nil && !f.missing
}

// size is in octets, about.
func (q *question) size() int {
	n := len(q.name) + 64 + 24*len(q.addrs)
	for _, t := range q.texts {
		n += len(t) + 16
	}
	for _, h := range q.hosts {
		n += len(h.Host) + 32
	}
	return n
}

// holds asks again.
func (q *question) holds(ctx context.Context, r Resolver) bool {
	var now found
	var err error
	switch q.kind {
	case askTXT:
		now.texts, err = r.LookupTXT(ctx, q.name)
	case askMX:
		now.hosts, err = r.LookupMX(ctx, q.name)
	case askPTR:
		now.texts, err = r.LookupAddr(ctx, q.name)
	case askAddress:
		now.addrs, err = r.LookupNetIP(ctx, q.network, q.name)
	}
	now.failed(err)
	return q.same(&now)
}

// witness is a resolver that remembers what it was asked by one evaluation, which asks one
// question after the other.
type witness struct {
	Resolver
	asked []question
	// macros says that a text may name the sender, the time, or whatever else is not in
	// identified.
	macros bool
}

// usable says whether the answers are such that an outcome may rest on them.
func (w *witness) usable() bool {
	if w.macros || len(w.asked) > memoQuestions {
		return false
	}
	size := 0
	for i := range w.asked {
		if w.asked[i].trouble {
			return false
		}
		size += w.asked[i].size()
	}
	return size <= memoOctets
}

func (w *witness) note(q question, err error) {
	if len(w.asked) <= memoQuestions {
		q.failed(err)
		w.asked = append(w.asked, q)
	}
}

// LookupTXT implements Resolver.
func (w *witness) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := w.Resolver.LookupTXT(ctx, name)
	for _, t := range texts {
		w.macros = w.macros || strings.IndexByte(t, '%') >= 0
	}
	w.note(question{kind: askTXT, name: name, found: found{texts: texts}}, err)
	return texts, err
}

// LookupMX implements Resolver.
func (w *witness) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	hosts, err := w.Resolver.LookupMX(ctx, name)
	w.note(question{kind: askMX, name: name, found: found{hosts: hosts}}, err)
	return hosts, err
}

// LookupAddr implements Resolver.
func (w *witness) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	names, err := w.Resolver.LookupAddr(ctx, addr)
	w.note(question{kind: askPTR, name: addr, found: found{texts: names}}, err)
	return names, err
}

// LookupNetIP implements Resolver.
func (w *witness) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, err := w.Resolver.LookupNetIP(ctx, network, host)
	w.note(question{kind: askAddress, network: network, name: host, found: found{addrs: addrs}}, err)
	return addrs, err
}
