package proxy

import (
	"slices"
	"time"

	"postern/checks"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/esmtp"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// mail starts a transaction (RFC 5321 §4.1.1.2).
func (s *session) mail(arg string) smtp.Reply {
	if s.tx != nil {
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "A transaction is open already"}
	}
	from, params, err := smtp.ParseMail(arg)
	if err != nil {
		return syntaxReply(err)
	}
	params = slices.DeleteFunc(params, esmtp.NobodyVouches)
	if set := s.srv.settings.Load(); set != s.set {
		s.loan.Release() // it belongs to the pools of the settings before
		s.set, s.wire.FlushWithin = set, set.Timeouts.Command
	}
	tx := newTransaction(s, from, params)
	body, r := s.peer.offered.MailParams(&tx.facts, params, s.set.sizeLimit(s.set.Backends.Capabilities()), s.set.LenientXtext)
	tx.relay.Mail.Eight, tx.relay.Mail.Binary = body == esmtp.Body8Bit, body == esmtp.BodyBinary
	tx.relay.Mail.Size = tx.facts.Mail.Size + s.set.addedSize()
	switch {
	case r.IsZero():
	case clientFault(r):
		return r
	default:
		r = r.WithID(tx.facts.ID)
	}
	s.tx = tx
	s.transactions++
	if r.IsZero() && !s.srv.rates.Take(s.peer.who, share.PerMessage, s.set.Limits.MessageRate, s.srv.now()) {
		s.srv.metrics.LimitReached("message_rate")
		r = s.refuse(450, "7.1", "Too many messages, try again later")
	}
	if !r.IsZero() {
		tx.reached, tx.reply, tx.ended = policy.Helo, r, policy.Mail
		s.finish(journal.OutcomeRefused)
		return r
	}

	start := time.Now()
	tx.runChecks(policy.Mail, checks.Message{})
	if tx.facts.Iprev.Result == policy.Pass {
		tx.facts.Client.Name = tx.facts.Iprev.Name
	}
	tx.Took("mail", start)
	if r := tx.judge(policy.Mail, &tx.facts.Recipient); !r.IsZero() {
		s.finish(journal.OutcomeRefused)
		return r
	}
	return smtp.Reply{Code: 250, Enhanced: "1.0", Text: "Sender OK"}
}

// rcpt is one recipient (RFC 5321 §4.1.1.3).
func rcpt(s *session, arg string) smtp.Reply { return s.tx.recipient(arg) }
