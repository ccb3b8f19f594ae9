// Package mta is the receiving half of an MTA, in small: one SMTP server for
// the embedded Maildir and for the recording MTA of the tests. It stands behind
// Postern, never on the open Internet, but trusts its peer no further than a
// real one would: lines, messages, recipients, connections and waiting are
// bounded.
package mta

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"postern/proxy/smtp"
)

// Store takes the messages.
type Store interface {
	// Begin is called when a message starts to come in. A reply that is not
	// zero refuses it; the message is then read and dropped, and the reply
	// given at its end.
	Begin(*Envelope) (Message, smtp.Reply)
}

// Message is one message on its way into a Store. Write gets the text as it
// was before dot-stuffing; an error is a temporary shortage (452 4.3.1) and
// ends the writing. Then either Commit, whose reply is that of the message, or
// Discard is called.
type Message interface {
	io.Writer
	Commit() smtp.Reply
	Discard()
}

// RawWriter is a Message that also wants the octets of DATA as they came, dot
// stuffed, without the end mark.
type RawWriter interface{ WriteRaw(p []byte) }

// Envelope is what is known of a message before its first octet.
type Envelope struct {
	Connection int // counted from 1
	Peer       net.Addr
	TLS        bool
	ESMTP      bool
	Helo       string
	XClient    map[string]string // decoded attributes of XCLIENT, for the session
	XForward   map[string]string // decoded attributes of XFORWARD, for the transaction
	Proxy      netip.AddrPort    // the source in the PROXY header
	From       smtp.Path
	Params     []smtp.Param
	To         []Recipient
	Chunked    bool // it came by BDAT
}

// Recipient is one accepted RCPT.
type Recipient struct {
	Path   smtp.Path
	Params []smtp.Param
}

// Server is the receiving engine. Its fields must not change once it serves.
type Server struct {
	Hostname string
	Store    Store

	// Keywords are the EHLO keywords offered, SIZE, STARTTLS, XCLIENT and
	// XFORWARD aside, which follow from the fields below. Commands and
	// parameters that they do not name are refused.
	Keywords []string
	TLS      *tls.Config // not nil: STARTTLS
	// Trusted says who may use XCLIENT and XFORWARD; nil: nobody.
	Trusted func(net.Addr) bool
	Proxy   bool // each connection begins with a PROXY header

	MaxSize        int64         // octets of a message; 0: 64 MiB
	MaxRecipients  int           // of a message; 0: 1000
	MaxConnections int           // 0: 200. One more is told 421
	Timeout        time.Duration // for a command, and for a block of a message; 0: 5 min

	// Script, if set, is asked before each step what to do about it. Tests
	// make a backend misbehave this way.
	Script func(Step) Action
	// Tap, if set, is given every octet that comes in on a connection, as the
	// session sees it: behind the PROXY header, decrypted.
	Tap func(connection int, p []byte)

	mu     sync.Mutex
	seq    int
	closed bool
	open   map[io.Closer]bool // listeners and connections
	conns  int
	wg     sync.WaitGroup
}

// Step is a point in a session.
type Step struct {
	Connection int    // counted from 1
	Verb       string // in upper case; CONNECT before the greeting, TEXT within a message, "." at its end
	Line       string // the whole command line
	Octets     int64  // of the message so far
}

// Action is what a Script wants done. The zero Action is what a good server does.
type Action struct {
	Wait  time.Duration // first
	Reply string        // exact octets in place of the reply
	Do    bool          // with Reply or Close: the command takes effect all the same
	Stall bool          // say nothing more, until the peer goes away
	Close bool          // close the connection, after Reply if there is one, else without a word
}

// The defaults of Server.
const (
	defaultSize        = 64 << 20
	defaultRecipients  = 1000
	defaultConnections = 200
	defaultTimeout     = 5 * time.Minute
	maxLine            = 4096 // octets, CRLF counted: XCLIENT, ORCPT and SUBMITTER fit
	maxBad             = 20   // refused commands between two messages
)

func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Serve accepts connections until Close, and then returns net.ErrClosed.
func (s *Server) Serve(ln net.Listener) error {
	if !s.track(ln) {
		_ = ln.Close()
		return net.ErrClosed
	}
	defer s.untrack(ln)
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			var ne net.Error
			switch {
			case closed:
				return net.ErrClosed
			case !errors.As(err, &ne) || errors.Is(err, net.ErrClosed):
				return err
			}
			// Out of descriptors, most likely: it passes.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		pause = 0
		go s.Handle(nc)
	}
}

// Handle serves one connection to its end, and closes it.
func (s *Server) Handle(nc net.Conn) {
	if !s.track(nc) {
		_ = nc.Close()
		return
	}
	defer s.untrack(nc)
	defer nc.Close()
	s.mu.Lock()
	s.seq++
	s.conns++
	seq, full := s.seq, s.conns > or(s.MaxConnections, defaultConnections)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.conns--
		s.mu.Unlock()
	}()
	c := &session{s: s, seq: seq, raw: nc}
	c.use(nc)
	if full {
		c.send(smtp.Reply{Code: 421, Enhanced: "3.2", Text: "Too many connections."})
		return
	}
	c.run()
}

// Close ends listeners and connections, and waits until no session is left.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
	s.wg.Wait()
	return nil
}

func (s *Server) track(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = map[io.Closer]bool{}
	}
	s.open[c] = true
	s.wg.Add(1) // under the lock: Close waits only once nobody can be added
	return true
}

func (s *Server) untrack(c io.Closer) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.wg.Done()
}

// tap hands on what it reads.
type tap struct {
	r   io.Reader
	f   func(int, []byte)
	seq int
}

func (t tap) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.f(t.seq, p[:n])
	}
	return n, err
}

// readBuffer holds a command line, and a good piece of a message.
const readBuffer = 16 << 10

// use makes nc what the session reads and writes.
func (c *session) use(nc net.Conn) {
	c.nc = nc
	var r io.Reader = nc
	if c.s.Tap != nil {
		r = tap{nc, c.s.Tap, c.seq}
	}
	if c.br == nil {
		c.br = bufio.NewReaderSize(r, readBuffer)
	} else {
		c.br.Reset(r)
	}
}

// handshake is the server's half of STARTTLS.
func (c *session) handshake() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = c.raw.SetDeadline(time.Time{})
	tc := tls.Server(c.raw, c.s.TLS)
	if tc.HandshakeContext(ctx) != nil {
		return false
	}
	c.use(tc)
	return true
}
