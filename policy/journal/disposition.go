package journal

import "postern/policy"

// Disposition is the word of a record for what policy concluded: one of policy's own, or
// one of the two that only a record has. Empty: there was no verdict.
type Disposition string

// The dispositions.
const (
	DispositionPass   Disposition = "pass"
	DispositionTag    Disposition = "tag"
	DispositionHold   Disposition = "hold"
	DispositionDefer  Disposition = "defer"
	DispositionReject Disposition = "reject"

	// NotAsked is that of a transaction that ended before policy was asked, as by a
	// limit or a fault of syntax.
	NotAsked Disposition = "none"
	// Undetermined is what another policy would say where facts are missing that it reads.
	Undetermined Disposition = "undetermined"
)

// Concluded returns the record's word for what policy concluded.
func Concluded(d policy.Disposition) Disposition { return Disposition(d.String()) }

// Refuses says whether what it is about is not accepted, for now or for good.
func (d Disposition) Refuses() bool { return d.Defers() || d == DispositionReject }

// Defers says whether the client is to come again: defer, and hold.
func (d Disposition) Defers() bool { return d == DispositionDefer || d == DispositionHold }
