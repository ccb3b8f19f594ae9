package journal

import (
	"bytes"
	"errors"

	"postern/policy/journal/jsonline"
)

// Version is the schema's: it grows when the meaning of a field changes or one
// goes. New fields leave it as it is. In version 1, stage was that of the rule, and a
// transaction that no rule was asked about had passed.
const Version = 2

const (
	// maxLine bounds a record's line, the end included.
	maxLine = 1 << 20
	// keptRecipients is how many recipients of a record stay that is too long.
	keptRecipients = 100
)

var errTooLong = errors.New("journal: the record is too long")

// encoder makes lines of records.
type encoder struct {
	hash *hasher // nil: addresses stay
	buf  bytes.Buffer
	json *jsonline.Encoder
}

func newEncoder(hash *hasher) *encoder {
	e := &encoder{hash: hash}
	e.json = jsonline.NewEncoder(&e.buf, "")
	return e
}

// encode returns the line of a record, which is good until the next one. A record
// that is too long loses its DNS answers, then most of its recipients.
func (e *encoder) encode(r *Record) ([]byte, error) {
	if e.hash != nil {
		r = e.hash.record(r)
	}
	for step := 0; ; step++ {
		e.buf.Reset()
		if err := e.json.Encode(struct {
			V int `json:"v"`
			*Record
		}{Version, r}); err != nil {
			return nil, err
		}
		if e.buf.Len() <= maxLine {
			return e.buf.Bytes(), nil
		}
		short := *r
		short.Truncated = true
		switch step {
		case 0:
			short.DNS = nil
		case 1:
			short.Recipients = short.Recipients[:min(len(short.Recipients), keptRecipients)]
		default:
			return nil, errTooLong
		}
		r = &short
	}
}
