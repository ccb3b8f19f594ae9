// Package fields renders the fields that stand on top of a message (Received,
// Authentication-Results, Received-SPF and tags) and takes those out of a header
// section that speak in their name. It is pure: what goes in are facts, a clock's time
// and octets, and what comes out are octets.
package fields

import (
	"net/netip"
	"strings"
	"time"

	"postern/policy"
	"postern/proxy/smtp"
)

// The fields on top of a message: Received, Authentication-Results,
// Received-SPF and tags, in this order, and the forged ones taken out below.
//
// RFC 5321 §4.4 has Received at the very beginning, as a MUST. NOT: Received-SPF
// above it, as RFC 7208 §9.1 would like; what that section must have, that it is
// above all older ones, is so.

const (
	commentLimit = 300 // octets of a comment that comes from elsewhere
	forLimit     = 512 // octets of a recipient that Received names; paths have 256 (RFC 5321 §4.5.3.1.3)
	// TraceSize is more octets than Received, Authentication-Results and
	// Received-SPF can have together, in octets, with eight signatures and everything in
	// them as long as it may be.
	TraceSize = 20 << 10
)

// Received is what the trace of a message says (RFC 5321 §4.4).
type Received struct {
	Facts    *policy.Facts // of them: the HELO name, the client's name, the id and the cipher
	Client   netip.Addr    // the zero Addr is written as unknown
	Hostname string        // ours
	Protocol string        // see Protocol
	// For is the recipient, where there is only one: of several, each would be told
	// of the others. The zero Path names none.
	For  smtp.Path
	Time time.Time
}

// AppendReceived appends the Received field (RFC 5321 §4.4). A recipient of more than
// 512 octets is left out.
func AppendReceived(b []byte, r *Received) []byte {
	f := r.Facts
	b = append(b, "Received: from "...)
	b = append(b, f.Helo.Name...)
	b = append(b, " ("...)
	if f.Client.Name != "" {
		b = appendComment(b, f.Client.Name)
		b = append(b, ' ')
	}
	b = appendLiteral(b, r.Client)
	b = append(b, ")\r\n\tby "...)
	b = append(b, r.Hostname...)
	b = append(b, " with "...)
	b = append(b, r.Protocol...)
	b = append(b, " id "...)
	b = append(b, f.ID...)
	if !r.For.IsNull() {
		before := len(b)
		b = append(b, "\r\n\tfor "...)
		at := len(b)
		if b = r.For.AppendAngle(b); len(b)-at > forLimit+len("<>") {
			b = b[:before]
		}
	}
	if f.TLS.Cipher != "" { // RFC 8314 §4.3; additional clauses are the last ones
		b = append(b, "\r\n\ttls "...)
		b = append(b, f.TLS.Cipher...)
	}
	b = append(b, ";\r\n\t"...)
	b = r.Time.AppendFormat(b, "Mon, 2 Jan 2006 15:04:05 -0700")
	return append(b, "\r\n"...)
}

// Protocol is the word for how a message came (RFC 3848, RFC 6531 §4.3).
func Protocol(smtputf8, tls, esmtp bool) string {
	switch {
	case smtputf8 && tls:
		return "UTF8SMTPS"
	case smtputf8:
		return "UTF8SMTP"
	case tls:
		return "ESMTPS"
	case esmtp:
		return "ESMTP"
	}
	return "SMTP"
}

// AMTP is the word for a message that came by AMTP, or was fetched by it. It is registered nowhere, and tells how it was.
func AMTP(tls bool) string {
	if tls {
		return "AMTPS"
	}
	return "AMTP"
}

// AppendTag appends the field of a tag rule.
func AppendTag(b []byte, t smtp.Field) []byte {
	b = append(b, t.Name...)
	b = append(b, ": "...)
	b = append(b, strings.TrimSpace(t.Value)...)
	return append(b, "\r\n"...)
}

// TagSize is how many octets AppendTag appends.
func TagSize(t smtp.Field) int { return len(t.Name) + len(": \r\n") + len(strings.TrimSpace(t.Value)) }

// appendLiteral writes an address as RFC 5321 §4.1.3 has it.
func appendLiteral(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, "unknown"...)
	}
	b = append(b, '[')
	if a.Is6() {
		b = append(b, "IPv6:"...)
	}
	b = a.AppendTo(b)
	return append(b, ']')
}

// appendComment appends text from elsewhere as it may stand within a comment:
// printable ASCII, no parenthesis, no backslash, and not too long.
func appendComment(b []byte, text string) []byte {
	if len(text) > commentLimit {
		text = text[:commentLimit]
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c == '(' || c == ')' || c == '\\':
			b = append(b, '/')
		case c < ' ' || c > '~':
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return b
}

// appendValue appends a property value (RFC 8601 §2.2): as it is, where it is
// a token or an address made of such, else quoted.
func appendValue(b []byte, v string) []byte {
	plain := v != ""
	for i := range len(v) {
		c := v[i]
		if c <= ' ' || c > '~' || strings.IndexByte(`()<>,;:\"/[]?=`, c) >= 0 {
			plain = false
			break
		}
	}
	if plain && len(v) <= commentLimit {
		return append(b, v...)
	}
	return appendQuoted(b, v)
}

// appendQuoted appends a quoted-string of printable ASCII. The limit is on what
// it writes, not on what it reads: a value of nothing but quotes doubles, and
// three of them are more than a line may hold (RFC 5322 §2.1.1).
func appendQuoted(b []byte, v string) []byte {
	b = append(b, '"')
	end := len(b) + commentLimit
	for i := 0; i < len(v) && len(b) < end-1; i++ {
		switch c := v[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// AppendAuthResults renders RFC 8601: one method for each check that ran.
// SUBMITTER and PRA are not among them: sender-id is deprecated there, they
// stand in Received-SPF.
func AppendAuthResults(b []byte, id string, f *policy.Facts) []byte {
	b = append(b, "Authentication-Results: "...)
	b = append(b, id...)
	n := 0
	method := func(name string, r policy.Result, reason string) bool {
		if r == policy.Skipped || r == "" {
			return false
		}
		n++
		b = append(b, ";\r\n\t"...)
		b = append(b, name...)
		b = append(b, '=')
		b = append(b, r...)
		if reason != "" {
			b = append(b, " ("...)
			b = appendComment(b, reason)
			b = append(b, ')')
		}
		return true
	}
	prop := func(name, value string) {
		if value == "" {
			return
		}
		b = append(b, ' ')
		b = append(b, name...)
		b = append(b, '=')
		b = appendValue(b, value)
	}
	if f.Mail.From == "" {
		if method("spf", f.SPF.Result, f.SPF.Reason) {
			prop("smtp.helo", f.Helo.Name)
		}
	} else {
		if method("spf", f.SPF.Result, f.SPF.Reason) {
			prop("smtp.mailfrom", f.Mail.Domain)
		}
		// RFC 7208 §2.3: the HELO identity is one of its own.
		if f.Helo.Domain != "" && method("spf", f.SPFHelo.Result, f.SPFHelo.Reason) {
			prop("smtp.helo", f.Helo.Name)
		}
	}
	if method("iprev", f.Iprev.Result, f.Iprev.Name) {
		prop("policy.iprev", f.Client.IP)
	}
	if len(f.DKIM.Signatures) > 0 {
		for _, sig := range f.DKIM.Signatures {
			if method("dkim", sig.Result, sig.Reason) {
				prop("header.d", sig.Domain)
				prop("header.s", sig.Selector)
			}
		}
	} else {
		method("dkim", f.DKIM.Result, "")
	}
	if method("dmarc", f.DMARC.Result, "") {
		prop("header.from", f.Header.FromDomain)
	}
	if n == 0 {
		b = append(b, "; none"...)
	}
	return append(b, "\r\n"...)
}

// AppendReceivedSPFs renders RFC 7208 §9.1 for each identity that was checked:
// mailfrom, helo, and those of Sender ID, submitter and pra. The latter are for a client
// that said SUBMITTER, or for a site that goes by them (asked): nobody has asked about
// those of other clients, and a reader who finds softfail for an identity that the
// sender never heard of may take it for the sender's fault.
func AppendReceivedSPFs(b []byte, receiver string, f *policy.Facts, asked bool) []byte {
	identity := "mailfrom"
	if f.Mail.From == "" {
		identity = "helo"
	}
	b = appendReceivedSPF(b, receiver, f, f.SPF.Result, f.SPF.Reason, identity, "")
	if identity != "helo" && f.Helo.Domain != "" {
		b = appendReceivedSPF(b, receiver, f, f.SPFHelo.Result, f.SPFHelo.Reason, "helo", "")
	}
	if f.Submitter.Address == "" && !asked {
		return b
	}
	if f.Submitter.Address != "" {
		b = appendReceivedSPF(b, receiver, f, f.Submitter.Result, f.Submitter.Reason, "submitter", f.Submitter.Address)
	}
	return appendReceivedSPF(b, receiver, f, f.PRA.Result, f.PRA.Reason, "pra", f.PRA.Address)
}

func appendReceivedSPF(b []byte, receiver string, f *policy.Facts, r policy.Result, reason, identity, address string) []byte {
	if r == policy.Skipped || r == "" {
		return b
	}
	b = append(b, "Received-SPF: "...)
	b = append(b, r...)
	if reason != "" {
		b = append(b, " ("...)
		b = appendComment(b, reason)
		b = append(b, ')')
	}
	b = append(b, "\r\n\tclient-ip="...)
	b = appendValue(b, f.Client.IP) // an IPv6 address is no dot-atom
	b = append(b, "; envelope-from="...)
	b = appendQuoted(b, f.Mail.From)
	b = append(b, ";\r\n\thelo="...)
	b = appendValue(b, f.Helo.Name)
	b = append(b, "; identity="...)
	b = append(b, identity...)
	if address != "" {
		b = append(b, "; x-"...)
		b = append(b, identity...)
		b = append(b, '=')
		b = appendQuoted(b, address)
	}
	b = append(b, "; receiver="...)
	b = appendValue(b, receiver)
	return append(b, "\r\n"...)
}

func equalFold(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }
