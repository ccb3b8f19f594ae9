package amtp

import (
	"strings"
	"time"

	"postern/proxy/smtp"
)

// reserved are the fields that the server alone writes, or that would speak of another sender than the one who has
// logged in (-01, 4.2: "the first lines of the header are reserved for the server"). Bcc is not for the eyes of recipients.
var reserved = []string{"From", "Sender", "Return-Path", "Bcc"}

// compose makes the header section of a user's message, with the empty line at its end: From and what the user has
// not written himself of Date, Message-ID and To; then the user's fields in their order.
func compose(fields smtp.Header, from smtp.Path, to []smtp.Path, hostname string, now time.Time) []byte {
	b := make([]byte, 0, 512)
	field := func(name, value string) {
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, value...)
		b = append(b, "\r\n"...)
	}
	field("From", from.String())
	if _, said := fields.Get("Date"); !said {
		field("Date", now.Format(time.RFC1123Z))
	}
	if _, said := fields.Get("Message-ID"); !said {
		field("Message-ID", "<"+NewNumber()+"@"+hostname+">")
	}
	if _, said := fields.Get("To"); !said {
		field("To", list(to))
	}
	for _, f := range fields {
		if !isReserved(f.Name) {
			b = appendField(b, f)
		}
	}
	return append(b, "\r\n"...)
}

func isReserved(name string) bool {
	for _, r := range reserved {
		if strings.EqualFold(r, name) {
			return true
		}
	}
	// Resent fields name a sender of their own (RFC 5322 §3.6.6).
	return len(name) > len("Resent-") && strings.EqualFold(name[:len("Resent-")], "Resent-")
}

// list is addresses for a field, an address a line.
func list(to []smtp.Path) string {
	var b strings.Builder
	for i, p := range to {
		if i > 0 {
			b.WriteString(",\r\n\t")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

func appendField(b []byte, f smtp.Field) []byte {
	b = append(b, f.Name...)
	b = append(b, ':')
	b = append(b, f.Value...)
	return append(b, "\r\n"...)
}
