package jsonline

import (
	"bytes"
	"iter"
)

// Ready is a value with its JSON, as Encoder or Marshal made it: a log in JSON shows that
// as it is.
type Ready struct {
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

// Members goes through an object that Encoder or Marshal wrote, with names that need no
// escape.
func Members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		b := bytes.TrimSpace(object)
		for b = b[1:]; len(b) > 1; { // less is the last }
			name := end(b)
			value := name + 1 + end(b[name+1:])
			if !yield(string(b[1:name-1]), b[name+1:value]) {
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
