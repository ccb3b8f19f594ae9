// Package etrn asks a host that keeps mail for a domain to send it now (RFC 1985).
//
// It is for hosts that the configuration names, as a backup MX. NOT: for a host
// that a client has named, which would make Postern connect where strangers wish.
package etrn

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"postern/proxy/smtp"
)

// Host is a host that keeps mail for a domain.
type Host struct {
	Domain  string // the domain whose mail is wanted
	Address string // host:port
	// TLS verifies the host after STARTTLS, which is then a must; nil: all is said in
	// the clear.
	TLS *tls.Config
}

// Asker asks hosts. The zero value but for Hostname is useful.
type Asker struct {
	Hostname string        // our name, for EHLO
	Timeout  time.Duration // of a whole conversation; 0: 30 s
	// Dial opens a connection; nil: a net.Dialer. Tests put pipes here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultTimeout = 30 * time.Second
	// lastWords is how long QUIT waits for its answer.
	lastWords = time.Second
	// readBuffer is what smtp.ReadReply wants.
	readBuffer = 4096
)

// Why a host could not be asked.
var (
	ErrNoTLS  = errors.New("STARTTLS is not offered, and without it nobody knows whom we talk to")
	ErrNoETRN = errors.New("ETRN is not offered")
	ErrEarly  = errors.New("plaintext behind the reply to STARTTLS")
	ErrDomain = errors.New("is no domain")
)

// Refusal is a negative reply on the way to ETRN.
type Refusal struct {
	To    string // what was answered: greeting, EHLO, STARTTLS
	Reply smtp.Reply
}

func (r *Refusal) Error() string { return r.To + " was answered by " + r.Reply.String() }

// Begun says whether a reply to ETRN means that the host does what it was asked, or
// has nothing to send (RFC 1985 §5.1: 250 to 253).
func Begun(r smtp.Reply) bool { return r.Code >= 250 && r.Code <= 253 }

// Ask says ETRN and returns the reply to it, whatever it is. An error says that it
// did not come so far: a *Refusal where the host had answered otherwise. All of it
// takes no longer than Timeout, and holds no more than one reply.
func (a *Asker) Ask(ctx context.Context, h Host) (smtp.Reply, error) {
	r, err := a.ask(ctx, h)
	if err != nil {
		return smtp.Reply{}, fmt.Errorf("etrn: %s at %s: %w", h.Domain, h.Address, err)
	}
	return r, nil
}

func (a *Asker) ask(ctx context.Context, h Host) (smtp.Reply, error) {
	domain, err := smtp.ASCIIDomain(h.Domain)
	if err != nil || !smtp.IsDomain(domain) {
		return smtp.Reply{}, ErrDomain
	}
	timeout := a.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dial := a.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	nc, err := dial(ctx, "tcp", h.Address)
	if err != nil {
		return smtp.Reply{}, err
	}
	defer func() { _ = nc.Close() }()
	// Reads and writes know deadlines only, and closing the connection is what makes
	// them heed ctx.
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	c := &conn{nc: nc, br: bufio.NewReaderSize(nc, readBuffer)}
	r, err := c.converse(ctx, a.Hostname, domain, h.TLS)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return r, err
}

// conn is one conversation.
type conn struct {
	nc net.Conn
	br *bufio.Reader
}

func (c *conn) converse(ctx context.Context, hostname, domain string, verify *tls.Config) (smtp.Reply, error) {
	if r, err := smtp.ReadReply(c.br); err != nil {
		return smtp.Reply{}, err
	} else if r.Code != 220 {
		return smtp.Reply{}, &Refusal{To: "the connection", Reply: r}
	}
	offered, err := c.want(250, "EHLO "+hostname)
	if err != nil {
		return smtp.Reply{}, err
	}
	if verify != nil {
		if !offered.Offers("STARTTLS") {
			return smtp.Reply{}, ErrNoTLS
		}
		if err := c.startTLS(ctx, verify); err != nil {
			return smtp.Reply{}, err
		}
		// What was said in the clear is forgotten (RFC 3207 §4.2).
		if offered, err = c.want(250, "EHLO "+hostname); err != nil {
			return smtp.Reply{}, err
		}
	}
	if !offered.Offers("ETRN") {
		return smtp.Reply{}, ErrNoETRN
	}
	r, err := c.say("ETRN " + domain)
	if err != nil {
		return smtp.Reply{}, err
	}
	c.quit()
	return r, nil
}

// startTLS encrypts the conversation, once the host has proven who it is.
func (c *conn) startTLS(ctx context.Context, config *tls.Config) error {
	if _, err := c.want(220, "STARTTLS"); err != nil {
		return err
	}
	// Octets behind the 220 were written in the clear, by somebody who hopes that we
	// read them as if they had come encrypted.
	if c.br.Buffered() > 0 {
		return ErrEarly
	}
	tc := tls.Client(c.nc, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	c.nc = tc
	c.br.Reset(tc)
	return nil
}

// want says a line and reads its reply, which must have that code.
func (c *conn) want(code int, line string) (smtp.Reply, error) {
	r, err := c.say(line)
	if err == nil && r.Code != code {
		return r, &Refusal{To: line, Reply: r}
	}
	return r, err
}

func (c *conn) say(line string) (smtp.Reply, error) {
	if _, err := c.nc.Write([]byte(line + "\r\n")); err != nil {
		return smtp.Reply{}, err
	}
	return smtp.ReadReply(c.br)
}

// quit takes leave. What was asked is answered, so nothing hangs on it.
func (c *conn) quit() {
	_ = c.nc.SetDeadline(time.Now().Add(lastWords))
	_, _ = c.say("QUIT")
}
