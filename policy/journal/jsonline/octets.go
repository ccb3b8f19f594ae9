package jsonline

import "log/slog"

// Ready is a value with its JSON, as Encoder, Marshal or JSON made it: a log in JSON shows that as
// it is.
type Ready struct {
	Value any
	JSON  []byte // nil: null
}

// MarshalJSON implements json.Marshaler.
func (r *Ready) MarshalJSON() ([]byte, error) {
	if r.JSON == nil {
		return []byte("null"), nil
	}
	return r.JSON, nil
}

// String returns the JSON.
func (r *Ready) String() string {
	text, _ := r.MarshalJSON() // has no error
	return string(text)
}

// ready appends a value as it is.
func (b JSON) ready(name string, r *Ready) JSON {
	text, _ := r.MarshalJSON() // has no error
	return append(b.name(name), text...)
}

// Attrs is the value of an attribute without a name that stands for many, as a group does. The
// handler of NewHandler takes them without making one.
type Attrs interface {
	slog.LogValuer // the group
	AppendAttrs(to []slog.Attr) []slog.Attr
}
