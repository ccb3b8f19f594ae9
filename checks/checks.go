// Package checks measures. A check looks something up, writes its result into
// its own field of the facts, and decides nothing.
package checks

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/policy"
	"postern/proxy/smtp"
)

// Check is one measurement.
type Check struct {
	Name string // as in the facts, the metrics and `policy show`
	Doc  string // one sentence, printed by `policy show --checks`
	// Stage is the earliest stage at which the check can run.
	Stage policy.Stage
	// Result points at the check's result word in f.
	Result func(f *policy.Facts) *policy.Result
	// Run asks, and writes the check's own field of f, all of it, and no other. It may
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

	// needs names checks whose results this one reads. A Set that holds it holds
	// them too, and runs it when they are through.
	needs []string
}

// All is the table of checks. To add one, write it, give its result a field in
// policy.Facts, and name it here.
var All = []func(Deps) Check{Iprev, MX, SPF, SPFHelo, Submitter, DNSBL, PRA, DKIM, DMARC}

// Message is what a check may read besides the facts: nothing before the
// header stage, the header from there on, the whole at the message stage.
type Message struct {
	Header smtp.Header
	// Section is the header section that Header was read from, not dot-stuffed,
	// with what is no field but to some readers; nil: that is not known.
	Section []byte
	Whole   io.ReaderAt // the message as received, unstuffed; nil before the message stage
	Size    int64       // of Whole
}

// Resolver asks the DNS; *net.Resolver has these methods. Errors are bare
// *net.DNSError: IsNotFound for NXDOMAIN and NODATA, IsTimeout or IsTemporary
// for trouble.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	// LookupNetIP asks for A alone when network is "ip4", for AAAA alone when it is "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Deps is what checks are made of.
type Deps struct {
	Hostname string // our own name, %{r} in explanations (RFC 7208 §7.3)
	Resolver Resolver
	Config   configs.Checks
	Timeout  time.Duration    // of one check, then temperror (RFC 7208 §4.6.4); 0: 20 s
	Healthy  func() bool      // our own resolver's health, for dns.healthy; nil: always
	Metrics  *metrics.Metrics // may be nil
	Log      *slog.Logger     // may be nil
}
