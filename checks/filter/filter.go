// Package filter has what every filter of other people's wants, in whatever protocol it is
// asked: a way to it, turns for those who ask, and rest for one that is down.
package filter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"postern/metrics"
	"postern/proxy/share"
)

const (
	// MaxQuestions is how many questions one filter has at a time. Who asks more waits, and a
	// client has as many as it leaves free for others: a half of them, where nobody else asks.
	MaxQuestions = 50
	// Rest is for how long a filter is left alone that is down. Then one question in each such
	// time goes to it, until one has an answer.
	Rest = 10 * time.Second
	// mostUnreached is after how many attempts in a row it is down, where none came so far that it
	// was told anything of the mail, and none was just slow.
	mostUnreached = 3
	// mostFailed is after how many it is where it was told, and what it was told may have been why:
	// then they are of as many clients as witnesses at the least.
	//
	// NOT: any five. One client could send what the filter cannot cope with, and would have it
	// left alone for the mail of all. Nor any five where all mail comes from one address: that is a relay, and
	// behind it is one client who does so, and many who do not.
	mostFailed = 5
	witnesses  = 3
)

// Options are those of a Peer.
type Options struct {
	Name    string           // as rules have it, for the metrics: milter.rspamd
	Address string           // host:port, or unix:/path
	Metrics *metrics.Metrics // may be nil
	// Dial connects; nil: to the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Peer is a filter, as far as all of them are alike. It is safe for concurrent use.
type Peer struct {
	Options

	turns *share.Turnstile

	mu        sync.Mutex
	trouble   bool // the last question had no answer
	unreached int  // attempts in a row that told it nothing
	failed    int  // attempts in a row that had no answer
	clients   []share.Client
	last      string    // why the last question had none
	alone     time.Time // until when it is left alone; zero: it is not
}

// New returns a peer, and connects to nobody.
func New(o Options) *Peer {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return &Peer{Options: o, turns: share.NewTurnstile(share.Limits{All: MaxQuestions})}
}

// Connect connects to the filter. An error says so in words fit for a record.
func (p *Peer) Connect(ctx context.Context) (net.Conn, error) {
	network, address := "tcp", p.Address
	if path, ok := strings.CutPrefix(p.Address, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := p.Dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("no connection: %w", err)
	}
	return c, nil
}

// Turn is one question's turn. It is End's to give it back.
type Turn struct {
	peer    *Peer
	who     share.Client
	tries   bool // whether it answers again
	reached bool
	answers bool
	excused bool
}

// ErrAlone says that the filter is left alone, and was not asked.
var ErrAlone = errors.New("it is not asked for a while")

// ErrUnreached is what an error of Ask is, beside what it says, where the question did not go out though it was
// tried: the filter took no connection, or had no room in time.
var ErrUnreached = errors.New("it was not reached")

// unreachedError is an error that is ErrUnreached. Its text is for a record, and says no more than why.
type unreachedError struct{ error }

func (e unreachedError) Unwrap() []error { return []error{e.error, ErrUnreached} }

// Begin waits for the turn of a client's question, until the deadline of ctx. The error says in
// words fit for a record why there is none.
func (p *Peer) Begin(ctx context.Context, who share.Client) (*Turn, error) {
	t := &Turn{peer: p, who: who}
	if err := t.admit(); err != nil {
		return nil, err
	}
	end, _ := ctx.Deadline()
	began := time.Now()
	if !p.turns.Enter(ctx, who, end.Sub(began)) {
		return nil, unreachedError{fmt.Errorf("%d questions at the most are with it, a half of them one client's, and there was no room in time", MaxQuestions)}
	}
	// Meanwhile those before may have found out that it is down.
	if err := t.admit(); err != nil {
		p.turns.Leave(who)
		return nil, err
	}
	// Who had to wait has less time left than the filter may need. NOT: a failure then, or one client that keeps
	// its turns to the last moment would have the filter left alone for the mail of all.
	t.excused = !end.IsZero() && time.Since(began) > end.Sub(began)/10
	return t, nil
}

// Ask has ask ask a client's question when it is its turn, and gives tell what the outcome changes, for the log.
// The error is that of ask, or says in words fit for a record why there was no turn.
func (p *Peer) Ask(ctx context.Context, who share.Client, ask func(*Turn) error, tell func(Change, error)) error {
	t, err := p.Begin(ctx, who)
	if err != nil {
		return err
	}
	err = errPanic
	defer func() { tell(t.End(ctx, err), err) }()
	if err = ask(t); err != nil && !t.reached {
		err = unreachedError{err}
	}
	return err
}

// errPanic is the outcome where asking came to no end.
var errPanic = errors.New("asking it panicked")

// admit says whether the filter is left alone. The first who comes when its rest is over tries
// whether it answers again, while the others still leave it alone.
func (t *Turn) admit() error {
	p := t.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case p.alone.IsZero() || t.tries:
		return nil
	case now.Before(p.alone):
		p.Metrics.FilterNotAsked(p.Name)
		return fmt.Errorf("%w, having failed again and again: %s", ErrAlone, p.last)
	}
	p.alone, t.tries = now.Add(Rest), true
	return nil
}

// Reached says that the filter is there and talks: what fails from here on may be due to what it is asked.
func (t *Turn) Reached() { t.reached = true }

// Answered says that the filter has answered, whatever is wrong with its answer: it is not down. An answer may
// repeat what the sender wrote, and be nonsense for that.
func (t *Turn) Answered() { t.answers = true }

// Excuse says that what fails is no fault of the filter's.
func (t *Turn) Excuse() { t.excused = true }

// Change is what an outcome changes, so that the log says it once.
type Change int

// The changes.
const (
	Same   Change = iota
	Failed        // it begins to fail
	Left          // it fails so often that it is left alone from now on
	Back          // it answers again
)

// End gives the turn back, and notes the outcome: err says why there was no answer. Where ctx was
// cancelled, nobody waited for one.
func (t *Turn) End(ctx context.Context, err error) Change {
	p := t.peer
	// The outcome is noted first: who gets this turn is to know of it.
	defer p.turns.Leave(t.who)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		was := p.trouble
		p.trouble, p.unreached, p.failed, p.clients, p.last, p.alone = false, 0, 0, nil, "", time.Time{}
		if was {
			return Back
		}
		return Same
	case t.excused || errors.Is(ctx.Err(), context.Canceled):
		return Same
	case t.answers:
		was := p.trouble
		p.trouble, p.unreached, p.failed, p.clients, p.last, p.alone = true, 0, 0, nil, "", time.Time{}
		if was {
			return Same
		}
		return Failed
	}
	was := p.trouble
	p.trouble, p.last = true, err.Error()
	p.failed++
	p.unreached++
	if t.reached || late(err) {
		p.unreached = 0
	}
	who := t.who
	if who.Network.IsValid() {
		who.Address = who.Network // whoever has one has thousands of clients of IPv6
	}
	if len(p.clients) < witnesses && !slices.Contains(p.clients, who) {
		p.clients = append(p.clients, who)
	}
	down := p.unreached >= mostUnreached || p.failed >= mostFailed && len(p.clients) == witnesses
	switch {
	case down && p.alone.IsZero():
		p.alone = time.Now().Add(Rest)
		return Left
	case !was:
		return Failed
	}
	return Same
}

// Late is an error of that text which says that something took too long.
func Late(format string, args ...any) error { return &lateError{fmt.Sprintf(format, args...)} }

type lateError struct{ text string }

func (e *lateError) Error() string { return e.text }
func (e *lateError) Unwrap() error { return os.ErrDeadlineExceeded }

// late says whether the filter was slow, or has more to do than it can, which one client alone may have brought about:
// a socket whose queue is full refuses at once.
func late(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.EAGAIN)
}
