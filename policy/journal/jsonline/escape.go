package jsonline

import (
	"encoding/json"
	"io"
	"slices"
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
	i := slices.IndexFunc(value, func(c byte) bool { return c >= 0x7f })
	if i < 0 {
		return value
	}
	// The value is the caller's, and stays as it is.
	b := append(make([]byte, 0, len(value)+64), value[:i]...)
	for _, r := range string(value[i:]) {
		switch {
		case unicode.IsPrint(r) || r < ' ': // the end of a line, and an indent, are between texts
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = appendEscape(appendEscape(b, high), low)
		default:
			b = appendEscape(b, r)
		}
	}
	return b
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
