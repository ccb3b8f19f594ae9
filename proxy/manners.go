package proxy

import (
	"errors"
	"strings"
	"syscall"
	"time"

	"postern/policy/journal"
	"postern/proxy/smtp"
)

// manners is what a session knows of how its client keeps to the protocol.
type manners struct {
	served bool // a command has been answered with success: it does speak SMTP
	early  int  // faults before that, which weigh double
}

// Clients of other protocols, in place of the first command.
var (
	errHTTP = errors.New("proxy: HTTP in place of a command")
	errTLS  = errors.New("proxy: a TLS handshake in place of a command")
)

// tlsHandshake is the content type of a ClientHello (RFC 8446 §5.1), which no
// command begins with.
const tlsHandshake = 0x16

// httpMethods begin the request line of a client that has lost its way, or of a
// browser that was sent here with a session of SMTP in what it posts.
var httpMethods = []string{"GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "CONNECT ", "DELETE ", "PATCH ", "TRACE ", "PRI "}

// otherProtocol says whether what comes next is no SMTP. It waits for more only within
// what may become the method of a request, which is no line yet; a whole line is looked
// at again (isHTTP). Call input.wait before. NOT: the answer "unknown command" to each
// line, which would read what stands in the body, where the browser's page has put it,
// as commands.
func (s *session) otherProtocol() error {
	for n := 1; ; n++ {
		b, err := s.in.br.Peek(n)
		if err != nil {
			return nil // it comes again with the line
		}
		if b[0] == tlsHandshake && s.tls == nil {
			return errTLS
		}
		open := false
		for _, m := range httpMethods {
			open = open || len(m) > n && strings.EqualFold(m[:n], string(b))
			if strings.EqualFold(m, string(b)) {
				return errHTTP
			}
		}
		if !open {
			return nil
		}
	}
}

// isHTTP says whether a line is the request line of HTTP/1 (RFC 9112 §3).
func isHTTP(line []byte) bool {
	text := strings.TrimRight(string(line[max(0, len(line)-16):]), " ")
	i := strings.LastIndexByte(text, ' ')
	return i > 0 && len(text)-i > len(" HTTP/") && strings.EqualFold(text[i:i+len(" HTTP/")], " HTTP/")
}

// misplaced ends the session of a client of another protocol.
func (s *session) misplaced(err error) {
	s.settle()
	s.closing = true
	text := "This is SMTP, not HTTP, closing connection"
	if s.result = endedHTTP; errors.Is(err, errTLS) {
		s.result, text = endedTLS, "Say STARTTLS first, closing connection"
	}
	s.say(s.refuse(421, "7.0", text))
}

// ahead says whether the client has sent something that we have not read: behind a
// command that ends a group (RFC 2920 §3.1) that is before it can know our answer.
func (s *session) ahead() bool {
	switch {
	case s.in.buffered() > 0:
		return true
	case s.tls == nil:
		return s.onSocket()
	}
	// TLS may have read a record too far; and octets on the socket may be its own.
	return s.insideTLS(0) || s.onSocket() && s.insideTLS(lookAgain)
}

// onSocket says whether the socket has octets for us.
func (s *session) onSocket() bool {
	sc, ok := s.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, _ = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return err == nil && n > 0
}

// lookAgain is how long octets on the socket may take to come out of TLS.
const lookAgain = 50 * time.Millisecond

// insideTLS says whether octets of the session come within d. The deadline for what
// is read is set anew by whoever reads next.
func (s *session) insideTLS(d time.Duration) bool {
	s.readBy(time.Now().Add(d))
	return s.in.wait() == nil
}

// dropLimit bounds how much drop reads.
const dropLimit = 64 << 10

// drop reads what the client has sent without hearing us, as far as it is here: a
// socket that is closed with octets unread is reset, and the client may never see why.
func (s *session) drop() {
	for n := 0; n < dropLimit && s.ahead(); {
		s.readBy(time.Now().Add(lookAgain))
		b, block, err := s.in.readBlock(nil)
		n += len(b)
		putBlock(block)
		if err != nil {
			return
		}
	}
}

// outOfTurn answers a client that did not wait for the answer to verb. What it sent
// meanwhile was written for a dialogue that did not happen: text that we would read
// as commands, where the answer is a refusal. Nothing comes back where the site only
// notes it.
func (s *session) outOfTurn(verb string) smtp.Reply {
	s.client.Unsynchronized = true
	if s.tx != nil {
		s.tx.facts.Client.Unsynchronized = true
	}
	if s.set.Limits.Unsynchronized == "note" {
		return smtp.Reply{}
	}
	s.drop()
	r := s.refuse(503, "5.0", "You did not wait for the answer to "+verb+", closing connection")
	s.result = endedUnsynchronized
	s.closing = true
	if tx := s.tx; tx != nil && tx.relay == nil {
		tx.reply = r
		s.releaseBackend()
		s.finish(journal.OutcomeRefused)
	}
	return r
}
