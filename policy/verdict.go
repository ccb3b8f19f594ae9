package policy

import (
	"fmt"

	"postern/proxy/smtp"
)

// Disposition is the one word of a verdict.
type Disposition int

// The dispositions, mildest first.
const (
	DispositionPass Disposition = iota
	DispositionTag
	DispositionHold
	DispositionDefer
	DispositionReject
)

var dispositionNames = [...]string{"pass", "tag", "hold", "defer", "reject"}

// String returns the word that rules, logs and metrics use.
func (d Disposition) String() string { return dispositionNames[d] }

// MarshalText makes a disposition its word in JSON.
func (d Disposition) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the word of a disposition.
func (d *Disposition) UnmarshalText(word []byte) error {
	do, ok := ParseDisposition(string(word))
	if !ok {
		return fmt.Errorf("policy: %q is no disposition", word)
	}
	*d = do
	return nil
}

// Verdict is what the chain concluded from the facts known at a stage.
type Verdict struct {
	Disposition Disposition
	// Decided says that no fact of a later stage can change whether the message
	// is refused: a reject, defer, hold or pass rule matched, or no such rule is left.
	// Tags may still be added until the stage Chain.Last, and so make a pass
	// with no rule a tag.
	Decided bool
	Reply   smtp.Reply   // for Hold, Defer and Reject; without the transaction id, which the proxy adds
	Tags    []smtp.Field // of the tag rules that matched above the deciding one, in order, each text once; each Value starts with a space
	Rule    string       // the rule that decided, or the last tag rule that matched; empty when none did
	Stage   Stage        // at which Rule was decided
}

// Refuses says whether the verdict is a reject, a defer or a hold.
func (v Verdict) Refuses() bool { return v.Disposition.Refuses() }

// Refuses says whether what it is about is not accepted, for now or for good.
func (d Disposition) Refuses() bool { return d >= DispositionHold }
