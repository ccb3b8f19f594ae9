package proxy

import (
	"slices"
	"strings"
	"unsafe"

	"postern/policy"
	"postern/proxy/smtp"
)

// envelopeLimit bounds what is kept of the recipients of a transaction, whatever
// became of them, in octets. It is enough for a thousand of usual length, and for
// more than the hundred that every server must take (RFC 5321 §4.5.3.1.8), were each
// as long as it may be.
const envelopeLimit = 192 << 10

// keptText is how much of a reply is kept where that is exceeded.
const keptText = 80

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
