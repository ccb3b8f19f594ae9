// Package jsonline writes JSON in lines that can be looked at as they are: HTML's
// characters stay, and those that are not printable are escaped. encoding/json and
// log/slog do the rest.
package jsonline

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const hex = "0123456789abcdef"

// escape returns a JSON value in which each character that is not printable is replaced by
// its \u escape (RFC 8259 §7), which means the same. encoding/json does so below U+0020 only,
// and a terminal obeys DEL, U+0080 to U+009F, and those that turn the direction of a
// text: what a stranger wrote would show as something else. JSON has such
// characters nowhere but inside of texts.
func escape(value []byte) []byte {
	i := unprintable(value)
	if i < 0 {
		return value
	}
	// The value is the caller's, and stays as it is.
	b := make([]byte, 0, len(value)+64)
	for i >= 0 {
		b = append(b, value[:i]...)
		r, n := utf8.DecodeRune(value[i:])
		b = appendShown(b, r)
		value = value[i+n:]
		i = unprintable(value)
	}
	return append(b, value...)
}

// unprintable returns where the first octet is that no printable character of ASCII has,
// those below U+0020 aside, or -1.
func unprintable(b []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		// One more than DEL has the high bit, and so has all that is above it.
		if v := binary.LittleEndian.Uint64(b[i:]); (v|(v+ones))&high != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if b[i] >= 0x7f {
			return i
		}
	}
	return -1
}

// appendShown appends a character, or the escape of one that is not printable.
func appendShown(b []byte, r rune) []byte {
	switch {
	case unicode.IsPrint(r):
		return utf8.AppendRune(b, r)
	case r > 0xffff:
		high, low := utf16.EncodeRune(r)
		return appendEscape(appendEscape(b, high), low)
	}
	return appendEscape(b, r)
}

func appendEscape(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hex[r>>12&0xf], hex[r>>8&0xf], hex[r>>4&0xf], hex[r&0xf])
}

// Encoder writes values as encoding/json does, but for HTML's characters, which stay as
// they are, and those that are not printable, which are escaped.
type Encoder struct{ json *json.Encoder }

// NewEncoder returns an Encoder that writes to w, each value as a line of its own.
// With an indent a value takes several lines.
func NewEncoder(w io.Writer, indent string) *Encoder {
	e := json.NewEncoder(escaper{w})
	e.SetEscapeHTML(false) // <> are in every address
	e.SetIndent("", indent)
	return &Encoder{e}
}

// Marshal returns what an Encoder writes, without the end of the line.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	if err := NewEncoder(&buf, "").Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Encode writes v and the end of the line.
func (e *Encoder) Encode(v any) error { return e.json.Encode(v) }

// escaper escapes what is written to it, which must be whole values.
type escaper struct{ w io.Writer }

func (e escaper) Write(p []byte) (int, error) {
	if _, err := e.w.Write(escape(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}
