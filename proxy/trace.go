package proxy

import (
	"postern/checks"
	"postern/proxy/fields"
	"postern/proxy/smtp"
)

// appendFields appends our fields for the message.
func (tx *transaction) appendFields(b []byte) []byte {
	f := &tx.facts
	if tx.set.Headers.Received {
		r := fields.Received{
			Facts: f, Client: tx.peer.addr.Addr(), Hostname: tx.set.Hostname, For: tx.rcpts.only(), Time: tx.srv.now(),
			Protocol: fields.Protocol(f.Mail.SMTPUTF8, tx.peer.tls != nil, tx.peer.esmtp),
		}
		if f.Client.User != "" || f.Client.Fetched != "" {
			r.Protocol = fields.AMTP(tx.peer.tls != nil)
		}
		b = fields.AppendReceived(b, &r)
	}
	if tx.set.Headers.AuthenticationResults {
		b = fields.AppendAuthResults(b, tx.set.Hostname, f)
	}
	if tx.set.Headers.ReceivedSPF {
		b = fields.AppendReceivedSPFs(b, tx.set.Hostname, f, tx.set.Chain.SiteReadsSender())
	}
	for _, t := range tx.tags() {
		b = fields.AppendTag(b, t)
	}
	if f.Milter == nil || !tx.set.Checks.AddsFields() {
		return b
	}
	added := checks.AppendFields(nil, f.Milter)
	header, bad := smtp.ParseHeader(added)
	// A filter must not speak in our name, no more than the client.
	return append(b, fields.WithoutForged(added, header, bad, tx.set.Hostname, tx.set.Chain.TagNames())...)
}

// tags is every tag that the transaction has earned by the rules.
func (tx *transaction) tags() []smtp.Field {
	return tx.rcpts.allTags(tx.verdict.Tags, recipientTags(tx.set.Chain.TagsSize()))
}
