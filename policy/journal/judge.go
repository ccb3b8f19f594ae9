package journal

import (
	"slices"
	"strings"

	"postern/policy"
	"postern/proxy/smtp"
)

// Opinion is what a policy says of one recipient, or of a transaction that had
// none.
type Opinion struct {
	Disposition Disposition // never NotAsked; empty: the transaction ended before there was a verdict
	Rule        string
	Missing     []string // for Undetermined: the facts that were never measured
	// TagsUnknown says that a message that is accepted may be tagged otherwise:
	// a tag rule reads facts that were never measured.
	TagsUnknown bool
}

// Refuses says whether the opinion is reject, defer or hold.
func (o Opinion) Refuses() bool { return o.Disposition.Refuses() }

// Known says whether there is an opinion at all.
func (o Opinion) Known() bool { return o.Disposition != "" && o.Disposition != Undetermined }

// Differs says whether two opinions that are known are not the same: another
// disposition, or another rule for it. Between two that accept, tags that are
// not known make no difference.
func (o Opinion) Differs(p Opinion) bool {
	if !o.Refuses() && !p.Refuses() && (o.TagsUnknown || p.TagsUnknown) {
		return false
	}
	return o.Disposition != p.Disposition || o.Rule != p.Rule
}

func (o Opinion) equal(p Opinion) bool {
	return o.Disposition == p.Disposition && o.Rule == p.Rule && o.TagsUnknown == p.TagsUnknown && slices.Equal(o.Missing, p.Missing)
}

// Measured returns the facts of the record that were measured. Those that a
// hash stands for are not among them.
func (r *Record) Measured() policy.FactSet {
	reached, ok := policy.ParseStage(r.Reached)
	if !ok {
		reached = policy.Connect // who cannot say what was looked for knows nothing
	}
	known := policy.Measured(&r.Facts, reached)
	if r.Hashed {
		f := r.Facts
		f.Rewrite(addresses, func(t *policy.Text, a string) string {
			if strings.HasPrefix(a, hashMark) {
				known = known.Without(t.Name)
			}
			return a
		})
	}
	return known
}

// Live returns the verdict of the policy that judged when it happened, on the
// i-th recipient; on the transaction if there were none.
//
// One reply ends a message, so what was decided after RCPT holds for each
// recipient that the backend took and that was not decided before.
func (r *Record) Live(i int) Opinion {
	// Tags could still have come until the end of the message.
	whole := Opinion{Disposition: r.Disposition, Rule: r.Rule, TagsUnknown: r.Reached != policy.Message.String()}
	if r.Undecided || r.Disposition == NotAsked {
		whole = Opinion{}
	}
	if len(r.Recipients) == 0 {
		return whole
	}
	rc := &r.Recipients[i]
	own := Opinion{Disposition: rc.Disposition, Rule: rc.Rule}
	if rc.Final {
		if rc.Undecided {
			return Opinion{}
		}
		own.TagsUnknown = r.Reached != policy.Message.String()
		return own
	}
	stands := rc.Taken && r.judgedMessage()
	// The fields on top are the same for all; another recipient alone would
	// have had others.
	whole.TagsUnknown = whole.TagsUnknown || rc.Address != r.Facts.Rcpt.Address
	switch {
	case own.Refuses(), own.Disposition == DispositionPass && own.Rule != "":
		return own
	case rc.Undecided && stands:
		return whole
	case rc.Undecided:
		return Opinion{}
	case stands && whole.Known() && !whole.Refuses():
		return whole
	}
	// Accepted for good at RCPT: only tags could be added after it. That the
	// whole was refused is about another recipient, and was only observed.
	own.TagsUnknown = true
	return own
}

// judgedMessage says whether the transaction came to its header section.
func (r *Record) judgedMessage() bool {
	reached, _ := policy.ParseStage(r.Reached)
	return reached >= policy.Header
}

// Units returns on how many verdicts the record tells: one for each recipient,
// or one.
func (r *Record) Units() int { return max(1, len(r.Recipients)) }

// Judge returns what c says of the i-th recipient, or of the transaction if
// there were none. known is what Measured returned.
func (r *Record) Judge(c *policy.Chain, i int, known policy.FactSet) Opinion {
	if len(r.Recipients) == 0 || r.Recipients[i].Hold == nil && r.Recipients[i].Service == nil && r.Recipients[i].Address == r.Facts.Rcpt.Address {
		return opinion(c.Judge(&r.Facts, known))
	}
	other := r.about(&r.Recipients[i])
	if r.Hashed || other.Facts.Hold.Result != r.Facts.Hold.Result { // what is known is another matter for each
		known = other.Measured()
	}
	return opinion(c.Judge(&other.Facts, known))
}

// For returns a copy of the record whose facts are about another recipient.
func (r *Record) For(address string) *Record {
	if address != r.Facts.Rcpt.Address {
		for i := range r.Recipients {
			if r.Recipients[i].Address == address {
				return r.about(&r.Recipients[i])
			}
		}
	}
	return r.about(&Recipient{Address: address})
}

// about returns a copy of the record whose facts are about a recipient.
func (r *Record) about(rc *Recipient) *Record {
	c := *r
	c.Facts.Rcpt = policy.RcptTo{Address: rc.Address, Domain: DomainOf(rc.Address)}
	if rc.Hold != nil {
		c.Facts.Hold = *rc.Hold
	}
	if rc.Service != nil {
		c.Facts.Service = rc.Service
	}
	return &c
}

func opinion(j policy.Judgement) Opinion {
	if !j.Determined() {
		return Opinion{Disposition: Undetermined, Missing: j.Missing.Names()}
	}
	return Opinion{Disposition: Concluded(j.Disposition), Rule: j.Rule, TagsUnknown: j.MissingTags != policy.FactSet{}}
}

// JudgeCandidate fills in what the candidate policy says, and returns the
// dispositions of the two policies: those of the first recipient on which they
// disagree, else two empty words. A verdict that one of them could not reach is
// no disagreement.
func (r *Record) JudgeCandidate(c *policy.Chain) (active, candidate Disposition) {
	known := r.Measured()
	whole := opinion(c.Judge(&r.Facts, known))
	r.Candidate = candidateOf(whole)
	r.Candidate.Policy = c.Fingerprint()
	for i := range r.Units() {
		now := whole
		if len(r.Recipients) > 0 {
			now = r.Judge(c, i, known)
			if !now.equal(whole) {
				r.Recipients[i].Candidate = candidateOf(now)
			}
		}
		then := r.Live(i)
		if active == "" && then.Known() && now.Known() && then.Disposition != now.Disposition && then.Differs(now) {
			active, candidate = then.Disposition, now.Disposition
		}
	}
	return active, candidate
}

func candidateOf(o Opinion) *Candidate {
	return &Candidate{Disposition: o.Disposition, Rule: o.Rule, Missing: o.Missing, TagsUnknown: o.TagsUnknown}
}

// CandidateOpinion returns what the candidate policy said when it happened, on
// the i-th recipient or on the transaction; an empty Opinion where there was none.
func (r *Record) CandidateOpinion(i int) Opinion {
	c := r.Candidate
	if c == nil {
		return Opinion{}
	}
	if i < len(r.Recipients) && r.Recipients[i].Candidate != nil {
		c = r.Recipients[i].Candidate
	}
	return Opinion{Disposition: c.Disposition, Rule: c.Rule, Missing: c.Missing, TagsUnknown: c.TagsUnknown}
}

// DomainOf returns the domain of an address as facts have it, empty where there
// is none.
func DomainOf(address string) string {
	_, domain, _ := smtp.CutAddress(address)
	return domain
}
