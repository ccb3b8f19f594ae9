package journal

import (
	"slices"
	"strings"

	"postern/policy"
	"postern/policy/journal/jsonline"
)

// appendFacts appends the members that facts have in JSON, as their tags name them; the functions
// below do so for what is in them. A field that is forgotten here fails TestRecordsAreWrittenWhole.
func appendFacts(b jsonline.JSON, f *policy.Facts) jsonline.JSON {
	b = b.Text("id", f.ID)
	b = appendClient(b.Open("client"), &f.Client).Close()
	b = b.Open("network").Text("result", string(f.Network.Result)).Close()
	b = b.Text("listener", f.Listener)
	b = appendTLS(b.Open("tls"), &f.TLS).Close()
	b = appendHeloName(b.Open("helo"), &f.Helo).Close()
	b = appendMailFrom(b.Open("mail"), &f.Mail).Close()
	b = appendSubmitter(b.Open("submitter"), &f.Submitter).Close()
	b = appendSPF(b.Open("spf"), &f.SPF).Close()
	b = appendSPFHelo(b.Open("spf_helo"), &f.SPFHelo).Close()
	b = appendIprev(b.Open("iprev"), &f.Iprev).Close()
	b = appendMX(b.Open("mx"), &f.MX).Close()
	b = appendDNSBL(b.Open("dnsbl"), &f.DNSBL).Close()
	b = b.Open("dns").Bool("healthy", f.DNS.Healthy).Close()
	b = appendIdentity(b.Open("identity"), &f.Identity).Close()
	b = appendPast(b.Open("past"), &f.Past).Close()
	b = appendRate(b.Open("rate"), &f.Rate).Close()
	b = b.Open("state").Bool("healthy", f.State.Healthy).Close()
	b = appendRcptTo(b.Open("rcpt"), &f.Rcpt).Close()
	b = appendHold(b.Open("hold"), &f.Hold).Close()
	b = appendNamed(b, "service", f.Service, serviceName, appendService)
	b = appendHeaderSum(b.Open("header"), &f.Header).Close()
	b = appendPRA(b.Open("pra"), &f.PRA).Close()
	b = appendDKIM(b.Open("dkim"), &f.DKIM).Close()
	b = appendDMARC(b.Open("dmarc"), &f.DMARC).Close()
	b = appendNamed(b, "milter", f.Milter, milterName, appendMilter)
	return b.Open("message").Int("size", f.Message.Size).Close()
}

func appendClient(b jsonline.JSON, c *policy.Client) jsonline.JSON {
	return b.
		Text("ip", c.IP).
		Int("port", int64(c.Port)).
		OptionalText("proxy", c.Proxy).
		OptionalBool("pregreet", c.Pregreet).
		OptionalBool("unsynchronized", c.Unsynchronized).
		Text("name", c.Name).
		OptionalInt("asn", c.ASN).
		OptionalText("as_name", c.ASName).
		OptionalText("country", c.Country).
		OptionalText("user", c.User).
		OptionalText("fetched", c.Fetched)
}

func appendTLS(b jsonline.JSON, t *policy.TLS) jsonline.JSON {
	b = b.Text("version", t.Version).Text("cipher", t.Cipher)
	return appendTLSPeer(b.Open("peer"), &t.Peer).Close()
}

func appendTLSPeer(b jsonline.JSON, p *policy.TLSPeer) jsonline.JSON {
	return b.
		Bool("verified", p.Verified).
		Texts("names", p.Names).
		Text("fingerprint", p.Fingerprint)
}

func appendHeloName(b jsonline.JSON, h *policy.HeloName) jsonline.JSON {
	return b.
		Text("name", h.Name).
		Text("domain", h.Domain)
}

func appendMailFrom(b jsonline.JSON, m *policy.MailFrom) jsonline.JSON {
	return b.
		Text("from", m.From).
		Text("domain", m.Domain).
		Int("size", m.Size).
		Bool("smtputf8", m.SMTPUTF8).
		Bool("requiretls", m.RequireTLS)
}

func appendSubmitter(b jsonline.JSON, s *policy.Submitter) jsonline.JSON {
	return b.
		Text("address", s.Address).
		Text("domain", s.Domain).
		Text("result", string(s.Result)).
		OptionalText("reason", s.Reason)
}

func appendSPF(b jsonline.JSON, s *policy.SPF) jsonline.JSON {
	return b.
		Text("result", string(s.Result)).
		Text("domain", s.Domain).
		Text("identity", s.Identity).
		Text("reason", s.Reason).
		OptionalText("explanation", s.Explanation)
}

func appendSPFHelo(b jsonline.JSON, s *policy.SPFHelo) jsonline.JSON {
	return b.
		Text("result", string(s.Result)).
		OptionalText("domain", s.Domain).
		OptionalText("reason", s.Reason)
}

func appendIprev(b jsonline.JSON, i *policy.Iprev) jsonline.JSON {
	return b.
		Text("result", string(i.Result)).
		Text("name", i.Name).
		OptionalText("reverse", i.Reverse)
}

func appendMX(b jsonline.JSON, m *policy.MX) jsonline.JSON {
	return b.
		Text("result", string(m.Result)).
		OptionalText("reason", m.Reason)
}

func appendDNSBL(b jsonline.JSON, d *policy.DNSBL) jsonline.JSON {
	return b.
		Bool("listed", d.Listed).
		Int("score", int64(d.Score)).
		Texts("zones", d.Zones).
		Text("result", string(d.Result))
}

func appendIdentity(b jsonline.JSON, i *policy.Identity) jsonline.JSON {
	return b.
		Text("level", i.Level).
		Text("domain", i.Domain)
}

func appendPast(b jsonline.JSON, p *policy.Past) jsonline.JSON {
	return b.
		Text("result", string(p.Result)).
		Int("days", int64(p.Days)).
		Int("delivered", p.Delivered).
		Int("refused", p.Refused)
}

func appendRate(b jsonline.JSON, r *policy.Rate) jsonline.JSON {
	return b.
		Text("result", string(r.Result)).
		Int("messages", r.Messages).
		Int("refused", r.Refused).
		Int("unknown", r.Unknown).
		Int("domain", r.Domain).
		Int("surge", r.Surge)
}

func appendRcptTo(b jsonline.JSON, r *policy.RcptTo) jsonline.JSON {
	return b.
		Text("address", r.Address).
		Text("domain", r.Domain)
}

func appendHold(b jsonline.JSON, h *policy.Hold) jsonline.JSON {
	return b.
		Text("result", string(h.Result)).
		Int("age", int64(h.Age)).
		Int("tries", int64(h.Tries)).
		Bool("released", h.Released).
		OptionalText("notice", h.Notice)
}

func appendHeaderSum(b jsonline.JSON, h *policy.HeaderSum) jsonline.JSON {
	return b.
		Text("from_domain", h.FromDomain).
		Text("author", h.Author).
		Int("from_count", int64(h.FromCount)).
		Int("count", int64(h.Count))
}

func appendPRA(b jsonline.JSON, p *policy.PRA) jsonline.JSON {
	return b.
		Text("result", string(p.Result)).
		Text("address", p.Address).
		Text("domain", p.Domain).
		Bool("matches_submitter", p.MatchesSubmitter).
		OptionalText("reason", p.Reason)
}

func appendDKIM(b jsonline.JSON, d *policy.DKIM) jsonline.JSON {
	b = b.
		Text("result", string(d.Result)).
		Texts("domains", d.Domains).
		OptionalTexts("unknown", d.Unknown)
	return jsonline.OptionalObjects(b, "signatures", d.Signatures, appendDKIMSignature)
}

func appendDKIMSignature(b jsonline.JSON, s *policy.DKIMSignature) jsonline.JSON {
	return b.
		Text("domain", s.Domain).
		Text("selector", s.Selector).
		Text("result", string(s.Result)).
		OptionalText("reason", s.Reason)
}

func appendDMARC(b jsonline.JSON, d *policy.DMARC) jsonline.JSON {
	return b.
		Text("result", string(d.Result)).
		Text("policy", d.Policy).
		Text("domain", d.Domain)
}

func serviceName(s *policy.Service) string { return s.Name }

func appendService(b jsonline.JSON, s *policy.Service) jsonline.JSON {
	return b.
		Text("action", string(s.Action)).
		OptionalText("text", s.Text).
		OptionalText("reason", s.Reason).
		OptionalText("unasked", string(s.Unasked))
}

func milterName(m *policy.Milter) string { return m.Name }

func appendMilter(b jsonline.JSON, m *policy.Milter) jsonline.JSON {
	return b.
		Text("action", string(m.Action)).
		OptionalText("reply", m.Reply).
		OptionalText("reason", m.Reason).
		OptionalTexts("fields", m.Fields).
		OptionalText("told", m.Told).
		OptionalText("unasked", string(m.Unasked))
}

// appendNamed appends what filters said as an object with a member for each, in the order of their
// names, and leaves out an empty one.
func appendNamed[T any](b jsonline.JSON, member string, all []T, name func(*T) string, members func(jsonline.JSON, *T) jsonline.JSON) jsonline.JSON {
	if len(all) == 0 {
		return b
	}
	byName := func(x, y T) int { return strings.Compare(name(&x), name(&y)) }
	if !slices.IsSortedFunc(all, byName) {
		all = slices.SortedFunc(slices.Values(all), byName) // NOT: in place. The list is that of the facts
	}
	b = b.Open(member)
	for i := range all {
		b = members(b.Open(name(&all[i])), &all[i]).Close()
	}
	return b.Close()
}
