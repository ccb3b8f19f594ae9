// Package jsonline writes JSON by appending to a line. What encoding/json finds
// out by reflection is most of the cost of a log line, and a busy proxy writes
// one for each message. The text is the same to the octet, but that HTML's characters
// are left as they are, and those that are not printable are escaped.
package jsonline

import (
	"bytes"
	"math"
	"strconv"
)

// Appender is a value that knows its own JSON.
type Appender interface {
	// AppendJSON appends what Encoder makes of the value.
	AppendJSON(b []byte) []byte
}

// Open begins an object.
func Open(b []byte) []byte { return append(b, '{') }

// Close ends an object.
func Close(b []byte) []byte { return append(b, '}') }

// Key appends the name of the next member of an object, which must need no
// escape.
func Key(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(append(append(b, '"'), name...), `":`...)
}

// String appends a member that is a text.
func String(b []byte, name, v string) []byte { return AppendString(Key(b, name), v) }

// Strings appends a member that is a list of texts; a nil one is null.
func Strings(b []byte, name string, v []string) []byte { return AppendStrings(Key(b, name), v) }

// Int appends a member that is a number.
func Int(b []byte, name string, v int64) []byte { return strconv.AppendInt(Key(b, name), v, 10) }

// Bool appends a member that is true or false.
func Bool(b []byte, name string, v bool) []byte { return strconv.AppendBool(Key(b, name), v) }

// AppendString appends a text.
func AppendString(b []byte, v string) []byte {
	start, from := len(b), 0
	b = append(b, '"')
	for i := range len(v) {
		switch c := v[i]; {
		case c == '"' || c == '\\':
			b = append(append(b, v[from:i]...), '\\')
			from = i
		case c < ' ' || c > '~':
			return reflected(b[:start], v) // rare
		}
	}
	return append(append(b, v[from:]...), '"')
}

// AppendStrings appends a list of texts.
func AppendStrings(b []byte, v []string) []byte {
	if v == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, s := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, s)
	}
	return append(b, ']')
}

// AppendFloat appends a number; what is none, or endless, is null.
func AppendFloat(b []byte, v float64) []byte {
	if a := math.Abs(v); !(a < 1e21) || a != 0 && a < 1e-6 {
		return reflected(b, v) // with an exponent
	}
	return strconv.AppendFloat(b, v, 'f', -1, 64)
}

// reflected appends what Encoder makes of v, or null where it cannot.
func reflected(b []byte, v any) []byte {
	var buf bytes.Buffer
	if NewEncoder(&buf, "").Encode(v) != nil {
		return append(b, "null"...)
	}
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}
