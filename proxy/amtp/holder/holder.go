// Package holder is the server of AMTP's senders: users log in, their mail for others is kept, announced, and handed
// over to the servers that it was announced to. What no such server is there for goes to a mail server by SMTP, or
// its sender is told.
//
// Whoever hears 250 from it need not keep the message: it lies in a spool whose files are synced. It stays there until
// the other server has said what became of it, until a smarthost has taken it, or until its sender was told that
// nothing did.
package holder

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"postern/proxy/amtp"
	"postern/proxy/amtp/spool"
	"postern/proxy/amtp/users"
	"postern/proxy/backend"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// Resolver is what is asked of the DNS.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options is what a Holder is made of.
type Options struct {
	Hostname string
	Users    *users.File
	Spool    *spool.Spool
	Resolver Resolver
	// Smarthost takes reports for our own users, and what no server of AMTP is there for.
	Smarthost *backend.Pool
	// Fallback has the smarthost take mail for domains that have no server of AMTP; else its sender is told.
	Fallback bool
	Port     uint16        // where AMTP is spoken
	Lifetime time.Duration // how long mail waits
	Retry    time.Duration // before the second attempt; it doubles, up to twelve times as much
	// Callable says why an address may not be called, nil: it may. It is asked before each call. ErrTrouble: it cannot be
	// told now.
	Callable func(netip.Addr) error
	// Dial opens a connection; nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout bounds each step of a call.
	Timeout time.Duration
	// Guesses is how many logins that fail, and SEMAs for what there is not, one client has in a minute; 0: 20.
	Guesses int
	// Connections are how many there may be, of all and of one client.
	Connections, ConnectionsPerClient int
	Log                               *slog.Logger
}

// ErrTrouble is in the error of Options.Callable where that is no fault of the address.
var ErrTrouble = errors.New("trouble of ours")

const (
	// workers is how many entries are worked on at a time; for one domain it is one.
	workers = 16
	// workersPerUser leaves others some, whatever one user has sent.
	workersPerUser = 4
	// defaultGuesses is that of Options.Guesses.
	defaultGuesses = 20
)

// Holder is the handler of an amtp.Server, and works on what waits.
type Holder struct {
	o      Options
	caller amtp.Caller

	wrong       share.Rates // of guesses
	connections share.Budget

	absent absences // servers that have SMTP alone
	silent absences // addresses at which nobody answers at all

	changed chan struct{} // something may be due, or can be worked on again

	mu     sync.Mutex
	busy   map[string]bool // numbers of entries that are being worked on
	given  map[string]bool // numbers of entries that are being given away, or given up
	calls  map[string]bool // domains that are being called
	users  map[string]int  // entries that are being worked on, by user
	active sync.WaitGroup
}

// New makes a holder. Run is what makes it work on mail.
func New(o Options) *Holder {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Guesses <= 0 {
		o.Guesses = defaultGuesses
	}
	return &Holder{
		o: o, caller: amtp.Caller{Timeout: o.Timeout, Dial: o.Dial},
		changed: make(chan struct{}, 1), busy: map[string]bool{}, given: map[string]bool{}, calls: map[string]bool{}, users: map[string]int{},
	}
}

// Admit says whether a client may connect: release is called at the end of its connection; why is the word for a
// refusal. One that has guessed again and again, numbers or passwords, is turned away for a while.
func (h *Holder) Admit(client netip.Addr) (release func(), why string) {
	who := share.Of(client)
	if h.wrong.Spent(who, share.PerError, h.o.Guesses, time.Now()) {
		return nil, "error_rate"
	}
	switch h.connections.Take(who, 1, share.Limits{All: int64(h.o.Connections), Each: int64(h.o.ConnectionsPerClient)}) {
	case share.ByAll:
		return nil, "limit"
	case share.ByClient:
		return nil, "client_limit"
	case share.ByNetwork:
		return nil, "network_limit"
	}
	return func() { h.connections.Give(who, 1) }, ""
}

// wake has Run look at what is due.
func (h *Holder) wake() {
	select {
	case h.changed <- struct{}{}:
	default: // it will
	}
}

// take enters an entry in one of the two sets; false: it is there.
func (h *Holder) take(set map[string]bool, number string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if set[number] {
		return false
	}
	set[number] = true
	return true
}

// release takes an entry out, and has Run look at what is due.
func (h *Holder) release(set map[string]bool, number string) {
	h.mu.Lock()
	delete(set, number)
	h.mu.Unlock()
	h.wake()
}

// Begin serves a connection.
func (h *Holder) Begin(s *amtp.Session) amtp.Guest { return &guest{h: h, s: s} }

// guest is one connection.
type guest struct {
	h    *Holder
	s    *amtp.Session
	user string // empty: nobody has logged in
}

// Login looks for a user. NOT: the name in the log where it is wrong, since that may be a password.
func (g *guest) Login(ctx context.Context, name, password string) (smtp.Path, error) {
	if g.h.wrong.Spent(share.Of(g.s.Peer.Addr()), share.PerError, g.h.o.Guesses, time.Now()) {
		return smtp.Path{}, errGuesses // one that was let in before
	}
	u, err := g.h.o.Users.Check(ctx, share.Of(g.s.Peer.Addr()), name, password)
	switch {
	case errors.Is(err, users.ErrUnknown):
		// Three tries for each connection are many where connections are free.
		g.h.wrong.Take(share.Of(g.s.Peer.Addr()), share.PerError, g.h.o.Guesses, time.Now())
		g.h.o.Log.Info("login refused", "session", g.s.ID, "client", g.s.Peer.String())
		return smtp.Path{}, amtp.ErrCredentials
	case err != nil:
		return smtp.Path{}, err
	}
	g.user = u.Name
	g.h.o.Log.Info("login", "session", g.s.ID, "client", g.s.Peer.String(), "user", u.Name, "from", u.Address.String())
	return u.Address, nil
}

var errGuesses = errors.New("too many wrong passwords of that client")

var (
	replyNoDomain = smtp.Reply{Code: 501, Text: "A recipient has a domain"}
	replyInSpool  = smtp.Reply{Code: 250, Text: "Mail in the spool"}
	replyFull     = smtp.Reply{Code: 452, Text: "The spool is full, try again later"}
	replyUserFull = smtp.Reply{Code: 452, Text: "As much of your mail waits as may, try again later"}
	replyTrouble  = smtp.Reply{Code: 451, Text: "The mail could not be kept, try again later"}
	replyBusy     = smtp.Reply{Code: 450, Text: "The mail is being handed over, try again later"}
)

// Recipient takes every address that has a domain: only its form is known here (-01, 3.2).
func (g *guest) Recipient(_ context.Context, to smtp.Path) smtp.Reply {
	if !smtp.IsDomain(to.Domain) {
		return replyNoDomain
	}
	return smtp.Reply{Code: 250}
}

// Message keeps a message, which lasts when the user hears 250.
func (g *guest) Message(_ context.Context, m *amtp.Submission) smtp.Reply {
	d, err := g.h.o.Spool.Begin(g.user)
	if err != nil {
		return g.notKept(err)
	}
	defer d.Abort()
	if _, err = d.Write(m.Head); err == nil {
		_, err = io.Copy(d, m.Body) // an error of the text: what is said then is not ours
	}
	if err != nil {
		return g.notKept(err)
	}
	now := time.Now()
	var entries []spool.Entry
	seen := map[string]bool{}
	for _, to := range m.To {
		if a := smtp.Address(to); !seen[a] {
			seen[a] = true
			entries = append(entries, spool.Entry{Number: amtp.NewNumber(), To: to, Stage: spool.Waiting, Next: now})
		}
	}
	if err := d.Commit(spool.Of{From: m.From, Arrived: now, Expires: now.Add(g.h.o.Lifetime)}, entries); err != nil {
		return g.notKept(err)
	}
	for i := range entries {
		g.h.o.Log.Info("mail accepted", "session", g.s.ID, "message", d.ID(), "user", g.user, "from", m.From.String(), "rcpt", entries[i].To.String())
	}
	g.h.wake()
	return replyInSpool.WithID(d.ID())
}

// notKept is what a user hears of a message that is not kept.
func (g *guest) notKept(err error) smtp.Reply {
	g.h.o.Log.Warn("mail not accepted", "session", g.s.ID, "user", g.user, "error", err.Error())
	switch {
	case errors.Is(err, spool.ErrUserFull):
		return replyUserFull
	case errors.Is(err, spool.ErrFull):
		return replyFull
	}
	return replyTrouble
}

// Reset forgets nothing: the message is what the session has.
func (g *guest) Reset() {}

// Selo takes no mail: that is the proxy's.
func (g *guest) Selo(context.Context, amtp.Announcement) smtp.Reply { return amtp.NoSelo }

// End has nothing to let go of.
func (g *guest) End() {}

// Sema hands over what was announced to this very address, and to nobody else. The answer is the same whether there
// is no such number, it is another recipient's, it was announced to another server, or it is too old.
func (g *guest) Sema(_ context.Context, c amtp.Claim) (amtp.Parcel, smtp.Reply) {
	h, peer := g.h, g.s.Peer.Addr()
	e, ok := h.o.Spool.Find(c.Number, c.Recipient)
	if !ok || e.Stage != spool.Announced || e.Peer != peer || !time.Now().Before(e.Of().Expires) {
		if !h.wrong.Take(share.Of(peer), share.PerError, h.o.Guesses, time.Now()) {
			h.o.Log.Warn("a server asks again and again for mail that was not announced to it", "session", g.s.ID, "client", g.s.Peer.String())
		}
		return nil, amtp.NoMail
	}
	if !h.take(h.given, c.Number) {
		return nil, replyBusy
	}
	// Whoever had it before may have ended it.
	if e, ok = h.o.Spool.Find(c.Number, c.Recipient); !ok || e.Stage != spool.Announced || e.Peer != peer {
		h.release(h.given, c.Number)
		return nil, amtp.NoMail
	}
	text, err := h.o.Spool.Read(e)
	if err != nil {
		h.release(h.given, c.Number)
		h.o.Log.Error("mail cannot be read", "message", e.Of().ID, "rcpt", e.To.String(), "error", err.Error())
		return nil, replyTrouble
	}
	return &parcel{g: g, e: e, text: text}, smtp.Reply{}
}

// parcel is a message that is being handed over.
type parcel struct {
	g     *guest
	e     spool.Entry
	text  io.ReadCloser
	whole bool // all of it was read, and it is noted that it was given away
}

// Read returns the message. Before its end goes out, it is on the disk that it does: should we be killed then, we know
// that nobody knows what became of it.
func (p *parcel) Read(b []byte) (int, error) {
	n, err := p.text.Read(b)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	if !p.whole {
		if p.e, err = p.g.h.o.Spool.Update(p.e.Number, func(e *spool.Entry) { e.Handed++ }); err != nil {
			return 0, err
		}
		p.whole = true
	}
	return 0, io.EOF
}

// Answered notes what became of the message.
func (p *parcel) Answered(r smtp.Reply) error {
	h := p.g.h
	log := h.o.Log.With("session", p.g.s.ID, "message", p.e.Of().ID, "rcpt", p.e.To.String(), "peer", p.e.Peer.String())
	switch {
	case r.IsZero() && !p.whole:
		log.Warn("the handing over broke off")
		h.o.Spool.Postpone(p.e.Number, time.Now().Add(h.o.Retry)) // it is announced again soon
		return nil
	case r.IsZero():
		log.Warn("it was given away, and what became of it is not known: it may arrive twice")
		h.o.Spool.Postpone(p.e.Number, time.Now().Add(h.o.Retry))
		return nil
	case r.Positive():
		if err := h.o.Spool.Done(p.e.Number); err != nil {
			return err
		}
		log.Info("delivered", "reply", r.String(), "twice_possible", p.e.Handed > 1)
		return nil
	case r.Permanent():
		return h.fail(p.e, status(r, "5.0.0"), r.String(), true)
	}
	_, err := h.o.Spool.Update(p.e.Number, func(e *spool.Entry) {
		e.Handed--
		e.Last = r.String()
	})
	log.Info("not delivered yet", "reply", r.String())
	return err
}

// Close ends the handing over.
func (p *parcel) Close() error {
	p.g.h.release(p.g.h.given, p.e.Number)
	return p.text.Close()
}

// status is the status code of a reply (RFC 3463), or another where it has none.
func status(r smtp.Reply, other string) string {
	if r.Enhanced == "" {
		return other
	}
	return string(rune('0'+r.Code/100)) + "." + r.Enhanced
}
