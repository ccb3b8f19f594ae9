// Package journal keeps the record of every transaction: what was known, what
// was concluded, what was said, and what the backend made of it.
package journal

import (
	"time"

	"postern/checks/dnscache"
	"postern/policy"
)

// Outcome says in one word how a transaction ended.
type Outcome string

// The outcomes.
const (
	OutcomeDelivered      Outcome = "delivered"       // the backend took the message
	OutcomeRefused        Outcome = "refused"         // policy, a limit or the syntax of the message refused it
	OutcomeBackendRefused Outcome = "backend_refused" // the backend refused it
	OutcomeFailed         Outcome = "failed"          // trouble of ours or of the backend: the client heard 4yz
	OutcomeAbandoned      Outcome = "abandoned"       // the client went away, or reset the transaction
	OutcomeUnknown        Outcome = "unknown"         // the end of the message went to the backend, its answer never came
)

// IsMessage says whether it is about a message that was passed to the backend or
// refused: not one that never came, or that the client has to send again for trouble.
func (o Outcome) IsMessage() bool { return o != OutcomeAbandoned && o != OutcomeFailed }

// State is one of the five states of mail: where a transaction was when it ended, and
// what a connection comes to.
type State string

// The states. Information and Retrieved are about mail that waits at its sender's.
const (
	StateIdentified  State = "identified"  // who the sender is was told, and MAIL was not let in
	StateEmail       State = "email"       // MAIL was let in: recipients, and perhaps a message
	StateLogout      State = "logout"      // the connection is over; of its own line of the log alone
	StateInformation State = "information" // the mail is held at its sender's, and a notice is stored
	StateRetrieved   State = "retrieved"   // the mail came since it was asked for
)

// Record is one transaction. It is written once, to the log and to the
// journal, when the transaction ends.
type Record struct {
	Time    time.Time    `json:"time"` // of MAIL, or of the refusal before it
	ID      string       `json:"id"`
	Session string       `json:"session"` // the id of the connection's log line
	Facts   policy.Facts `json:"facts"`   // Rcpt is the recipient that Disposition is about
	// Reached is the last stage at which the transaction was judged: facts that
	// become known later were never looked for.
	Reached string `json:"reached"`
	Policy  string `json:"policy,omitempty"` // the fingerprint of the rules that judged

	Stage       string      `json:"stage"` // at which the transaction ended, whoever ended it
	Rule        string      `json:"rule,omitempty"`
	RuleStage   string      `json:"rule_stage,omitempty"` // at which Rule is decided, or the last rule where none matched
	Disposition Disposition `json:"disposition"`          // pass, tag, hold, defer, reject: what policy concluded; NotAsked
	Undecided   bool        `json:"undecided,omitempty"`  // the transaction ended before its verdict: Disposition is the last word until then
	Observed    bool        `json:"observed,omitempty"`   // the policy only observes: the disposition was not carried out
	Reply       string      `json:"reply"`                // the last reply of the transaction, as the client heard it
	Tags        []string    `json:"tags,omitempty"`       // "Name: value"

	Recipients []Recipient `json:"recipients,omitempty"`
	// Candidate is the verdict of the candidate policy, where there is one, on
	// the same facts.
	Candidate *Candidate `json:"candidate,omitempty"`

	Outcome      Outcome `json:"outcome"`
	State        State   `json:"state,omitempty"`         // empty: a record of a version that did not tell
	Backend      string  `json:"backend,omitempty"`       // name and address, "mta 127.0.0.1:10025"
	BackendReply string  `json:"backend_reply,omitempty"` // its last reply
	Error        string  `json:"error,omitempty"`         // trouble of ours, in our own words
	Bytes        int64   `json:"bytes"`                   // of the message, as received

	Took   Took              `json:"took,omitzero"`
	Checks []Check           `json:"checks,omitempty"`
	DNS    []dnscache.Answer `json:"dns,omitempty"`

	// Hashed says that local parts of addresses are keyed hashes; Truncated that
	// the record was too long and lost its DNS answers or some recipients.
	Hashed    bool `json:"hashed,omitempty"`
	Truncated bool `json:"truncated,omitempty"`

	sealed *encoder // see Seal
}

// Took is seconds by step.
type Took struct {
	Backend   float64 `json:"backend,omitempty"`     // getting a connection, and the answer to DATA
	Data      float64 `json:"data,omitempty"`        // reading the message and sending it on
	EndOfData float64 `json:"end_of_data,omitempty"` // the backend's answer to the whole message
	Header    float64 `json:"header,omitempty"`
	Mail      float64 `json:"mail,omitempty"`
	Message   float64 `json:"message,omitempty"`
	Rcpt      float64 `json:"rcpt,omitempty"`
}

// Sum returns the seconds of all steps.
func (t Took) Sum() float64 {
	return t.Backend + t.Data + t.EndOfData + t.Header + t.Mail + t.Message + t.Rcpt
}

// Of returns the seconds of a step by its name in JSON. A step that there is not is a
// mistake of the program, and is counted as the message's.
func (t *Took) Of(step string) *float64 {
	switch step {
	case "backend":
		return &t.Backend
	case "data":
		return &t.Data
	case "end_of_data":
		return &t.EndOfData
	case "header":
		return &t.Header
	case "mail":
		return &t.Mail
	case "rcpt":
		return &t.Rcpt
	}
	return &t.Message
}

// Recipient is what became of one RCPT.
type Recipient struct {
	Address     string      `json:"address"`
	Disposition Disposition `json:"disposition"`
	Rule        string      `json:"rule,omitempty"`
	Reply       string      `json:"reply"`
	Undecided   bool        `json:"undecided,omitempty"` // at RCPT: the record's own verdict is this recipient's too, if the backend took it
	// Final says that the verdict is this recipient's own on the whole message, not
	// the one at RCPT: the policy only observed, so recipients that its rules treat
	// apart came together.
	Final bool `json:"final,omitempty"`
	Taken bool `json:"taken,omitempty"` // by the backend
	// Hold is what was remembered of its having been held; nil: nobody asked, or it is
	// that of the record.
	Hold *policy.Hold `json:"hold,omitempty"`
	// Service is what policy services said of it; nil: nobody asked, or it is that of the
	// record.
	Service policy.Services `json:"service,omitempty"`
	// Candidate is the candidate policy's verdict on this recipient; nil where
	// there is no candidate, or its verdict is that of the record.
	Candidate *Candidate `json:"candidate,omitempty"`
}

// keptRoom is how many elements a list of a copy may have room for, to be used again.
const keptRoom = 32

// CopyTo makes c a copy of r whose lists Recipients, Checks, Tags and DNS are its own, in the memory of
// those that it had: for who keeps what is another's. What is below these, and every other list, is shared
// with r: nobody changes it once it is in a record.
func (r *Record) CopyTo(c *Record) {
	recipients, checks, tags, dns := c.Recipients, c.Checks, c.Tags, c.DNS
	*c = *r
	c.sealed = nil
	c.Recipients, c.Checks, c.Tags, c.DNS = own(recipients, r.Recipients), own(checks, r.Checks), own(tags, r.Tags), own(dns, r.DNS)
}

// Clone returns a copy of r, as CopyTo does.
func (r *Record) Clone() *Record {
	c := new(Record)
	r.CopyTo(c)
	return c
}

// Room returns an empty record whose lists have the room that those of r had. Nobody may use r any more.
func (r *Record) Room() Record {
	return Record{Recipients: emptied(r.Recipients), Checks: emptied(r.Checks), Tags: emptied(r.Tags)}
}

func own[T any](room, list []T) []T { return append(emptied(room), list...) }

func emptied[T any](list []T) []T {
	if cap(list) > keptRoom {
		return nil
	}
	clear(list) // what they point to is not to live on
	return list[:0]
}

// Has says whether the record is about a recipient.
func (r *Record) Has(recipient string) bool {
	for i := range r.Recipients {
		if r.Recipients[i].Address == recipient {
			return true
		}
	}
	return r.Facts.Rcpt.Address == recipient
}

// Candidate is what the candidate policy said.
type Candidate struct {
	Policy      string      `json:"policy,omitempty"` // its fingerprint
	Disposition Disposition `json:"disposition"`      // pass, tag, hold, defer, reject, or undetermined
	Rule        string      `json:"rule,omitempty"`
	Missing     []string    `json:"missing,omitempty"` // the facts that were never measured and that its verdict hangs on
	// TagsUnknown says that it accepts, and that tags may be added by rules that
	// read facts never measured.
	TagsUnknown bool `json:"tags_unknown,omitempty"`
}

// Check is one check that ran.
type Check struct {
	Name   string        `json:"name"`
	Result policy.Result `json:"result"`
	Took   float64       `json:"took"` // seconds
}
