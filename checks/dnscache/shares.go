package dnscache

import (
	"context"
	"slices"
	"sync"

	"postern/proxy/share"
)

// Transaction is on whose behalf look-ups are made: those of the checks of one
// message, and its client. It is the context of them, see WithTransaction. It may be
// used by several goroutines; its exported fields do not change meanwhile.
type Transaction struct {
	context.Context //nolint:containedctx // it is one

	// Client is whose share its look-ups are taken from. The zero Client takes from
	// what is there for all.
	Client share.Client
	// Trace collects the look-ups; nil: nobody wants to know of them.
	Trace *Trace

	mu    sync.Mutex
	keeps *keeping // nil until something had to be asked
}

type transactionKey struct{}

// WithTransaction returns a context whose look-ups are made on behalf of t: it is t
// itself, which so has one context all its life, and costs none of its own.
func WithTransaction(ctx context.Context, t *Transaction) context.Context {
	t.Context = ctx
	return t
}

// Value is that of a context.
func (t *Transaction) Value(key any) any {
	if key == (transactionKey{}) {
		return t
	}
	return t.Context.Value(key)
}

// asker is who asks: what a look-up wants to know of its context.
type asker struct {
	transaction *Transaction // may be nil
	attempt     *Attempt     // nil: it may wait
	secret      string       // see WithSecret
}

// askerOf finds out who asks. Most often it is the context itself that says so, and none
// of those above has to be asked for it.
func askerOf(ctx context.Context) (by asker) {
	switch c := ctx.(type) {
	case *Attempt:
		return asker{transaction: c.transaction, attempt: c}
	case *Transaction:
		return asker{transaction: c}
	}
	by.transaction, _ = ctx.Value(transactionKey{}).(*Transaction)
	by.attempt, _ = ctx.Value(attemptKey{}).(*Attempt)
	by.secret, _ = ctx.Value(secretKey{}).(string)
	return by
}

// trace is where the look-up is to be traced, or nil.
func (by asker) trace() *Trace {
	if by.transaction == nil {
		return nil
	}
	return by.transaction.Trace
}

// client is whose share to take from; t may be nil.
func (t *Transaction) client() share.Client {
	if t == nil {
		return share.Client{}
	}
	return t.Client
}

// keeping returns where answers are kept for t alone, which may be nil.
func (t *Transaction) keeping() *keeping {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keeps == nil {
		t.keeps = &keeping{once: make(map[question]*entry)}
	}
	return t.keeps
}

// kept returns what was kept for t, or nil, see keeping.kept. t may be nil.
func (t *Transaction) kept(s *shard, q question, now int64) *entry {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	k := t.keeps
	t.mu.Unlock()
	return k.kept(s, q, now)
}

// keeping is the answers with a TTL of 0, which "can only be used for the
// transaction in progress" (RFC 1035 §3.2.1). To us that is the message: no check
// asks again for what another one was just told, and none judges by another
// answer than the others did.
//
// NOT: in the Transaction itself, which may be over while an answer is under way.
type keeping struct {
	mu     sync.Mutex
	once   map[question]*entry
	octets int64 // of them, by estimate
}

// maxOnce bounds the answers that a transaction keeps for itself, in octets: it
// may last as long as its client likes.
const maxOnce = 16 << 10

// keep keeps an answer with a TTL of 0. That there is no such name is kept for all types as well,
// unless it is doubtful, as the cache has it (see shard.beside), or records of the name are kept;
// and it does not count for them any more once some are found, for whatever time.
func (k *keeping) keep(q question, e *entry, doubtful bool) {
	if e.kind == kindFailure {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	whole := question{name: q.name}
	if no := k.once[whole]; no != nil && e.kind == kindFound {
		k.octets -= no.size(whole)
		delete(k.once, whole)
	}
	if e.ttl != 0 {
		return
	}
	k.add(q, e)
	if e.kind == kindNXDomain && !doubtful && !k.knows(q.name) {
		k.add(question{name: q.name}, e)
	}
}

// add adds an answer where it has room.
func (k *keeping) add(q question, e *entry) {
	size := e.size(q)
	if k.octets+size > maxOnce || k.once[q] != nil {
		return
	}
	k.once[q] = e
	k.octets += size
}

// knows says whether records of a name were found.
func (k *keeping) knows(name string) bool {
	return slices.ContainsFunc(types[:], func(t rrtype) bool {
		e := k.once[question{name, t}]
		return e != nil && e.kind == kindFound
	})
}

// kept returns what was kept for a question, or nil. That there is no such name counts for
// another type only where s, the shard of the name, has no records of it by now: somebody else
// may have found them. k may be nil.
func (k *keeping) kept(s *shard, q question, now int64) *entry {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.once[q]; e != nil {
		return e
	}
	if e := k.once[question{name: q.name}]; e != nil && len(s.beside(q, now)) == 0 {
		return e
	}
	return nil
}

// boundConnections is, beside the bounds of a share, what the metric says where no
// connection became free in the time of a try.
const boundConnections share.Bound = "connections"

// questions is the share of the questions that are under way. A client leaves twice
// as many to others as it has: seven that want all leave two ninths.
func (r *Resolver) questions(limit int) share.Limits {
	return share.Limits{All: int64(limit), Leave: 2}
}

// connections is the share of the connections to one server. A connection is taken
// for as long as the server thinks about a question; a few suffice to one who asks
// for what the server knows, and so more are left to others.
var connections = share.Limits{All: maxConns, Leave: 4}
