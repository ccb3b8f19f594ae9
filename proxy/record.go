package proxy

import (
	"log/slog"
	"slices"
	"strings"

	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/smtp"
)

// finish ends the transaction: its facts go to the log, to the record and to
// the metrics, once, and are dropped.
func (s *session) finish(outcome journal.Outcome) {
	tx := s.tx
	s.tx = nil
	tx.record(s.id, outcome)
	tx.release()
}

// record makes the record of a transaction that has ended, and publishes it.
func (tx *transaction) record(session string, outcome journal.Outcome) {
	rec := &tx.rec // which is empty
	rec.Time, rec.ID, rec.Session, rec.Outcome, rec.Bytes, rec.Took = tx.began, tx.facts.ID, session, outcome, tx.bytes, tx.took
	rec.Backend, rec.BackendReply, rec.Error = tx.relay.Backend, tx.relay.Said.String(), tx.relay.Broken
	v, about := tx.verdict, tx.rcpts.last()
	if tx.rcpts.accepted == 0 && outcome == journal.OutcomeRefused {
		// All recipients were refused: the record is about the last refusal.
		for i := range tx.rcpts.list {
			if r := &tx.rcpts.list[i]; r.verdict.Refuses() {
				v = *r.verdict
				about = r
				tx.reply = r.reply
			}
		}
	} else if r := tx.rcpts.foremost(); r != nil {
		about = r
		if tx.reached == policy.Rcpt || r.final {
			// The last verdict may have been that of another recipient.
			v = *r.verdict
		}
	}
	about.facts(&tx.facts.Recipient)
	stage := tx.stage(outcome)
	rec.Stage, rec.State = stage.String(), journal.StateEmail
	if outcome == journal.OutcomeRefused && stage <= policy.Mail {
		rec.State = journal.StateIdentified
	}
	switch hold := &tx.facts.Hold; {
	case v.Disposition == policy.DispositionHold && hold.Notice != "" && !tx.set.Observe:
		rec.State = journal.StateInformation
	case outcome == journal.OutcomeDelivered && hold.Released, tx.facts.Client.Fetched != "":
		rec.State = journal.StateRetrieved
	}
	rec.Reached = tx.reached.String()
	if tx.reached == policy.Header && tx.facts.Message.Size > 0 {
		rec.Reached = policy.Message.String() // the message was read to its end, since its size is known
	}
	rec.Recipients = slices.Grow(rec.Recipients, len(tx.rcpts.list))
	for i := range tx.rcpts.list {
		r := &tx.rcpts.list[i]
		reply := ""
		if i > 0 && r.reply == tx.rcpts.list[i-1].reply {
			reply = rec.Recipients[i-1].Reply
		} else {
			reply = r.reply.String()
		}
		rec.Recipients = append(rec.Recipients, journal.Recipient{
			Address: r.address, Disposition: journal.Concluded(r.verdict.Disposition), Rule: r.verdict.Rule, Reply: reply,
			Undecided: !r.verdict.Decided, Final: r.final, Taken: r.taken, Hold: r.hold, Service: r.service,
		})
		if r.hold != nil && *r.hold == tx.facts.Hold {
			rec.Recipients[i].Hold = nil // it is that of the record
		}
		if slices.Equal(r.service, tx.facts.Service) {
			rec.Recipients[i].Service = nil // the same
		}
	}
	rec.Checks = slices.Grow(rec.Checks, len(tx.ran))
	for _, c := range tx.ran {
		rec.Checks = append(rec.Checks, journal.Check{Name: c.Name, Result: c.Result, Took: c.Took.Seconds()})
	}
	if t := tx.asks.Trace; t != nil {
		rec.DNS = t.Answers()
	}
	tx.remember(outcome, v)
	if rec.Reply = rec.BackendReply; tx.reply != tx.relay.Said {
		rec.Reply = tx.reply.String()
	}
	tx.srv.publish(tx.set, rec, &tx.facts, v, tx.judged, tx.tagsOf(v))
}

// stage is that at which the transaction ended, by whomever.
func (tx *transaction) stage(outcome journal.Outcome) policy.Stage {
	switch {
	case tx.ended > policy.Connect:
		return tx.ended
	case outcome == journal.OutcomeDelivered:
		return policy.Message
	case tx.message != nil:
		return tx.message.stage(tx.reached)
	case len(tx.rcpts.list) > 0:
		return policy.Rcpt
	}
	return policy.Mail
}

// tagsOf lists the tags for the record; those of recipients count where the
// message was passed.
func (tx *transaction) tagsOf(v policy.Verdict) []smtp.Field {
	if tx.rcpts.accepted == 0 {
		return v.Tags
	}
	return tx.tags()
}

// recordRefusal records a verdict that came before any transaction: on the
// connection, or on HELO.
func (srv *Server) recordRefusal(set *Settings, session string, f *policy.Facts, v policy.Verdict) {
	rec := &journal.Record{Time: srv.now(), ID: f.ID, Session: session, Outcome: journal.OutcomeRefused, State: journal.StateIdentified, Stage: v.Stage.String(), Reached: v.Stage.String()}
	rec.Reply = v.Reply.WithID(f.ID).String()
	srv.publish(set, rec, f, v, true, v.Tags)
}

// publish completes the record and hands it out: to the log, to the journal and to the
// metrics. What policy was not asked about has no disposition: nobody has let it pass.
func (srv *Server) publish(set *Settings, rec *journal.Record, f *policy.Facts, v policy.Verdict, judged bool, tags []smtp.Field) {
	rec.Facts = *f
	rec.Disposition = journal.NotAsked
	if judged {
		rec.Rule, rec.RuleStage, rec.Disposition = v.Rule, v.Stage.String(), journal.Concluded(v.Disposition)
	}
	rec.Undecided = !v.Decided
	rec.Observed = set.Observe && v.Refuses()
	rec.Policy = set.Chain.Fingerprint()
	for _, t := range tags {
		rec.Tags = append(rec.Tags, t.Name+": "+strings.TrimSpace(t.Value))
	}
	srv.metrics.Transaction(string(rec.Disposition), rec.Rule)
	srv.metrics.Outcome(string(rec.Outcome))
	if c := set.Candidate; c != nil && judged {
		if active, candidate := rec.JudgeCandidate(c); active != candidate {
			srv.metrics.Disagreement(string(active), string(candidate))
		}
	}
	defer rec.Release()
	srv.logTransaction(rec)
	if srv.record != nil {
		srv.record(rec)
	}
}

// logTransaction writes the transaction's line.
func (srv *Server) logTransaction(rec *journal.Record) {
	level := slog.LevelInfo
	if rec.Outcome == journal.OutcomeFailed || rec.Outcome == journal.OutcomeUnknown {
		level = slog.LevelError
	}
	if !srv.log.Enabled(srv.ctx, level) {
		return
	}
	// What is more than a word has in the log the octets that it has in the journal.
	if err := rec.Seal(); err != nil {
		srv.log.Error("the record of a transaction cannot be written", "id", rec.ID, "error", err.Error())
	}
	srv.log.LogAttrs(srv.ctx, level, "transaction", slog.Any("", rec))
}
