package journal

import (
	"bytes"
	"errors"
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

// Seal makes the record's line, once for the log and the journal: the record must not be
// changed before Release.
func (r *Record) Seal() error {
	e, err := r.encode()
	if err == nil {
		r.sealed = e
	}
	return err
}

// Release gives up the line of Seal, and what Tail returned with it.
func (r *Record) Release() {
	if r.sealed != nil {
		r.sealed.release()
		r.sealed = nil
	}
}

// Line returns the record's line in the journal, its end included. A record that is too
// long loses its DNS answers there, then most of its recipients.
func (r *Record) Line() ([]byte, error) {
	e := r.sealed
	if e == nil {
		var err error
		if e, err = r.encode(); err != nil {
			return nil, err
		}
		defer e.release()
	}
	return bytes.Clone(e.buf.Bytes()), nil
}

// handOver returns the line, made now where the record is not sealed, and leaves it to the
// caller, who releases it.
func (r *Record) handOver() (*encoder, error) {
	if e := r.sealed; e != nil {
		r.sealed = nil
		return e, nil
	}
	return r.encode()
}

// Tail returns what the log shows of a sealed record and is more than a word, each with
// the JSON that it has in the record's line; null is what that leaves out.
func (r *Record) Tail() *jsonline.Tail {
	t := &struct {
		jsonline.Tail
		members [5]jsonline.Ready
	}{members: [...]jsonline.Ready{
		{Name: "took", Value: &r.Took}, {Name: "recipients", Value: &r.Recipients}, {Name: "tags", Value: &r.Tags}, {Name: "facts", Value: &r.Facts},
		{Name: "candidate", Value: r.Candidate},
	}}
	took, recipients, tags, facts, candidate := &t.members[0], &t.members[1], &t.members[2], &t.members[3], &t.members[4]
	t.Members = t.members[:]
	if r.Candidate == nil {
		t.Members = t.Members[:4]
	}
	if r.sealed == nil {
		return &t.Tail
	}
	for name, value := range jsonline.Members(r.sealed.buf.Bytes()) {
		switch string(name) {
		case "recipients":
			recipients.JSON = value
		case "tags":
			tags.JSON = value
		case "facts":
			facts.JSON = value
		case "candidate":
			candidate.JSON = value
		case "took": // the last of them: what is behind it is longest
			took.JSON = value
			return &t.Tail
		}
	}
	return &t.Tail
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

// release gives the encoder to whoever needs one next: nobody may use its octets any more.
func (e *encoder) release() {
	if e.buf.Cap() <= maxKept {
		encoders.Put(e)
	}
}

// encode makes the record's line. Whoever called releases the encoder that holds it.
func (r *Record) encode() (*encoder, error) {
	e := encoders.Get().(*encoder)
	for step := 0; ; step++ {
		e.buf.Reset()
		if err := e.json.Encode(struct {
			V int `json:"v"`
			*Record
		}{Version, r}); err != nil {
			e.release()
			return nil, err
		}
		if e.buf.Len() <= maxLine {
			return e, nil
		}
		short := *r
		short.Truncated = true
		switch step {
		case 0:
			short.DNS = nil
		case 1:
			short.Recipients = short.Recipients[:min(len(short.Recipients), keptRecipients)]
		default:
			e.release()
			return nil, errTooLong
		}
		r = &short
	}
}
