package receiver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"postern/checks/dnscache"
	"postern/proxy/amtp"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// Why no mail is fetched from a peer. What a peer is told are fixed words, the same for every recipient.
var (
	errNoDomain  = smtp.Reply{Code: 550, Enhanced: "7.1", Text: "DOMAIN must be the name of the sender's domain"}
	errAddress   = smtp.Reply{Code: 550, Enhanced: "7.1", Text: "Your address is not called from here"}
	errNotTheirs = smtp.Reply{Code: 550, Enhanced: "7.1", Text: "DOMAIN does not resolve to your address"}
	errLookup    = smtp.Reply{Code: 451, Enhanced: "4.3", Text: "DOMAIN cannot be looked up now, try again later"}
	errIPv6      = smtp.Reply{Code: 451, Enhanced: "3.5", Text: "No mail by IPv6 here at the moment, call from your IPv4 address"}
	errNoRoom    = smtp.Reply{Code: 452, Enhanced: "3.1", Text: "Too much mail waits, try again later"}

	errFrom     = smtp.Reply{Code: 550, Enhanced: "7.1", Text: "From is not of the domain whose server has the mail"}
	errMailForm = smtp.Reply{Code: 555, Text: "Mail error"}
)

// Selo implements amtp.Guest. Who it is decides, then whether the recipient's domain is served, which its MX tells
// everybody. Nobody is asked about the recipient itself, so that neither the answer nor its time tells of it.
func (v *visitor) Selo(ctx context.Context, a amtp.Announcement) smtp.Reply {
	reply := v.selo(ctx, a)
	v.r.Metrics.AMTPAnnouncement(reply.Code)
	v.r.Log.LogAttrs(ctx, slog.LevelInfo, "announcement",
		slog.String("session", v.s.ID), slog.String("client", v.s.Peer.String()), slog.String("listener", v.s.Server().Name),
		slog.String("domain", a.Domain), slog.String("rcpt", smtp.Address(a.Recipient)), slog.String("reply", reply.String()), slog.String("state", string(amtp.Information)))
	return reply
}

func (v *visitor) selo(ctx context.Context, a amtp.Announcement) smtp.Reply {
	peer := v.s.Peer.Addr()
	if _, err := netip.ParseAddr(a.Domain); err == nil {
		return errNoDomain
	}
	set := v.set()
	switch err := v.r.callable(peer, set); {
	case errors.Is(err, errNoOwn):
		return errInside // trouble of ours
	case err != nil:
		v.r.Misbehaved(peer)
		return errAddress
	}
	if !set.Takes(peer) {
		return errIPv6
	}
	ctx, cancel := context.WithTimeout(rationed(ctx, peer), set.Timeout)
	defer cancel()
	switch held, err := set.holds(ctx, a.Domain, peer); {
	case err != nil:
		return errLookup
	case !held:
		v.r.Misbehaved(peer)
		return errNotTheirs
	case !set.serves(a.Recipient):
		return amtp.NoSelo
	}
	now := time.Now()
	if !v.r.note(peer, v.s.Local, &notice{Announcement: a, listener: v.s.Server().Name, session: v.s.ID, until: now.Add(set.Lifetime), next: now}) {
		return errNoRoom
	}
	return amtp.SeloAccepted
}

// errNoOwn says that nobody can be called, since that might be ourselves.
var errNoOwn = errors.New("the addresses of this machine cannot be read")

// callable says why a peer is not called: it is where no stranger can be, or it is ourselves.
func (r *Receiver) callable(peer netip.Addr, set *Settings) error {
	for _, p := range set.Allow {
		if p.Contains(peer) {
			return nil
		}
	}
	switch own := r.own(); {
	case len(own) == 0:
		return errNoOwn
	case slices.Contains(own, peer):
		return fmt.Errorf("%s is an address of this machine", peer)
	}
	return amtp.Callable(peer, nil)
}

// rationed makes what is asked of the DNS count as the peer's, as what is asked for a client of SMTP does.
func rationed(ctx context.Context, peer netip.Addr) context.Context {
	return dnscache.WithTransaction(ctx, &dnscache.Transaction{Client: share.Of(peer)})
}

// holds says whether an address is one of those that a domain has.
func (set *Settings) holds(ctx context.Context, domain string, a netip.Addr) (bool, error) {
	network := "ip4"
	if a.Is6() {
		network = "ip6"
	}
	list, err := set.Resolver.LookupNetIP(ctx, network, domain)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(b netip.Addr) bool { return b.Unmap() == a }), nil
}

// result is what came of one try to fetch one message.
type result struct {
	word  string // of postern_amtp_fetches_total
	reply string // the last word on it
	err   error
	final bool // nothing more is to be done
}

// tell logs and counts what came of a try. It waits for nothing.
func (r *Receiver) tell(peer netip.Addr, n *notice, got result) {
	level, text := slog.LevelInfo, ""
	if got.err != nil {
		level, text = slog.LevelWarn, got.err.Error()
	}
	r.Metrics.AMTPFetch(got.word)
	r.Log.LogAttrs(context.Background(), level, "fetch",
		slog.String("session", n.session), slog.String("client", peer.String()), slog.String("listener", n.listener), slog.String("domain", n.Domain),
		slog.String("rcpt", smtp.Address(n.Recipient)), slog.String("result", got.word), slog.String("reply", got.reply), slog.Int("tries", n.tries+1),
		slog.String("error", text), slog.String("state", string(amtp.Retrieved)))
}

// call fetches notices from a peer, and says which of them are finished. A panic ends this call and no other.
func (r *Receiver) call(q *queue, list []*notice) (finished []bool) {
	finished = make([]bool, len(list))
	defer func() {
		if p := recover(); p != nil {
			r.Log.Error("panic in session", "session", list[0].session, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	set := r.Settings()
	all := func(got result) {
		for i, n := range list {
			if !finished[i] {
				finished[i] = got.final
				r.tell(q.peer, n, got)
			}
		}
	}
	if err := r.callable(q.peer, set); err != nil { // the configuration may have changed
		all(result{word: "forbidden", err: err, final: !errors.Is(err, errNoOwn)})
		return finished
	}
	if !set.Ready() {
		all(result{word: "deferred", err: errors.New("no backend is up")})
		return finished
	}
	ctx, cancel := context.WithTimeout(r.ctx, callTime)
	defer cancel()
	caller := amtp.Caller{
		Timeout: set.Timeout, Block: set.Block, Size: set.Size, HeaderSize: set.HeaderSize, HeaderFields: set.HeaderFields, Dial: r.Dial,
	}
	if r.Dial == nil && q.local.IsValid() {
		// From the address that the mail was announced to: a holder gives it to no other one.
		caller.Dial = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: q.local.Addr().AsSlice()}}).DialContext
	}
	var call *amtp.Call
	began := time.Now()
	for i, n := range list {
		if ctx.Err() != nil || r.ending() || time.Since(began) > callShare {
			break
		}
		// What a name said when the mail was announced it may not say any more. The address that is called is that of the
		// connection, whatever the name says.
		if !set.serves(n.Recipient) { // nor is everything served any more that was
			finished[i] = true
			r.tell(q.peer, n, result{word: "forbidden", err: errors.New("the recipient's domain is not served any more")})
			continue
		}
		if got := r.stillTheirs(set, n, q.peer); got.word != "" {
			finished[i] = got.final
			r.tell(q.peer, n, got)
			continue
		}
		if call == nil {
			var err error
			if call, err = caller.Open(ctx, netip.AddrPortFrom(q.peer, set.Port)); err != nil {
				got := result{word: "unreachable", err: err}
				r.tell(q.peer, n, got)
				return finished
			}
			defer func() { call.Close() }()
		}
		got, alive := r.fetch(set, q, n, call)
		finished[i] = got.final
		r.tell(q.peer, n, got)
		if !alive {
			break
		}
	}
	return finished
}

// stillTheirs looks a domain up again; no word: the address is still one of its.
func (r *Receiver) stillTheirs(set *Settings, n *notice, peer netip.Addr) result {
	ctx, cancel := context.WithTimeout(rationed(r.ctx, peer), set.Timeout)
	defer cancel()
	switch held, err := set.holds(ctx, n.Domain, peer); {
	case err != nil:
		return result{word: "deferred", err: err}
	case !held:
		return result{word: "forbidden", err: fmt.Errorf("%s does not resolve to %s any more", n.Domain, peer), final: true}
	}
	return result{}
}

// fetch fetches one message and delivers it. alive: the call can go on.
func (r *Receiver) fetch(set *Settings, q *queue, n *notice, call *amtp.Call) (got result, alive bool) {
	k := mailOf(n.Announcement)
	before, known := r.delivered(k)
	var said smtp.Reply
	word, err := call.Fetch(amtp.Claim{Recipient: n.Recipient, Number: n.Number}, n.Domain, func(m *amtp.Message, err error) smtp.Reply {
		if err != nil {
			said, got.err = errMailForm, err
			return said
		}
		body := &watched{r: m.Body, sum: sha256.New()}
		_, _ = body.sum.Write(m.Lasting) // never fails
		if !known {
			if said = r.deliver(set, q, n, call, m, body); said.Positive() {
				r.remember(k, answer{said, body.digest(), n.until})
			}
			return said
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			said = errMailForm
		} else if said = before.said; body.digest() != before.digest {
			// Another message has the number of one that was delivered. It comes again, and is delivered then.
			r.forget(k)
			said, known = errInside, false
		}
		return said
	})
	if err == nil {
		said = word
		r.forget(k)
	}
	got.reply = said.String()
	var refused *amtp.Refusal
	switch {
	case errors.As(err, &refused):
		got.reply, got.word, got.final = refused.Reply.String(), "gone", refused.Reply.Permanent()
		return got, true
	case err != nil:
		// What was delivered is remembered, and the next try tells the peer so.
		got.word, got.err = "broken", err
		return got, false
	case known && said.Positive():
		got.word, got.final = "repeated", true
	case said.Positive():
		got.word, got.final = "delivered", true
	case said.Permanent():
		got.word, got.final = "refused", true
	default:
		got.word = "deferred"
	}
	return got, true
}

// ending says that nothing new is to be begun.
func (r *Receiver) ending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// deliver takes a fetched message through a session like any, and returns the last word on it.
func (r *Receiver) deliver(set *Settings, q *queue, n *notice, call *amtp.Call, m *amtp.Message, body *watched) smtp.Reply {
	if !strings.EqualFold(domainOf(m.From), n.Domain) {
		return errFrom
	}
	l := r.open(amtp.Origin{
		Session: n.session, Listener: n.listener, Client: netip.AddrPortFrom(q.peer, set.Port), Local: q.local, TLS: call.TLS(), Fetched: n.Domain,
	}, n.Domain)
	defer l.close()
	reply := l.mail(m.From)
	if reply.IsZero() {
		reply = l.rcpt(n.Recipient)
	}
	if !reply.Positive() {
		return reply
	}
	reply = l.data(m.Head, body)
	if errors.Is(body.err, amtp.ErrForm) {
		return errMailForm
	}
	return reply
}

// watched remembers why a body could not be read, and what it was.
type watched struct {
	r   io.Reader
	sum hash.Hash
	err error
}

func (w *watched) digest() (d [sha256.Size]byte) {
	w.sum.Sum(d[:0])
	return d
}

// Read reads the body.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	_, _ = w.sum.Write(p[:n]) // never fails
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// domainOf is an address's domain as A-labels.
func domainOf(p smtp.Path) string {
	d, err := smtp.ASCIIDomain(p.Domain)
	if err != nil {
		return ""
	}
	return d
}
