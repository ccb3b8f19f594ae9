package checks

import (
	"strings"

	"postern/proxy/smtp"
)

// FindPRA determines the Purported Responsible Address of a header section
// (RFC 4407 §2). field is the name of the field it stands in. Not ok: the
// message has none, and is ill-formed.
//
// Once a field is selected there is no falling back: a bad Resent-From never
// yields From.
func FindPRA(h smtp.Header) (mailbox smtp.Path, field string, ok bool) {
	selected := selectPRA(h)
	if selected < 0 {
		return smtp.Path{}, "", false
	}
	f := h[selected]
	mailbox, ok = parseMailbox(f.Value)
	if !ok {
		return smtp.Path{}, "", false
	}
	return mailbox, f.Name, true
}

// selectPRA returns the index of the field that steps 1 to 4 select, -1 for
// none. Fields that hold white space alone count as absent.
func selectPRA(h smtp.Header) int {
	var (
		resentSender, resentFrom = -1, -1
		sender, from             = -1, -1
		senders, froms           int
		// Whether Received or Return-Path followed the first Resent-From before
		// the first Resent-Sender: then that sender is of an older resending.
		traced, older bool
	)
	for i, f := range h {
		if isBlank(f.Value) {
			continue
		}
		switch {
		case fieldIs(f.Name, "Resent-Sender"):
			if resentSender < 0 {
				resentSender, older = i, traced
			}
		case fieldIs(f.Name, "Resent-From"):
			if resentFrom < 0 {
				resentFrom = i
			}
		case fieldIs(f.Name, "Received"), fieldIs(f.Name, "Return-Path"):
			traced = traced || resentFrom >= 0
		case fieldIs(f.Name, "Sender"):
			sender, senders = i, senders+1
		case fieldIs(f.Name, "From"):
			from, froms = i, froms+1
		}
	}
	switch {
	case resentSender >= 0 && !older:
		return resentSender
	case resentFrom >= 0:
		return resentFrom
	case senders == 1:
		return sender
	case senders == 0 && froms == 1:
		return from
	}
	return -1
}

// fieldIs compares field names.
func fieldIs(name, want string) bool { return len(name) == len(want) && strings.EqualFold(name, want) }

func isBlank(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case ' ', '\t', '\r', '\n':
		default:
			return false
		}
	}
	return true
}
