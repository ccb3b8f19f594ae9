package proxy

import (
	"errors"
	"iter"
	"os"
	"time"

	"postern/policy"
	"postern/proxy/backend"
	"postern/proxy/relay"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// The envelope of a transaction, as the backend hears it: what proxy/relay asks for, and
// what becomes of the answers.

// Client is what the backend shall learn about the client.
func (tx *transaction) Client() backend.Client {
	c := backend.Client{
		Addr: tx.peer.addr, Name: tx.facts.Client.Name, Helo: tx.peer.helo.Name, ESMTP: tx.peer.esmtp, TLS: tx.peer.tls != nil,
	}
	c.ReverseName = tx.facts.Iprev.Reverse
	c.NameTemporary = tx.facts.Iprev.Result == policy.TempError
	c.ReverseTemporary = c.NameTemporary && c.ReverseName == ""
	c.Local = wire.AddrPort(tx.wire.Raw().LocalAddr())
	if tx.peer.tls != nil {
		c.TLSVersion, c.TLSCipher = "TLSv"+tx.peer.tls.Version, tx.peer.tls.Cipher
		c.ServerName = tx.wire.ServerName()
	}
	return c
}

// StillTrue says whether what the backend was told about the client, perhaps
// some messages ago, is still so.
func (tx *transaction) StillTrue(told *backend.Client) bool {
	f := &tx.facts
	return told.Helo == f.Helo.Name && told.ESMTP == tx.peer.esmtp && told.TLS == (tx.peer.tls != nil) &&
		told.Name == f.Client.Name && told.ReverseName == f.Iprev.Reverse && told.NameTemporary == (f.Iprev.Result == policy.TempError)
}

// Taken are the recipients that the backend took.
func (tx *transaction) Taken() iter.Seq2[smtp.Path, []smtp.Param] {
	return func(yield func(smtp.Path, []smtp.Param) bool) {
		for i := range tx.rcpts.list {
			if r := &tx.rcpts.list[i]; r.taken && !yield(r.path, r.params) {
				return
			}
		}
	}
}

// Took adds to the record how long a step has taken.
func (tx *transaction) Took(step string, since time.Time) {
	*tx.took.Of(step) += time.Since(since).Seconds()
}

// awaitsBackend says whether the backend has answers to give to MAIL or RCPT. A nil
// transaction waits for nothing.
func (tx *transaction) awaitsBackend() bool {
	return tx != nil && (len(tx.rcpts.pending) > 0 || tx.relay.MailDue())
}

// settle reads what the backend has still to say to MAIL and RCPT, and gives
// the client its replies in the order of its commands.
func (tx *transaction) settle() {
	if tx == nil || len(tx.rcpts.pending) == 0 {
		return
	}
	start := time.Now()
	refused := tx.relay.MailRefusal()
	for _, i := range tx.rcpts.pending {
		r := &tx.rcpts.list[i]
		if r.reply.IsZero() {
			r.reply = tx.relay.RcptReply(refused)
			tx.rcpts.answered(r)
		}
		tx.reply = r.reply
		tx.wire.Say(r.reply)
		tx.rcpts.said(r)
	}
	tx.rcpts.pending = tx.rcpts.pending[:0]
	tx.Took("rcpt", start)
}

// gaveUp ends Spare where octets of a message were waited for: it says whether
// there were none, but somebody who got the connection, and the client is to be
// waited for again.
func (tx *transaction) gaveUp(spare bool, err error) bool {
	if !spare || !tx.loan.Wanted() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	giveUp(tx.loan, tx)
	return true
}

// The replies where a connection to the backend was given up.
var (
	errSlow    = smtp.Reply{Code: 451, Enhanced: "4.5", Text: "Too slow while others waited for the mail server behind us, try again later"}
	errPenalty = smtp.Reply{Code: 451, Enhanced: "7.0", Text: "Too many errors in this transaction, try again later"}
)

// giveUp lets go of the connection. Between two transactions that costs nothing. A
// client that is silent in the middle of one, tx, while others wait, is told to come
// again. NOT: what it has been told so far said again later, on another connection;
// there may be none then, and the backend may think otherwise.
func giveUp(l *relay.Loan, tx *transaction) {
	giveUpFor(l, tx, errSlow, "given up for others: the client was silent or slow while they waited for a connection")
}

// giveUpFor is giveUp, with what the client is told and the record says. A message
// that has begun is cut: without its end the backend has none.
func giveUpFor(l *relay.Loan, tx *transaction, r smtp.Reply, why string) {
	if tx != nil && l.Conn() != nil {
		if f := tx.relay.GiveUp(r, why); tx.message != nil {
			tx.message.discard(f)
		}
	}
	l.Release()
}
