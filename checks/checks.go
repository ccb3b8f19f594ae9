// Package checks measures. A check looks something up, writes its result into
// its own field of the facts, and decides nothing.
package checks

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"time"

	"postern/checks/dkim"
	"postern/checks/memo"
	"postern/checks/memory"
	"postern/checks/milter"
	"postern/checks/network"
	"postern/checks/spf"
	"postern/configs"
	"postern/metrics"
	"postern/policy"
	"postern/proxy/smtp"
)

// Check is one measurement.
type Check struct {
	Name string // as in the facts, the metrics and `policy show`; All writes it
	Doc  string // one sentence, printed by `policy show --checks`
	// Stage is the earliest stage at which the check can run: that at which its facts
	// become known. All writes it.
	Stage policy.Stage
	// Uses says who wants the check besides the rules that read its facts, and the
	// journal, which wants all checks that no message has to be held for, and that ask
	// nobody what lasts between sessions.
	Uses Use
	// Run asks, and writes the check's own field of f, all of it, and no other; at stage
	// rcpt, where each recipient has one, that of msg.Rcpt. It may
	// be run twice: with the answers that the resolver has, and again if they were not
	// enough. It must come back soon after ctx ends; what it then leaves is its own
	// business, the Set makes it temperror.
	Run func(ctx context.Context, f *policy.Facts, msg Message)

	// begin writes what can be told without asking anybody, and says whether that
	// settles the check (no SUBMITTER was given, no list is configured): then
	// there is no Run, no goroutine and no timer. May be nil.
	begin func(f *policy.Facts, msg Message) (settled bool)

	// stands says that Run minds for itself which answers did not come: what it
	// leaves is its result though its time be over. Else that is temperror.
	stands bool

	// waits says that Run waits for something else than the Resolver, or works for
	// long: then it is not tried with what the resolver has in its cache.
	waits bool

	// forRules says that rules alone want it, and not the journal: it asks somebody else's
	// filter, or nothing is configured that it could ask and rules have to learn that.
	forRules bool

	// within is the time that it has, where that is not Deps.Timeout.
	within time.Duration

	// filter says that it is somebody else's, and is counted as such: its results are
	// the words.
	filter []string

	// tried says of a filter whether it was tried to ask it. Where it was not, it took no time:
	// NOT 0 s, which would make the times of one that is down look better than those of one that works.
	tried func(f *policy.Facts, rcpt *policy.Recipient) bool

	// needs names checks whose results this one reads, as its facts say. A Set that
	// holds it holds them too, and runs it when they are through. All writes it.
	needs []string

	// memory says that it asks what lasts between sessions: then the journal does not
	// want it. All writes it.
	memory bool

	// result points at the check's result word. All writes it.
	result func(f *policy.Facts, rcpt *policy.Recipient) *policy.Result

	counts *metrics.Check // of its results; NewSet makes it
}

// Use is a set of those who want a check's result.
type Use uint8

// The uses.
const (
	Journal               Use = 1 << iota // keeps all that can be known without holding a message or asking the memory
	AuthenticationResults                 // the field
	ReceivedSPF                           // the field
	AddedFields                           // of milters
	ClientName                            // the Received field, and a backend that is told who the client is
)

// wantedFor says whether somebody of those besides rules wants c.
func (c *Check) wantedFor(uses Use) bool {
	return c.Uses&uses != 0 || uses&Journal != 0 && c.Stage < policy.Message && !c.memory && !c.forRules
}

// All returns the checks, in the order of their facts. The check of a field of
// policy.Facts is what the method of Deps by the field's name returns. To add one,
// give its result such a field, and write the method, in a file of its own.
//
// Behind them are those of the filters that the configuration names.
//
// NOT: a table here, which would be a third place, nor one that files enter by
// init: Facts is the table, and a field without its method is found at once.
func All(d Deps) []Check {
	all := make([]Check, 0, len(policy.Checks()))
	for _, place := range policy.Checks() {
		method := reflect.ValueOf(d).MethodByName(place.Field)
		if !method.IsValid() {
			panic("checks: the facts have a place for " + place.Name + ", and Deps has no method " + place.Field)
		}
		c := method.Interface().(func() Check)()
		c.Name, c.Stage, c.needs, c.memory, c.result = place.Name, place.Stage, place.Needs, place.Memory, place.Result
		all = append(all, c)
	}
	for i := range d.Services {
		all = append(all, d.service(&d.Services[i]))
	}
	for i := range d.Milters {
		all = append(all, d.milter(&d.Milters[i]))
	}
	return all
}

// Message is what a check may read besides the facts: the recipient at stage rcpt, the
// header from the header stage on, the whole at the message stage.
type Message struct {
	Rcpt   *policy.Recipient // in question; nil: that of the facts
	Header smtp.Header
	// Section is the header section that Header was read from, not dot-stuffed,
	// with what is no field but to some readers; nil: that is not known.
	Section []byte
	Whole   io.ReaderAt // the message as received, unstuffed; nil before the message stage
	Size    int64       // of Whole
	Session Session
}

// Session is what filters of other people's want to know of a session, and no rule does.
type Session struct {
	ESMTP  bool           // it began with EHLO
	Server netip.AddrPort // the address that the client connected to
	// Of a message, for milters: the parameters of MAIL, and the recipients that were taken.
	FromArgs   []string
	Recipients []milter.Recipient
}

// Resolver asks the DNS; *net.Resolver has these methods. Errors are bare
// *net.DNSError: IsNotFound for NXDOMAIN and NODATA, IsTimeout or IsTemporary
// for trouble. An answer belongs to all who ask, and no check changes one, NOT even by sorting it.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	// LookupNetIP asks for A alone when network is "ip4", for AAAA alone when it is "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Networks says to which network an address belongs. Not ok: that is not known.
type Networks interface {
	Lookup(addr netip.Addr) (found network.Found, ok bool)
}

// Deps is what checks are made of.
type Deps struct {
	Hostname string // our own name, %{r} in explanations (RFC 7208 §7.3)
	Resolver Resolver
	Config   configs.Checks
	Timeout  time.Duration  // of one check, then temperror (RFC 7208 §4.6.4); 0: 20 s
	Healthy  func() bool    // our own resolver's health, for dns.healthy; nil: always
	Memory   *memory.Memory // what lasts between sessions; nil: no check asks for it
	Networks Networks       // what the files of networks say; nil: there are none
	Services []Service      // the policy services that rules may ask
	Milters  []Milter       // the milters that rules may ask, or that add fields
	// Reads says whether anybody reads a fact, so that a check need not ask for more; nil:
	// all of them are read.
	Reads   func(fact string) bool
	Now     func() time.Time // nil: time.Now
	Metrics *metrics.Metrics // may be nil
	Log     *slog.Logger     // may be nil
	Uses    Use              // who wants results, besides the wanted of NewSet

	judged judgements
}

// judgements are what was judged by answers of the DNS. NewSet makes them; those that are
// nil remember nothing.
type judgements struct {
	spf   *spf.Memo
	dmarc *memo.Memo[aligning, policy.DMARC]
	keys  *dkim.Keys
}

func newJudgements() judgements {
	return judgements{spf: spf.NewMemo(), dmarc: memo.New[aligning, policy.DMARC](), keys: dkim.NewKeys()}
}
