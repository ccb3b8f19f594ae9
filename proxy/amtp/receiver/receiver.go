// Package receiver is the proxy's half of AMTP: the server of recipients. Users log in and write to its domains; other
// servers announce mail, and have it fetched. Whatever comes goes through a session of SMTP within the process, so that its
// limits, checks, rules, records and backend are those of every mail. It has no queue: what is remembered of an
// announcement is forgotten with the process, and announced again by who keeps the mail.
package receiver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"postern/metrics"
	"postern/proxy/amtp"
	"postern/proxy/amtp/users"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// Settings is what a configuration makes of the receiver. It is replaced as a whole.
type Settings struct {
	Hostname string
	Users    *users.File // nil: nobody logs in
	Domains  []string    // of recipients, as A-labels in lower case
	Lifetime time.Duration
	Timeout  time.Duration // of each step of a call
	Port     uint16        // that is called
	Allow    []netip.Prefix
	Block    time.Duration // a pause within a message
	Size     int64         // the largest message, in octets
	// HeaderSize and HeaderFields bound its header section.
	HeaderSize, HeaderFields int
	Resolver                 Resolver
	// Ready says whether a backend is up: nothing is fetched that cannot be delivered.
	Ready func() bool
	// Takes says whether a backend takes mail of a client at that address: some know no IPv6.
	Takes func(client netip.Addr) bool
}

// Resolver asks the DNS for the addresses of a name. Errors are bare *net.DNSError.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options is what stays the same for the life of a receiver.
type Options struct {
	Settings func() *Settings
	// Inside begins a session of SMTP within the process.
	Inside func(o amtp.Origin) (net.Conn, error)
	// Misbehaved counts a fault of a client: a password that is wrong.
	Misbehaved func(client netip.Addr)
	// Own are the addresses of this machine; nil: amtp.OwnAddresses.
	Own     func() ([]netip.Addr, error)
	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // nil: a net.Dialer
	Log     *slog.Logger
	Metrics *metrics.Metrics // may be nil
}

// Receiver is an amtp.Handler. Make it with New.
type Receiver struct {
	Options

	ctx    context.Context //nolint:containedctx // of its calls, which end with it
	cancel context.CancelFunc
	done   sync.WaitGroup // calls, and what begins them

	mu       sync.Mutex
	queues   map[netip.Addr]*queue
	due      dueQueues
	waiting  share.Budget // notices
	calls    share.Budget
	running  int // calls
	closed   bool
	wake     chan struct{}
	answered answers
	lastOwn  []netip.Addr
}

// New makes a receiver, which runs until Shutdown.
func New(o Options) *Receiver {
	if o.Own == nil {
		o.Own = amtp.OwnAddresses
	}
	r := &Receiver{Options: o, queues: map[netip.Addr]*queue{}, wake: make(chan struct{}, 1)}
	if len(r.own()) == 0 {
		r.Log.Warn("the addresses of this machine cannot be read: nobody is called until they can be")
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.done.Go(r.dispatch)
	return r
}

// Shutdown begins no more calls, and waits for those that run until ctx ends, whose error it then returns.
func (r *Receiver) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.signal()
	ended := make(chan struct{})
	go func() {
		r.done.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		// NOT: at once. Users' mail is under way still: their server ends beside us, and has until ctx ends.
		context.AfterFunc(ctx, r.cancel)
		return nil
	case <-ctx.Done():
	}
	r.cancel()
	<-ended
	return context.Cause(ctx)
}

// own are the addresses of this machine: the last that could be read, none where none ever could.
func (r *Receiver) own() []netip.Addr {
	list, err := r.Own()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && len(list) > 0 {
		r.lastOwn = list
	}
	return r.lastOwn
}

// Begin implements amtp.Handler.
func (r *Receiver) Begin(s *amtp.Session) amtp.Guest { return &visitor{r: r, s: s} }

// visitor is one connection.
type visitor struct {
	r      *Receiver
	s      *amtp.Session
	user   smtp.Path
	letter *letter
	taken  bool // a recipient of this message
}

// set are the newest settings: a user who was taken out of the file is not let in by a connection that was there before.
func (v *visitor) set() *Settings { return v.r.Settings() }

// Login implements amtp.Guest.
func (v *visitor) Login(ctx context.Context, name, password string) (smtp.Path, error) {
	known := v.set().Users
	if known == nil {
		return smtp.Path{}, amtp.ErrCredentials
	}
	u, err := known.Check(ctx, share.Of(v.s.Peer.Addr()), name, password)
	if errors.Is(err, users.ErrUnknown) {
		v.r.Misbehaved(v.s.Peer.Addr())
		return smtp.Path{}, amtp.ErrCredentials
	}
	if err != nil {
		return smtp.Path{}, err
	}
	v.user = u.Address
	return u.Address, nil
}

// serves says whether an address is one of the domains.
func (set *Settings) serves(to smtp.Path) bool {
	domain, err := smtp.ASCIIDomain(to.Domain)
	if err != nil {
		return false
	}
	for _, d := range set.Domains {
		if strings.EqualFold(d, domain) {
			return true
		}
	}
	return false
}

// Recipient implements amtp.Guest: what the session within says to RCPT, the backend's answer among it, is the answer.
func (v *visitor) Recipient(_ context.Context, to smtp.Path) smtp.Reply {
	if !v.set().serves(to) {
		return amtp.NotLocal
	}
	if v.letter != nil && v.letter.conn == nil && !v.taken {
		v.letter = nil // the session within has ended between two messages, as by a timeout
	}
	if v.letter == nil {
		v.letter = v.r.open(amtp.Origin{
			Session: v.s.ID, Listener: v.s.Server().Name, Client: v.s.Peer, Local: v.s.Local, TLS: v.s.TLS(), User: smtp.Address(v.user),
		}, literal(v.s.Peer.Addr()))
	}
	if r := v.letter.mail(v.user); !r.IsZero() {
		return r
	}
	reply := v.letter.rcpt(to)
	v.taken = v.taken || reply.Positive()
	return reply
}

// Message implements amtp.Guest.
func (v *visitor) Message(_ context.Context, m *amtp.Submission) smtp.Reply {
	if v.letter == nil {
		return errInside
	}
	return v.letter.data(m.Head, m.Body)
}

// Reset implements amtp.Guest.
func (v *visitor) Reset() {
	v.taken = false
	if v.letter != nil && !v.letter.reset() {
		v.letter.close()
		v.letter = nil
	}
}

// Sema implements amtp.Guest. Nothing is kept here that could be handed over.
func (v *visitor) Sema(context.Context, amtp.Claim) (amtp.Parcel, smtp.Reply) {
	return nil, amtp.NoMail
}

// End implements amtp.Guest.
func (v *visitor) End() {
	if v.letter != nil {
		v.letter.close()
	}
}

// literal is an address as EHLO says it (RFC 5321 §4.1.3).
func literal(a netip.Addr) string {
	if a.Is4() {
		return "[" + a.String() + "]"
	}
	return "[IPv6:" + a.String() + "]"
}
