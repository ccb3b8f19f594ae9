// Package memo remembers what was judged by answers of the DNS, together with the
// answers, so that a domain which was judged a moment ago is not read again.
package memo

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"

	"postern/checks/dnscache"
)

const (
	// entries and MaxOctets bound a Memo: to 8 MiB where everybody publishes what
	// takes most, and to less than 2 MiB with the records of honest domains.
	entries = 2048
	// MaxOctets is of one judgement: its answers, of whom it is, and what was judged.
	MaxOctets = 4 << 10
	// MaxQuestions bounds those of one judgement. It is more than the ten of RFC 7208 §4.6.4,
	// since the hosts of an mx term are asked for besides.
	MaxQuestions = 24
)

// Resolver asks the DNS. Errors are bare *net.DNSError, IsNotFound where there is nothing; all
// others are trouble that may be over soon. Answers belong to all who ask, and nobody changes them.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	// LookupNetIP asks for A alone when network is "ip4", for AAAA alone when it is "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Memo remembers judgements: of whom (all that one depends on besides answers), what,
// and by which answers. Whoever judges again asks the same questions, in the same order, and
// heeds the same limits; only where each answer is what it was, the judgement is taken as known.
// So a record that changes counts at once, and nothing is remembered for longer than the
// resolver says. Where an answer has changed, the look-ups before it are made, and traced,
// once more.
//
// It is for use by several goroutines; nil remembers nothing.
type Memo[Of comparable, What any] struct {
	known *lru.Cache[Of, *judgement[What]]
}

// judgement is what was judged, with what it rests on.
type judgement[What any] struct {
	what  What
	asked []question
}

// New returns an empty Memo of at most 2,048 judgements.
func New[Of comparable, What any]() *Memo[Of, What] {
	return &Memo[Of, What]{known: cache[Of, *judgement[What]](entries)}
}

func cache[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil {
		panic(err) // its only error is a size below 1
	}
	return c
}

// Known asks again, and returns what was judged if all answers are the same.
func (m *Memo[Of, What]) Known(ctx context.Context, r Resolver, of Of) (what What, ok bool) {
	if m == nil {
		return what, false
	}
	j, ok := m.known.Get(of)
	if !ok {
		return what, false
	}
	for i := range j.asked {
		if !j.asked[i].holds(ctx, r) {
			return what, false
		}
	}
	return j.what, true
}

// Keep remembers what was judged by the answers of a witness, unless they are too many, all of
// it is too large, or one of them was none. Texts in of and what are kept as they are: they should
// not be parts of something larger. They are of so many octets.
func (m *Memo[Of, What]) Keep(of Of, what What, octets int, w *Witness) {
	if m != nil && w.usable(octets+int(unsafe.Sizeof(of)+unsafe.Sizeof(what))) {
		asked := slices.Clone(w.asked) // without the room behind them
		for i := range asked {
			asked[i].name = strings.Clone(asked[i].name)
		}
		m.known.Add(of, &judgement[What]{what, asked})
	}
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
	n := len(q.name) + int(unsafe.Sizeof(*q)) + int(unsafe.Sizeof(netip.Addr{}))*len(q.addrs)
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

// Witness is a resolver that remembers what it was asked by one judgement, which asks one
// question after the other.
type Witness struct {
	Resolver
	asked []question
}

// NewWitness returns a Witness of what r answers.
func NewWitness(r Resolver) *Witness {
	return &Witness{Resolver: r, asked: make([]question, 0, 4)}
}

// usable says whether the answers are such that a judgement may be kept with them, and takes no more
// than it may with size octets besides.
func (w *Witness) usable(size int) bool {
	if len(w.asked) > MaxQuestions {
		return false
	}
	for i := range w.asked {
		if w.asked[i].trouble {
			return false
		}
		size += w.asked[i].size()
	}
	return size <= MaxOctets
}

// Saw says whether a text of the answers has that octet in it.
func (w *Witness) Saw(octet byte) bool {
	return slices.ContainsFunc(w.asked, func(q question) bool {
		return q.kind == askTXT && slices.ContainsFunc(q.texts, func(t string) bool { return strings.IndexByte(t, octet) >= 0 })
	})
}

func (w *Witness) note(q question, err error) {
	if len(w.asked) <= MaxQuestions {
		q.failed(err)
		w.asked = append(w.asked, q)
	}
}

// LookupTXT implements Resolver.
func (w *Witness) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := w.Resolver.LookupTXT(ctx, name)
	w.note(question{kind: askTXT, name: name, found: found{texts: texts}}, err)
	return texts, err
}

// LookupMX implements Resolver.
func (w *Witness) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	hosts, err := w.Resolver.LookupMX(ctx, name)
	w.note(question{kind: askMX, name: name, found: found{hosts: hosts}}, err)
	return hosts, err
}

// LookupAddr implements Resolver.
func (w *Witness) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	names, err := w.Resolver.LookupAddr(ctx, addr)
	w.note(question{kind: askPTR, name: addr, found: found{texts: names}}, err)
	return names, err
}

// LookupNetIP implements Resolver.
func (w *Witness) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, err := w.Resolver.LookupNetIP(ctx, network, host)
	w.note(question{kind: askAddress, network: network, name: host, found: found{addrs: addrs}}, err)
	return addrs, err
}
