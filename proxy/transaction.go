package proxy

import (
	"context"
	"strconv"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/esmtp"
	"postern/proxy/share"
	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// transaction is what MAIL starts and the end of data, RSET, EHLO or QUIT end.
// It is made anew for each MAIL and dropped, never reset field by field. It is the
// goroutine's of its session.
type transaction struct {
	// The session's, who owns them.
	srv  *Server
	set  *Settings // those that the session had at MAIL
	wire *wire.Conn
	peer *peer
	loan *loan

	// Of MAIL; nothing changes them afterwards.
	began  time.Time
	from   smtp.Path
	params []smtp.Param // as received
	eight  bool         // BODY=8BITMIME
	binary bool         // BODY=BINARYMIME

	// Of its recipients.
	rcpts    []recipient
	envelope int  // octets that rcpts come to
	accepted int  // recipients that the backend took
	sure     bool // of those: policy has let them pass for good, whatever is found later
	// apart: the policy only observes, and may treat the recipients apart. It
	// refuses none of them, so they are together, each with a verdict of its own.
	apart    bool
	tags     []smtp.Field // that recipients have earned at RCPT, each once
	tagsSize int          // octets of them

	// Of the conversation with the backend.
	pool     *backend.Pool
	takes8   bool       // the backend takes 8-bit text
	mailSent bool       // the backend has, or will have heard, MAIL
	mailDue  bool       // its reply to MAIL is still to be read
	pending  []int      // recipients whose reply the client waits for, in order
	broken   string     // the conversation with the backend ended: what we make of it for the log
	gaveUp   smtp.Reply // that was since we let go of it; what the client is told
	// turnedAway is what the backend had to say on this client, told who it is.
	turnedAway smtp.Reply
	backend    string     // name and address
	backRep    smtp.Reply // the backend's last reply

	message *message // while it comes

	// What was found out and concluded.
	facts   policy.Facts    // Rcpt is the recipient in question
	ctx     context.Context // of its checks: the server's, and on whose behalf they ask
	trace   *dnscache.Trace
	ran     []checks.Ran
	took    map[string]float64
	judged  bool           // policy was asked
	verdict policy.Verdict // the last one
	reached policy.Stage   // at which it was given
	ended   policy.Stage   // at which the transaction ended, where that was before its end
	reply   smtp.Reply     // the last one that matters
	bytes   int64
}

// recipient is one RCPT.
type recipient struct {
	path    smtp.Path
	params  []smtp.Param // that went to the backend
	address string
	domain  string
	queued  bool            // it went to the backend
	taken   bool            // and the backend took it
	verdict *policy.Verdict // shared by those who have the same
	final   bool            // verdict is that on the message, not the one at RCPT
	reply   smtp.Reply
}

// inQuestion is r as facts have the recipient that is judged.
func (r *recipient) inQuestion() policy.RcptTo {
	return policy.RcptTo{Address: r.address, Domain: r.domain}
}

// newTransaction begins one of the session, by MAIL.
func newTransaction(s *session, from smtp.Path, params []smtp.Param) *transaction {
	tx := &transaction{
		srv: s.srv, set: s.set, wire: &s.wire, peer: &s.peer, loan: &s.loan,
		began: s.srv.now(), from: from, params: params,
	}
	s.peer.begin(&tx.facts, s.listener.Name, s.peer.helo)
	tx.facts.Mail = policy.MailFrom{From: smtp.Address(from), Domain: esmtp.Domain(from)}
	return tx
}

// runChecks runs the checks of a stage for the current transaction.
func (tx *transaction) runChecks(st policy.Stage, msg checks.Message) {
	if tx.ctx == nil {
		t := new(dnscache.Transaction)
		if !tx.peer.unrationed {
			t.Client = share.Of(tx.peer.addr.Addr())
		}
		tx.ctx = dnscache.WithTransaction(tx.srv.ctx, t)
		if tx.set.TraceDNS {
			tx.trace = new(dnscache.Trace)
			tx.ctx = dnscache.WithTrace(tx.ctx, tx.trace)
		}
	}
	tx.ran = append(tx.ran, tx.set.Checks.Run(tx.ctx, st, &tx.facts, msg)...)
}

// judge asks the chain what follows from the facts at a stage. It returns the
// refusal, or nothing.
func (tx *transaction) judge(st policy.Stage) smtp.Reply {
	tx.verdict, tx.reached, tx.judged = tx.set.Chain.Decide(st, &tx.facts), st, true
	if tx.apart && st > policy.Rcpt {
		tx.judgeEach(st)
	}
	if !tx.verdict.Refuses() || tx.set.Observe {
		return smtp.Reply{}
	}
	tx.reply = withID(tx.verdict.Reply, tx.facts.ID)
	return tx.reply
}

// judgeEach is judge for recipients that need not deserve the same.
func (tx *transaction) judgeEach(st policy.Stage) {
	rcpt := tx.facts.Rcpt
	for i := range tx.rcpts {
		if r := &tx.rcpts[i]; r.taken {
			tx.facts.Rcpt = r.inQuestion()
			r.verdict, r.final = tx.share(tx.set.Chain.Decide(st, &tx.facts)), true
		}
	}
	tx.facts.Rcpt = rcpt
}

// settled says whether nothing that is still to be learned can change a verdict
// given at st.
func (tx *transaction) settled(st policy.Stage) bool {
	if !tx.set.Chain.Settled(st, tx.verdict) {
		return false
	}
	for i := range tx.rcpts {
		if r := &tx.rcpts[i]; r.final && !tx.set.Chain.Settled(st, *r.verdict) {
			return false
		}
	}
	return true
}

// firstTaken is the recipient that stands for all once the header is read: what
// together let in has the same verdict from there on.
func (tx *transaction) firstTaken() policy.RcptTo {
	if r := tx.foremost(); r != nil {
		return r.inQuestion()
	}
	return policy.RcptTo{}
}

// foremost is the first recipient that the backend took. Where each has a verdict
// of its own it is the first that would have been refused: a site that only
// observes wants to know of that one.
func (tx *transaction) foremost() (first *recipient) {
	for i := range tx.rcpts {
		r := &tx.rcpts[i]
		switch {
		case !r.taken:
		case r.final && r.verdict.Refuses():
			return r
		case first == nil:
			first = r
		}
	}
	return first
}

// candidateWaits says whether the candidate policy has still to learn, for one of
// the recipients, what only the whole message tells. It is measured for it as if
// it were in force, or the two could not be compared.
func (tx *transaction) candidateWaits() bool {
	c := tx.set.Candidate
	if c == nil || !c.HoldsMessage() {
		return false
	}
	f := tx.facts
	for i := range tx.rcpts {
		r := &tx.rcpts[i]
		if !r.taken {
			continue
		}
		f.Rcpt = r.inQuestion()
		if !c.Settled(policy.Header, c.Decide(policy.Header, &f)) {
			return true
		}
	}
	return false
}

// noRecipients says why there is nobody to send a message to, or nothing; failed: it has
// ended the transaction.
func (tx *transaction) noRecipients() (r smtp.Reply, failed bool) {
	if tx.broken != "" && len(tx.rcpts) > 0 {
		// Recipients were taken by a backend that is gone: the client must not
		// believe that the others got the message.
		tx.reply = tx.unserved()
		return tx.reply, true
	}
	if tx.accepted > 0 {
		return smtp.Reply{}, false
	}
	for i := range tx.rcpts {
		if c := tx.rcpts[i].reply.Code; c >= 400 && c < 500 {
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
	return withID(smtp.Reply{Code: code, Enhanced: enhanced, Text: text}, tx.facts.ID)
}

// abandonedOutcome is how a transaction ended that came to no message: refused,
// if that was why, else abandoned.
func (tx *transaction) abandonedOutcome() journal.Outcome {
	if tx.accepted > 0 || len(tx.rcpts) == 0 {
		return journal.OutcomeAbandoned
	}
	if tx.broken != "" {
		return journal.OutcomeFailed
	}
	for i := range tx.rcpts {
		r := &tx.rcpts[i]
		if r.queued && r.reply.IsZero() {
			return journal.OutcomeAbandoned // before the backend's answer was read
		}
		if r.verdict.Refuses() && !tx.set.Observe {
			return journal.OutcomeRefused
		}
	}
	return journal.OutcomeBackendRefused
}

// fail notes that the backend cannot be used for this transaction any more.
func (tx *transaction) fail(err error) { tx.broken = err.Error() }

// outOfStep notes a reply that makes no sense where it came.
func (tx *transaction) outOfStep(r smtp.Reply) {
	tx.backRep = r
	tx.broken = "the backend is out of step: " + strconv.Itoa(r.Code)
}

// time adds to the record how long a stage has taken.
func (tx *transaction) time(stage string, since time.Time) {
	if tx.took == nil {
		tx.took = make(map[string]float64, 6)
	}
	tx.took[stage] += time.Since(since).Seconds()
}
