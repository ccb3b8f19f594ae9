package journal

import (
	"bytes"
	"errors"

	"postern/checks/dnscache"
	"postern/policy/journal/jsonline"
	"postern/proxy/reuse"
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

// Release gives up the line of Seal, and the octets that AppendAttrs returned with it.
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
	return bytes.Clone(e.line), nil
}

// handOver returns the line, made now where the record is not sealed, and leaves it to the
// caller, who releases it.
func (r *Record) handOver() (*encoder, error) {
	if e := r.sealed; e != nil {
		r.sealed = nil
		clear(e.parts[:]) // they point into the record, which is used again while the line waits
		return e, nil
	}
	return r.encode()
}

// encoder is where a line is made.
type encoder struct {
	line  jsonline.JSON
	parts [allParts]jsonline.Ready // the JSON of members that the log shows as well, nil where the line has none
}

// part is one of those members.
type part int

const (
	partTook part = iota
	partRecipients
	partTags
	partFacts
	partCandidate
	allParts
)

// keep notes that a member of that name was appended to the line, which now is b, behind octets that it
// had before.
func (e *encoder) keep(p part, name string, before int, b jsonline.JSON) jsonline.JSON {
	e.parts[p].JSON = nil
	if len(b) > before {
		e.parts[p].JSON = b[before+len(`,"":`)+len(name):]
	}
	return b
}

var encoders reuse.Pool[encoder]

// release gives the encoder to whoever needs one next: nobody may use its octets any more.
func (e *encoder) release() {
	if cap(e.line) <= maxKept {
		clear(e.parts[:]) // or the record would live on
		encoders.Put(e)
	}
}

// encode makes the record's line. Whoever called releases the encoder that holds it.
func (r *Record) encode() (*encoder, error) {
	e := encoders.Take()
	for step := 0; ; step++ {
		if e.make(r); len(e.line) <= maxLine {
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

// make makes the line of r: its members as their tags name them, and the version before them. A
// field that is forgotten, here or in the functions below, fails TestRecordsAreWrittenWhole.
func (e *encoder) make(r *Record) {
	b := append(e.line[:0], '{').
		Int("v", Version).
		Time("time", r.Time).
		Text("id", r.ID).
		Text("session", r.Session)
	b = e.keep(partFacts, "facts", len(b), appendFacts(b.Open("facts"), &r.Facts).Close()).
		Text("reached", r.Reached).
		OptionalText("policy", r.Policy).
		Text("stage", r.Stage).
		OptionalText("rule", r.Rule).
		OptionalText("rule_stage", r.RuleStage).
		Text("disposition", string(r.Disposition)).
		OptionalBool("undecided", r.Undecided).
		OptionalBool("observed", r.Observed).
		Text("reply", r.Reply)
	b = e.keep(partTags, "tags", len(b), b.OptionalTexts("tags", r.Tags))
	b = e.keep(partRecipients, "recipients", len(b), jsonline.OptionalObjects(b, "recipients", r.Recipients, appendRecipient))
	b = e.keep(partCandidate, "candidate", len(b), jsonline.OptionalObject(b, "candidate", r.Candidate, appendCandidate)).
		Text("outcome", string(r.Outcome)).
		OptionalText("state", string(r.State)).
		OptionalText("backend", r.Backend).
		OptionalText("backend_reply", r.BackendReply).
		OptionalText("error", r.Error).
		Int("bytes", r.Bytes)
	took := &r.Took
	if *took == (Took{}) {
		took = nil
	}
	b = e.keep(partTook, "took", len(b), jsonline.OptionalObject(b, "took", took, appendTook))
	b = jsonline.OptionalObjects(b, "checks", r.Checks, appendCheck)
	b = jsonline.OptionalObjects(b, "dns", r.DNS, appendAnswer).
		OptionalBool("hashed", r.Hashed).
		OptionalBool("truncated", r.Truncated)
	e.line = append(b, "}\n"...)
}

func appendRecipient(b jsonline.JSON, r *Recipient) jsonline.JSON {
	b = b.
		Text("address", r.Address).
		Text("disposition", string(r.Disposition)).
		OptionalText("rule", r.Rule).
		Text("reply", r.Reply).
		OptionalBool("undecided", r.Undecided).
		OptionalBool("final", r.Final).
		OptionalBool("taken", r.Taken)
	b = jsonline.OptionalObject(b, "hold", r.Hold, appendHold)
	b = appendNamed(b, "service", r.Service, serviceName, appendService)
	return jsonline.OptionalObject(b, "candidate", r.Candidate, appendCandidate)
}

func appendCandidate(b jsonline.JSON, c *Candidate) jsonline.JSON {
	return b.
		OptionalText("policy", c.Policy).
		Text("disposition", string(c.Disposition)).
		OptionalText("rule", c.Rule).
		OptionalTexts("missing", c.Missing).
		OptionalBool("tags_unknown", c.TagsUnknown)
}

func appendTook(b jsonline.JSON, t *Took) jsonline.JSON {
	return b.
		OptionalFloat("backend", t.Backend).
		OptionalFloat("data", t.Data).
		OptionalFloat("end_of_data", t.EndOfData).
		OptionalFloat("header", t.Header).
		OptionalFloat("mail", t.Mail).
		OptionalFloat("message", t.Message).
		OptionalFloat("rcpt", t.Rcpt)
}

func appendCheck(b jsonline.JSON, c *Check) jsonline.JSON {
	return b.
		Text("name", c.Name).
		Text("result", string(c.Result)).
		Float("took", c.Took)
}

func appendAnswer(b jsonline.JSON, a *dnscache.Answer) jsonline.JSON {
	return b.
		Text("name", a.Name).
		Text("type", a.Type).
		Texts("answer", a.Answer).
		Int("ttl", int64(a.TTL)).
		Text("source", string(a.Source)).
		OptionalText("error", a.Error).
		OptionalInt("left_off", int64(a.LeftOff)).
		OptionalInt("took", int64(a.Took))
}
