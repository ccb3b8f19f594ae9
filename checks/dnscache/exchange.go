package dnscache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"

	"postern/proxy/reuse"
)

const (
	rounds = 2 // tries at each server
	// maxJunk bounds the datagrams that do not fit and are passed over while we
	// wait. Whoever sends more is guessing.
	maxJunk = 256
)

// udpBuffers holds more than we announce, for servers that do not listen.
var udpBuffers = reuse.Pool[[]byte]{New: func() *[]byte { b := make([]byte, 4096); return &b }}

// try is a server's part in one question.
type try struct {
	server  *server
	left    int // the last one goes without EDNS
	running bool
}

// race is a question that is put to the servers.
type race struct {
	resolver *Resolver
	question question
	ctx      context.Context
	cancel   context.CancelCauseFunc
	helpers  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	tries   []*try
	hedge   *time.Timer // calls help
	answer  *answer     // the first one
	failure error
}

// ask puts a question to the servers: to the best one first, to the next when
// that is slow or fails, to all of them again when none answered. The first
// answer wins; a server that says it cannot (SERVFAIL, REFUSED) is not asked
// again, since it has done its own tries.
//
// The first try is the caller's own: mostly it is the only one, and a goroutine that does
// nothing else would cost a tenth of a question.
func (r *Resolver) ask(ctx context.Context, q question) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errFaster)
	a := &race{resolver: r, question: q, ctx: ctx, cancel: cancel, tries: r.order()}
	a.hedge = time.AfterFunc(r.total, a.help) // the first try sets it
	defer a.hedge.Stop()
	a.run(a.first())
	a.helpers.Wait()
	switch {
	case a.answer != nil:
		return a.answer, nil
	case ctx.Err() != nil:
		return nil, errContext(ctx, q.name)
	}
	return nil, a.failure
}

// run does a try, and those that are due behind it.
func (a *race) run(t *try) {
	for t != nil {
		// Something on the way may swallow EDNS (RFC 6891 §6.2.2).
		answer, err := a.resolver.guarded(a.ctx, t.server, a.question, t.left > 0)
		t = a.after(t, answer, err)
	}
}

// first returns the first try.
func (a *race) first() *try {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.due()
}

// help does tries beside one that takes long. None is due any more once all others have left.
func (a *race) help() {
	a.mu.Lock()
	t := a.due()
	if t != nil {
		a.helpers.Add(1)
		defer a.helpers.Done()
	}
	a.mu.Unlock()
	a.run(t)
}

// after notes what came of a try, and returns the next that is due. An answer ends the
// others at once, by closing their sockets.
func (a *race) after(t *try, answer *answer, err error) (next *try) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t.running = false
	if err == nil {
		if a.answer == nil {
			a.answer = answer
			a.cancel(errFaster)
		}
		return nil
	}
	if !isTimeout(err) {
		t.left = 0
	}
	// A server that spoke tells more than one that was silent.
	if a.failure == nil || isTimeout(a.failure) {
		a.failure = err
	}
	return a.due()
}

// due takes the next try, if there is one, and sets the hedge. The race is locked.
func (a *race) due() *try {
	if a.answer != nil || a.ctx.Err() != nil {
		return nil
	}
	t := pick(a.tries)
	if t != nil {
		t.left--
		t.running = true
		a.hedge.Reset(t.server.hedge(a.resolver.timeout))
	}
	return t
}

// errFaster ends the tries at the other servers once one has answered.
var errFaster = errors.New("another server was faster")

// order returns the servers as they are to be asked: as configured, but those
// that were silent lately behind those that were not.
func (r *Resolver) order() []*try {
	r.refreshServers()
	servers := *r.servers.Load()
	now := r.now().UnixNano()
	tries := make([]*try, 0, len(servers))
	var behind []*try
	for _, s := range servers {
		t := &try{server: s, left: rounds}
		if s.behind.Load() > now { // read once: it changes meanwhile
			behind = append(behind, t)
		} else {
			tries = append(tries, t)
		}
	}
	return append(tries, behind...)
}

// allSilent tells whether no server answered when it was last asked.
func (r *Resolver) allSilent(now int64) bool {
	for _, s := range *r.servers.Load() {
		if s.behind.Load() <= now {
			return false
		}
	}
	return true
}

// pick returns the first of those with the most tries left that is not being
// asked just now.
func pick(tries []*try) *try {
	var best *try
	for _, t := range tries {
		if t.left > 0 && !t.running && (best == nil || t.left > best.left) {
			best = t
		}
	}
	return best
}

// guarded is try where a panic over what a server sent is a failure of that server, and
// NOT: the end of the process.
func (r *Resolver) guarded(ctx context.Context, s *server, q question, edns bool) (a *answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = nil, answerError("panic over an answer")
			r.log.Error("dns: panic over an answer", "type", q.rrtype.String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return r.try(ctx, s, q, edns)
}

// try asks one server, in the ways it understands.
func (r *Resolver) try(ctx context.Context, s *server, q question, edns bool) (*answer, error) {
	edns = edns && s.plain.Load() < r.now().UnixNano()
	a, err := r.exchange(ctx, s, q, edns)
	if err == nil && edns && rejectsEDNS(a.rcode) {
		// RFC 6891 §7: a server from before EDNS. Remember it only if the plain
		// query fares better, else the fault is elsewhere.
		if a, err = r.exchange(ctx, s, q, false); err == nil && !rejectsEDNS(a.rcode) {
			s.plain.Store(r.now().Add(notAgain).UnixNano())
		}
	}
	if err != nil {
		return nil, err
	}
	if a.kind == kindFailure {
		return nil, rcodeError(q.name, s.address, a.rcode)
	}
	return a, nil
}

func rejectsEDNS(c rcode) bool {
	return c == dns.RcodeFormatError || c == dns.RcodeNotImplemented || c == dns.RcodeBadVers
}

// exchange gets one response, by UDP if that will do.
func (r *Resolver) exchange(ctx context.Context, s *server, q question, edns bool) (*answer, error) {
	if s.tls == nil {
		mixCase := s.oneCase.Load() < r.now().UnixNano()
		a, err := r.datagram(ctx, s, q, mixCase, edns)
		switch {
		case errors.Is(err, errCase):
			// Forged, or a server that does not keep the case. TCP is beyond a
			// forger's reach; a server without TCP is asked in lower case.
			if a, err = r.stream(ctx, s, q, true, edns); err == nil || ctx.Err() != nil || errors.Is(err, errCut) {
				return a, err
			}
			s.oneCase.Store(r.now().Add(notAgain).UnixNano())
			a, err = r.datagram(ctx, s, q, false, edns)
			if !errors.Is(err, errTruncated) {
				return a, err
			}
		case !errors.Is(err, errTruncated):
			return a, err
		}
	}
	return r.stream(ctx, s, q, false, edns)
}

// What an answer by UDP may ask us to do over.
const (
	errTruncated = answerError("truncated")
	errCase      = answerError("the case of the name was not kept")
	// errCut is the end of it: what was left out may be the record that counts, and
	// there is no larger answer to be had from this server (RFC 1035 §4.1.1: TC is
	// for what did not fit the channel, and a stream takes all that a message holds).
	errCut = answerError("truncated, though it came by a stream")
)

// within runs f, which ends when ctx does or the time of a try is up, with an error that
// isTimeout then, and keeps the server's record.
func (r *Resolver) within(ctx context.Context, s *server, name string, f func() (*answer, error)) (*answer, error) {
	start := r.now()
	a, err := f()
	took := r.now().Sub(start)
	switch {
	case ctx.Err() != nil && err != nil:
		// Cut short. That says something about this server only if it had more
		// than its time, and another one answered.
		if errors.Is(context.Cause(ctx), errFaster) && took >= s.hedge(r.timeout) {
			s.silent(r.now())
		}
		return nil, errContext(ctx, name)
	case err == nil, !isOurs(err):
		s.answered(took)
		r.metrics.DNSQueryTook(took)
		return a, err
	}
	s.silent(r.now())
	if isTimeout(err) {
		r.metrics.DNSQueryTook(took)
		return nil, errTimeout(name, s.address, textTimeout)
	}
	return nil, unreachable{errTemporary(name, s.address, err.Error())}
}

// datagram asks by UDP, from a socket and so a port of its own. NOT: by a
// dns.Client, which takes a response to another question for the answer, ends
// the query over one that is garbage, and cannot be canceled.
func (r *Resolver) datagram(ctx context.Context, s *server, asked question, mixCase, edns bool) (*answer, error) {
	q, err := newQuery(asked, mixCase, edns)
	if err != nil {
		return nil, err
	}
	return r.within(ctx, s, q.name, func() (*answer, error) {
		conn, err := r.dial(ctx, "udp", s.address)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		if err := conn.SetDeadline(time.Now().Add(r.timeout)); err != nil {
			return nil, err
		}
		if _, err := conn.Write(q.wire); err != nil {
			return nil, err
		}
		buffer := udpBuffers.Take()
		defer udpBuffers.Put(buffer)
		for range maxJunk {
			n, err := conn.Read(*buffer)
			if err != nil {
				return nil, err
			}
			msg := (*buffer)[:n]
			switch m := q.match(msg); {
			case m == matchNot:
				continue
			case m == matchCase && q.mixed:
				return nil, errCase
			case truncated(msg) || n == len(*buffer): // the latter cut by us
				return nil, errTruncated
			}
			return parse(msg, q.question)
		}
		return nil, fmt.Errorf("%d datagrams that do not fit the query", maxJunk)
	})
}

// stream asks by TCP or TLS, over a connection of the pool. One that was idle
// may have been closed meanwhile; then the next is taken, a new one at last. The
// wait for one is no fault of the server's, so its time has not begun yet.
func (r *Resolver) stream(ctx context.Context, s *server, asked question, mixCase, edns bool) (*answer, error) {
	q, err := newQuery(asked, mixCase, edns)
	if err != nil {
		return nil, err
	}
	client := askerOf(ctx).transaction.client()
	if !s.pool.turnstile.Enter(ctx, client, r.timeout) {
		if ctx.Err() != nil {
			return nil, errContext(ctx, q.name)
		}
		r.metrics.DNSRefused(string(boundConnections))
		return nil, busy{errTimeout(q.name, s.address, textBusy)}
	}
	defer s.pool.turnstile.Leave(client)
	return r.within(ctx, s, q.name, func() (_ *answer, err error) {
		ctx, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		defer func() {
			if err != nil && isOurs(err) && ctx.Err() != nil {
				err = ctx.Err() // NOT: that of a read on what was closed for it
			}
		}()
		for {
			conn, reused, err := s.pool.get(ctx, r, s)
			if err != nil {
				return nil, err
			}
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			msg, err := converse(conn, q)
			if !stop() || err != nil {
				conn.Close()
				if err != nil && reused && ctx.Err() == nil {
					continue
				}
				if err != nil {
					return nil, err
				}
			} else {
				s.pool.put(conn)
			}
			if q.mixed && q.match(msg) == matchCase {
				s.oneCase.Store(r.now().Add(notAgain).UnixNano()) // it was no forger
			}
			if truncated(msg) {
				return nil, errCut
			}
			return parse(msg, q.question)
		}
	})
}

// converse sends a query and reads the response, each with its length in front
// (RFC 1035 §4.2.2), in one write (RFC 7766 §8).
func converse(conn net.Conn, q *query) ([]byte, error) {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(q.wire)), uint16(len(q.wire)))
	if _, err := conn.Write(append(out, q.wire...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	// What is announced is allocated as it arrives: 64 KiB at the most.
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	if q.match(msg) == matchNot {
		return nil, errors.New("the answer is to another query")
	}
	return msg, nil
}
