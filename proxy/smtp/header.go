package smtp

import "bytes"

// Extent is where a field stands in a header section: octets Start to End,
// the folded lines and the final line end included.
type Extent struct{ Start, End int }

// FirstLineContinues says whether the first line of a message begins with a
// blank or a tab, so that it would continue whatever field is put above it. b
// is at least its first two octets (or all of it), dot-stuffed or not: the dot
// of ". x" goes away on the other side, and leaves a blank in front.
func FirstLineContinues(b []byte) bool {
	b = bytes.TrimPrefix(b, crlfDot[2:])
	return len(b) > 0 && (b[0] == ' ' || b[0] == '\t')
}

// ParseHeader splits a header section into its fields (RFC 5322 §2.2). It stops
// at the first empty line. Lines end in CRLF; a bare LF is taken for a line end
// as well, since an MTA may do the same.
//
// b is either not dot-stuffed or comes from Restuff, in which a line that begins
// with a dot has a name that does. NOT: the octets off the wire as they are.
//
// White space between name and colon is allowed (RFC 5322 §4.5.8). A line that
// is neither a field nor the continuation of one is counted in bad and left
// out: an mbox "From " line, a first line that begins with white space, a line
// without a colon. White space lines behind such a line go with it. It ends
// the field above, and hides none below.
func ParseHeader(b []byte) (h Header, bad int) {
	h, _, bad = parseHeader(b, false)
	return h, bad
}

// ParseHeaderExtents is ParseHeader for who wants to remove fields: at[i] is
// where h[i] stands in b.
func ParseHeaderExtents(b []byte) (h Header, at []Extent, bad int) {
	return parseHeader(b, true)
}

func parseHeader(b []byte, extents bool) (h Header, at []Extent, bad int) {
	const usual = 32  // fields; most messages have fewer
	text := string(b) // one copy, and all names and values are parts of it
	for pos := 0; pos < len(b); {
		end := lineEnd(b, pos)
		if b[pos] == '\n' || b[pos] == '\r' && end == pos+2 && b[pos+1] == '\n' {
			break // the empty line
		}
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
			if extents {
				at = make([]Extent, 0, usual)
			}
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
