package journal

import (
	"net/netip"
	"slices"
	"strings"

	"postern/configs"
	"postern/policy"
	"postern/policy/journal/index"
	"postern/proxy/smtp"
)

// Filter says which records are looked for: those for which all holds that is set.
type Filter struct {
	Query

	ID, Session string // of the transaction, of its connection
	// Sender and Recipient are an address, a domain, *.domain for those below it, or <> for
	// the null reverse-path. Case makes no difference. The sender is the reverse-path, the one
	// that SUBMITTER named, the header's responsible address, or the author's domain.
	Sender, Recipient string
	Client            netip.Prefix // whose address is in it
	ASN               int64        // of the client's network, client.asn; 0: any
	Country           string       // of the client, client.country, whatever its case
	Rule              string       // that decided, on the transaction or on a recipient; or that tagged last
	Disposition       Disposition  // of the transaction or of a recipient
	Outcome           Outcome
	// Refused wants those of which the client heard a refusal, 4yz or 5yz, whoever spoke it.
	Refused bool
	QueueID string // under which the backend keeps the message, as its reply had it

	hash *hasher
}

// HashedBy makes the filter find addresses, too, whose local part was hashed as c says.
// The error is that of the key.
func (f *Filter) HashedBy(c configs.Journal) error {
	key, err := readKey(c.HashKey)
	if err != nil {
		return err
	}
	f.hash = &hasher{key: key}
	return nil
}

// search is a filter that is made ready.
type search struct {
	Filter
	sender, recipient *who
	want              index.Want
}

// who is whom a word of the filter means.
type who struct {
	null      bool
	addresses []string // in lower case; any of them
	domain    string
	below     string
}

// newWho reads the word for a sender or a recipient; nil: everybody.
func newWho(word string, hash *hasher) *who {
	ascii := func(domain string) string {
		if a, err := smtp.ASCIIDomain(domain); err == nil {
			return a
		}
		return strings.ToLower(domain) // a literal, or what no domain is: it may be there all the same
	}
	if word == index.NullSender {
		return &who{null: true}
	}
	word = strings.TrimSuffix(strings.TrimPrefix(word, "<"), ">")
	local, domain, ok := smtp.CutAddress(word)
	switch below, wild := strings.CutPrefix(word, "*."); {
	case word == "":
		return nil
	case ok && local != "":
		word = local + "@" + ascii(domain)
		w := &who{addresses: []string{strings.ToLower(word)}}
		if hash != nil {
			w.addresses = append(w.addresses, strings.ToLower(hash.address(word)))
		}
		return w
	case wild:
		return &who{below: ascii(below)}
	default:
		return &who{domain: ascii(strings.TrimPrefix(word, "@"))}
	}
}

// is says whether an address and its domain, either of which may be empty, are meant.
func (w *who) is(address, domain string) bool {
	if w.addresses != nil {
		return slices.Contains(w.addresses, strings.ToLower(address))
	}
	_, of, ok := smtp.CutAddress(address)
	if !ok {
		of = address
	}
	of, domain = strings.ToLower(of), strings.ToLower(domain)
	if w.below != "" {
		return strings.HasSuffix(of, "."+w.below) || strings.HasSuffix(domain, "."+w.below)
	}
	return w.domain != "" && (of == w.domain || domain == w.domain)
}

// terms are those of the index, one of which a record has; nil: the index does not tell.
func (w *who) terms(address, domain index.Kind) []index.Term {
	switch {
	case w.null:
		return []index.Term{index.Exactly(address, index.NullSender)}
	case w.domain != "":
		return []index.Term{index.Exactly(domain, w.domain)}
	case w.below != "":
		if t, ok := index.Below(domain, w.below); ok {
			return []index.Term{t}
		}
		return nil
	}
	var terms []index.Term
	for _, a := range w.addresses {
		terms = append(terms, index.Exactly(address, a))
	}
	return terms
}

var dispositionMarks = map[Disposition]index.Mark{
	DispositionPass: index.Pass, DispositionTag: index.Tag, DispositionHold: index.Hold, DispositionDefer: index.Defer,
	DispositionReject: index.Reject, NotAsked: index.NotAsked,
}

var outcomeMarks = map[Outcome]index.Mark{
	OutcomeDelivered: index.Delivered, OutcomeRefused: index.RefusedByUs, OutcomeBackendRefused: index.BackendRefused,
	OutcomeFailed: index.Failed, OutcomeAbandoned: index.Abandoned, OutcomeUnknown: index.Unknown,
}

// newSearch makes a filter ready.
func newSearch(f *Filter) *search {
	s := &search{Filter: *f, sender: newWho(f.Sender, f.hash), recipient: newWho(f.Recipient, f.hash)}
	s.want = index.Want{Since: f.Since, Until: f.Until, Client: f.Client}
	named := func(k index.Kind, word string) {
		if word != "" {
			s.want.Terms = append(s.want.Terms, []index.Term{index.Exactly(k, word)})
		}
	}
	meant := func(address, domain index.Kind, w *who) {
		if w == nil {
			return
		}
		if terms := w.terms(address, domain); terms != nil {
			s.want.Terms = append(s.want.Terms, terms)
		}
	}
	marked := func(m index.Mark) {
		if m != 0 {
			s.want.Marks = append(s.want.Marks, m)
		}
	}
	named(index.ID, f.ID)
	named(index.Session, f.Session)
	meant(index.Sender, index.SenderDomain, s.sender)
	meant(index.Recipient, index.RecipientDomain, s.recipient)
	named(index.Rule, f.Rule)
	named(index.QueueID, f.QueueID)
	marked(dispositionMarks[f.Disposition])
	marked(outcomeMarks[f.Outcome])
	if f.Refused {
		marked(index.Refused)
	}
	return s
}

// matches says whether a record is looked for.
func (s *search) matches(r *Record) bool {
	switch {
	case !s.Wants(r.Time):
	case s.ID != "" && r.ID != s.ID, s.Session != "" && r.Session != s.Session:
	case s.Outcome != "" && r.Outcome != s.Outcome:
	case s.Client.IsValid() && !s.fromClient(r.Facts.Client.IP):
	case s.ASN != 0 && r.Facts.Client.ASN != s.ASN, s.Country != "" && !strings.EqualFold(r.Facts.Client.Country, s.Country):
	case s.sender != nil && !s.sentBy(&r.Facts, r.Reached):
	case s.QueueID != "" && !queuedAs(r.BackendReply, s.QueueID):
	default:
		return s.judged(r)
	}
	return false
}

func (s *search) fromClient(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && s.Client.Contains(a.Unmap())
}

func (s *search) sentBy(f *policy.Facts, reached string) bool {
	if s.sender.null {
		stage, ok := policy.ParseStage(reached)
		return f.Mail.From == "" && ok && stage >= policy.Mail
	}
	return s.sender.is(f.Mail.From, f.Mail.Domain) || s.sender.is(f.Submitter.Address, f.Submitter.Domain) ||
		s.sender.is(f.PRA.Address, f.PRA.Domain) || s.sender.is("", f.Header.FromDomain)
}

func queuedAs(reply, id string) bool {
	for word := range index.QueueIDs([]byte(reply)) {
		if strings.EqualFold(string(word), id) {
			return true
		}
	}
	return false
}

// judged says whether the recipient is the one that is looked for, and has the rule, the
// disposition and the refusal; where none is, whether the transaction or any one has.
func (s *search) judged(r *Record) bool {
	if s.recipient == nil && s.verdict(r.Disposition, r.Rule, r.Reply, "") {
		return true
	}
	for i := range r.Recipients {
		if s.recipientJudged(r, i) {
			return true
		}
	}
	return len(r.Recipients) == 0 && s.recipient != nil && s.recipient.is(r.Facts.Rcpt.Address, r.Facts.Rcpt.Domain) &&
		s.verdict(r.Disposition, r.Rule, r.Reply, "")
}

// MeansRecipient says whether the i-th recipient of a record is one that the filter asks for, by
// its own name and its own verdict.
func (f *Filter) MeansRecipient(r *Record, i int) bool {
	if f.Recipient == "" {
		return false
	}
	s := newSearch(f)
	return s.recipientJudged(r, i)
}

// recipientJudged says whether the i-th recipient is one that is looked for.
func (s *search) recipientJudged(r *Record, i int) bool {
	rc := &r.Recipients[i]
	if s.recipient != nil && !s.recipient.is(rc.Address, "") {
		return false
	}
	disposition, rule := rc.Disposition, rc.Rule
	if rc.Undecided && !rc.Final {
		disposition, rule = r.Disposition, r.Rule
	}
	return s.verdict(disposition, rule, rc.Reply, r.Reply)
}

// verdict says whether that is wanted. The replies are those that tell of it.
func (s *search) verdict(disposition Disposition, rule, reply, last string) bool {
	return (s.Disposition == "" || disposition == s.Disposition) && (s.Rule == "" || strings.EqualFold(rule, s.Rule)) &&
		(!s.Refused || refusal(reply) || refusal(last))
}

func refusal(reply string) bool {
	return strings.HasPrefix(reply, "4") || strings.HasPrefix(reply, "5")
}
