package proxy

import (
	"context"
	"slices"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/checks/memory"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/esmtp"
	"postern/proxy/relay"
	"postern/proxy/reuse"
	"postern/proxy/share"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// transaction is what MAIL starts and the end of data, RSET, EHLO or QUIT end.
// It begins as zero with each MAIL, never reset field by field, and goes back as a whole to
// where the next one comes from (release). It is the goroutine's of its session.
type transaction struct {
	// The session's, who owns them.
	srv  *Server
	set  *Settings // those that the session had at MAIL
	wire *wire.Conn
	peer *peer
	loan *relay.Loan

	// What it consists of, each the owner of its own state.
	rcpts   recipients
	relay   relay.Conversation // with the backend
	message *message           // while it comes; it is text
	text    message

	// What was found out and concluded.
	began time.Time
	facts policy.Facts    // Recipient is nobody until the end, and then whom the record is about
	ctx   context.Context // of its checks: the server's, and what follows
	*asking
	ran     []checks.Ran
	took    journal.Took
	judged  bool           // policy was asked
	verdict policy.Verdict // the last one
	reached policy.Stage   // at which it was given
	ended   policy.Stage   // at which the transaction ended, where that was before its end
	reply   smtp.Reply     // the last one that matters
	bytes   int64

	rec    journal.Record   // in the end
	known  policy.Recipient // whoever is judged, or stands for all
	header smtp.Header      // room for the fields of the message
}

// asking is what the contexts of checks consist of. It is NOT used again: when such a context
// ends by its clock just as its check returns, the clock looks at what is above it a moment later,
// when the transaction may have ended.
type asking struct {
	asks  dnscache.Transaction // on whose behalf they ask
	found dnscache.Trace       // what they were answered, where that is kept
	waits memory.Patience      // for what lasts between sessions
	since time.Time            // where something was asked ahead of the transaction
}

// asking is that of a transaction of p.
func (p *peer) asking() *asking {
	a := new(asking)
	if !p.unrationed {
		a.asks.Client = share.Of(p.addr.Addr())
	}
	return a
}

// transactions are those that have ended: zero, but for the room that their lists have.
var transactions reuse.Pool[transaction]

// For how many recipients and fields a transaction keeps room when it has ended.
const (
	keptRecipients = 8
	keptFields     = 64
)

// newTransaction begins one of the session, by MAIL.
func newTransaction(s *session, from smtp.Path, params []smtp.Param) *transaction {
	tx := transactions.Take()
	tx.srv, tx.set, tx.wire, tx.peer, tx.loan, tx.began = s.srv, s.set, &s.wire, &s.peer, &s.loan, s.srv.now()
	if tx.asking, s.next = s.awaited(), nil; tx.asking == nil {
		tx.asking = s.peer.asking()
	}
	s.peer.begin(&tx.facts, s.listener.Name, s.peer.helo)
	tx.facts.Mail = policy.MailFrom{From: smtp.Address(from), Domain: esmtp.Domain(from)}
	tx.relay.Begin(&s.srv.site, tx, tx.facts.ID, &s.loan, &s.set.Timeouts)
	tx.relay.Mail.From, tx.relay.Mail.Params = from, params
	return tx
}

// release ends tx, of which the record has what is to stay. Nobody may use it, or its
// message, from here on.
func (tx *transaction) release() {
	list, pending := tx.rcpts.list, tx.rcpts.pending
	if cap(list) > keptRecipients {
		list, pending = nil, nil
	}
	clear(list)
	tx.forgetFields()
	*tx = transaction{rcpts: recipients{list: list[:0], pending: pending[:0]}, header: tx.header, rec: tx.rec.Room()}
	transactions.Put(tx)
}

// fields parses a header section, as smtp.ParseHeader does. Its fields are of use until
// forgetFields.
func (tx *transaction) fields(section []byte) (h smtp.Header, bad int) {
	tx.header, bad = smtp.AppendHeader(tx.header, section)
	return tx.header, bad
}

// forgetFields is called as soon as a header section is judged: with each field, a copy of
// the whole section stays in memory, and a message may take its time from there on.
func (tx *transaction) forgetFields() {
	clear(tx.header)
	tx.header = tx.header[:0]
	if cap(tx.header) > keptFields {
		tx.header = nil
	}
}

// runChecks runs the checks of a stage for the current transaction.
func (tx *transaction) runChecks(st policy.Stage, msg checks.Message) {
	if tx.ctx == nil {
		if tx.set.TraceDNS {
			tx.asks.Trace = &tx.found
		}
		tx.ctx = memory.WithPatience(dnscache.WithTransaction(tx.srv.ctx, &tx.asks), &tx.waits)
	}
	before := len(tx.ran)
	tx.ran = tx.set.Checks.Run(tx.ctx, st, &tx.facts, msg, tx.ran)
	if st == policy.Rcpt {
		tx.runAgain(before)
	}
}

// session is what filters of other people's want to know besides the facts.
func (tx *transaction) session() checks.Session {
	return checks.Session{ESMTP: tx.peer.esmtp, Server: wire.AddrPort(tx.wire.Raw().LocalAddr())}
}

// envelope is session with what milters are told of the message.
func (tx *transaction) envelope() (s checks.Session) {
	if !tx.set.Checks.HasMilters() {
		return s
	}
	s = tx.session()
	s.FromArgs = checks.MilterArgs(tx.relay.Mail.Params)
	for i := range tx.rcpts.list {
		if r := &tx.rcpts.list[i]; r.taken {
			s.Recipients = append(s.Recipients, checks.MilterRecipient(r.address, r.params))
		}
	}
	return s
}

// runAgain looks for those checks behind the first ones that had run before, for another
// recipient: such a check is kept once, with its last result and the time of all.
func (tx *transaction) runAgain(before int) {
	kept, last := tx.ran[:before], tx.ran[before:]
	for _, r := range last {
		if i := slices.IndexFunc(kept, func(k checks.Ran) bool { return k.Name == r.Name }); i >= 0 {
			kept[i].Result, kept[i].Took = r.Result, kept[i].Took+r.Took
			continue
		}
		kept = append(kept, r)
	}
	tx.ran = kept
}

// judge asks the chain what follows from the facts at a stage for a recipient.
// It returns the refusal, or nothing.
func (tx *transaction) judge(st policy.Stage, to *policy.Recipient) smtp.Reply {
	tx.verdict, tx.reached, tx.judged = tx.set.Chain.DecideFor(st, &tx.facts, to), st, true
	if tx.rcpts.apart && st > policy.Rcpt {
		tx.judgeEach(st)
	}
	if !tx.verdict.Refuses() || tx.set.Observe {
		return smtp.Reply{}
	}
	tx.reply = tx.verdict.Reply.WithID(tx.facts.ID)
	return tx.reply
}

// judgeEach is judge for recipients that need not deserve the same.
func (tx *transaction) judgeEach(st policy.Stage) {
	var known policy.Recipient // NOT: that of tx, who stands for all
	for i := range tx.rcpts.list {
		if r := &tx.rcpts.list[i]; r.taken {
			r.verdict, r.final = tx.rcpts.share(tx.set.Chain.DecideFor(st, &tx.facts, r.facts(&known))), true
		}
	}
}

// settled says whether nothing that is still to be learned can change a verdict
// given at st.
func (tx *transaction) settled(st policy.Stage) bool {
	if !tx.set.Chain.Settled(st, tx.verdict) {
		return false
	}
	for i := range tx.rcpts.list {
		if r := &tx.rcpts.list[i]; r.final && !tx.set.Chain.Settled(st, *r.verdict) {
			return false
		}
	}
	return true
}

// candidateWaits says whether the candidate policy has still to learn, for one of
// the recipients, what only the whole message tells. It is measured for it as if
// it were in force, or the two could not be compared.
func (tx *transaction) candidateWaits() bool {
	c := tx.set.Candidate
	if c == nil || !c.HoldsMessage() {
		return false
	}
	var known policy.Recipient
	for i := range tx.rcpts.list {
		if r := &tx.rcpts.list[i]; r.taken && !c.Settled(policy.Header, c.DecideFor(policy.Header, &tx.facts, r.facts(&known))) {
			return true
		}
	}
	return false
}

// noRecipients says why there is nobody to send a message to, or nothing; failed: it has
// ended the transaction.
func (tx *transaction) noRecipients() (r smtp.Reply, failed bool) {
	if tx.relay.Broken != "" && len(tx.rcpts.list) > 0 {
		// Recipients were taken by a backend that is gone: the client must not
		// believe that the others got the message.
		tx.reply = tx.relay.Unserved()
		return tx.reply, true
	}
	if tx.rcpts.accepted > 0 {
		return smtp.Reply{}, false
	}
	for i := range tx.rcpts.list {
		if c := tx.rcpts.list[i].reply.Code; c >= 400 && c < 500 {
			// NOT: 554, which RFC 5321 §3.3 has here. A client that pipelines
			// may take the last answer for the one that counts, and what is
			// refused for now must not become refused for good.
			return tx.refuse(451, "5.1", "No recipient can be served now, try again later"), false
		}
	}
	return tx.refuse(554, "5.1", "No valid recipients"), false
}

// refuse makes a reply of ours that bears the transaction's id.
func (tx *transaction) refuse(code int, enhanced, text string) smtp.Reply {
	return smtp.Reply{Code: code, Enhanced: enhanced, Text: text}.WithID(tx.facts.ID)
}

// abandonedOutcome is how a transaction ended that came to no message: refused,
// if that was why, else abandoned.
func (tx *transaction) abandonedOutcome() journal.Outcome {
	if tx.rcpts.accepted > 0 || len(tx.rcpts.list) == 0 {
		return journal.OutcomeAbandoned
	}
	if tx.relay.Broken != "" {
		return journal.OutcomeFailed
	}
	for i := range tx.rcpts.list {
		r := &tx.rcpts.list[i]
		if r.queued && r.reply.IsZero() {
			return journal.OutcomeAbandoned // before the backend's answer was read
		}
		if r.verdict.Refuses() && !tx.set.Observe {
			return journal.OutcomeRefused
		}
	}
	return journal.OutcomeBackendRefused
}
