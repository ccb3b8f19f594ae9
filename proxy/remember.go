package proxy

import (
	"strings"

	"postern/checks"
	"postern/checks/memory"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/smtp"
)

// remember tells the memory what came of a transaction that has ended. It waits for
// nothing: the memory writes it down later.
func (tx *transaction) remember(outcome journal.Outcome, v policy.Verdict) {
	if outcome.IsMessage() {
		tx.srv.metrics.Message(tx.facts.Identity.Level)
	}
	// NOT: the memory that the session began with, which a reload may have closed.
	m := tx.srv.settings.Load().Memory
	if m == nil {
		return
	}
	if outcome == journal.OutcomeDelivered {
		for i := range tx.rcpts.list {
			if r := &tx.rcpts.list[i]; r.taken && r.hold != nil && r.hold.Result == policy.Pass {
				m.Passed(r.hold.Notice)
			}
		}
	}
	if e := tx.event(outcome, v); e.Delivered > 0 || e.Rate != (memory.Rate{}) {
		e.Keys = checks.MemoryKeys(&tx.facts)
		m.Count(e)
	}
}

// event is what a transaction adds to what is remembered, less by whom.
func (tx *transaction) event(outcome journal.Outcome, v policy.Verdict) (e memory.Event) {
	if outcome.IsMessage() {
		e.Messages = 1
	}
	switch outcome {
	case journal.OutcomeDelivered:
		e.Delivered = 1
	case journal.OutcomeRefused:
		// NOT: what is deferred, which is to come again, and may be our own trouble; nor
		// what a rule refused for what is remembered, or a ban would feed itself.
		if tx.judged && v.Disposition == policy.DispositionReject && !tx.set.Observe && !tx.set.Chain.Recalls(v.Rule) {
			e.Refused = 1
		}
	}
	for i := range tx.rcpts.list {
		if r := &tx.rcpts.list[i]; r.queued && unknownRecipient(r.reply) {
			e.Unknown++
		}
	}
	return e
}

// unknownRecipient says whether a backend's reply to RCPT is that it has no such
// recipient: 550, 551 and 553 (RFC 5321 §4.3.2) with an enhanced status code about the
// address (RFC 3463 §3.2) or none.
func unknownRecipient(r smtp.Reply) bool {
	switch r.Code {
	case 550, 551, 553:
		return r.Enhanced == "" || strings.HasPrefix(r.Enhanced, "1.")
	}
	return false
}
