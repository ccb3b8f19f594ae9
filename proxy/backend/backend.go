// Package backend is the SMTP client towards the MTA behind us: routes, the
// addresses of a backend and their health, the pool of connections, what a
// backend offers, and how it learns who the client is. It also holds the
// embedded backend, an MTA in small that writes a Maildir.
//
// A 2yz to 5yz answer of the MTA is a smtp.Reply; a broken conversation is an
// *Error, which the session turns into 451 4.4.1 whatever its kind: trouble
// between us and the MTA is never the sender's fault. The one exception is marked
// TurnsAway.
package backend

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/proxy/smtp"
)

// Client is who the mail comes from, as the backend should see it.
type Client struct {
	Addr  netip.AddrPort // the client's end, the true one
	Local netip.AddrPort // our end, which the client connected to
	Name  string         // forward-confirmed reverse name; empty: unknown
	Helo  string         // as received; empty: unknown
	ESMTP bool           // it said EHLO
	TLS   bool           // its leg is encrypted

	// NameTemporary says that Name is empty only because the DNS could not
	// tell at the moment.
	NameTemporary bool
	// ReverseName is the name that the reverse zone has for Addr, confirmed or not;
	// empty: there is none, or, with ReverseTemporary, the DNS could not tell.
	ReverseName      string
	ReverseTemporary bool
	// TLSVersion and TLSCipher go into the PROXY header: "TLSv1.3", the IANA
	// name of the cipher suite.
	TLSVersion, TLSCipher string
	// ServerName is the name that the client asked for in TLS (SNI); it goes there too.
	ServerName string
}

// Kind is what went wrong with a backend, a closed set: it labels a metric.
type Kind string

// The kinds of failure.
const (
	KindDial     Kind = "dial"     // no TCP connection
	KindTimeout  Kind = "timeout"  // connected, but too slow
	KindTLS      Kind = "tls"      // STARTTLS missing, refused, or the certificate is wrong
	KindProtocol Kind = "protocol" // what it said is not SMTP
	KindIdentity Kind = "identity" // it cannot or will not be told who the client is
	KindRefused  Kind = "refused"  // it greeted with 4yz or 5yz, or refused EHLO
	KindLost     Kind = "lost"     // the connection ended, or 421
	KindBusy     Kind = "busy"     // every connection that we allow ourselves is in use
)

// kinds are all of them.
var kinds = []string{
	string(KindDial), string(KindTimeout), string(KindTLS), string(KindProtocol), string(KindIdentity), string(KindRefused), string(KindLost), string(KindBusy),
}

// Error is a failure of a backend. It is ours, not the client's, unless it TurnsAway.
type Error struct {
	Kind    Kind
	Backend string     // the backend's name in the configuration
	Address string     // which of its addresses; empty if none was tried
	Reply   smtp.Reply // what it said, if it said something: 421, 554
	Err     error

	// personal: it came after the backend was told who the client is, and may
	// be about that client. It says nothing on the health of the address, or
	// any client with a bad name could talk every backend down.
	personal bool
	// TurnsAway says that Reply is for the client: the MTA was told by XCLIENT
	// who that is, and its own access rules let in neither it nor the name that it
	// said in EHLO.
	TurnsAway bool
}

// Error renders the failure for the log. It must not reach the client.
func (e *Error) Error() string {
	s := "backend " + e.Backend
	if e.Address != "" {
		s += " at " + e.Address
	}
	s += ": " + string(e.Kind)
	if !e.Reply.IsZero() {
		s += ": " + e.Reply.String()
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Options is what a Set needs beside the configuration. The zero value of each
// is useful, but for Hostname.
type Options struct {
	Hostname string           // our name, for EHLO
	Timeouts configs.Timeouts // zero ones: the defaults of configs.Default
	Metrics  *metrics.Metrics
	Log      *slog.Logger
	// Dial opens a connection; nil: a net.Dialer. Tests put pipes here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// PerClient is how many connections to a backend one client may have at a
	// time; 0: as many as it leaves free for others, where there is a limit.
	PerClient int

	IdlePerAddress int           // connections kept open for later, per address, where fewer are at work; 0: 20, negative: none
	IdleTime       time.Duration // how long; 0: 60 s. Stay below what the MTA allows (Postfix: smtpd_timeout, 300 s)
	MaxUses        int           // transactions per connection; 0: 100. A backend's own MAILMAX may lower it
	MaxAge         time.Duration // of a connection, so that an MTA's reload reaches every one; 0: 5 min

	heard func(smtp.Reply) // of every reply, in an examination; nil: nobody listens
}

// withDefaults fills what was left zero.
func (o Options) withDefaults() Options {
	d := configs.Default().Timeouts
	for _, t := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&o.Timeouts.BackendConnect, d.BackendConnect},
		{&o.Timeouts.BackendCommand, d.BackendCommand},
		{&o.Timeouts.TLSHandshake, d.TLSHandshake},
		{&o.Timeouts.DataBlock, d.DataBlock},
		{&o.Timeouts.EndOfData, d.EndOfData},
		{&o.IdleTime, time.Minute},
		{&o.MaxAge, 5 * time.Minute},
	} {
		if *t.v <= 0 {
			*t.v = t.d
		}
	}
	if o.Hostname == "" {
		o.Hostname = "localhost"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		// No keep-alive: every wait for a backend has a deadline.
		o.Dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	if o.IdlePerAddress == 0 {
		o.IdlePerAddress = 20
	}
	if o.MaxUses <= 0 {
		o.MaxUses = 100
	}
	return o
}

// kindOf sorts an I/O error: out of time, gone, or not SMTP.
func kindOf(err error) Kind {
	var ne net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return KindTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrClosedPipe), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return KindLost
	case errors.As(err, &ne):
		return KindLost
	}
	return KindProtocol
}
