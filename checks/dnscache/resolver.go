package dnscache

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"postern/metrics"
	"postern/proxy/share"
)

// clientTimer is how long a caller waits for a fresh answer while a stale one
// is at hand (RFC 8767 §5: 1.8 seconds).
const clientTimer = 1800 * time.Millisecond

// Failures are kept for a second, twice as long each time the same question
// fails again, five seconds at most (RFC 2308 §7.1, RFC 9520 §3.2). Where a
// stale answer stands in, a question that failed less than failedLately ago is
// asked again behind the caller's back: he had his wait.
const (
	failureTTL    = 1 // seconds
	failureMaxTTL = 5
	failedLately  = time.Minute
)

// Resolver answers from its cache, and asks name servers for the rest. Make
// one with New; it may be used by any number of goroutines.
type Resolver struct {
	servers        atomic.Pointer[[]*server]
	system         *systemFile // nil: the servers are configured
	timeout, total time.Duration
	maxTTL         uint32 // seconds
	maxNegativeTTL uint32
	maxInFlight    int
	clientTimer    time.Duration
	metrics        *metrics.Metrics
	log            *slog.Logger
	now            func() time.Time
	dial           func(ctx context.Context, network, address string) (net.Conn, error)

	cache  *cache
	health *health

	places share.Budget // for the questions under way

	retired atomic.Bool

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, so that nothing starts while Close waits
	closed bool
	wg     sync.WaitGroup
}

// call is a question under way; whoever asks the same meanwhile waits for it
// too. NOT: singleflight.Group, whose keys are strings to be built for each
// look-up.
type call struct {
	done   chan struct{}
	e      *entry       // set before done is closed
	client share.Client // of whoever asked first, whose share it is in
	start  time.Time
	cancel context.CancelFunc

	// The shard's lock guards what follows.
	waiting int  // callers
	wanted  bool // by the cache: what it has has come to its end, or soon will
	given   bool // up
	// keeps is of the transactions that asked. They may have ended: what they keep goes
	// with them, however long this takes.
	keeps []weak.Pointer[keeping]
}

// keptFor has the answer kept for a transaction's checks, where nobody else may have it.
func (c *call) keptFor(k *keeping) {
	if k == nil {
		return
	}
	w, n := weak.Make(k), len(c.keeps)
	if n > 0 && c.keeps[n-1] == w {
		return // twice would be no harm
	}
	if n == cap(c.keeps) {
		c.keeps = slices.DeleteFunc(c.keeps, func(w weak.Pointer[keeping]) bool { return w.Value() == nil })
	}
	c.keeps = append(c.keeps, w)
}

// Retire is for a resolver whose place another has taken. It still answers whoever
// asks, and lets what is under way come to its end; but it keeps no connection for
// later and does nothing of its own accord, so that nothing of it is left when the
// last one who uses it is gone.
func (r *Resolver) Retire() {
	r.retired.Store(true)
	for _, s := range *r.servers.Load() {
		s.pool.close()
	}
}

// Close ends what is under way, with temporary errors, and waits for it.
// Afterwards only the cache still answers.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	for _, s := range *r.servers.Load() {
		s.pool.close()
	}
}

// lookup answers a question, whose name is canonical. The entry is never nil;
// if it is none of kindFound, its err is the error to return.
func (r *Resolver) lookup(ctx context.Context, q question) *entry {
	return r.finish(ctx, r.begin(ctx, q))
}

// pending is a look-up between its beginning and its end.
type pending struct {
	question
	start  time.Time
	answer *entry // found at once
	source Source // of answer
	stale  *entry // may stand in for what c finds
	call   *call  // what to wait for
	asker  asker
}

// begin answers from the cache, or starts a query without waiting for it.
func (r *Resolver) begin(ctx context.Context, q question) pending {
	p := pending{question: q, start: r.now(), asker: askerOf(ctx)}
	now := p.start.UnixNano()
	s := r.cache.of(q.name)
	p.answer, p.stale = r.cache.get(s, q, now)
	p.source = SourceCache
	if p.answer == nil {
		t := p.asker.transaction
		if p.answer = t.kept(s, q, now); p.answer != nil {
			return p
		}
		if a := p.asker.attempt; a != nil {
			p.answer, p.stale = a.wait(), nil
			return p
		}
		p.source = SourceNetwork
		p.call, p.answer = r.start(s, q, t, r.maxInFlight, p.stale != nil, false)
		if p.answer != nil && p.answer.kind != kindFailure { // it has just come
			p.source = SourceCache
		}
		if p.stale != nil && s.failed(q, now-int64(failedLately)) {
			p.answer, p.source = p.stale, SourceStale
		}
	}
	if p.answer == nil {
		return p
	}
	if p.answer.kind == kindFailure && p.stale != nil {
		p.answer, p.source = p.stale, SourceStale
	}
	if p.source == SourceCache && p.answer.kind == kindFound && p.answer.wantsPrefetch(now) {
		r.prefetch(ctx, s, q, now)
	}
	return p
}

// finish waits where there is something to wait for, counts and traces.
func (r *Resolver) finish(ctx context.Context, p pending) *entry {
	l := look{question: p.question, answer: p.answer, source: p.source, at: p.start, asker: p.asker, by: r}
	if l.answer == nil {
		l.answer, l.source = r.wait(ctx, p)
		l.at = r.now()
		l.took = l.at.Sub(p.start)
	}
	if a := p.asker.attempt; a != nil {
		a.note(l)
	} else {
		l.tell()
	}
	return l.answer
}

// tell counts a look-up that has ended, and traces it.
func (l *look) tell() {
	l.by.count(l.question, l.answer, l.source)
	if t := l.asker.trace(); t != nil {
		t.record(l.question, l.answer, l.source, l.at, l.took, l.asker.secret)
	}
}

// count keeps dns_queries_total: how a look-up was answered.
func (r *Resolver) count(q question, e *entry, src Source) {
	outcome := "miss"
	switch {
	case e.kind == kindFailure:
		outcome = "error"
	case src == SourceStale:
		outcome = "stale"
	case src == SourceCache && e.kind == kindFound:
		outcome = "hit"
	case src == SourceCache:
		outcome = "negative"
	}
	r.metrics.DNSQuery(q.rrtype.String(), outcome)
}

// wait waits for a query, as long as the caller can.
func (r *Resolver) wait(ctx context.Context, p pending) (*entry, Source) {
	var patience <-chan time.Time
	if p.stale != nil {
		wait := r.clientTimer
		if !r.Healthy() || r.allSilent(p.start.UnixNano()) {
			wait = 0 // no server is going to answer; the query goes on to see when one does
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		patience = t.C
	}
	select {
	case <-p.call.done:
		if p.call.e.kind == kindFailure && p.stale != nil {
			return p.stale, SourceStale
		}
		return p.call.e, SourceNetwork
	case <-patience:
		return p.stale, SourceStale // the query goes on, for the cache
	case <-ctx.Done():
		r.leave(p.question, p.call)
		if p.stale != nil {
			return p.stale, SourceStale
		}
		return &entry{kind: kindFailure, err: errContext(ctx, p.name)}, SourceNetwork
	}
}

// prefetch renews an answer in the background, unless that failed just now or
// there is much else to do.
func (r *Resolver) prefetch(ctx context.Context, s *shard, q question, now int64) {
	if !s.failed(q, now) && !r.retired.Load() {
		_, _ = r.start(s, q, askerOf(ctx).transaction, r.maxInFlight/2, true, true)
	}
}

// start joins the query for q that is under way, or starts one. With limit
// queries under way, or as many of the client's as its share has, or after Close,
// it returns a failure instead, which is not kept. What is wanted for the cache
// goes on without anybody who waits; to renew is to ask though the cache has an answer.
func (r *Resolver) start(s *shard, q question, t *Transaction, limit int, wanted, renew bool) (*call, *entry) {
	client, keeps := t.client(), t.keeping()
	s.mu.Lock()
	defer s.mu.Unlock()
	// The answer may have come since the caller looked: nobody is asked twice for it.
	now := r.now().UnixNano()
	if e, _ := r.cache.get(s, q, now); e != nil && !renew {
		return nil, e
	}
	if e := keeps.kept(s, q, now); e != nil {
		return nil, e
	}
	if c := s.calls[q]; c != nil {
		c.waiting++
		c.keptFor(keeps)
		c.wanted = c.wanted || wanted
		return c, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, &entry{kind: kindFailure, err: errTemporary(q.name, "", textClosed)}
	}
	if bound := r.places.Take(client, 1, r.questions(limit)); bound != share.None {
		if limit == r.maxInFlight { // else it was to be renewed, or asked ahead: that can wait
			r.metrics.DNSRefused(string(bound))
		}
		return nil, &entry{kind: kindFailure, err: errTemporary(q.name, "", textBusy)}
	}
	// The caller's string may be a part of something large.
	q.name = strings.Clone(q.name)
	c := &call{done: make(chan struct{}), client: client, start: r.now(), waiting: 1, wanted: wanted}
	c.keptFor(keeps)
	ctx, cancel := context.WithTimeout(r.ctx, r.total)
	c.cancel = cancel
	s.calls[q] = c
	r.wg.Add(1)
	go r.run(WithTransaction(ctx, &Transaction{Client: client}), s, q, c)
	return c, nil
}

// leave takes a caller off a query whose answer it does not wait for any more. A
// query that nobody waits for is given up, and makes room for others.
func (r *Resolver) leave(q question, c *call) {
	s := r.cache.of(q.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.waiting--; c.waiting > 0 || c.wanted {
		return
	}
	c.given = true
	if s.calls[q] == c {
		delete(s.calls, q) // whoever asks now wants another one
	}
	c.cancel()
}

// run resolves a question for all who wait. It lives under the resolver's own
// context: the first caller may give up without failing the others.
func (r *Resolver) run(ctx context.Context, s *shard, q question, c *call) {
	defer r.wg.Done()
	defer close(c.done)
	defer r.places.Give(c.client, 1)
	defer c.cancel()
	c.e = r.resolve(ctx, s, q)
	if r.settle(s, q, c) && r.ctx.Err() == nil { // else it failed by Close
		r.health.observe(q.name, c.e)
	}
}

// settle keeps what came of a query, and says whether that tells anything of the
// servers.
func (r *Resolver) settle(s *shard, q question, c *call) (telling bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.given && c.e.kind == kindFailure {
		// Servers that had the time of a try and kept silent are no better for our
		// giving up first. That they were given less says nothing of them.
		if r.now().Sub(c.start) < r.timeout {
			return false
		}
		c.e = r.failure(s, q, errTimeout(q.name, "", textTimeout))
	}
	now := r.now().UnixNano()
	doubtful := c.e.kind == kindNXDomain && len(s.beside(q, now)) > 0
	for _, w := range c.keeps { // before somebody else could ask again
		if k := w.Value(); k != nil {
			k.keep(q, c.e, doubtful)
		}
	}
	if successor := s.calls[q]; successor == nil || successor == c {
		s.put(q, c.e, now)
		delete(s.calls, q)
	}
	return true
}

// resolve asks the name servers, and follows aliases where they do not.
func (r *Resolver) resolve(ctx context.Context, s *shard, q question) *entry {
	ttl, links := uint32(math.MaxUint32), 0
	at := q
	for {
		a, err := r.ask(ctx, at)
		if err != nil {
			return r.failure(s, q, err)
		}
		ttl = min(ttl, a.ttl)
		if a.kind != kindAlias {
			return r.entry(q, a, ttl)
		}
		if links += a.links; links > maxChain {
			return r.failure(s, q, errChain)
		}
		if at.name, _ = canonical(a.alias); at.name == "" {
			return r.entry(q, &answer{kind: kindNXDomain}, 0) // an alias to what cannot exist
		}
	}
}

// entry makes an answer ready for use and for the cache.
func (r *Resolver) entry(q question, a *answer, ttl uint32) *entry {
	e := &entry{kind: a.kind, name: q.name, text: slices.Clip(a.text), mx: slices.Clip(a.mx), ips: slices.Clip(a.ips), ttl: min(ttl, r.maxTTL)}
	switch a.kind {
	case kindFound:
		slices.SortStableFunc(e.mx, func(x, y *net.MX) int { return int(x.Pref) - int(y.Pref) })
	case kindNXDomain:
		e.ttl = min(ttl, r.maxNegativeTTL)
		e.err = errNotFound(q.name, textNXDomain)
	default:
		e.ttl = min(ttl, r.maxNegativeTTL)
		e.err = errNotFound(q.name, textNoData)
	}
	e.shown = e.show()
	e.expires = r.now().Add(time.Duration(e.ttl) * time.Second).UnixNano()
	return e
}

// failure makes an error the entry that is kept for a moment, so that a domain
// whose servers are down costs a query now and then, and not one per message.
func (r *Resolver) failure(s *shard, q question, err error) *entry {
	de := errTemporary(q.name, "", err.Error())
	var from *net.DNSError
	if errors.As(err, &from) {
		c := *from
		c.Name = q.name // not that of an alias on the way
		de = &c
	}
	if errors.As(err, new(busy)) {
		return &entry{kind: kindFailure, err: de} // it was not asked, and the next one who wants to know may be luckier
	}
	e := &entry{kind: kindFailure, err: de, ttl: failureTTL, blame: isOurs(err), unreached: errors.As(err, new(unreachable))}
	if before, ok := s.negative.Peek(q); ok && before.kind == kindFailure {
		e.ttl = min(2*before.ttl, failureMaxTTL)
	}
	e.expires = r.now().Add(time.Duration(e.ttl) * time.Second).UnixNano()
	return e
}

// rcodeError is a response that answers nothing.
func rcodeError(name, server string, c rcode) *net.DNSError {
	return errTemporary(name, server, "server answered "+c.String())
}

// isOurs tells whether an error may come from trouble of our own name servers:
// there was no answer, or none but SERVFAIL and the like. What is wrong inside an
// answer is the domain's fault.
func isOurs(err error) bool {
	var bad answerError
	return !errors.As(err, &bad)
}

// unreachable is the error of a query that could not even be sent, or was
// refused by the server's host: no fault of any domain.
type unreachable struct{ *net.DNSError }

func (u unreachable) Unwrap() error { return u.DNSError }

// busy is the error of a query that found no connection free: no fault of any
// server or domain.
type busy struct{ *net.DNSError }

func (b busy) Unwrap() error { return b.DNSError }

// isTimeout tells whether an exchange failed because no answer came.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
