package smtp

import "bytes"

// Extent is where a field stands in a header section: octets Start to End,
// the folded lines and the final line end included.
type Extent struct{ Start, End int }

// FirstLineContinues says whether the first line of a message begins with a
// blank or a tab, so that it would continue whatever field is put above it. b is at
// least its first octet. What came dot-stuffed has gone through Restuff: the dot of
// ". x" goes away on the other side, and leaves a blank in front. In a chunk it stays.
func FirstLineContinues(b []byte) bool {
	return len(b) > 0 && (b[0] == ' ' || b[0] == '\t')
}

// HeaderEnd returns where the header section of b, the beginning of a message, ends:
// before the first empty line, behind which the body begins; -1, -1: it does not end
// in b. An LF ends a line with or without a CR before it, since an MTA may read it so;
// whoever lets none but text through sees to it that there is none without.
//
// NOT: anywhere else. Where two places differ about it, a field is body to the one and
// judged by nobody, and header to the other and shown.
func HeaderEnd(b []byte) (end, body int) { return headerEnd(b, 0) }

// HeaderEndFrom is HeaderEnd where it is known that the section does not end in
// b[:seen].
func HeaderEndFrom(b []byte, seen int) (end, body int) {
	return headerEnd(b, max(0, seen-len("\r\n\r")))
}

func headerEnd(b []byte, pos int) (end, body int) {
	if pos == 0 {
		if n := emptyLine(b); n > 0 {
			return 0, n
		}
	}
	for {
		i := bytes.IndexByte(b[pos:], '\n')
		if i < 0 {
			return -1, -1
		}
		pos += i + 1
		if n := emptyLine(b[pos:]); n > 0 {
			return pos, pos + n
		}
	}
}

// emptyLine returns the length of the empty line that b begins with, 0 for none.
func emptyLine(b []byte) int {
	switch {
	case len(b) > 0 && b[0] == '\n':
		return 1
	case len(b) > 1 && b[0] == '\r' && b[1] == '\n':
		return 2
	}
	return 0
}

// CountFields returns how many fields ParseHeader would find at the most, and keeps
// nothing: for who bounds their number before.
func CountFields(b []byte) (n int) {
	for pos := 0; pos < len(b); pos = lineEnd(b, pos) {
		switch {
		case emptyLine(b[pos:]) > 0:
			return n
		case b[pos] != ' ' && b[pos] != '\t':
			n++
		}
	}
	return n
}

// ParseHeader splits a header section into its fields (RFC 5322 §2.2). It stops
// at HeaderEnd. Lines end in CRLF; a bare LF is taken for a line end as well.
//
// b is either not dot-stuffed or comes from Restuff, in which a line that begins
// with a dot has a name that does. NOT: the octets off the wire as they are.
//
// White space between name and colon is allowed (RFC 5322 §4.5.8). A line that
// is neither a field nor the continuation of one is counted in bad and left
// out: an mbox "From " line, a first line that begins with white space, a line
// without a colon. White space lines behind such a line go with it. It ends
// the field above, and hides none below.
func ParseHeader(b []byte) (h Header, bad int) { return AppendHeader(nil, b) }

// AppendHeader is ParseHeader for who has room for the fields: they are appended to h.
func AppendHeader(h Header, b []byte) (_ Header, bad int) {
	h, _, bad = parseHeader(h, b, false)
	return h, bad
}

// ParseHeaderExtents is ParseHeader for who wants to remove fields: at[i] is
// where h[i] stands in b.
func ParseHeaderExtents(b []byte) (h Header, at []Extent, bad int) {
	return parseHeader(nil, b, true)
}

func parseHeader(h Header, b []byte, extents bool) (_ Header, at []Extent, bad int) {
	const usual = 32 // fields; most messages have fewer
	if end, _ := HeaderEnd(b); end >= 0 {
		b = b[:end]
	}
	text := string(b) // one copy, and all names and values are parts of it
	for pos := 0; pos < len(b); {
		end := lineEnd(b, pos)
		name, colon := fieldName(b[pos:end])
		start := pos
		for pos = end; pos < len(b) && (b[pos] == ' ' || b[pos] == '\t'); {
			pos = lineEnd(b, pos)
			if colon == 0 {
				bad++
			}
		}
		if colon == 0 {
			bad++
			continue
		}
		if h == nil {
			h = make(Header, 0, usual)
		}
		if at == nil && extents {
			at = make([]Extent, 0, usual)
		}
		h = append(h, Field{Name: text[start : start+name], Value: trimLineEnd(text[start+colon+1 : pos])})
		if extents {
			at = append(at, Extent{start, pos})
		}
	}
	return h, at, bad
}

// lineEnd returns the index behind the line that begins at pos.
func lineEnd(b []byte, pos int) int {
	if i := bytes.IndexByte(b[pos:], '\n'); i >= 0 {
		return pos + i + 1
	}
	return len(b)
}

func trimLineEnd(s string) string {
	if n := len(s); n > 0 && s[n-1] == '\n' {
		s = s[:n-1]
		if n > 1 && s[n-2] == '\r' {
			s = s[:n-2]
		}
	}
	return s
}

// fieldName returns the length of the field name at the front of a line and the
// index of its colon; 0, 0 if the line is no field (RFC 5322 §3.6.8: printable
// ASCII but the colon).
func fieldName(line []byte) (name, colon int) {
	for name < len(line) && line[name] > ' ' && line[name] < 0x7f && line[name] != ':' {
		name++
	}
	colon = name
	for colon < len(line) && (line[colon] == ' ' || line[colon] == '\t') {
		colon++
	}
	if name == 0 || colon == len(line) || line[colon] != ':' {
		return 0, 0
	}
	return name, colon
}

// Lookalike is what stands in a header section where a field of some name might, and
// is none to every reader: its name stands apart from its colon, by white space or on
// a line of its own, or has octets in it that are not seen.
type Lookalike struct {
	Value  string // what is behind the colon, as in Field
	Extent Extent
	Parsed bool // ParseHeader takes it for a field
}

// Lookalikes returns what looks like a field of that name in the header section b.
func Lookalikes(b []byte, name string) (found []Lookalike) {
	if end, _ := HeaderEnd(b); end >= 0 {
		b = b[:end]
	}
	for pos := 0; pos < len(b); {
		start := pos
		for pos = lineEnd(b, pos); pos < len(b) && (b[pos] == ' ' || b[pos] == '\t'); {
			pos = lineEnd(b, pos)
		}
		field := b[start:pos]
		colon := bytes.IndexByte(field, ':')
		if colon <= len(name) || !sameVisible(field[:colon], name) {
			continue
		}
		_, parsed := fieldName(field)
		found = append(found, Lookalike{trimLineEnd(string(field[colon+1:])), Extent{start, pos}, parsed > 0})
	}
	return found
}

// sameVisible says whether b is name, in any case, but for white space, controls and
// octets that are not ASCII.
func sameVisible(b []byte, name string) bool {
	n := 0
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			continue
		}
		if n == len(name) || c|0x20 != name[n]|0x20 {
			return false
		}
		n++
	}
	return n == len(name)
}

// mailboxLine is the field that the line which parts the messages of an mbox file
// becomes where it stands on top of a message, as with Postfix. What takes it for the
// end of the header section would take the fields that are put above it for the whole
// of that, and the message's own for text.
const mailboxLine = "X-Mailbox-Line: "

// NameMailboxLines returns the header section b with a field name before each "From "
// line on top of it, quoted as ">From " or not, and where in that the rest begins; 0:
// there is no such line. What begins so and is a field all the same, as
// "From : a@b.example", stays what it is.
func NameMailboxLines(b []byte) (named []byte, rest int) {
	pos := 0
	for pos < len(b) {
		end := lineEnd(b, pos)
		line := b[pos:end]
		if _, colon := fieldName(line); colon > 0 || !bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
			break
		}
		named = append(append(named, mailboxLine...), line...)
		pos = end
	}
	if pos == 0 {
		return b, 0
	}
	return append(named, b[pos:]...), len(named)
}
