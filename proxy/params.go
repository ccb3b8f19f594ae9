package proxy

import (
	"strconv"
	"strings"

	"postern/policy"
	"postern/proxy/smtp"
)

// mailParams reads the parameters of MAIL into the facts.
func (tx *transaction) mailParams() smtp.Reply {
	bad := func(text string) smtp.Reply { return smtp.Reply{Code: 501, Enhanced: "5.4", Text: text} }
	var submitter *smtp.Param
	for i, p := range tx.params {
		switch {
		case p.Key == "SIZE" && tx.peer.offered.size:
			if len(p.Value) > 20 || !digits(p.Value) {
				return bad("SIZE needs a number")
			}
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil || n > tx.set.sizeLimit(tx.set.Backends.Capabilities()) {
				return errTooLarge
			}
			tx.facts.Mail.Size = n
		case p.Key == "BODY" && tx.peer.offered.eightBit:
			switch strings.ToUpper(p.Value) {
			case "7BIT":
			case "8BITMIME":
				tx.eight = true
			case "BINARYMIME":
				if !tx.peer.offered.binary {
					return bad("BINARYMIME is not offered")
				}
				tx.binary = true
			default:
				return bad("BODY is 7BIT or 8BITMIME")
			}
		case p.Key == "SMTPUTF8" && tx.peer.offered.utf8:
			if p.HasValue {
				return bad("SMTPUTF8 takes no value")
			}
			tx.facts.Mail.SMTPUTF8 = true
		case p.Key == "REQUIRETLS" && tx.peer.offered.requireTLS:
			if p.HasValue {
				return bad("REQUIRETLS takes no value")
			}
			tx.facts.Mail.RequireTLS = true
		case p.Key == "RET" && tx.peer.offered.dsn:
			if v := strings.ToUpper(p.Value); v != "FULL" && v != "HDRS" {
				return bad("RET is FULL or HDRS")
			}
		case p.Key == "ENVID" && tx.peer.offered.dsn:
			if v, err := smtp.DecodeXtext(p.Value); err != nil || v == "" || len(p.Value) > 100 {
				return bad("ENVID is not valid xtext")
			}
		case p.Key == "SUBMITTER" && tx.peer.offered.submitter:
			submitter = &tx.params[i]
		default:
			return smtp.Reply{Code: 555, Enhanced: "5.4", Text: "Parameter not recognized: " + p.Key}
		}
	}
	if submitter != nil { // last, since SMTPUTF8 may stand behind it
		return submitterParam(&tx.facts, submitter, tx.set.LenientXtext)
	}
	return smtp.Reply{}
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
	f.Submitter.Domain = factDomain(m)
	return smtp.Reply{}
}

// rcptParam checks the parameters of RCPT: those of DSN (RFC 3461 §4.1, §4.2)
// go on octet for octet, others are not known.
func (tx *transaction) rcptParam(p smtp.Param) smtp.Reply {
	switch {
	case p.Key == "NOTIFY" && tx.peer.offered.dsn:
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
	case p.Key == "ORCPT" && tx.peer.offered.dsn:
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

// nobodyVouches finds AUTH=<> (RFC 4954 §5), from senders that say it to everybody: it
// claims nothing, so it need not go on. Who else is named there is not ours to say.
func nobodyVouches(p smtp.Param) bool { return p.Key == "AUTH" && p.Value == "<>" }

// factDomain is the domain as facts have it.
func factDomain(p smtp.Path) string {
	if d, err := smtp.ASCIIDomain(p.Domain); err == nil {
		return d
	}
	return strings.ToLower(p.Domain)
}

func digits(v string) bool {
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return false
		}
	}
	return v != ""
}
