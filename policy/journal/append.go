package journal

import (
	"maps"
	"slices"

	"postern/policy"
	"postern/policy/journal/jsonline"
)

// What the log tells of each transaction is written by hand here. A test holds
// it against encoding/json, so that no field is new to the one and not to the
// other.

// AppendJSON implements jsonline.Appender.
func (t Took) AppendJSON(b []byte) []byte {
	if t == nil {
		return append(b, "null"...)
	}
	var room [8]string
	stages := slices.AppendSeq(room[:0], maps.Keys(t))
	slices.Sort(stages)
	b = jsonline.Open(b)
	for _, stage := range stages {
		b = jsonline.AppendFloat(jsonline.Key(b, stage), t[stage])
	}
	return jsonline.Close(b)
}

// AppendJSON implements jsonline.Appender.
func (rs Recipients) AppendJSON(b []byte) []byte {
	if rs == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i := range rs {
		if i > 0 {
			b = append(b, ',')
		}
		b = rs[i].appendJSON(b)
	}
	return append(b, ']')
}

func (r *Recipient) appendJSON(b []byte) []byte {
	b = jsonline.Open(b)
	b = jsonline.String(b, "address", r.Address)
	b = jsonline.String(b, "disposition", r.Disposition)
	if r.Rule != "" {
		b = jsonline.String(b, "rule", r.Rule)
	}
	b = jsonline.String(b, "reply", r.Reply)
	if r.Undecided {
		b = jsonline.Bool(b, "undecided", true)
	}
	if r.Final {
		b = jsonline.Bool(b, "final", true)
	}
	if r.Taken {
		b = jsonline.Bool(b, "taken", true)
	}
	if r.Candidate != nil {
		b = r.Candidate.AppendJSON(jsonline.Key(b, "candidate"))
	}
	return jsonline.Close(b)
}

// AppendJSON implements jsonline.Appender.
func (c *Candidate) AppendJSON(b []byte) []byte {
	b = jsonline.Open(b)
	if c.Policy != "" {
		b = jsonline.String(b, "policy", c.Policy)
	}
	b = jsonline.String(b, "disposition", c.Disposition)
	if c.Rule != "" {
		b = jsonline.String(b, "rule", c.Rule)
	}
	if len(c.Missing) > 0 {
		b = jsonline.Strings(b, "missing", c.Missing)
	}
	if c.TagsUnknown {
		b = jsonline.Bool(b, "tags_unknown", true)
	}
	return jsonline.Close(b)
}

// Facts is the facts of a record as the log shows them.
type Facts struct{ *policy.Facts }

// MarshalText makes them one word of JSON in a log of text.
func (f Facts) MarshalText() ([]byte, error) { return f.AppendJSON(nil), nil }

// MarshalJSON goes before MarshalText where JSON is wanted.
func (f Facts) MarshalJSON() ([]byte, error) { return f.AppendJSON(nil), nil }

// AppendJSON implements jsonline.Appender.
func (f Facts) AppendJSON(b []byte) []byte {
	b = jsonline.String(jsonline.Open(b), "id", f.ID)
	b = appendSession(b, f.Facts)
	b = appendSender(b, f.Facts)
	b = appendMessage(b, f.Facts)
	return jsonline.Close(b)
}

// appendSession is what is known before MAIL.
func appendSession(b []byte, f *policy.Facts) []byte {
	c := &f.Client
	b = jsonline.Open(jsonline.Key(b, "client"))
	b = jsonline.String(b, "ip", c.IP)
	b = jsonline.Int(b, "port", int64(c.Port))
	if c.Proxy != "" {
		b = jsonline.String(b, "proxy", c.Proxy)
	}
	if c.Pregreet {
		b = jsonline.Bool(b, "pregreet", true)
	}
	if c.Unsynchronized {
		b = jsonline.Bool(b, "unsynchronized", true)
	}
	b = jsonline.Close(jsonline.String(b, "name", c.Name))

	b = jsonline.String(b, "listener", f.Listener)

	t := &f.TLS
	b = jsonline.Open(jsonline.Key(b, "tls"))
	b = jsonline.String(b, "version", t.Version)
	b = jsonline.String(b, "cipher", t.Cipher)
	b = jsonline.Open(jsonline.Key(b, "peer"))
	b = jsonline.Bool(b, "verified", t.Peer.Verified)
	b = jsonline.Strings(b, "names", t.Peer.Names)
	b = jsonline.String(b, "fingerprint", t.Peer.Fingerprint)
	b = jsonline.Close(jsonline.Close(b))

	b = jsonline.Open(jsonline.Key(b, "helo"))
	b = jsonline.String(b, "name", f.Helo.Name)
	return jsonline.Close(jsonline.String(b, "domain", f.Helo.Domain))
}

// appendSender is what is known at MAIL, and what was measured there.
func appendSender(b []byte, f *policy.Facts) []byte {
	m := &f.Mail
	b = jsonline.Open(jsonline.Key(b, "mail"))
	b = jsonline.String(b, "from", m.From)
	b = jsonline.String(b, "domain", m.Domain)
	b = jsonline.Int(b, "size", m.Size)
	b = jsonline.Bool(b, "smtputf8", m.SMTPUTF8)
	b = jsonline.Close(jsonline.Bool(b, "requiretls", m.RequireTLS))

	s := &f.Submitter
	b = jsonline.Open(jsonline.Key(b, "submitter"))
	b = jsonline.String(b, "address", s.Address)
	b = jsonline.String(b, "domain", s.Domain)
	b = jsonline.String(b, "result", string(s.Result))
	b = jsonline.Close(appendIf(b, "reason", s.Reason))

	b = jsonline.Open(jsonline.Key(b, "spf"))
	b = jsonline.String(b, "result", string(f.SPF.Result))
	b = jsonline.String(b, "domain", f.SPF.Domain)
	b = jsonline.String(b, "identity", f.SPF.Identity)
	b = jsonline.String(b, "reason", f.SPF.Reason)
	b = jsonline.Close(appendIf(b, "explanation", f.SPF.Explanation))

	b = jsonline.Open(jsonline.Key(b, "spf_helo"))
	b = jsonline.String(b, "result", string(f.SPFHelo.Result))
	b = appendIf(b, "domain", f.SPFHelo.Domain)
	b = jsonline.Close(appendIf(b, "reason", f.SPFHelo.Reason))

	b = jsonline.Open(jsonline.Key(b, "iprev"))
	b = jsonline.String(b, "result", string(f.Iprev.Result))
	b = jsonline.String(b, "name", f.Iprev.Name)
	b = jsonline.Close(appendIf(b, "reverse", f.Iprev.Reverse))

	b = jsonline.Open(jsonline.Key(b, "mx"))
	b = jsonline.String(b, "result", string(f.MX.Result))
	b = jsonline.Close(appendIf(b, "reason", f.MX.Reason))

	d := &f.DNSBL
	b = jsonline.Open(jsonline.Key(b, "dnsbl"))
	b = jsonline.Bool(b, "listed", d.Listed)
	b = jsonline.Int(b, "score", int64(d.Score))
	b = jsonline.Strings(b, "zones", d.Zones)
	b = jsonline.Close(jsonline.String(b, "result", string(d.Result)))

	b = jsonline.Open(jsonline.Key(b, "dns"))
	b = jsonline.Close(jsonline.Bool(b, "healthy", f.DNS.Healthy))
	return appendMemory(b, f)
}

// appendMemory is who the sender is, and what was remembered of it.
func appendMemory(b []byte, f *policy.Facts) []byte {
	b = jsonline.Open(jsonline.Key(b, "identity"))
	b = jsonline.String(b, "level", f.Identity.Level)
	b = jsonline.Close(jsonline.String(b, "domain", f.Identity.Domain))

	p := &f.Past
	b = jsonline.Open(jsonline.Key(b, "past"))
	b = jsonline.String(b, "result", string(p.Result))
	b = jsonline.Int(b, "days", int64(p.Days))
	b = jsonline.Int(b, "delivered", p.Delivered)
	b = jsonline.Close(jsonline.Int(b, "refused", p.Refused))

	r := &f.Rate
	b = jsonline.Open(jsonline.Key(b, "rate"))
	b = jsonline.String(b, "result", string(r.Result))
	b = jsonline.Int(b, "messages", r.Messages)
	b = jsonline.Int(b, "refused", r.Refused)
	b = jsonline.Int(b, "unknown", r.Unknown)
	b = jsonline.Close(jsonline.Int(b, "domain", r.Domain))

	b = jsonline.Open(jsonline.Key(b, "state"))
	return jsonline.Close(jsonline.Bool(b, "healthy", f.State.Healthy))
}

// appendMessage is what is known from RCPT on.
func appendMessage(b []byte, f *policy.Facts) []byte {
	b = jsonline.Open(jsonline.Key(b, "rcpt"))
	b = jsonline.String(b, "address", f.Rcpt.Address)
	b = jsonline.Close(jsonline.String(b, "domain", f.Rcpt.Domain))

	b = jsonline.Open(jsonline.Key(b, "header"))
	b = jsonline.String(b, "from_domain", f.Header.FromDomain)
	b = jsonline.String(b, "author", f.Header.Author)
	b = jsonline.Int(b, "from_count", int64(f.Header.FromCount))
	b = jsonline.Close(jsonline.Int(b, "count", int64(f.Header.Count)))

	p := &f.PRA
	b = jsonline.Open(jsonline.Key(b, "pra"))
	b = jsonline.String(b, "result", string(p.Result))
	b = jsonline.String(b, "address", p.Address)
	b = jsonline.String(b, "domain", p.Domain)
	b = jsonline.Bool(b, "matches_submitter", p.MatchesSubmitter)
	b = jsonline.Close(appendIf(b, "reason", p.Reason))

	b = jsonline.Open(jsonline.Key(b, "dkim"))
	b = jsonline.String(b, "result", string(f.DKIM.Result))
	b = jsonline.Strings(b, "domains", f.DKIM.Domains)
	if len(f.DKIM.Unknown) > 0 {
		b = jsonline.Strings(b, "unknown", f.DKIM.Unknown)
	}
	if len(f.DKIM.Signatures) > 0 {
		b = append(jsonline.Key(b, "signatures"), '[')
		for i := range f.DKIM.Signatures {
			if i > 0 {
				b = append(b, ',')
			}
			s := &f.DKIM.Signatures[i]
			b = jsonline.String(jsonline.Open(b), "domain", s.Domain)
			b = jsonline.String(b, "selector", s.Selector)
			b = jsonline.String(b, "result", string(s.Result))
			b = jsonline.Close(appendIf(b, "reason", s.Reason))
		}
		b = append(b, ']')
	}
	b = jsonline.Close(b)

	b = jsonline.Open(jsonline.Key(b, "dmarc"))
	b = jsonline.String(b, "result", string(f.DMARC.Result))
	b = jsonline.String(b, "policy", f.DMARC.Policy)
	b = jsonline.Close(jsonline.String(b, "domain", f.DMARC.Domain))

	b = jsonline.Open(jsonline.Key(b, "message"))
	return jsonline.Close(jsonline.Int(b, "size", f.Message.Size))
}

// appendIf appends a text that is left out where it is empty.
func appendIf(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	return jsonline.String(b, name, v)
}
