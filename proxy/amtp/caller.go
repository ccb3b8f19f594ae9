package amtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"time"

	"postern/policy"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// Caller speaks AMTP to other servers, as their client. The zero value is useful.
type Caller struct {
	// Timeout bounds each step of a conversation: the connection, a command and its reply; 0:
	// 30 s.
	Timeout time.Duration
	// Block is how long a server may pause within a message, and what the pace is made of that it is held to; 0: Timeout.
	Block time.Duration
	Size  int64 // the largest message that is read, in octets; 0: there is no bound
	// HeaderSize and HeaderFields bound its header section, in octets and in fields; 0: a MiB, and a thousand.
	HeaderSize, HeaderFields int
	// Dial opens a connection; nil: a net.Dialer. The address is one of IP, so that no name is looked up.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const defaultTimeout = 30 * time.Second

// Refusal is an answer that ends a conversation.
type Refusal struct {
	To    string // what was answered: "the connection", SEMA
	Reply smtp.Reply
}

func (r *Refusal) Error() string { return r.To + " was answered by " + r.Reply.String() }

// ErrEarly is about octets that somebody has put before the TLS handshake.
var ErrEarly = errors.New("plaintext behind the reply to STARTTLS")

// Call is one conversation. End it with Close.
type Call struct {
	caller *Caller
	wire   wire.Conn
	tls    *policy.TLS
	stop   func() bool
	ctx    context.Context //nolint:containedctx // that of the conversation, which it ends
}

// Open begins a conversation with the server at an address: the greeting was read, and the connection is encrypted
// where the server does that. Who the server is nobody verifies but by its address, so that the certificate may be any.
func (c *Caller) Open(ctx context.Context, at netip.AddrPort) (*Call, error) {
	call, err := c.open(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("amtp: %s: %w", at, err)
	}
	return call, nil
}

func (c *Caller) open(ctx context.Context, at netip.AddrPort) (*Call, error) {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	dctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	conn, err := dial(dctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	call := &Call{caller: c, ctx: ctx}
	call.wire.Open(conn, wire.Options{Context: ctx, Log: slog.New(slog.DiscardHandler)})
	call.wire.FlushWithin = c.timeout()
	call.wire.Begin()
	// Reads know deadlines only; closing the connection is what makes them heed ctx.
	call.stop = context.AfterFunc(ctx, call.wire.Cut)
	if err := call.greet(); err != nil {
		call.cut()
		return nil, call.why(err)
	}
	return call, nil
}

func (c *Caller) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

// why is ctx's error where that is what ended the conversation.
func (c *Call) why(err error) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return err
}

// greet reads the greeting and encrypts the connection.
func (c *Call) greet() error {
	r, err := c.reply(c.caller.timeout())
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return &Refusal{To: "the connection", Reply: r}
	}
	if r, err = c.say(string(StartTLS)); err != nil || r.Code != 220 {
		return err // it has none, and what is said is read on the way as all mail was in 2003
	}
	if c.wire.Buffered() > 0 {
		return ErrEarly
	}
	facts, err := c.wire.Encrypt(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // opportunistic, as between MTAs (RFC 7435): what proves the server is its address
	}, c.caller.timeout())
	if err != nil {
		return err
	}
	c.tls = &facts
	return nil
}

// TLS is how the connection is encrypted; nil: in the clear.
func (c *Call) TLS() *policy.TLS { return c.tls }

// say says a line and reads the reply to it.
func (c *Call) say(line string) (smtp.Reply, error) {
	if _, err := c.wire.Write([]byte(line + crlf)); err != nil {
		return smtp.Reply{}, err
	}
	return c.reply(c.caller.timeout())
}

func (c *Call) reply(within time.Duration) (smtp.Reply, error) {
	c.wire.ReadBy(time.Now().Add(within))
	return c.wire.ReadReply()
}

// Announce says SELO and returns the answer, whatever it is.
func (c *Call) Announce(a Announcement) (smtp.Reply, error) {
	r, err := c.say(a.String())
	if err != nil {
		return smtp.Reply{}, fmt.Errorf("amtp: SELO: %w", c.why(err))
	}
	return r, nil
}

// Fetch asks for a message with SEMA. take reads it and says what became of it, which the server hears: nil is no
// message, as where the form was broken, and what take returns is said of that as well. domain is that whose server is
// asked. word is what the server was told, and has noted; an error says that it may not have. A *Refusal: it has no such
// message.
func (c *Call) Fetch(claim Claim, domain string, take func(*Message, error) smtp.Reply) (word smtp.Reply, err error) {
	r, err := c.say(claim.String())
	if err != nil {
		return smtp.Reply{}, fmt.Errorf("amtp: SEMA: %w", c.why(err))
	}
	if !r.Positive() {
		return smtp.Reply{}, &Refusal{To: string(Sema), Reply: r}
	}
	limit := c.caller.Size
	if limit <= 0 {
		limit = math.MaxInt64
	}
	block := c.caller.Block
	if block <= 0 {
		block = c.caller.timeout()
	}
	t := newText(&c.wire, block, limit)
	t.cut = limit < math.MaxInt64/cutFactor
	m, err := decode(t, domain, c.caller.HeaderSize, c.caller.HeaderFields)
	if err != nil {
		m = nil
	}
	word = take(m, err)
	fault, alive := t.finish()
	switch {
	case !alive:
		return smtp.Reply{}, fmt.Errorf("amtp: the message broke off: %w", c.why(t.lost))
	case fault != nil:
		word = refusal(fault, replyTooLarge)
	case word.Code < 200 || word.Intermediate():
		word = replyTrouble
	}
	if _, err := c.wire.Write(smtp.AppendReply(nil, word)); err != nil {
		return smtp.Reply{}, fmt.Errorf("amtp: the last word was not said: %w", c.why(err))
	}
	switch noted, err := c.reply(c.caller.timeout()); {
	case err != nil:
		return smtp.Reply{}, fmt.Errorf("amtp: the last word was not noted: %w", c.why(err))
	case !noted.Positive():
		return smtp.Reply{}, fmt.Errorf("amtp: the last word was answered by %s", noted)
	}
	return word, nil
}

// Close takes leave.
func (c *Call) Close() {
	c.wire.FlushWithin = time.Second
	if _, err := c.wire.Write([]byte(string(Quit) + crlf)); err == nil {
		_, _ = c.reply(time.Second)
	}
	c.cut()
}

func (c *Call) cut() {
	c.stop()
	c.wire.Close()
}

// Announce says SELO to the server at an address and returns the answer, whatever it is. An error: it did not come so
// far.
func (c *Caller) Announce(ctx context.Context, at netip.AddrPort, a Announcement) (smtp.Reply, error) {
	call, err := c.Open(ctx, at)
	if err != nil {
		return smtp.Reply{}, err
	}
	defer call.Close()
	return call.Announce(a)
}
