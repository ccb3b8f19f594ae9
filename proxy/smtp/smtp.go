// Package smtp is the grammar of SMTP: lines, commands, paths, parameters,
// xtext, replies, header fields and the dots at the end of a message. It turns
// octets into values and values into octets and has no opinion on what they
// mean: no I/O policy, no clock, no configuration.
package smtp

import "strings"

// Path is a reverse-path or forward-path without its angle brackets
// (RFC 5321 §4.1.2). The zero Path is the null reverse-path, <>.
//
// Local is kept unquoted: "a b"@example.org has the Local `a b`. Domain is kept
// as the client wrote it; an address literal keeps its brackets. A source
// route (RFC 5321 appendix C) is dropped when the path is parsed.
type Path struct{ Local, Domain string }

// IsNull says whether p is the null reverse-path.
func (p Path) IsNull() bool { return p.Local == "" && p.Domain == "" }

// Param is one ESMTP parameter of MAIL or RCPT (RFC 5321 §4.1.2). Key is in
// upper case; Value is as received, still encoded; HasValue tells "KEY=" from
// "KEY". Parameters keep their order.
type Param struct {
	Key, Value string
	HasValue   bool
}

// String renders the parameter as it goes on the wire.
func (p Param) String() string {
	if !p.HasValue {
		return p.Key
	}
	return p.Key + "=" + p.Value
}

// Field is one header field: Name without the colon, Value with everything
// behind the colon as it stood, folding included, without the final CRLF.
type Field struct{ Name, Value string }

// Header is a header section in its order. A slice, not a map: the Purported
// Responsible Address depends on the order (RFC 4407 §2).
type Header []Field

// Get returns the first field of that name (case-insensitive).
func (h Header) Get(name string) (Field, bool) {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f, true
		}
	}
	return Field{}, false
}
