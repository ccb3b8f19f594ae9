// Package esmtp says which extensions of SMTP a client is offered, and reads the
// parameters of MAIL and RCPT by that. It is pure: what goes in are words and what the
// backend has, and what comes out are facts and replies.
package esmtp

import (
	"fmt"
	"strconv"
	"strings"

	"postern/policy"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

// Offer is what an EHLO reply announced beyond what is always there; parameters
// of what was not offered are unknown (RFC 5321 §4.1.1.11).
type Offer struct {
	EightBit, UTF8, DSN, Size, Submitter, Binary, RequireTLS bool
}

// OfferOf is what can be offered by EHLO in front of a backend that has caps.
func OfferOf(caps backend.Capabilities, tls bool) Offer {
	return Offer{
		EightBit: caps.EightBitMIME, UTF8: caps.SMTPUTF8 && caps.EightBitMIME, DSN: caps.DSN, Size: true, Submitter: true,
		// BODY is the parameter of 8BITMIME (RFC 6152 §2): without that there is
		// nothing to say BINARYMIME with.
		Binary: caps.BinaryMIME && caps.Chunking && caps.EightBitMIME,
		// RFC 8689 §2: both legs must keep the promise, and ours to the client is
		// only a promise once TLS is on.
		RequireTLS: tls && caps.RequireTLS && caps.TLS && caps.Verified,
	}
}

// Keywords are the lines of the EHLO reply below its first; size is how many octets a
// message may have.
func (o Offer) Keywords(size int64, startTLS bool) string {
	var b strings.Builder
	b.WriteString("\nPIPELINING")
	fmt.Fprintf(&b, "\nSIZE %d", size)
	if startTLS {
		b.WriteString("\nSTARTTLS")
	}
	b.WriteString("\nENHANCEDSTATUSCODES")
	b.WriteString("\nSUBMITTER")
	b.WriteString("\nCHUNKING")
	if o.Binary {
		b.WriteString("\nBINARYMIME")
	}
	if o.EightBit {
		b.WriteString("\n8BITMIME")
	}
	if o.UTF8 {
		b.WriteString("\nSMTPUTF8")
	}
	if o.DSN {
		b.WriteString("\nDSN")
	}
	if o.RequireTLS {
		b.WriteString("\nREQUIRETLS")
	}
	return b.String()
}

// Limits is the LIMITS keyword, which announces what would otherwise be found out by
// trying (RFC 9422): so many recipients, and of one domain only where oneDomain says so;
// fewer where the backend takes fewer.
func Limits(recipients int, oneDomain bool, theirs backend.Limits) string {
	if theirs.RcptMax > 0 {
		recipients = min(recipients, theirs.RcptMax)
	}
	domains := theirs.RcptDomainMax
	if oneDomain {
		domains = 1
	}
	keyword := "LIMITS RCPTMAX=" + strconv.Itoa(recipients)
	if domains > 0 {
		keyword += " RCPTDOMAINMAX=" + strconv.Itoa(domains)
	}
	// NOT: the backend's MAILMAX. Its connections are ours, and more than one may
	// serve a session.
	return keyword
}

// Body is what BODY says of a message (RFC 6152, RFC 3030).
type Body int

const (
	// Body7Bit is the default, and BODY=7BIT.
	Body7Bit Body = iota
	// Body8Bit is BODY=8BITMIME.
	Body8Bit
	// BodyBinary is BODY=BINARYMIME.
	BodyBinary
)

// ErrTooLarge answers a SIZE, or a message, beyond the limit.
var ErrTooLarge = smtp.Reply{Code: 552, Enhanced: "3.4", Text: "Message too large"}

// MailParams reads the parameters of MAIL into the facts; limit is how many octets a
// message may have. A SUBMITTER that is no xtext is the mailbox itself where lenient says
// so, and gets its right form. With a reply, MAIL is refused.
func (o Offer) MailParams(f *policy.Facts, params []smtp.Param, limit int64, lenient bool) (body Body, r smtp.Reply) {
	bad := func(text string) smtp.Reply { return smtp.Reply{Code: 501, Enhanced: "5.4", Text: text} }
	var submitter *smtp.Param
	for i, p := range params {
		switch {
		case p.Key == "SIZE" && o.Size:
			if len(p.Value) > 20 || !Digits(p.Value) {
				return body, bad("SIZE needs a number")
			}
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil || n > limit {
				return body, ErrTooLarge
			}
			f.Mail.Size = n
		case p.Key == "BODY" && o.EightBit:
			switch strings.ToUpper(p.Value) {
			case "7BIT":
			case "8BITMIME":
				body = Body8Bit
			case "BINARYMIME":
				if !o.Binary {
					return body, bad("BINARYMIME is not offered")
				}
				body = BodyBinary
			default:
				return body, bad("BODY is 7BIT or 8BITMIME")
			}
		case p.Key == "SMTPUTF8" && o.UTF8:
			if p.HasValue {
				return body, bad("SMTPUTF8 takes no value")
			}
			f.Mail.SMTPUTF8 = true
		case p.Key == "REQUIRETLS" && o.RequireTLS:
			if p.HasValue {
				return body, bad("REQUIRETLS takes no value")
			}
			f.Mail.RequireTLS = true
		case p.Key == "RET" && o.DSN:
			if v := strings.ToUpper(p.Value); v != "FULL" && v != "HDRS" {
				return body, bad("RET is FULL or HDRS")
			}
		case p.Key == "ENVID" && o.DSN:
			if v, err := smtp.DecodeXtext(p.Value); err != nil || v == "" || len(p.Value) > 100 {
				return body, bad("ENVID is not valid xtext")
			}
		case p.Key == "SUBMITTER" && o.Submitter:
			submitter = &params[i]
		default:
			return body, smtp.Reply{Code: 555, Enhanced: "5.4", Text: "Parameter not recognized: " + p.Key}
		}
	}
	if submitter != nil { // last, since SMTPUTF8 may stand behind it
		return body, submitterParam(f, submitter, lenient)
	}
	return body, smtp.Reply{}
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
	f.Submitter.Domain = Domain(m)
	return smtp.Reply{}
}

// RcptParam checks a parameter of RCPT: those of DSN (RFC 3461 §4.1, §4.2)
// go on octet for octet, others are not known.
func (o Offer) RcptParam(p smtp.Param) smtp.Reply {
	switch {
	case p.Key == "NOTIFY" && o.DSN:
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
	case p.Key == "ORCPT" && o.DSN:
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

// NobodyVouches finds AUTH=<> (RFC 4954 §5), from senders that say it to everybody: it
// claims nothing, so it need not go on. Who else is named there is not ours to say.
func NobodyVouches(p smtp.Param) bool { return p.Key == "AUTH" && p.Value == "<>" }

// Domain is the domain of a path as facts have it.
func Domain(p smtp.Path) string {
	if d, err := smtp.ASCIIDomain(p.Domain); err == nil {
		return d
	}
	return strings.ToLower(p.Domain)
}

// HeloName takes any printable name: the grammar is not enforced, since half of the
// world's clients break it, and the name is evidence, not an address (RFC 5321
// §4.1.4). What would mean something in a header field becomes "?", as it does in
// Postfix, and so the name goes on.
func HeloName(name string) (string, bool) {
	if name == "" || len(name) > 255 {
		return "", false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f {
			return "", false
		}
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`()<>",;\`, r) {
			return '?'
		}
		return r
	}, name), true
}

// Digits says whether v is some digits and nothing else.
func Digits(v string) bool {
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return false
		}
	}
	return v != ""
}
