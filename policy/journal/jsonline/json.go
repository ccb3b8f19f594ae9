package jsonline

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// JSON is an object that grows a member at a time, octet for octet what an Encoder makes of a
// struct with those members, and without reflection. It begins with a {. Each method returns the
// object with one more member, in the same memory where that is enough, as append does; names need
// no escape.
type JSON []byte

// name begins a member.
func (b JSON) name(name string) JSON {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// Open begins an object, whose members come next.
func (b JSON) Open(name string) JSON { return append(b.name(name), '{') }

// Close ends the object that was begun last.
func (b JSON) Close() JSON { return append(b, '}') }

// Text appends a text.
func (b JSON) Text(name, value string) JSON { return appendText(b.name(name), value) }

// Texts appends a list of texts; nil is null.
func (b JSON) Texts(name string, values []string) JSON {
	b = b.name(name)
	if values == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, value := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, value)
	}
	return append(b, ']')
}

// Int appends a whole number.
func (b JSON) Int(name string, value int64) JSON { return strconv.AppendInt(b.name(name), value, 10) }

// Float appends a number; infinity and what is no number, which JSON does not have, are null.
func (b JSON) Float(name string, value float64) JSON { return appendFloat(b.name(name), value) }

// Bool appends true or false.
func (b JSON) Bool(name string, value bool) JSON { return strconv.AppendBool(b.name(name), value) }

// Time appends a time with its fractions of a second and its offset (RFC 3339).
func (b JSON) Time(name string, value time.Time) JSON {
	b = append(b.name(name), '"')
	b = value.AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// OptionalText leaves out an empty text; this and what follows is omitempty.
func (b JSON) OptionalText(name, value string) JSON {
	if value == "" {
		return b
	}
	return b.Text(name, value)
}

// OptionalTexts leaves out an empty list.
func (b JSON) OptionalTexts(name string, values []string) JSON {
	if len(values) == 0 {
		return b
	}
	return b.Texts(name, values)
}

// OptionalInt leaves out 0.
func (b JSON) OptionalInt(name string, value int64) JSON {
	if value == 0 {
		return b
	}
	return b.Int(name, value)
}

// OptionalFloat leaves out 0.
func (b JSON) OptionalFloat(name string, value float64) JSON {
	if value == 0 {
		return b
	}
	return b.Float(name, value)
}

// OptionalBool leaves out false.
func (b JSON) OptionalBool(name string, value bool) JSON {
	if !value {
		return b
	}
	return b.Bool(name, value)
}

// OptionalObject appends an object with the members that members appends, and leaves out nil.
func OptionalObject[T any](b JSON, name string, value *T, members func(JSON, *T) JSON) JSON {
	if value == nil {
		return b
	}
	return members(b.Open(name), value).Close()
}

// OptionalObjects appends a list of objects, and leaves out an empty one.
func OptionalObjects[T any](b JSON, name string, values []T, members func(JSON, *T) JSON) JSON {
	if len(values) == 0 {
		return b
	}
	b = append(b.name(name), '[')
	for i := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = members(append(b, '{'), &values[i]).Close()
	}
	return append(b, ']')
}

// appendText appends a text in quotes.
func appendText(b []byte, text string) []byte {
	b = append(b, '"')
	from := len(b)
	b = append(b, text...)
	if plain := plainLength(b[from:]); plain < len(text) {
		b = appendEscaped(b[:from+plain], text[plain:])
	}
	return append(b, '"')
}

// plainLength returns how many octets at the start of b are characters of ASCII that need no escape.
func plainLength(b []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		// Of each octet the high bit says: it is DEL or above, below a blank, a quote or a
		// backslash. The last three may also say so of one above another that is.
		v := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := v^('"'*ones), v^('\\'*ones)
		if (v|(v+ones)|(v-' '*ones)|(quote-ones)|(backslash-ones))&high != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			break
		}
	}
	return i
}

// short are the control characters that have an escape of their own (RFC 8259 §7).
var short = [' ']byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// appendEscaped appends a text whose characters may need escapes. What is not UTF-8 becomes U+FFFD.
func appendEscaped(b []byte, text string) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' && short[r] != 0:
			b = append(b, '\\', short[r])
		case r == utf8.RuneError && n == 1:
			b = appendEscape(b, r)
		default:
			b = appendShown(b, r)
		}
		text = text[n:]
	}
	return b
}

// appendFloat appends a number as ECMAScript writes it.
func appendFloat(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		b = strconv.AppendFloat(b, v, 'e', -1, 64)
		if last := len(b) - 1; b[last-1] == '0' && b[last-2] == '-' { // e-09
			b[last-1] = b[last]
			b = b[:last]
		}
		return b
	}
	return strconv.AppendFloat(b, v, 'f', -1, 64)
}
