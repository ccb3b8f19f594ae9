// Package control is the socket by which commands talk to the proxy that runs: they
// ask for one thing with one line of JSON, and are answered by lines of it.
//
// Who may write to the socket may do all that it offers: the mode of the file, 0660
// and the group postern, is what says who that is.
package control

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"postern/checks/memory"
	"postern/proxy/smtp"
)

// Bounds of a conversation.
const (
	maxRequest   = 64 << 10 // octets of a request
	maxAnswer    = 64 << 10 // octets of one line of an answer
	maxAtOnce    = 16       // conversations
	requestTime  = 5 * time.Second
	lineTime     = 10 * time.Second // that the other side may take to read a line
	commandTime  = 2 * time.Minute  // that a command may take
	maxIDs       = 1000             // that one request may name
	maxRetrieval = 1000             // of an answer
)

// The things that can be asked for.
const (
	doHeld     = "held"
	doRelease  = "release"
	doRetrieve = "retrieve"
)

// request is what a command asks for.
type request struct {
	Do     string   `json:"do"`
	Filter *Filter  `json:"filter,omitempty"`
	IDs    []string `json:"ids,omitempty"`
	Domain string   `json:"domain,omitempty"`
}

// answer is one line of an answer: one of the things that were found, or the end.
type answer struct {
	Notice    *memory.Notice `json:"notice,omitempty"`
	Retrieval *Retrieval     `json:"retrieval,omitempty"`
	Error     string         `json:"error,omitempty"`
	End       bool           `json:"end,omitempty"`
}

// Filter says which notices are meant. What is not said matches all.
type Filter struct {
	From  string    `json:"from,omitempty"` // a sender's mailbox or domain
	Rcpt  string    `json:"rcpt,omitempty"` // a recipient's
	Who   string    `json:"who,omitempty"`  // a proven domain, a network, or an address in one
	Since time.Time `json:"since,omitzero"` // tried at that time or later
}

// Match says whether a notice is meant.
func (f Filter) Match(n memory.Notice) bool {
	return of(f.From, n.From) && of(f.Rcpt, n.Rcpt) && f.isOf(n.Who) && !n.Last.Before(f.Since)
}

// Past says whether no notice is meant that came no later than this one: of those that
// are told by the time of their last try, or release, the newest first.
func (f Filter) Past(n memory.Notice) bool { return !n.Released && n.Last.Before(f.Since) }

func (f Filter) isOf(who string) bool {
	if f.Who == "" || strings.EqualFold(f.Who, who) {
		return true
	}
	ip, err := netip.ParseAddr(f.Who)
	return err == nil && memory.Network(ip) == who
}

// OfDomain says whether a notice is on mail of a domain: that which the client has
// proven, or that of the MAIL command.
func OfDomain(n memory.Notice, domain string) bool {
	return strings.EqualFold(n.Who, domain) || of("@"+strings.TrimPrefix(domain, "@"), n.From)
}

// of says whether an address is the mailbox, or in the domain, that is looked for.
func of(wanted, address string) bool {
	domain, whole := strings.CutPrefix(wanted, "@")
	switch {
	case wanted == "":
		return true
	case !whole && strings.Contains(wanted, "@"):
		return strings.EqualFold(wanted, address)
	}
	_, of, ok := smtp.CutAddress(address)
	return ok && strings.EqualFold(of, domain)
}

// Retrieval is what came of asking a host for its mail.
type Retrieval struct {
	Domain string `json:"domain"`
	Host   string `json:"host"`
	Reply  string `json:"reply,omitempty"` // to ETRN
	Error  string `json:"error,omitempty"` // why there is none
	Begun  bool   `json:"begun"`           // the host sends, or has nothing to send
}

// Desk does what is asked for. Its methods may be called by several at once.
type Desk interface {
	// Held tells the notices that a filter means, the newest first, until tell fails. There
	// may be very many.
	Held(ctx context.Context, f Filter, tell func(memory.Notice) error) error
	// Release releases notices, by their ids or all of a domain, tells those that were not
	// released yet, and returns what came of asking for their mail.
	Release(ctx context.Context, ids []string, domain string, tell func(memory.Notice) error) ([]Retrieval, error)
	// Retrieve asks the hosts that are configured for a domain.
	Retrieve(ctx context.Context, domain string) ([]Retrieval, error)
}

// serve answers one request by the desk; say writes a line.
func serve(ctx context.Context, d Desk, r request, say func(answer) error) error {
	var retrievals []Retrieval
	var err, unsaid error // the latter: nobody listens any more
	tell := func(n memory.Notice) error {
		unsaid = say(answer{Notice: &n})
		return unsaid
	}
	switch r.Do {
	case doHeld:
		f := Filter{}
		if r.Filter != nil {
			f = *r.Filter
		}
		err = d.Held(ctx, f, tell)
	case doRelease:
		if err = checkRelease(r); err == nil {
			retrievals, err = d.Release(ctx, r.IDs, r.Domain, tell)
		}
	case doRetrieve:
		retrievals, err = d.Retrieve(ctx, r.Domain)
	default:
		err = errors.New("the proxy does not know what is asked for: it is of another version")
	}
	if unsaid != nil {
		return unsaid
	}
	for i := range retrievals {
		if err := say(answer{Retrieval: &retrievals[i]}); err != nil {
			return err
		}
	}
	end := answer{End: true}
	if err != nil {
		end.Error = err.Error()
	}
	return say(end)
}

func checkRelease(r request) error {
	switch {
	case len(r.IDs) > 0 == (r.Domain != ""):
		return errors.New("either ids or a domain can be released")
	case len(r.IDs) > maxIDs:
		return errors.New("too many ids at once: at most 1000")
	}
	for _, id := range r.IDs {
		if !memory.IsNoticeID(id) {
			return errors.New("an id has 16 letters and digits, as postern held prints it")
		}
	}
	return nil
}
