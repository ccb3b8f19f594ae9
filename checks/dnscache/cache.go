package dnscache

import (
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"

	"postern/configs"
)

// shards keeps the cores from fighting over one lock. A power of two.
const shards = 16

// entry is one answer, stored ready for use: whoever asks gets its slices, and changes
// nothing in them. It does not change after it was put into the cache, but for its
// counter.
type entry struct {
	kind kind
	name string // that was asked for, as a text of its own; empty of a failure
	// Of a failure: our own name servers may be to blame, and were not even reached.
	blame, unreached bool

	expires int64  // Unix nanoseconds
	ttl     uint32 // seconds, as capped; of a failure, how long it is kept

	text []string
	mx   []*net.MX
	ips  []netip.Addr
	// shown is the data as a trace has it: what of it is no text is written once.
	shown []string
	err   *net.DNSError // of all kinds but kindFound; shared by all who hit it

	hits         atomic.Uint32 // up to prefetchHits
	contradicted atomic.Bool   // of a found one: somebody said since that there is no such name
}

// prefetch: an answer that was asked for this often, and is in the last tenth
// of its time, is fetched anew before it goes. Below the least TTL it would be
// asked for all the time.
const (
	prefetchHits   = 3
	prefetchTenth  = 10
	prefetchMinTTL = 10 // seconds
)

// wantsPrefetch counts a hit, and tells whether the answer should be renewed.
// A busy entry is only read, so that cores do not pass its cache line around.
func (e *entry) wantsPrefetch(now int64) bool {
	if e.hits.Load() < prefetchHits {
		e.hits.Add(1)
		return false
	}
	return e.ttl >= prefetchMinTTL && e.expires-now < int64(e.ttl)*int64(time.Second)/prefetchTenth
}

// size estimates the octets that an entry holds, its place in the cache
// included.
func (e *entry) size(q question) int64 {
	const node = 160 // list element and map slot of the cache, as measured
	n := int64(unsafe.Sizeof(*e)) + node + int64(len(q.name))
	for _, s := range e.text {
		n += int64(unsafe.Sizeof(s)) + int64(len(s))
	}
	for _, mx := range e.mx {
		n += int64(unsafe.Sizeof(mx)) + int64(unsafe.Sizeof(*mx)) + int64(len(mx.Host))
	}
	for _, ip := range e.ips {
		n += int64(unsafe.Sizeof(ip))
	}
	if len(e.mx)+len(e.ips) > 0 {
		for _, s := range e.shown {
			n += int64(unsafe.Sizeof(s)) + int64(len(s))
		}
	}
	if e.err != nil {
		n += int64(unsafe.Sizeof(*e.err)) + int64(len(e.err.Err))
	}
	return n
}

// same says whether two answers that were found hold the same records, in
// whatever order.
func (e *entry) same(other *entry) bool {
	return sameSet(e.text, other.text, func(s string) string { return s }) &&
		sameSet(e.mx, other.mx, func(m *net.MX) string { return strconv.Itoa(int(m.Pref)) + " " + m.Host }) &&
		sameSet(e.ips, other.ips, netip.Addr.String)
}

func sameSet[T any](a, b []T, key func(T) string) bool {
	if len(a) != len(b) {
		return false
	}
	keys := make([]string, 0, 2*len(a))
	for _, x := range a {
		keys = append(keys, key(x))
	}
	n := len(keys)
	for _, x := range b {
		keys = append(keys, key(x))
	}
	slices.Sort(keys[:n])
	slices.Sort(keys[n:])
	return slices.Equal(keys[:n], keys[n:])
}

// cache holds the answers. Found ones and the others are kept apart, so that a
// flood of random names evicts nothing good.
type cache struct {
	seed  maphash.Seed
	stale int64 // nanoseconds after its expiry during which an answer may stand in
	shard [shards]shard
}

// shard is a part of the cache, with the queries under way for its names.
type shard struct {
	found    *lru.Cache[question, *entry]
	negative *lru.Cache[question, *entry] // NODATA, NXDOMAIN (mostly by name alone: rrtype 0) and failures

	maxFound, maxNegative int // entries

	mu       sync.Mutex // guards what follows, and every change to the two caches
	bytes    int64
	maxBytes int64
	calls    map[question]*call
}

// newCache makes the cache. The bound on octets is for all shards together.
func newCache(c configs.DNSCache, maxBytes int64) (*cache, error) {
	k := &cache{seed: maphash.MakeSeed(), stale: int64(c.ServeStale)}
	negative := max(c.Entries/5, shards)
	found := max(c.Entries-negative, shards)
	for i := range k.shard {
		s := &k.shard[i]
		s.maxFound = (found + shards - 1) / shards
		s.maxNegative = (negative + shards - 1) / shards
		var err error
		if s.found, err = lru.New[question, *entry](s.maxFound); err != nil {
			return nil, err
		}
		if s.negative, err = lru.New[question, *entry](s.maxNegative); err != nil {
			return nil, err
		}
		s.maxBytes = maxBytes / shards
		s.calls = make(map[question]*call)
	}
	return k, nil
}

// of returns the shard for a name. All types of a name share one, since
// NXDOMAIN counts for all of them.
func (k *cache) of(name string) *shard {
	return &k.shard[maphash.String(k.seed, name)%shards]
}

// entries counts what is stored, for the metric.
func (k *cache) entries() float64 {
	n := 0
	for i := range k.shard {
		n += k.shard[i].found.Len() + k.shard[i].negative.Len()
	}
	return float64(n)
}

// get looks a question up. fresh may be used as it is, unless it is a failure
// and stale is there as well. stale is past its time, and may stand in where
// no server answers.
func (k *cache) get(s *shard, q question, now int64) (fresh, stale *entry) {
	if e, ok := s.found.Get(q); ok {
		if now < e.expires {
			return e, nil
		}
		if now < e.expires+k.stale && !e.contradicted.Load() {
			stale = e
		}
	}
	own, ok := s.negative.Get(q)
	if ok = ok && now < own.expires; ok && own.kind != kindFailure {
		return own, nil
	}
	// What is known of the name is better than that nobody could tell of the type.
	if e, known := s.negative.Get(question{name: q.name}); known && now < e.expires {
		return e, nil
	}
	if ok {
		return own, stale
	}
	return nil, stale
}

// failed tells whether a question failed when it was last asked, with a failure
// that was to be kept beyond now.
func (s *shard) failed(q question, now int64) bool {
	e, ok := s.negative.Peek(q)
	return ok && e.kind == kindFailure && now < e.expires
}

// put stores an answer, in the place of what it contradicts. The shard is
// locked.
func (s *shard) put(q question, e *entry, now int64) {
	switch e.kind {
	case kindFound:
		s.remove(s.negative, q)
		s.remove(s.negative, question{name: q.name})
		// A TTL of 0 is for this one use (RFC 1035 §3.2.1); what was stored before
		// is outdated by it nevertheless, unless it is the same: a resolver counts
		// its TTL down to 0, and in that last second says that what may stand in
		// later is still right.
		if before, ok := s.found.Peek(q); e.ttl == 0 && ok && before.same(e) {
			return
		}
		s.set(s.found, s.maxFound, q, e)
	case kindNoData:
		s.remove(s.found, q)
		s.remove(s.negative, question{name: q.name})
		s.set(s.negative, s.maxNegative, q, e)
	case kindNXDomain:
		s.putNXDomain(q, e, now)
	case kindFailure:
		s.set(s.negative, s.maxNegative, q, e)
	}
}

// putNXDomain stores that there is no such name: for all its types (RFC 2308 §5,
// RFC 8020 §2), and what was known of any of them goes, lest it stand in later.
//
// It is doubtful, and holds for its own type alone, while an answer of another type is in its time,
// see beside. The addresses of such a host must not go from an SPF record with it.
//
// NOT: for the names below as well, as RFC 8020 would have it. The name may be an
// alias, which exists, and names below it do too. And servers of DNS lists, above
// all, answer NXDOMAIN for names that have nothing but names below them; Unbound
// cuts there only what DNSSEC has proven, which we do not ask for. What is below
// costs a query more; a listing that is overlooked costs more than that.
func (s *shard) putNXDomain(q question, e *entry, now int64) {
	if others := s.beside(q, now); len(others) > 0 {
		for _, known := range others {
			known.contradicted.Store(true)
		}
		s.remove(s.found, q)
		s.set(s.negative, s.maxNegative, q, e)
		return
	}
	for _, t := range types {
		s.remove(s.found, question{q.name, t})
		s.remove(s.negative, question{q.name, t})
	}
	s.set(s.negative, s.maxNegative, question{name: q.name}, e)
}

// beside returns the records of the name of q that were found, are of other types, and in their
// time. Where there are some, an answer that there is no such name is doubtful: one of the two
// is wrong, and there are servers that say NXDOMAIN for the AAAA of a host that has an A
// (RFC 4074 §4.2).
func (s *shard) beside(q question, now int64) (others []*entry) {
	for _, t := range types {
		if known, ok := s.found.Peek(question{q.name, t}); ok && t != q.rrtype && now < known.expires {
			others = append(others, known)
		}
	}
	return others
}

// set stores an entry. The bounds are kept here and NOT: by the caches, which
// do not say what they evict without a callback for each.
func (s *shard) set(c *lru.Cache[question, *entry], limit int, q question, e *entry) {
	s.remove(c, q)
	size := e.size(q)
	if e.ttl == 0 || size > s.maxBytes {
		return
	}
	if c.Len() >= limit {
		s.evict(c)
	}
	for s.bytes+size > s.maxBytes {
		// Negatives first, they are cheap to lose.
		if !s.evict(s.negative) && !s.evict(s.found) {
			break
		}
	}
	c.Add(q, e)
	s.bytes += size
}

// evict drops the oldest entry, if there is one.
func (s *shard) evict(c *lru.Cache[question, *entry]) bool {
	q, e, ok := c.RemoveOldest()
	if ok {
		s.bytes -= e.size(q)
	}
	return ok
}

func (s *shard) remove(c *lru.Cache[question, *entry], q question) {
	if e, ok := c.Peek(q); ok {
		c.Remove(q)
		s.bytes -= e.size(q)
	}
}
