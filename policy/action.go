package policy

import (
	"slices"
	"strconv"
	"strings"

	"postern/configs"
	"postern/policy/expr"
	"postern/proxy/smtp"
)

// The bounds of what rules write.
const (
	// maxReplyText leaves room in a reply line of 512 octets (RFC 5321
	// §4.5.3.1.5) for the codes and for the transaction id.
	maxReplyText = 400
	// maxHeaderValue keeps a field on one line of 998 octets (RFC 5322 §2.1.1).
	maxHeaderValue = 900
	maxHeaderName  = 76
)

// reserved are the fields that no tag rule may write, for the incoming ones of
// that name would be removed, or because they are not ours to say: those that
// RFC 5322 and MIME define, signatures, and the trace that the proxy writes.
var reserved = []string{
	"Received", "Return-Path", "Delivered-To", "Authentication-Results", "Received-SPF",
	"DKIM-Signature", "DomainKey-Signature", "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results",
	"From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Date", "Message-ID", "In-Reply-To", "References",
	"Subject", "Comments", "Keywords", "MIME-Version",
}

// IsReserved says whether a field of that name is the message's or the proxy's own, so that neither
// a rule nor somebody else's filter writes one.
func IsReserved(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasPrefix(lower, "resent-") || strings.HasPrefix(lower, "content-") ||
		slices.ContainsFunc(reserved, func(r string) bool { return strings.EqualFold(r, name) })
}

// replyTemplate is the reply of a reject, defer or hold rule.
type replyTemplate struct {
	code     int
	enhanced string
	text     expr.Template
	fallback string // text where that comes to nothing, as of a filter that gives no reason
}

func (r replyTemplate) expand(s expr.Scope) smtp.Reply {
	text := r.text.Expand(s, maxReplyText)
	if strings.TrimSpace(text) == "" {
		text = r.fallback
	}
	return smtp.Reply{Code: r.code, Enhanced: r.enhanced, Text: text}
}

// headerTemplate is the field that a tag rule adds.
type headerTemplate struct {
	name  string
	value expr.Template
}

// most is how many octets the field can have, its CRLF counted; 0: it is none.
func (h headerTemplate) most() int {
	if h.name == "" {
		return 0
	}
	return len(h.name) + len(": \r\n") + h.value.Longest(maxHeaderValue)
}

// expand returns the field; its value starts with a space, as it stands on the wire.
func (h headerTemplate) expand(s expr.Scope) smtp.Field {
	return smtp.Field{Name: h.name, Value: " " + h.value.Expand(s, maxHeaderValue)}
}

// defaultReply is the reply of a rule that gives none, by the facts that it reads
// and the result words that it compares with, as the tags of Facts have it.
func defaultReply(do Disposition, reads func(name string) bool, results map[string]bool) smtp.Reply {
	switch do {
	case DispositionHold:
		return smtp.Reply{Code: 451, Enhanced: "7.1", Text: "Held, please send it again."}
	case DispositionDefer:
		if reads(services) || reads(milters) || reads("state") || reads("past.result") || reads("rate.result") {
			return smtp.Reply{Code: 451, Enhanced: "3.0", Text: "Temporary failure in processing, please try again later."}
		}
		if results[string(TempError)] || reads("dns") {
			return smtp.Reply{Code: 451, Enhanced: "4.3", Text: "Temporary failure of the DNS, please try again later."}
		}
		return smtp.Reply{Code: 451, Enhanced: "7.1", Text: "Not accepted now, please try again later."}
	}
	for _, c := range replyOrder {
		for i := range c.replies {
			if r := &c.replies[i]; reads(r.name) {
				if reply := r.of(results); reply.Code != 0 {
					return reply
				}
			}
		}
	}
	return smtp.Reply{Code: 550, Enhanced: "7.1", Text: "Not accepted."}
}

// compileReply reads "550 5.7.1 text", where all but the code may be left out.
func (r *rule) compileReply(c *compilation, text string, at configs.Position, fallback smtp.Reply) {
	text = strings.TrimRight(text, "\r\n")
	fault := func(offset int, format string, args ...any) { c.faultAt(shift(at, offset), format, args...) }
	r.reply = replyTemplate{code: fallback.Code, enhanced: fallback.Enhanced, fallback: fallback.Text}
	rest, offset := text, 0
	if text != "" {
		code, after, _ := strings.Cut(text, " ")
		digits := len(code) == 3 && strings.Trim(code, "0123456789") == ""
		class := r.do.replyClass()
		switch {
		case !digits:
			fault(0, "the reply starts with %q, not with a code of three digits, as in %q", code, fallback.String())
			return
		case code[0] != class:
			fault(0, "%s answers %cyz, but the reply's code is %s: write %q, or do: %s", r.do, class, code, string(class)+code[1:], dispositionOf(code[0]))
			return
		case code == "421":
			fault(0, "421 announces that the connection is closed (RFC 5321 §3.8), which no rule does: write 450 or 451")
			return
		case code[1] > '5':
			fault(0, "%s is no reply code (RFC 5321 §4.2)", code)
			return
		}
		r.reply.code, _ = strconv.Atoi(code)
		rest, offset = after, len(text)-len(after)
		if status, after, _ := strings.Cut(rest, " "); looksEnhanced(status) {
			subject, ok := cutClass(status)
			switch {
			case !ok:
				fault(offset, "%s is no enhanced status code: that is %c.subject.detail, each of one to three digits (RFC 3463 §2)", status, class)
				return
			case status[0] != class:
				fault(offset, "the code %s and the enhanced status code %s disagree: write %c.%s (RFC 2034 §4)", code, status, class, subject)
				return
			}
			r.reply.enhanced = subject
			rest, offset = after, len(text)-len(after)
		}
	}
	if strings.TrimSpace(rest) == "" {
		rest = fallback.Text
	}
	r.reply.text = r.compileTemplate(c, rest, shift(at, offset), "reply", maxReplyText)
}

func looksEnhanced(s string) bool {
	return strings.Count(s, ".") == 2 && strings.Trim(s, "0123456789.") == ""
}

// cutClass returns subject.detail of an enhanced status code.
func cutClass(status string) (string, bool) {
	parts := strings.Split(status, ".")
	for i, p := range parts {
		if p == "" || len(p) > 3 || i == 0 && len(p) != 1 || len(p) > 1 && p[0] == '0' {
			return "", false
		}
	}
	return parts[1] + "." + parts[2], true
}

// replyClass is the first digit of the replies that d gives.
func (d Disposition) replyClass() byte {
	if d == DispositionReject {
		return '5'
	}
	return '4'
}

func dispositionOf(class byte) string {
	switch class {
	case '4':
		return "defer"
	case '5':
		return "reject"
	default:
		return "pass"
	}
}

// compileHeader reads "Name: value".
func (r *rule) compileHeader(c *compilation, text string, at configs.Position) {
	text = strings.TrimRight(text, "\r\n")
	name, value, found := strings.Cut(text, ":")
	switch {
	case !found || name == "":
		c.faultAt(at, `the header is not "Name: value", as in "X-Postern-Tag: %s"`, r.Name)
		return
	case strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }):
		c.faultAt(at, "%q is no field name: printable ASCII without spaces (RFC 5322 §2.2)", name)
		return
	case strings.Contains(name, "${"):
		c.faultAt(at, "%q: a fact may stand in a field's value, not in its name", name)
		return
	case len(name) > maxHeaderName:
		c.faultAt(at, "the field name is longer than %d octets", maxHeaderName)
		return
	case IsReserved(name):
		c.faultAt(at, "a rule must not write %s, which belongs to the message or to Postern itself: choose a name such as X-Postern-Tag", name)
		return
	}
	trimmed := strings.TrimLeft(value, " ")
	if trimmed == "" {
		c.faultAt(at, "the field %s has no value", name)
		return
	}
	r.header = headerTemplate{name: name}
	r.header.value = r.compileTemplate(c, trimmed, shift(at, len(text)-len(trimmed)), "header", maxHeaderValue)
}

// compileTemplate checks a reply's text or a field's value.
func (r *rule) compileTemplate(c *compilation, text string, at configs.Position, where string, limit int) expr.Template {
	t, faults := c.words.Template(text)
	for _, f := range faults {
		c.faultAt(shift(at, f.Offset), "%s", f.Text)
	}
	if i := strings.IndexFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		c.faultAt(shift(at, i), "the %s has a control character (%q): it must be one line", where, text[i])
	} else if i := strings.IndexFunc(text, func(c rune) bool { return c > '~' }); i >= 0 {
		c.faultAt(shift(at, i), "the %s has a character that is not ASCII: clients may not be able to show it", where)
	}
	if len(t.Written()) > limit {
		c.faultAt(at, "the %s is longer than %d octets", where, limit)
	}
	for _, f := range t.Facts() {
		if where == "header" && f.Name == "rcpt.address" {
			// RFC 5321 §7.2: the recipients of one message must not learn of each other.
			c.faultAt(at, "rcpt.address in a header would show one recipient to the others")
			continue
		}
		r.written[f.Name] = at
	}
	return t
}

// shift moves a position within its line.
func shift(p configs.Position, octets int) configs.Position {
	if p.Line != 0 {
		p.Column += octets
	}
	return p
}
