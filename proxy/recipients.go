package proxy

import (
	"slices"
	"strings"
	"unsafe"

	"postern/policy"
	"postern/proxy/esmtp"
	"postern/proxy/smtp"
)

// envelopeLimit bounds what is kept of the recipients of a transaction, whatever
// became of them, in octets. It is enough for a thousand of usual length, and for
// more than the hundred that every server must take (RFC 5321 §4.5.3.1.8), were each
// as long as it may be.
const envelopeLimit = 192 << 10

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
	if len(tx.rcpts) >= tx.set.Limits.Recipients || tx.envelope >= envelopeLimit {
		tx.srv.metrics.LimitReached("recipients")
		tx.settle()
		return tx.refuse(452, "5.3", "Too many recipients in one transaction")
	}
	r := recipient{path: to, address: smtp.Address(to), domain: esmtp.Domain(to)}
	tx.facts.Rcpt = r.inQuestion()
	r.reply = tx.judge(policy.Rcpt)
	r.verdict = tx.share(tx.verdict)
	if r.reply.IsZero() {
		r.reply = tx.together(&r)
	}
	if r.reply.IsZero() {
		r.reply = tx.forward(&r, params)
	}
	tx.keep(r)
	tx.pending = append(tx.pending, len(tx.rcpts)-1)
	return smtp.Reply{}
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
	for i := range tx.rcpts {
		o := &tx.rcpts[i]
		if !o.queued || !o.reply.IsZero() && !o.taken {
			continue
		}
		apart := sure != tx.sure || tx.set.Chain.OneDomain() && o.domain != r.domain
		if pool != tx.pool || apart && !tx.set.Observe {
			return tx.refuse(452, "5.3", "Send to this recipient in another transaction")
		}
		tx.apart = tx.apart || apart
		break // the first one stands for all: they were compared with it
	}
	if !tx.tagsFit(r) && !tx.set.Observe {
		return tx.refuse(452, "5.3", "Send to this recipient in another transaction")
	}
	if pool != tx.pool {
		// Nobody before is served. If that is since their backend is down, it
		// says nothing of this one.
		tx.broken, tx.gaveUp, tx.turnedAway, tx.mailSent = "", smtp.Reply{}, smtp.Reply{}, false
	}
	tx.pool, tx.sure = pool, sure
	return smtp.Reply{}
}

// keep adds a recipient. What is kept of it is its own, and kept once: no part of the
// line that it came in, which its parameters may have made long.
func (tx *transaction) keep(r recipient) {
	size := int(unsafe.Sizeof(r)) + len(r.address) + len(r.reply.Text)
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
	if n := len(tx.rcpts); n == 0 || tx.rcpts[n-1].verdict != r.verdict {
		size += int(unsafe.Sizeof(*r.verdict)) + len(r.verdict.Reply.Text)
		for _, t := range r.verdict.Tags {
			size += int(unsafe.Sizeof(t)) + len(t.Value)
		}
	}
	tx.rcpts = append(tx.rcpts, r)
	tx.envelope += size
}

// share returns v, or the same verdict of the recipient before: of a thousand they
// mostly have one.
func (tx *transaction) share(v policy.Verdict) *policy.Verdict {
	if n := len(tx.rcpts); n > 0 {
		w := tx.rcpts[n-1].verdict
		if v.Disposition == w.Disposition && v.Decided == w.Decided && v.Reply == w.Reply && v.Rule == w.Rule && v.Stage == w.Stage &&
			slices.Equal(v.Tags, w.Tags) {
			return w
		}
	}
	return &v
}

// cutText is a text cut to what the record needs.
func cutText(s string) string {
	if len(s) <= keptText {
		return s
	}
	return strings.ToValidUTF8(s[:keptText], "") + "..."
}
