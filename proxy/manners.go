package proxy

import (
	"errors"

	"postern/policy/journal"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// manners is what a session knows of how its client keeps to the protocol.
type manners struct {
	served bool // a command has been answered with success: it does speak SMTP
	faults int  // of the client
	early  int  // of those: before it was served; they weigh double
	// last is our reply to the last fault. A MAIL with wrong parameters begins no
	// transaction whose record would tell of it.
	last        smtp.Reply
	commands    int  // since the last message
	mailRefused bool // the last command was a MAIL that started no transaction
}

// misplaced ends the session of a client of another protocol.
func (s *session) misplaced(err error) {
	s.tx.settle()
	s.closing = true
	if errors.Is(err, wire.ErrTLS) {
		s.result = endedTLS
		s.wire.Say(s.refuse(421, "7.0", "Say STARTTLS first, closing connection"))
		return
	}
	s.result = endedHTTP
	s.wire.Say(s.refuse(421, "7.0", "This is SMTP, not HTTP, closing connection"))
}

// outOfTurn answers a client that did not wait for the answer to verb. What it sent
// meanwhile was written for a dialogue that did not happen: text that we would read
// as commands, where the answer is a refusal. Nothing comes back where the site only
// notes it.
func (s *session) outOfTurn(verb string) smtp.Reply {
	s.peer.client.Unsynchronized = true
	if s.tx != nil {
		s.tx.facts.Client.Unsynchronized = true
	}
	if s.set.Limits.Unsynchronized == "note" {
		return smtp.Reply{}
	}
	s.wire.Drop()
	r := s.refuse(503, "5.0", "You did not wait for the answer to "+verb+", closing connection")
	s.result = endedUnsynchronized
	s.closing = true
	if tx := s.tx; tx != nil && tx.message == nil {
		tx.reply = r
		s.loan.Release()
		s.finish(journal.OutcomeRefused)
	}
	return r
}
