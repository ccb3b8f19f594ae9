package journal

import (
	"bytes"
	"errors"
	"log/slog"
	"sync"

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
	// maxKept bounds the buffers that are used again; most lines have 3 KiB.
	maxKept = 64 << 10
)

var errTooLong = errors.New("journal: the record is too long")

// Seal makes the record's line, once for all who want it: the record must not be
// changed any more.
func (r *Record) Seal() (err error) {
	r.line, err = r.Line()
	return err
}

// Line returns the record's line in the journal, its end included. A record that is too
// long loses its DNS answers there, then most of its recipients.
func (r *Record) Line() ([]byte, error) {
	if r.line != nil {
		return r.line, nil
	}
	return r.encode()
}

// Attrs returns what the log shows of a sealed record and is more than a word, each with
// the JSON that it has in the record's line; null is what that leaves out.
func (r *Record) Attrs() []slog.Attr {
	took, recipients, tags, facts, candidate := jsonline.Ready{Value: r.Took}, jsonline.Ready{Value: r.Recipients}, jsonline.Ready{Value: r.Tags},
		jsonline.Ready{Value: &r.Facts}, jsonline.Ready{Value: r.Candidate}
	if r.line != nil {
		for name, value := range jsonline.Members(r.line) {
			switch name {
			case "took":
				took.JSON = value
			case "recipients":
				recipients.JSON = value
			case "tags":
				tags.JSON = value
			case "facts":
				facts.JSON = value
			case "candidate":
				candidate.JSON = value
			}
		}
	}
	attrs := []slog.Attr{slog.Any("took", took), slog.Any("recipients", recipients), slog.Any("tags", tags), slog.Any("facts", facts), slog.Any("candidate", candidate)}
	if r.Candidate == nil {
		return attrs[:len(attrs)-1]
	}
	return attrs
}

// encoder is an encoder with its buffer.
type encoder struct {
	buf  bytes.Buffer
	json *jsonline.Encoder
}

var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.json = jsonline.NewEncoder(&e.buf, "")
	return e
}}

func (r *Record) encode() ([]byte, error) {
	e := encoders.Get().(*encoder)
	defer func() {
		if e.buf.Cap() <= maxKept {
			encoders.Put(e)
		}
	}()
	for step := 0; ; step++ {
		e.buf.Reset()
		if err := e.json.Encode(struct {
			V int `json:"v"`
			*Record
		}{Version, r}); err != nil {
			return nil, err
		}
		if e.buf.Len() <= maxLine {
			return bytes.Clone(e.buf.Bytes()), nil
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
