package dnscache

import (
	"context"
	"strings"
	"sync"

	"postern/proxy/share"
)

// Transaction is on whose behalf look-ups are made: those of the checks of one
// message, and its client. The zero Transaction is that of nobody in particular.
// It may be used by several goroutines; the client does not change meanwhile.
type Transaction struct {
	// Client is whose share its look-ups are taken from. The zero Client takes from
	// what is there for all.
	Client share.Client

	mu     sync.Mutex
	once   map[question]*entry // answers with a TTL of 0
	octets int64               // of them, by estimate
}

type transactionKey struct{}

// WithTransaction returns a context whose look-ups are made on behalf of t.
func WithTransaction(ctx context.Context, t *Transaction) context.Context {
	return context.WithValue(ctx, transactionKey{}, t)
}

func transactionOf(ctx context.Context) *Transaction {
	t, _ := ctx.Value(transactionKey{}).(*Transaction)
	return t
}

// client is whose share to take from; t may be nil.
func (t *Transaction) client() share.Client {
	if t == nil {
		return share.Client{}
	}
	return t.Client
}

// maxOnce bounds the answers that a transaction keeps for itself, in octets: it
// may last as long as its client likes.
const maxOnce = 16 << 10

// keep keeps an answer with a TTL of 0, which "can only be used for the
// transaction in progress" (RFC 1035 §3.2.1). To us that is the message: no check
// asks again for what another one was just told, and none judges by another
// answer than the others did. t may be nil.
func (t *Transaction) keep(q question, e *entry) {
	if t == nil || e.ttl != 0 || e.kind == kindFailure {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	size := e.size(q)
	if t.octets+size > maxOnce || t.once[q] != nil {
		return
	}
	if t.once == nil {
		t.once = make(map[question]*entry)
	}
	q.name = strings.Clone(q.name)
	t.once[q] = e
	t.octets += size
}

// kept returns what keep has kept, or nil. t may be nil.
func (t *Transaction) kept(q question) *entry {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.once[q]
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
