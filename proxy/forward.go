package proxy

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	"postern/policy"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// The envelope of a transaction, as the backend hears it.

// forward queues r for the backend, opening it when this is the first. A reply
// comes back only when it cannot be asked.
func (tx *transaction) forward(r *recipient, params []smtp.Param) smtp.Reply {
	if tx.broken != "" {
		return tx.unserved()
	}
	if !tx.turnedAway.IsZero() {
		return tx.turnedAway
	}
	if tx.loan.bc != nil && (tx.loan.bc.Pool() != tx.pool || !tx.stillTrue()) {
		// From a transaction before, or from recipients that were all refused.
		tx.loan.release()
	}
	if tx.loan.bc == nil {
		start := time.Now()
		bc, err := tx.pool.Open(tx.srv.ctx, tx.asClient())
		tx.time("backend", start)
		var be *backend.Error
		if errors.As(err, &be) && be.TurnsAway {
			tx.backend, tx.backRep = be.Backend+" "+be.Address, be.Reply
			tx.turnedAway = tx.asToClient(be.Reply, "7.1")
			return tx.turnedAway
		}
		if err != nil {
			tx.fail(err)
			return withID(errBackend, tx.facts.ID)
		}
		tx.loan.set(bc)
	}
	tx.backend = tx.loan.bc.Backend() + " " + tx.loan.bc.Address()
	caps := tx.loan.bc.Capabilities()
	if len(params) > 0 && !caps.DSN {
		return withID(errChanged, tx.facts.ID)
	}
	if !tx.mailSent {
		ps, ok := tx.forwardParams(caps)
		if !ok {
			tx.loan.drop()
			return withID(errChanged, tx.facts.ID)
		}
		tx.loan.bc.QueueMail(tx.from, ps)
		tx.mailSent, tx.mailDue = true, true
	}
	tx.loan.bc.QueueRcpt(r.path, params)
	r.queued, r.params = true, params
	tx.takes8 = caps.EightBitMIME
	return smtp.Reply{}
}

// unserved is the answer where the backend is gone that the transaction began with.
func (tx *transaction) unserved() smtp.Reply {
	if r := tx.gaveUp; !r.IsZero() {
		return withID(r, tx.facts.ID)
	}
	return withID(errBackend, tx.facts.ID)
}

// asClient is what the backend shall learn about the client.
func (tx *transaction) asClient() backend.Client {
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

// stillTrue says whether what the backend was told about the client, perhaps
// some messages ago, is still so.
func (tx *transaction) stillTrue() bool {
	f, told := &tx.facts, tx.loan.bc.Client()
	return told.Helo == f.Helo.Name && told.ESMTP == tx.peer.esmtp && told.TLS == (tx.peer.tls != nil) &&
		told.Name == f.Client.Name && told.ReverseName == f.Iprev.Reverse && told.NameTemporary == (f.Iprev.Result == policy.TempError)
}

// forwardParams is what of MAIL's parameters goes on to a backend with those
// capabilities; not ok: it lacks what the client was promised.
func (tx *transaction) forwardParams(c backend.Capabilities) (ps []smtp.Param, ok bool) {
	for _, p := range tx.params {
		switch p.Key {
		case "SIZE":
			if c.HasSize {
				n := tx.facts.Mail.Size + tx.set.addedSize()
				ps = append(ps, smtp.Param{Key: "SIZE", Value: strconv.FormatInt(n, 10), HasValue: true})
			}
			continue
		case "SUBMITTER": // RFC 4405 §4.3: dropped where it is not known
			if !c.Submitter {
				continue
			}
		case "BODY":
			if tx.binary && !(c.BinaryMIME && c.Chunking) || tx.eight && !c.EightBitMIME {
				return nil, false
			}
			if !c.EightBitMIME {
				continue
			}
		case "SMTPUTF8":
			if !c.SMTPUTF8 {
				return nil, false
			}
		case "REQUIRETLS":
			if !c.RequireTLS || !c.Verified {
				return nil, false
			}
		case "RET", "ENVID":
			if !c.DSN {
				return nil, false
			}
		}
		ps = append(ps, p)
	}
	return ps, true
}

// awaitsBackend says whether the backend has answers to give to MAIL or RCPT. A nil
// transaction waits for nothing.
func (tx *transaction) awaitsBackend() bool {
	return tx != nil && (len(tx.pending) > 0 || tx.mailDue)
}

// settle reads what the backend has still to say to MAIL and RCPT, and gives
// the client its replies in the order of its commands.
func (tx *transaction) settle() {
	if tx == nil || len(tx.pending) == 0 {
		return
	}
	start := time.Now()
	var refused smtp.Reply // the backend's refusal of MAIL
	if tx.mailDue {
		tx.mailDue = false
		if r, ok := tx.backendReply("1.0"); ok && !r.Positive() {
			// It is the answer to MAIL, but the client has had ours: the
			// recipients are told (RFC 5321 §3.3 lets a server speak late).
			refused = r
			tx.mailSent = false
		}
	}
	for _, i := range tx.pending {
		r := &tx.rcpts[i]
		if r.reply.IsZero() {
			r.reply = refused
			var ok bool
			if refused.IsZero() {
				r.reply, ok = tx.backendReply("1.5")
			} else {
				ok = tx.skipReply() // that of a RCPT without MAIL: 503, mostly
			}
			switch {
			case !ok:
				r.reply = withID(errBackend, tx.facts.ID)
			case r.reply.Positive():
				r.taken = true
				tx.accepted++
			}
			tx.envelope += len(r.reply.Text)
		}
		tx.reply = r.reply
		tx.wire.Say(r.reply)
		if tx.envelope > envelopeLimit {
			r.reply.Text = cutText(r.reply.Text) // for the record it will do
		}
	}
	tx.pending = tx.pending[:0]
	tx.time("rcpt", start)
}

// backendReply reads one reply; false when there is no conversation any more.
// A reply without an enhanced code gets the generic one for detail (RFC 2034
// §4 wants one on all).
func (tx *transaction) backendReply(detail string) (smtp.Reply, bool) {
	r, ok := tx.backendAnswer()
	if ok && r.Intermediate() {
		// Only DATA is answered by 354. To the client it would be an
		// invitation to send a message to nobody.
		tx.outOfStep(r)
		tx.loan.drop()
		return smtp.Reply{}, false
	}
	return tx.asToClient(r, detail), ok
}

// asToClient is what of a reply of the backend's the client hears: all of it,
// unless it is about how we speak. That the backend wants another command
// first, or TLS, or does not know this one, is between it and us, and no reason
// for the sender to give the message up.
func (tx *transaction) asToClient(r smtp.Reply, detail string) smtp.Reply {
	switch r.Code {
	case 502, 503, 530, 538:
		tx.srv.log.LogAttrs(tx.srv.ctx, slog.LevelError, "the backend does not take our commands",
			slog.String("id", tx.facts.ID), slog.String("backend", tx.backend), slog.String("backend_reply", r.String()))
		return withID(errMisfit, tx.facts.ID)
	}
	return supplyEnhanced(r, detail)
}

// backendAnswer is backendReply to DATA, where 354 means something.
func (tx *transaction) backendAnswer() (smtp.Reply, bool) {
	if tx.broken != "" || tx.loan.bc == nil {
		return smtp.Reply{}, false
	}
	r, err := tx.loan.bc.Reply()
	if err != nil {
		tx.fail(err)
		tx.loan.drop()
		return smtp.Reply{}, false
	}
	tx.backRep = r
	return r, true
}

// skipReply reads a reply which tells less than the one before it; false when
// there is no conversation any more.
func (tx *transaction) skipReply() bool {
	said := tx.backRep
	_, ok := tx.backendAnswer()
	if ok {
		tx.backRep = said
	}
	return ok
}

func supplyEnhanced(r smtp.Reply, detail string) smtp.Reply {
	if r.Enhanced == "" && !r.Intermediate() {
		if !r.Positive() {
			detail = "0.0"
		}
		r.Enhanced = detail
	}
	return r
}

// What EHLO announced was learned from another address, or before the
// backend changed. Later it will have been learned anew.
var errChanged = smtp.Reply{Code: 451, Enhanced: "3.0", Text: "The mail server behind us has changed, try again"}
