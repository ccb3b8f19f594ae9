package proxy

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unsafe"

	"postern/checks"
	"postern/checks/memory"
	"postern/policy"
	"postern/proxy/esmtp"
	"postern/proxy/fields"
	"postern/proxy/smtp"
)

// envelopeLimit bounds what is kept of the recipients of a transaction, whatever
// became of them, in octets. It is enough for a thousand of usual length, and for
// more than the hundred that every server must take (RFC 5321 §4.5.3.1.8), were each
// as long as it may be.
const envelopeLimit = 224 << 10

// keptText is how much of a reply is kept where that is exceeded.
const keptText = 80

// recipient takes one recipient (RFC 5321 §4.1.1.3). Its reply comes later if the
// backend has to be asked: what the client pipelined, we pipeline.
func (tx *transaction) recipient(arg string) smtp.Reply {
	if tx.message != nil {
		tx.settle()
		return smtp.Reply{Code: 503, Enhanced: "5.1", Text: "The message has begun"}
	}
	to, params, err := smtp.ParseRcpt(arg, tx.facts.Mail.SMTPUTF8)
	if err != nil {
		tx.settle()
		return syntaxReply(err)
	}
	for _, p := range params {
		if r := tx.peer.offered.RcptParam(p); !r.IsZero() {
			tx.settle()
			return r
		}
	}
	if len(tx.rcpts.list) >= tx.set.Limits.Recipients || tx.rcpts.octets >= envelopeLimit {
		tx.srv.metrics.LimitReached("recipients")
		tx.settle()
		return tx.refuse(452, "5.3", "Too many recipients in one transaction")
	}
	r := recipient{path: to, address: smtp.Address(to), domain: esmtp.Domain(to)}
	known := r.facts(&tx.known)
	if tx.set.Checks.HasStage(policy.Rcpt) {
		start := time.Now()
		tx.waits.Renew() // the notice is written within the same time
		tx.runChecks(policy.Rcpt, checks.Message{Rcpt: known, Session: tx.session()})
		tx.Took("rcpt", start)
	}
	r.reply = tx.judge(policy.Rcpt, known)
	if tx.verdict.Disposition == policy.DispositionHold && !tx.set.Observe {
		r.reply = tx.noteHeld(known)
	}
	r.verdict = tx.rcpts.share(tx.verdict)
	if known.Hold.Result != policy.Skipped {
		hold := known.Hold // NOT: in place: known is that of the next recipient too
		r.hold = &hold
	}
	r.service = known.Service
	if r.reply.IsZero() {
		r.reply = tx.together(&r)
	}
	if r.reply.IsZero() {
		r.reply = tx.relay.Rcpt(r.path, params)
		if r.queued = r.reply.IsZero(); r.queued {
			r.params = params
		}
	}
	tx.rcpts.keep(r)
	return smtp.Reply{}
}

// noteHeld writes the notice of mail that is held, before its client is told to come
// again: one that it was told of, and that is forgotten, would have it told so again for
// ever. Where the store does not take it nothing is held, and the rules are read as they
// are then.
//
// Where there is no room for one more, the mail is held without: it has to wait until there
// is. NOT let in, or whoever invents recipients would open the way for what comes behind
// them.
func (tx *transaction) noteHeld(to *policy.Recipient) smtp.Reply {
	if tx.set.Memory != nil {
		n := checks.NoticeOf(&tx.facts, to)
		n.Rule = tx.verdict.Rule
		switch _, err := tx.set.Memory.Hold(tx.ctx, n); {
		case err == nil:
			to.Hold.Notice = n.ID
			return tx.reply
		case errors.Is(err, memory.ErrSenderFull):
			tx.srv.metrics.LimitReached("notices_per_sender")
			return tx.reply
		case errors.Is(err, memory.ErrFull):
			tx.srv.metrics.LimitReached("notices")
			return tx.reply
		}
	}
	to.Hold = policy.Hold{Result: policy.TempError}
	return tx.judge(policy.Rcpt, to)
}

// together says whether r may share a transaction with the recipients before
// it. One reply ends a message, so all of them must deserve the same one: no
// rule that is still open may treat them apart, and they must go to one
// backend. What does not fit is sent again by the client at once, in a
// transaction of its own (RFC 5321 §4.5.3.1.10). A policy that only observes has
// no reply, so it keeps nobody apart.
func (tx *transaction) together(r *recipient) smtp.Reply {
	sure := r.verdict.Decided
	pool := tx.set.Backends.Route(r.path)
	for i := range tx.rcpts.list {
		o := &tx.rcpts.list[i]
		if !o.queued || !o.reply.IsZero() && !o.taken {
			continue
		}
		apart := sure != tx.rcpts.sure || tx.set.Chain.OneDomain() && o.domain != r.domain
		if pool != tx.relay.Pool() || apart && !tx.set.Observe {
			return tx.refuse(452, "5.3", "Send to this recipient in another transaction")
		}
		tx.rcpts.apart = tx.rcpts.apart || apart
		break // the first one stands for all: they were compared with it
	}
	if !tx.rcpts.tagsFit(r, recipientTags(tx.set.Chain.TagsSize())) && !tx.set.Observe {
		return tx.refuse(452, "5.3", "Send to this recipient in another transaction")
	}
	tx.relay.To(pool)
	tx.rcpts.sure = sure
	return smtp.Reply{}
}

// recipients are those of one transaction, in the order of their RCPTs.
type recipients struct {
	list     []recipient
	pending  []int // those whose reply the client waits for, in order
	octets   int   // that list comes to
	accepted int   // those that the backend took
	sure     bool  // of those: policy has let them pass for good, whatever is found later
	// apart: the policy only observes, and may treat the recipients apart. It
	// refuses none of them, so they are together, each with a verdict of its own.
	apart    bool
	first    policy.Verdict // that of the first one
	tags     []smtp.Field   // that recipients have earned at RCPT, each once
	tagsSize int            // octets of them
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
	hold    *policy.Hold    // what is remembered of its having been held; nil: nobody asked
	service policy.Services // what policy services said of it
	final   bool            // verdict is that on the message, not the one at RCPT
	reply   smtp.Reply
}

// facts sets f to what is known of r and of no other, and returns it; nil: of nobody.
func (r *recipient) facts(f *policy.Recipient) *policy.Recipient {
	*f = policy.Recipient{Hold: policy.Hold{Result: policy.Skipped}}
	if r == nil {
		return f
	}
	f.Rcpt = policy.RcptTo{Address: r.address, Domain: r.domain}
	if r.hold != nil {
		f.Hold = *r.hold
	}
	f.Service = r.service
	return f
}

// keep adds a recipient. What is kept of it is its own, and kept once: no part of the
// line that it came in, which its parameters may have made long.
func (rs *recipients) keep(r recipient) {
	size := int(unsafe.Sizeof(r)) + len(r.address) + len(r.reply.Text)
	if r.hold != nil {
		size += int(unsafe.Sizeof(*r.hold)) + len(r.hold.Notice)
	}
	for i := range r.service {
		s := &r.service[i]
		size += int(unsafe.Sizeof(*s)) + len(s.Text) + len(s.Reason)
	}
	if local, domain, n := r.path.Local, r.path.Domain, len(r.path.Local); r.address == local+"@"+domain {
		r.path = smtp.Path{Local: r.address[:n], Domain: r.address[n+1:]}
	} else {
		r.path = smtp.Path{Local: strings.Clone(local), Domain: strings.Clone(domain)}
		size += len(local) + len(domain)
	}
	for i, p := range r.params {
		r.params[i].Key, r.params[i].Value = strings.Clone(p.Key), strings.Clone(p.Value)
		size += int(unsafe.Sizeof(p)) + len(p.Key) + len(p.Value)
	}
	if r.domain == r.path.Domain {
		r.domain = r.path.Domain
	} else {
		r.domain = strings.Clone(r.domain)
		size += len(r.domain)
	}
	if n := len(rs.list); n == 0 || rs.list[n-1].verdict != r.verdict {
		size += int(unsafe.Sizeof(*r.verdict)) + len(r.verdict.Reply.Text)
		for _, t := range r.verdict.Tags {
			size += int(unsafe.Sizeof(t)) + len(t.Value)
		}
	}
	rs.list = append(rs.list, r)
	rs.octets += size
	rs.pending = append(rs.pending, len(rs.list)-1)
}

// answered notes what the backend has said to r, of the list.
func (rs *recipients) answered(r *recipient) {
	if r.reply.Positive() {
		r.taken = true
		rs.accepted++
	}
	rs.octets += len(r.reply.Text)
}

// said notes that the client has its reply to r, of the list.
func (rs *recipients) said(r *recipient) {
	if rs.octets > envelopeLimit {
		r.reply.Text = cutText(r.reply.Text) // for the record it will do
	}
}

// share returns v, or the same verdict of the recipient before: of a thousand they
// mostly have one.
func (rs *recipients) share(v policy.Verdict) *policy.Verdict {
	if n := len(rs.list); n > 0 {
		w := rs.list[n-1].verdict
		if v.Disposition == w.Disposition && v.Decided == w.Decided && v.Reply == w.Reply && v.Rule == w.Rule && v.Stage == w.Stage &&
			slices.Equal(v.Tags, w.Tags) {
			return w
		}
		another := v
		return &another
	}
	rs.first = v
	return &rs.first
}

// foremost is the first recipient that the backend took. It stands for all once the
// header is read: what together let in has the same verdict from there on. Where each
// has a verdict of its own it is the first that would have been refused: a site that only
// observes wants to know of that one.
func (rs *recipients) foremost() (first *recipient) {
	for i := range rs.list {
		r := &rs.list[i]
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

// last is the one whose RCPT came last, nil where none came.
func (rs *recipients) last() *recipient {
	if len(rs.list) == 0 {
		return nil
	}
	return &rs.list[len(rs.list)-1]
}

// only is the recipient that the backend took, where there is one alone.
func (rs *recipients) only() smtp.Path {
	if rs.accepted == 1 {
		for i := range rs.list {
			if r := &rs.list[i]; r.taken {
				return r.path
			}
		}
	}
	return smtp.Path{}
}

// recipientTags is how many octets the tags may come to that recipients have
// earned at RCPT, where those of one verdict come to size: as much for the first,
// and something for others whose tags differ.
func recipientTags(size int) int {
	if size == 0 {
		return 0
	}
	return size + 4<<10
}

// tagsFit says whether there is room, in octets, for the tags that r has earned
// beside those of the recipients before it. If there is, they are counted.
func (rs *recipients) tagsFit(r *recipient, room int) bool {
	tags, size := rs.tags, rs.tagsSize
	for _, t := range r.verdict.Tags {
		if !slices.Contains(tags, t) {
			tags = append(tags, t)
			size += fields.TagSize(t)
		}
	}
	if size > room {
		return false
	}
	rs.tags, rs.tagsSize = tags, size
	return true
}

// allTags is every tag that the transaction has earned by the rules: those of the
// message, and those of each recipient that the backend took, as far as there is room,
// in octets; each text once.
func (rs *recipients) allTags(ofMessage []smtp.Field, room int) []smtp.Field {
	tags := append([]smtp.Field(nil), ofMessage...)
	for i := range rs.list {
		if !rs.list[i].taken {
			continue
		}
		for _, t := range rs.list[i].verdict.Tags {
			if slices.Contains(tags, t) {
				continue
			}
			// They fit, see together, but for a policy that only observes.
			if room -= fields.TagSize(t); room < 0 {
				return tags
			}
			tags = append(tags, t)
		}
	}
	return tags
}

// cutText is a text cut to what the record needs.
func cutText(s string) string {
	if len(s) <= keptText {
		return s
	}
	return strings.ToValidUTF8(s[:keptText], "") + "..."
}
