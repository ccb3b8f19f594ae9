package backend

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"time"

	"postern/proxy/smtp"
	"postern/proxy/socket"
)

// link is one connection to one address of a backend. It outlives the sessions
// that borrow it (Conn is such a loan).
type link struct {
	at   *address
	raw  net.Conn      // the socket
	look socket.Peeker // at raw
	nc   net.Conn      // what we read and write: the socket, or TLS on it
	br   *bufio.Reader
	said smtp.ReplyReader // of br

	caps Capabilities
	born time.Time
	idle time.Time // since when it is in the pool

	mails  int // MAIL commands heard by this connection
	errors int // negative replies since the last accepted message
	// resetting: RSET was written when it came back, its reply is unread.
	resetting bool
	// introduced: the backend was told about a client (XCLIENT, PROXY).
	introduced bool
}

// readBuffer is enough for most groups of replies, and small enough to stay
// with an idle connection.
const readBuffer = 4096

func newLink(at *address, nc net.Conn, now time.Time) *link {
	nc = socket.Quick(nc)
	l := &link{at: at, raw: nc, nc: nc, br: bufio.NewReaderSize(nc, readBuffer), born: now}
	l.look.Of(nc)
	return l
}

// fail wraps err as a failure of this link.
func (l *link) fail(kind Kind, err error) *Error {
	return &Error{Kind: kind, Backend: l.at.pool.name, Address: l.at.name, Err: err, personal: l.introduced}
}

// refuse is a failure that has a reply.
func (l *link) refuse(kind Kind, r smtp.Reply, during string) *Error {
	return &Error{Kind: kind, Backend: l.at.pool.name, Address: l.at.name, Reply: r, Err: errors.New(during), personal: l.introduced}
}

// write sends p within d. NOT: within d of each progress. A backend that takes one
// octet now and then would have each write for hours.
func (l *link) write(p []byte, d time.Duration) error {
	if err := l.nc.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	_, err := l.nc.Write(p)
	return err
}

// writev is write for two pieces that leave in one system call.
func (l *link) writev(p, q []byte, d time.Duration) error {
	if err := l.nc.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	bufs := net.Buffers{p, q}
	_, err := bufs.WriteTo(l.nc) // one write after another where l.nc is no socket
	return err
}

// reply reads one reply within d. 421 is an error (RFC 5321 §3.8): the backend
// closes the channel, whatever it was asked.
func (l *link) reply(d time.Duration) (smtp.Reply, error) {
	if err := l.nc.SetReadDeadline(time.Now().Add(d)); err != nil {
		return smtp.Reply{}, l.fail(kindOf(err), err)
	}
	r, err := l.said.Read(l.br)
	if err != nil {
		return smtp.Reply{}, l.fail(kindOf(err), err)
	}
	if heard := l.at.pool.o.heard; heard != nil {
		heard(r)
	}
	if r.Code == 421 {
		return r, l.refuse(KindLost, r, "the backend closes the connection")
	}
	return r, nil
}

// ask sends one line and reads its reply.
func (l *link) ask(line string, d time.Duration) (smtp.Reply, error) {
	if err := l.write([]byte(line+"\r\n"), d); err != nil {
		// The backend may have said why before it closed the connection.
		if r, e := l.reply(lastWords); e == nil || !r.IsZero() {
			return r, l.refuse(KindLost, r, "write: "+err.Error())
		}
		return smtp.Reply{}, l.fail(kindOf(err), err)
	}
	return l.reply(d)
}

// lastWords is how long a connection that we could not write to is listened
// to: long enough for what is in the socket already.
const lastWords = time.Second

// ehlo says EHLO as name and learns what is offered.
func (l *link) ehlo(name string, d time.Duration) error {
	r, err := l.ask("EHLO "+name, d)
	if err != nil {
		return err
	}
	if r.Code != 250 {
		during := "EHLO"
		if l.at.pool.identity == identityProxyV2 {
			// A backend that expects no PROXY header takes it for a command.
			during += ", behind a PROXY header (does this port expect one?)"
		}
		return l.refuse(KindRefused, r, during)
	}
	secure, verified := l.caps.TLS, l.caps.Verified
	l.caps = parseCapabilities(r.Text)
	l.caps.TLS, l.caps.Verified = secure, verified
	if secure {
		// STARTTLS must not be listed any more (RFC 3207 §4.2).
		l.caps.StartTLS = false
	}
	return nil
}

// quit says QUIT without waiting for the answer, and closes.
func (l *link) quit() {
	_ = l.nc.SetWriteDeadline(time.Now().Add(lastWords))
	_, _ = l.nc.Write([]byte("QUIT\r\n"))
	l.close()
}

// close closes the socket at once. NOT: tls.Conn.Close, which may wait five
// seconds to send its alert to a peer that reads nothing.
func (l *link) close() { _ = l.raw.Close() }

// alive says, without a round trip, whether an idle connection can still be
// used: nothing may have come in, neither an end nor a 421. A kind of
// connection that cannot be asked passes for alive; the first command will
// tell, and is repeated elsewhere if need be.
func (l *link) alive() bool { return l.br.Buffered() == 0 && l.look.Quiet() }

// lookAgain is how long octets on the socket may take to come out of TLS.
const lookAgain = 50 * time.Millisecond

// speaks says whether the backend has said something that we have not read, in the
// buffer or on the socket. An end is no word.
func (l *link) speaks() bool {
	if l.br.Buffered() > 0 {
		return true
	}
	if l.look.Quiet() {
		return false
	}
	// Octets of TLS need not be a word either.
	_ = l.nc.SetReadDeadline(time.Now().Add(lookAgain))
	b, _ := l.br.Peek(1)
	return len(b) > 0
}

// ehloName returns name if it may stand behind EHLO, else the address literal
// of the client, else fallback. A client may have sent anything; what is not
// a domain or literal in ASCII would make the backend refuse our EHLO.
func ehloName(c Client, fallback string) string {
	if len(c.Helo) > 0 && len(c.Helo) <= 255 && strings.IndexFunc(c.Helo, func(r rune) bool {
		return r <= ' ' || r >= 0x7f
	}) < 0 {
		return c.Helo
	}
	if a := c.Addr.Addr().Unmap().WithZone(""); a.Is4() {
		return "[" + a.String() + "]"
	} else if a.Is6() {
		return "[IPv6:" + a.String() + "]"
	}
	return fallback
}
