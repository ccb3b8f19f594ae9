package jsonline

import (
	"bytes"
	"iter"
	"log/slog"
)

// Ready is a named value with its JSON, as Encoder or Marshal made it: a log in JSON shows
// that as it is.
type Ready struct {
	Name  string // needs no escape
	Value any
	JSON  []byte // nil: null
}

// MarshalJSON implements json.Marshaler.
func (r Ready) MarshalJSON() ([]byte, error) {
	if r.JSON == nil {
		return []byte("null"), nil
	}
	return r.JSON, nil
}

// String returns the JSON.
func (r Ready) String() string {
	text, _ := r.MarshalJSON() // has no error
	return string(text)
}

// Tail is what ends a line: as its last attribute, without a name, each handler of log/slog
// shows the members of a Tail as attributes of their own, and the one of NewHandler copies
// their octets. One line at a time may have it.
type Tail struct {
	Members []Ready
	// copied says that whoever writes the line appends the members himself.
	copied bool
}

// LogValue implements slog.LogValuer.
func (t *Tail) LogValue() slog.Value {
	if t.copied {
		return slog.GroupValue() // which nobody shows
	}
	attrs := make([]slog.Attr, len(t.Members))
	for i, m := range t.Members {
		attrs[i] = slog.Any(m.Name, m)
	}
	return slog.GroupValue(attrs...)
}

// append appends the members to an object that is open and not empty.
func (t *Tail) append(b *bytes.Buffer) {
	for _, m := range t.Members {
		b.WriteString(`,"`)
		b.WriteString(m.Name)
		b.WriteString(`":`)
		if m.JSON == nil {
			b.WriteString("null")
		}
		b.Write(m.JSON)
	}
}

// Members goes through an object that Encoder or Marshal wrote, with names that need no
// escape.
func Members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		b := bytes.TrimSpace(object)
		for b = b[1:]; len(b) > 1; { // less is the last }
			name := end(b)
			value := name + 1 + end(b[name+1:])
			if !yield(b[1:name-1], b[name+1:value]) {
				return
			}
			b = b[value:]
			if b[0] == ',' {
				b = b[1:]
			}
		}
	}
}

// end returns the length of the value at the start of b.
func end(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth <= 0 {
				return i + 1 + depth // a number ends before what is around it does
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return len(b)
}
