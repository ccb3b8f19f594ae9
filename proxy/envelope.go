package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/backend"
	"postern/proxy/share"
	"postern/proxy/smtp"
)

// transaction is what MAIL starts and the end of data, RSET, EHLO or QUIT end.
// It is made anew for each MAIL and dropped, never reset field by field.
type transaction struct {
	began  time.Time
	facts  policy.Facts // Rcpt is the recipient in question
	from   smtp.Path
	params []smtp.Param // of MAIL, as received
	eight  bool         // BODY=8BITMIME
	binary bool         // BODY=BINARYMIME
	relay  *relay       // the message, while it comes by BDAT

	rcpts    []recipient
	envelope int  // octets that rcpts come to
	accepted int  // recipients that the backend took
	sure     bool // of those: policy has let them pass for good, whatever is found later
	// apart: the policy only observes, and may treat the recipients apart. It
	// refuses none of them, so they are together, each with a verdict of its own.
	apart bool

	tags     []smtp.Field // that recipients have earned at RCPT, each once
	tagsSize int          // octets of them

	pool     *backend.Pool
	takes8   bool       // the backend takes 8-bit text
	mailSent bool       // the backend has, or will have heard, MAIL
	mailDue  bool       // its reply to MAIL is still to be read
	pending  []int      // recipients whose reply the client waits for, in order
	broken   string     // the conversation with the backend ended: what we make of it for the log
	gaveUp   smtp.Reply // that was since we let go of it; what the client is told
	// turnedAway is what the backend had to say on this client, told who it is.
	turnedAway smtp.Reply

	ctx     context.Context // of its checks: the server's, and on whose behalf they ask
	trace   *dnscache.Trace
	ran     []checks.Ran
	took    map[string]float64
	judged  bool           // policy was asked
	verdict policy.Verdict // the last one
	reached policy.Stage   // at which it was given
	ended   policy.Stage   // at which the transaction ended, where that was before its end
	reply   smtp.Reply     // the last one that matters
	backend string         // name and address
	backRep smtp.Reply     // the backend's last reply
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

// mail starts a transaction (RFC 5321 §4.1.1.2).
func (s *session) mail(arg string) smtp.Reply {
	if s.tx != nil {
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "A transaction is open already"}
	}
	from, params, err := smtp.ParseMail(arg)
	if err != nil {
		return syntaxReply(err)
	}
	params = slices.DeleteFunc(params, nobodyVouches)
	if set := s.srv.settings.Load(); set != s.set {
		s.releaseBackend() // it belongs to the pools of the settings before
		s.set = set
	}
	tx := &transaction{began: s.srv.now(), from: from, params: params}
	s.begin(&tx.facts, s.heloName)
	tx.facts.Mail = policy.MailFrom{From: smtp.Address(from), Domain: factDomain(from)}
	r := s.mailParams(tx)
	switch {
	case r.IsZero():
	case clientFault(r):
		return r
	default:
		r = withID(r, tx.facts.ID)
	}
	s.tx = tx
	s.transactions++
	if r.IsZero() && !s.srv.rates.Take(s.who, share.PerMessage, s.set.Limits.MessageRate, s.srv.now()) {
		s.srv.metrics.LimitReached("message_rate")
		r = s.refuse(450, "7.1", "Too many messages, try again later")
	}
	if !r.IsZero() {
		tx.reached, tx.reply, tx.ended = policy.Helo, r, policy.Mail
		s.finish(journal.OutcomeRefused)
		return r
	}

	start := time.Now()
	s.runChecks(policy.Mail, checks.Message{})
	if tx.facts.Iprev.Result == policy.Pass {
		tx.facts.Client.Name = tx.facts.Iprev.Name
	}
	tx.time("mail", start)
	if r := s.judge(policy.Mail); !r.IsZero() {
		s.finish(journal.OutcomeRefused)
		return r
	}
	return smtp.Reply{Code: 250, Enhanced: "1.0", Text: "Sender OK"}
}

// nobodyVouches finds AUTH=<> (RFC 4954 §5), from senders that say it to everybody: it
// claims nothing, so it need not go on. Who else is named there is not ours to say.
func nobodyVouches(p smtp.Param) bool { return p.Key == "AUTH" && p.Value == "<>" }

// factDomain is the domain as facts have it.
func factDomain(p smtp.Path) string {
	if d, err := smtp.ASCIIDomain(p.Domain); err == nil {
		return d
	}
	return strings.ToLower(p.Domain)
}

// mailParams reads the parameters of MAIL into the facts.
func (s *session) mailParams(tx *transaction) smtp.Reply {
	bad := func(text string) smtp.Reply { return smtp.Reply{Code: 501, Enhanced: "5.4", Text: text} }
	var submitter *smtp.Param
	for i, p := range tx.params {
		switch {
		case p.Key == "SIZE" && s.offered.size:
			if len(p.Value) > 20 || !digits(p.Value) {
				return bad("SIZE needs a number")
			}
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil || n > s.sizeLimit(s.set.Backends.Capabilities()) {
				return errTooLarge
			}
			tx.facts.Mail.Size = n
		case p.Key == "BODY" && s.offered.eightBit:
			switch strings.ToUpper(p.Value) {
			case "7BIT":
			case "8BITMIME":
				tx.eight = true
			case "BINARYMIME":
				if !s.offered.binary {
					return bad("BINARYMIME is not offered")
				}
				tx.binary = true
			default:
				return bad("BODY is 7BIT or 8BITMIME")
			}
		case p.Key == "SMTPUTF8" && s.offered.utf8:
			if p.HasValue {
				return bad("SMTPUTF8 takes no value")
			}
			tx.facts.Mail.SMTPUTF8 = true
		case p.Key == "REQUIRETLS" && s.offered.requireTLS:
			if p.HasValue {
				return bad("REQUIRETLS takes no value")
			}
			tx.facts.Mail.RequireTLS = true
		case p.Key == "RET" && s.offered.dsn:
			if v := strings.ToUpper(p.Value); v != "FULL" && v != "HDRS" {
				return bad("RET is FULL or HDRS")
			}
		case p.Key == "ENVID" && s.offered.dsn:
			if v, err := smtp.DecodeXtext(p.Value); err != nil || v == "" || len(p.Value) > 100 {
				return bad("ENVID is not valid xtext")
			}
		case p.Key == "SUBMITTER" && s.offered.submitter:
			submitter = &tx.params[i]
		default:
			return smtp.Reply{Code: 555, Enhanced: "5.4", Text: "Parameter not recognized: " + p.Key}
		}
	}
	if submitter != nil { // last, since SMTPUTF8 may stand behind it
		return submitterParam(&tx.facts, submitter, s.set.LenientXtext)
	}
	return smtp.Reply{}
}

// submitterParam decodes SUBMITTER (RFC 4405 §4): a mailbox in xtext. What is none
// is the mailbox itself where lenient says so; p then gets its right form, since
// the backend may be less patient.
func submitterParam(f *policy.Facts, p *smtp.Param, lenient bool) smtp.Reply {
	text, err := smtp.DecodeXtext(p.Value)
	switch {
	case err != nil && lenient:
		text, p.Value = p.Value, smtp.EncodeXtext(p.Value)
	case err != nil:
		return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "SUBMITTER is not valid xtext"}
	}
	m, err := smtp.ParseMailbox(text, f.Mail.SMTPUTF8)
	if err != nil {
		return smtp.Reply{Code: 501, Enhanced: "1.7", Text: "SUBMITTER is not a mailbox"}
	}
	f.Submitter.Address = smtp.Address(m)
	f.Submitter.Domain = factDomain(m)
	return smtp.Reply{}
}

func digits(v string) bool {
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return false
		}
	}
	return v != ""
}

// runChecks runs the checks of a stage for the current transaction.
func (s *session) runChecks(st policy.Stage, msg checks.Message) {
	if s.tx.ctx == nil {
		t := new(dnscache.Transaction)
		if !s.unrationed {
			t.Client = share.Of(s.addr.Addr())
		}
		s.tx.ctx = dnscache.WithTransaction(s.context(), t)
		if s.set.TraceDNS {
			s.tx.trace = new(dnscache.Trace)
			s.tx.ctx = dnscache.WithTrace(s.tx.ctx, s.tx.trace)
		}
	}
	s.tx.ran = append(s.tx.ran, s.set.Checks.Run(s.tx.ctx, st, &s.tx.facts, msg)...)
}

// judge asks the chain what follows from the facts at a stage. It returns the
// refusal, or nothing.
func (s *session) judge(st policy.Stage) smtp.Reply {
	tx := s.tx
	tx.verdict, tx.reached, tx.judged = s.set.Chain.Decide(st, &tx.facts), st, true
	if tx.apart && st > policy.Rcpt {
		s.judgeEach(st)
	}
	if !tx.verdict.Refuses() || s.set.Observe {
		return smtp.Reply{}
	}
	tx.reply = withID(tx.verdict.Reply, tx.facts.ID)
	return tx.reply
}

// judgeEach is judge for recipients that need not deserve the same.
func (s *session) judgeEach(st policy.Stage) {
	tx := s.tx
	rcpt := tx.facts.Rcpt
	for i := range tx.rcpts {
		if r := &tx.rcpts[i]; r.taken {
			tx.facts.Rcpt = policy.RcptTo{Address: r.address, Domain: r.domain}
			r.verdict, r.final = tx.share(s.set.Chain.Decide(st, &tx.facts)), true
		}
	}
	tx.facts.Rcpt = rcpt
}

// settled says whether nothing that is still to be learned can change a verdict
// given at st.
func (s *session) settled(st policy.Stage) bool {
	tx := s.tx
	if !s.set.Chain.Settled(st, tx.verdict) {
		return false
	}
	for i := range tx.rcpts {
		if r := &tx.rcpts[i]; r.final && !s.set.Chain.Settled(st, *r.verdict) {
			return false
		}
	}
	return true
}

// rcpt is one recipient (RFC 5321 §4.1.1.3). Its reply comes later if the
// backend has to be asked: what the client pipelined, we pipeline.
func (s *session) rcpt(arg string) smtp.Reply {
	tx := s.tx
	if tx.relay != nil {
		s.settle()
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "The message has begun"}
	}
	to, params, err := smtp.ParseRcpt(arg, tx.facts.Mail.SMTPUTF8)
	if err != nil {
		s.settle()
		return syntaxReply(err)
	}
	for _, p := range params {
		if r := s.rcptParam(p); !r.IsZero() {
			s.settle()
			return r
		}
	}
	if len(tx.rcpts) >= s.set.Limits.Recipients || tx.envelope >= envelopeLimit {
		s.srv.metrics.LimitReached("recipients")
		s.settle()
		return s.refuse(452, "5.3", "Too many recipients in one transaction")
	}
	r := recipient{path: to, address: smtp.Address(to), domain: factDomain(to)}
	tx.facts.Rcpt = policy.RcptTo{Address: r.address, Domain: r.domain}
	r.reply = s.judge(policy.Rcpt)
	r.verdict = tx.share(tx.verdict)
	if r.reply.IsZero() {
		r.reply = s.together(&r)
	}
	if r.reply.IsZero() {
		r.reply = s.forward(&r, params)
	}
	tx.keep(r)
	tx.pending = append(tx.pending, len(tx.rcpts)-1)
	return smtp.Reply{}
}

// rcptParam checks the parameters of RCPT: those of DSN (RFC 3461 §4.1, §4.2)
// go on octet for octet, others are not known.
func (s *session) rcptParam(p smtp.Param) smtp.Reply {
	switch {
	case p.Key == "NOTIFY" && s.offered.dsn:
		words := strings.Split(strings.ToUpper(p.Value), ",")
		for _, w := range words {
			switch w {
			case "SUCCESS", "FAILURE", "DELAY":
			case "NEVER":
				if len(words) == 1 {
					continue
				}
				fallthrough
			default:
				return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "NOTIFY is NEVER or some of SUCCESS, FAILURE, DELAY"}
			}
		}
	case p.Key == "ORCPT" && s.offered.dsn:
		kind, addr, ok := strings.Cut(p.Value, ";")
		if !ok || kind == "" || addr == "" || len(p.Value) > 500 {
			return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "ORCPT is type;address"}
		}
		if _, err := smtp.DecodeXtext(addr); err != nil {
			return smtp.Reply{Code: 501, Enhanced: "5.4", Text: "ORCPT is not valid xtext"}
		}
	default:
		return smtp.Reply{Code: 555, Enhanced: "5.4", Text: "Parameter not recognized: " + p.Key}
	}
	return smtp.Reply{}
}

// together says whether r may share a transaction with the recipients before
// it. One reply ends a message, so all of them must deserve the same one: no
// rule that is still open may treat them apart, and they must go to one
// backend. What does not fit is sent again by the client at once, in a
// transaction of its own (RFC 5321 §4.5.3.1.10). A policy that only observes has
// no reply, so it keeps nobody apart.
func (s *session) together(r *recipient) smtp.Reply {
	tx := s.tx
	sure := r.verdict.Decided
	pool := s.set.Backends.Route(r.path)
	for i := range tx.rcpts {
		o := &tx.rcpts[i]
		if !o.queued || !o.reply.IsZero() && !o.taken {
			continue
		}
		apart := sure != tx.sure || s.set.Chain.OneDomain() && o.domain != r.domain
		if pool != tx.pool || apart && !s.set.Observe {
			return s.refuse(452, "5.3", "Send to this recipient in another transaction")
		}
		tx.apart = tx.apart || apart
		break // the first one stands for all: they were compared with it
	}
	if !tx.tagsFit(r, s.set.Chain) && !s.set.Observe {
		return s.refuse(452, "5.3", "Send to this recipient in another transaction")
	}
	if pool != tx.pool {
		// Nobody before is served. If that is since their backend is down, it
		// says nothing of this one.
		tx.broken, tx.gaveUp, tx.turnedAway, tx.mailSent = "", smtp.Reply{}, smtp.Reply{}, false
	}
	tx.pool, tx.sure = pool, sure
	return smtp.Reply{}
}

// unserved is the answer where the backend is gone that the transaction began with.
func (s *session) unserved() smtp.Reply {
	if r := s.tx.gaveUp; !r.IsZero() {
		return withID(r, s.tx.facts.ID)
	}
	return withID(errBackend, s.tx.facts.ID)
}

// forward queues r for the backend, opening it when this is the first. A reply
// comes back only when it cannot be asked.
func (s *session) forward(r *recipient, params []smtp.Param) smtp.Reply {
	tx := s.tx
	if tx.broken != "" {
		return s.unserved()
	}
	if !tx.turnedAway.IsZero() {
		return tx.turnedAway
	}
	if s.bc != nil && (s.bc.Pool() != tx.pool || !s.stillTrue()) {
		// From a transaction before, or from recipients that were all refused.
		s.releaseBackend()
	}
	if s.bc == nil {
		start := time.Now()
		bc, err := tx.pool.Open(s.context(), s.asClient())
		tx.time("backend", start)
		var be *backend.Error
		if errors.As(err, &be) && be.TurnsAway {
			tx.backend, tx.backRep = be.Backend+" "+be.Address, be.Reply
			tx.turnedAway = s.asToClient(be.Reply, "7.1")
			return tx.turnedAway
		}
		if err != nil {
			tx.fail(err)
			return withID(errBackend, tx.facts.ID)
		}
		s.setBackend(bc)
	}
	tx.backend = s.bc.Backend() + " " + s.bc.Address()
	caps := s.bc.Capabilities()
	if len(params) > 0 && !caps.DSN {
		return withID(errChanged, tx.facts.ID)
	}
	if !tx.mailSent {
		ps, ok := s.forwardParams(caps)
		if !ok {
			s.dropBackend()
			return withID(errChanged, tx.facts.ID)
		}
		s.bc.QueueMail(tx.from, ps)
		tx.mailSent, tx.mailDue = true, true
	}
	s.bc.QueueRcpt(r.path, params)
	r.queued, r.params = true, params
	tx.takes8 = caps.EightBitMIME
	return smtp.Reply{}
}

// asClient is what the backend shall learn about the client.
func (s *session) asClient() backend.Client {
	c := backend.Client{
		Addr: s.addr, Name: s.tx.facts.Client.Name, Helo: s.heloName.Name, ESMTP: s.esmtp, TLS: s.tls != nil,
	}
	c.ReverseName = s.tx.facts.Iprev.Reverse
	c.NameTemporary = s.tx.facts.Iprev.Result == policy.TempError
	c.ReverseTemporary = c.NameTemporary && c.ReverseName == ""
	c.Local = addrPort(s.conn.LocalAddr())
	if s.tls != nil {
		c.TLSVersion, c.TLSCipher = "TLSv"+s.tls.Version, s.tls.Cipher
		if tc, ok := s.w.(*tls.Conn); ok {
			c.ServerName = tc.ConnectionState().ServerName
		}
	}
	return c
}

// stillTrue says whether what the backend was told about the client, perhaps
// some messages ago, is still so.
func (s *session) stillTrue() bool {
	f, told := &s.tx.facts, s.bc.Client()
	return told.Helo == f.Helo.Name && told.ESMTP == s.esmtp && told.TLS == (s.tls != nil) &&
		told.Name == f.Client.Name && told.ReverseName == f.Iprev.Reverse && told.NameTemporary == (f.Iprev.Result == policy.TempError)
}

// forwardParams is what of MAIL's parameters goes on to a backend with those
// capabilities; not ok: it lacks what the client was promised.
func (s *session) forwardParams(c backend.Capabilities) (ps []smtp.Param, ok bool) {
	for _, p := range s.tx.params {
		switch p.Key {
		case "SIZE":
			if c.HasSize {
				n := s.tx.facts.Mail.Size + s.addedSize()
				ps = append(ps, smtp.Param{Key: "SIZE", Value: strconv.FormatInt(n, 10), HasValue: true})
			}
			continue
		case "SUBMITTER": // RFC 4405 §4.3: dropped where it is not known
			if !c.Submitter {
				continue
			}
		case "BODY":
			if s.tx.binary && !(c.BinaryMIME && c.Chunking) || s.tx.eight && !c.EightBitMIME {
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

// firstTaken is the recipient that stands for all once the header is read: what
// together let in has the same verdict from there on.
func (tx *transaction) firstTaken() policy.RcptTo {
	if r := tx.foremost(); r != nil {
		return policy.RcptTo{Address: r.address, Domain: r.domain}
	}
	return policy.RcptTo{}
}

// foremost is the first recipient that the backend took. Where each has a verdict
// of its own it is the first that would have been refused: that is what who
// observes wants to know.
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

// settle reads what the backend has still to say to MAIL and RCPT, and gives
// the client its replies in the order of its commands.
func (s *session) settle() {
	tx := s.tx
	if tx == nil || len(tx.pending) == 0 {
		return
	}
	start := time.Now()
	var refused smtp.Reply // the backend's refusal of MAIL
	if tx.mailDue {
		tx.mailDue = false
		if r, ok := s.backendReply("1.0"); ok && !r.Positive() {
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
				r.reply, ok = s.backendReply("1.5")
			} else {
				ok = s.skipReply() // that of a RCPT without MAIL: 503, mostly
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
		s.say(r.reply)
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
func (s *session) backendReply(detail string) (smtp.Reply, bool) {
	r, ok := s.backendAnswer()
	if ok && r.Intermediate() {
		// Only DATA is answered by 354. To the client it would be an
		// invitation to send a message to nobody.
		s.tx.outOfStep(r)
		s.dropBackend()
		return smtp.Reply{}, false
	}
	return s.asToClient(r, detail), ok
}

// asToClient is what of a reply of the backend's the client hears: all of it,
// unless it is about how we speak. That the backend wants another command
// first, or TLS, or does not know this one, is between it and us, and no reason
// for the sender to give the message up.
func (s *session) asToClient(r smtp.Reply, detail string) smtp.Reply {
	switch r.Code {
	case 502, 503, 530, 538:
		s.srv.log.LogAttrs(s.srv.ctx, slog.LevelError, "the backend does not take our commands",
			slog.String("id", s.tx.facts.ID), slog.String("backend", s.tx.backend), slog.String("backend_reply", r.String()))
		return withID(errMisfit, s.tx.facts.ID)
	}
	return supplyEnhanced(r, detail)
}

// backendAnswer is backendReply to DATA, where 354 means something.
func (s *session) backendAnswer() (smtp.Reply, bool) {
	if s.tx.broken != "" || s.bc == nil {
		return smtp.Reply{}, false
	}
	r, err := s.bc.Reply()
	if err != nil {
		s.tx.fail(err)
		s.dropBackend()
		return smtp.Reply{}, false
	}
	s.tx.backRep = r
	return r, true
}

// skipReply reads a reply which tells less than the one before it; false when
// there is no conversation any more.
func (s *session) skipReply() bool {
	said := s.tx.backRep
	_, ok := s.backendAnswer()
	if ok {
		s.tx.backRep = said
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

// dropBackend lets go of a backend connection whose transaction did not come
// to its end: no dot, no message.
func (s *session) dropBackend() {
	if s.bc != nil {
		bc := s.bc
		s.setBackend(nil)
		bc.Abort()
	}
}

// releaseBackend gives the backend connection back to its pool, in step.
func (s *session) releaseBackend() {
	if s.bc != nil {
		bc := s.bc
		s.setBackend(nil)
		bc.Release()
	}
}

// abandon ends the transaction without a message: RSET, EHLO, STARTTLS, QUIT or
// a client that went away.
func (s *session) abandon() {
	tx := s.tx
	if tx == nil {
		return
	}
	if tx.relay != nil {
		tx.relay.close()
	}
	if len(tx.pending) > 0 || tx.mailDue || tx.relay != nil && tx.relay.begun {
		s.dropBackend() // replies are still due, or a message: out of step
	}
	s.releaseBackend()
	s.finish(s.abandonedOutcome())
}

var (
	// What EHLO announced was learned from another address, or before the
	// backend changed. Later it will have been learned anew.
	errChanged  = smtp.Reply{Code: 451, Enhanced: "3.0", Text: "The mail server behind us has changed, try again"}
	errTooLarge = smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Message too large"}
)
