package proxy

import (
	"slices"

	"postern/proxy/fields"
	"postern/proxy/smtp"
)

// recipientTags is how many octets the tags may come to that recipients have
// earned at RCPT, where those of one verdict come to size: as much for the first,
// and something for others whose tags differ.
func recipientTags(size int) int {
	if size == 0 {
		return 0
	}
	return size + 4<<10
}

// appendFields appends our fields for the message.
func (tx *transaction) appendFields(b []byte) []byte {
	f := &tx.facts
	if tx.set.Headers.Received {
		r := fields.Received{
			Facts: f, Client: tx.peer.addr.Addr(), Hostname: tx.set.Hostname, For: tx.only(), Time: tx.srv.now(),
			Protocol: fields.Protocol(f.Mail.SMTPUTF8, tx.peer.tls != nil, tx.peer.esmtp),
		}
		b = fields.AppendReceived(b, &r)
	}
	if tx.set.Headers.AuthenticationResults {
		b = fields.AppendAuthResults(b, tx.set.Hostname, f)
	}
	if tx.set.Headers.ReceivedSPF {
		b = fields.AppendReceivedSPFs(b, tx.set.Hostname, f, tx.set.Chain.SiteReads("pra") || tx.set.Chain.SiteReads("submitter"))
	}
	for _, t := range tx.allTags() {
		b = fields.AppendTag(b, t)
	}
	return b
}

// only is the recipient that the backend took, where there is one alone.
func (tx *transaction) only() smtp.Path {
	if tx.accepted == 1 {
		for i := range tx.rcpts {
			if r := &tx.rcpts[i]; r.taken {
				return r.path
			}
		}
	}
	return smtp.Path{}
}

// allTags is every tag that the transaction has earned by the rules: of the
// message and of each recipient that the backend took, each text once.
func (tx *transaction) allTags() []smtp.Field {
	tags := append([]smtp.Field(nil), tx.verdict.Tags...)
	room := recipientTags(tx.set.Chain.TagsSize())
	for i := range tx.rcpts {
		if !tx.rcpts[i].taken {
			continue
		}
		for _, t := range tx.rcpts[i].verdict.Tags {
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

// tagsFit says whether there is room for the tags that r has earned beside those
// of the recipients before it. If there is, they are counted.
func (tx *transaction) tagsFit(r *recipient) bool {
	tags, size := tx.tags, tx.tagsSize
	for _, t := range r.verdict.Tags {
		if !slices.Contains(tags, t) {
			tags = append(tags, t)
			size += fields.TagSize(t)
		}
	}
	if size > recipientTags(tx.set.Chain.TagsSize()) {
		return false
	}
	tx.tags, tx.tagsSize = tags, size
	return true
}
