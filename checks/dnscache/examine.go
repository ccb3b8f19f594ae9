package dnscache

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Servers returns the servers that New asks with these options, as they are written
// in a configuration: the configured ones, or those of resolv.conf.
func Servers(o Options) ([]string, error) {
	if len(o.Servers) > 0 {
		return o.Servers, nil
	}
	if o.ResolvConf == "" {
		o.ResolvConf = resolvConf
	}
	return (&systemFile{name: o.ResolvConf}).read()
}

// Examination is what came of one server that was asked in each of the ways in
// which look-ups ask.
type Examination struct {
	Server string // host:port
	TLS    bool   // it is asked over TLS alone: UDP and what hangs on it is zero

	UDP    Exchange
	Stream Exchange // over TCP, or TLS
	// Plain says that by UDP it understands questions without EDNS only (RFC 6891).
	Plain bool
	// Invented are addresses of a name below .invalid, which has none (RFC 6761 §6.4):
	// a server that makes answers up.
	Invented []netip.Addr
	Large    LargeAnswer
}

// Exchange is one question and what came back.
type Exchange struct {
	Took time.Duration // for a stream with the connection's making
	Code string        // of the response: NXDOMAIN, SERVFAIL; empty: none came
	Err  error         // why none came, or why it cannot be read
}

// LargeAnswer is what came of a question whose answer does not fit a small datagram,
// the keys of the root zone. Where they cannot be had, Octets is 0 and nothing is known.
type LargeAnswer struct {
	Octets    int   // of the whole answer, by stream
	Truncated bool  // by UDP it was cut, and said so, where the question left room for 512 octets
	Err       error // of the stream, after a truncated answer
	// Datagram is why the answer did not arrive as one datagram of at most 1232
	// octets; nil where it did, or where it was cut.
	Datagram error
}

// Examine asks the first server a few questions, past the cache. It takes as long as
// a few tries (Options.Timeout), or until ctx ends. The name that is asked for is
// random, so that no cache on the way knows the answer.
func (r *Resolver) Examine(ctx context.Context) Examination {
	s := (*r.servers.Load())[0]
	x := Examination{Server: s.address, TLS: s.tls != nil}
	q := question{strings.ToLower(rand.Text()) + ".invalid", typeA}
	record := func(e *Exchange, network string, edns bool) {
		a, took, err := r.examined(ctx, s, q, network, edns)
		*e = Exchange{Took: took, Err: err}
		if err == nil {
			if e.Code = a.rcode.String(); a.kind == kindNXDomain {
				e.Code = rcode(dns.RcodeNameError).String() // such an answer keeps nothing else
			}
			x.Invented = append(x.Invented, a.ips...)
		}
	}
	record(&x.Stream, "tcp", true)
	if x.TLS {
		return x
	}
	if record(&x.UDP, "udp", true); x.UDP.Err != nil || x.UDP.Code == rcode(dns.RcodeFormatError).String() || x.UDP.Code == rcode(dns.RcodeNotImplemented).String() {
		var plain Exchange
		if record(&plain, "udp", false); plain.Err == nil {
			x.UDP, x.Plain = plain, true
		}
	}
	if x.UDP.Err == nil && !x.Plain {
		x.Large = r.examineLarge(ctx, s)
	}
	return x
}

// examined is one question and its answer, read.
func (r *Resolver) examined(ctx context.Context, s *server, asked question, network string, edns bool) (a *answer, took time.Duration, err error) {
	q, err := newQuery(asked, false, edns)
	if err != nil {
		return nil, 0, err
	}
	msg, took, err := r.once(ctx, s, q, network)
	if err != nil {
		return nil, took, err
	}
	if truncated(msg) {
		return nil, took, errTruncated
	}
	// A failure is an answer here: it is the way that is examined, not the name.
	a, err = parse(msg, q.question)
	return a, took, err
}

// once sends a query one time and returns the message that answers it.
func (r *Resolver) once(ctx context.Context, s *server, q *query, network string) (msg []byte, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	start := r.now()
	defer func() {
		took = r.now().Sub(start)
		if err != nil && ctx.Err() != nil {
			err = errors.New(textTimeout)
		}
	}()
	if network == "tcp" {
		conn, _, err := s.pool.get(ctx, r, s)
		if err != nil {
			return nil, 0, err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		msg, err = converse(conn, q)
		return msg, 0, err
	}
	conn, err := r.dial(ctx, network, s.address)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(q.wire); err != nil {
		return nil, 0, err
	}
	buffer := make([]byte, 4096)
	for range maxJunk {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, 0, err
		}
		if q.match(buffer[:n]) != matchNot {
			return buffer[:n], 0, nil
		}
	}
	return nil, 0, fmt.Errorf("%d datagrams that do not fit the query", maxJunk)
}

// examineLarge asks for the keys of the root zone with their signatures: the one
// answer of more than 512 octets that every resolver of the Internet can give.
func (r *Resolver) examineLarge(ctx context.Context, s *server) (l LargeAnswer) {
	large := func(network string, room uint16) (msg []byte, err error) {
		m := new(dns.Msg).SetQuestion(".", dns.TypeDNSKEY).SetEdns0(room, true)
		wire, err := m.Pack()
		if err != nil {
			return nil, err
		}
		end, _ := skipName(wire, headerSize)
		msg, _, err = r.once(ctx, s, &query{wire: wire, end: end + 4, edns: true}, network)
		return msg, err
	}
	has := func(msg []byte) bool { return binary.BigEndian.Uint16(msg[6:]) > 0 }
	small, err := large("udp", dns.MinMsgSize)
	if err != nil || !truncated(small) && !has(small) {
		return l // nothing to try it on
	}
	l.Truncated = truncated(small)
	whole, err := large("tcp", udpSize)
	if err != nil {
		l.Err = err
		return l
	}
	if !has(whole) {
		return l
	}
	if l.Octets = len(whole); l.Octets <= udpSize {
		_, l.Datagram = large("udp", udpSize)
	}
	return l
}
