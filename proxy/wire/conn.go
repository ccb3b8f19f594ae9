// Package wire is the client's side of a session as octets: the connection and the TLS
// session on it, what was read ahead, replies that are not yet sent, and deadlines. It
// knows what a line, a block and a PROXY header are, and nothing of mail.
package wire

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"time"

	"postern/metrics"
	"postern/policy"
	"postern/proxy/reuse"
	"postern/proxy/smtp"
	"postern/proxy/socket"
)

const (
	// LineLimit bounds a command line, CRLF included, in octets: the 512 of
	// RFC 5321 §4.5.3.1.4 and what the extensions add to MAIL, SUBMITTER with
	// every octet encoded among them.
	LineLimit = 2048
	// outLimit is where replies leave although more commands are there.
	outLimit = 4 << 10
)

// Options is what a Conn is told at its beginning.
type Options struct {
	Context context.Context  // once it has ended, nothing is read any more
	Session string           // its id, for the log
	Log     *slog.Logger     // each reply, where debugging is on
	Metrics *metrics.Metrics // may be nil
}

// Conn is one connection. It belongs to the goroutine of its session; only Interrupt and
// Cut may be called by others.
type Conn struct {
	// FlushWithin is how long the client may take to read what was said. Set it before
	// Flush is called.
	FlushWithin time.Duration

	Options                 // immutable
	raw       net.Conn      // as accepted; immutable
	look      socket.Peeker // at raw
	encrypted net.Conn      // the TLS session on raw; nil: in the clear

	in  input   // what is read
	out *[]byte // replies not yet sent; nil if there are none
}

// Open makes c, which is zero, the wire to conn. Nothing may be read of it before Begin.
func (c *Conn) Open(conn net.Conn, o Options) {
	c.Options, c.raw = o, socket.Quick(conn)
	c.look.Of(c.raw)
}

// Begin makes c ready to be read.
func (c *Conn) Begin() { c.in.reset(c.raw) }

// Raw is the connection as it was accepted.
func (c *Conn) Raw() net.Conn { return c.raw }

// ServerName is the name that the client asked for in its TLS handshake (RFC 6066 §3).
func (c *Conn) ServerName() string {
	if tc, ok := c.encrypted.(*tls.Conn); ok {
		return tc.ConnectionState().ServerName
	}
	return ""
}

// Interrupt lets what is being read of the client end as if its time were over.
func (c *Conn) Interrupt() { _ = c.raw.SetReadDeadline(time.Unix(1, 0)) }

// ReadBy sets the deadline for what is read of the client. Once the context has ended
// it has passed: whoever sets it meanwhile must not undo an Interrupt.
func (c *Conn) ReadBy(t time.Time) {
	_ = c.raw.SetReadDeadline(t)
	if c.Context.Err() != nil {
		c.Interrupt()
	}
}

// SetDeadline sets the deadline for all that is read and written.
func (c *Conn) SetDeadline(t time.Time) { _ = c.raw.SetDeadline(t) }

// Buffered says how many octets can be had without waiting.
func (c *Conn) Buffered() int { return c.in.buffered() }

// HasLine says whether a whole line can be had without waiting.
func (c *Conn) HasLine() bool { return c.in.hasLine() }

// Wait blocks until at least one octet is buffered.
func (c *Conn) Wait() error { return c.in.wait() }

// WaitLine blocks until a whole line is buffered, or more than a line may have.
// After an error, that of a deadline say, it may be called again: nothing is lost.
func (c *Conn) WaitLine() error { return c.in.waitLine() }

// ReadLine returns the next line without its CRLF; it is good until the next read. The
// errors are those of smtp.ReadLine. Call Wait before.
func (c *Conn) ReadLine() ([]byte, error) { return smtp.ReadLine(c.in.br, LineLimit) }

// ReadBlock returns the next octets of a message: tail, the few undecided octets of the
// block before, followed by what has arrived. Where streams says that they go on at once
// and nobody makes a copy, there may be 128 KiB of them, else 32. The block goes back with
// PutBlock, or at the end of the session.
func (c *Conn) ReadBlock(tail []byte, streams bool) (b []byte, block *Block, err error) {
	return c.in.readBlock(tail, streams)
}

// PutBlock gives the block of the last ReadBlock back; nil is none.
func (c *Conn) PutBlock(block *Block) { c.in.putBlock(block) }

// Unread gives octets back that were read too far. b is copied, and goes before what
// was given back earlier.
func (c *Conn) Unread(b []byte) { c.in.unread(b) }

// Say queues a reply; the zero Reply is none.
func (c *Conn) Say(r smtp.Reply) {
	if r.IsZero() {
		return
	}
	if c.out == nil {
		c.out = TakeBuffer()
	}
	*c.out = smtp.AppendReply(*c.out, r)
	c.Metrics.Reply(r.Code, r.Enhanced)
	if c.Log.Enabled(c.Context, slog.LevelDebug) {
		c.Log.Debug("reply", "session", c.Session, "reply", r.String())
	}
}

// Full says that so much was said that it should leave.
func (c *Conn) Full() bool { return c.out != nil && len(*c.out) > outLimit }

// Flush sends what was said, in no more time than FlushWithin.
func (c *Conn) Flush() error {
	if c.out == nil {
		return nil
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.FlushWithin))
	w := c.raw
	if c.encrypted != nil {
		w = c.encrypted
	}
	_, err := w.Write(*c.out)
	PutBuffer(c.out)
	c.out = nil
	return err
}

// TurnAway sends one reply to a client that gets no session.
func (c *Conn) TurnAway(r smtp.Reply) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.raw.Write(smtp.AppendReply(nil, r))
	c.Metrics.Reply(r.Code, r.Enhanced)
}

// Close ends the connection and gives its buffer back.
func (c *Conn) Close() {
	defer c.raw.Close()
	c.in.close()
	if c.encrypted != nil {
		_ = c.encrypted.Close()
	}
}

// Cut closes the socket under a session that does not end.
func (c *Conn) Cut() { _ = c.raw.Close() }

// buffers are for what is small and soon sent: replies, and the fields on top of a
// message. They are empty.
var buffers = reuse.Pool[[]byte]{New: func() *[]byte { b := make([]byte, 0, 512); return &b }}

// TakeBuffer returns an empty buffer for what is small and soon sent.
func TakeBuffer() *[]byte { return buffers.Take() }

// PutBuffer gives a buffer back, unless it has grown too large to keep.
func PutBuffer(b *[]byte) {
	if cap(*b) <= 2*outLimit {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// Handshake puts TLS on the connection, as its server, within so much time. Everything
// buffered is forgotten: what came before TLS must not be read after it. Where it fails,
// advice says what the site could do about it; empty: nothing that is known.
func (c *Conn) Handshake(config *tls.Config, within time.Duration, now time.Time) (facts policy.TLS, advice string, err error) {
	offered := &helloConn{Conn: c.behindProxyHeader()}
	tc := tls.Server(offered, config)
	c.SetDeadline(time.Now().Add(within))
	if err := tc.HandshakeContext(c.Context); err != nil {
		return policy.TLS{}, offered.advice(config), err
	}
	offered.hello = nil
	c.SetDeadline(time.Time{})
	state := tc.ConnectionState()
	c.encrypted = tc
	c.in.reset(tc)
	return tlsFacts(&state, config.ClientCAs, now), "", nil
}

// Ahead says whether the client has sent something that we have not read: behind a
// command that ends a group (RFC 2920 §3.1) that is before it can know our answer.
func (c *Conn) Ahead() bool {
	switch {
	case c.in.buffered() > 0:
		return true
	case c.encrypted == nil:
		return c.look.Octets()
	}
	// TLS may have read a record too far; and octets on the socket may be its own.
	return c.insideTLS(0) || c.look.Octets() && c.insideTLS(lookAgain)
}

// lookAgain is how long octets on the socket may take to come out of TLS.
const lookAgain = 50 * time.Millisecond

// insideTLS says whether octets of the session come within d. Whoever reads next sets
// the deadline for it anew.
func (c *Conn) insideTLS(d time.Duration) bool {
	c.ReadBy(time.Now().Add(d))
	return c.in.wait() == nil
}

// dropLimit bounds how much Drop reads.
const dropLimit = 64 << 10

// Drop reads what the client has sent without hearing us, as far as it is here: a
// socket that is closed with octets unread is reset, and the client may never see why.
func (c *Conn) Drop() {
	for n := 0; n < dropLimit && c.Ahead(); {
		c.ReadBy(time.Now().Add(lookAgain))
		b, block, err := c.in.readBlock(nil, false)
		n += len(b)
		c.PutBlock(block)
		if err != nil {
			return
		}
	}
}

// Write sends what was said and then octets, in no more time than FlushWithin. An error
// leaves the connection of no use.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.FlushWithin))
	w := c.raw
	if c.encrypted != nil {
		w = c.encrypted
	}
	return w.Write(b)
}

// ReadReply reads a reply of the other side, where that is a server, or is asked for its
// word like one. The errors are those of smtp.ReadReply, which leave the connection out of
// step, and those of the connection.
func (c *Conn) ReadReply() (smtp.Reply, error) {
	if err := c.in.wait(); err != nil {
		return smtp.Reply{}, err
	}
	return smtp.ReadReply(c.in.br)
}

// Encrypt puts TLS on the connection, as its client, within so much time. Everything
// buffered is forgotten, as in Handshake: call Buffered before.
func (c *Conn) Encrypt(config *tls.Config, within time.Duration) (policy.TLS, error) {
	tc := tls.Client(c.raw, config)
	c.SetDeadline(time.Now().Add(within))
	if err := tc.HandshakeContext(c.Context); err != nil {
		return policy.TLS{}, err
	}
	c.SetDeadline(time.Time{})
	c.encrypted = tc
	c.in.reset(tc)
	state := tc.ConnectionState()
	return policy.TLS{
		Version: strings.TrimPrefix(tls.VersionName(state.Version), "TLS "),
		Cipher:  tls.CipherSuiteName(state.CipherSuite),
	}, nil
}
