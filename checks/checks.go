// Package checks measures. A check looks something up, writes its result into
// its own field of the facts, and decides nothing.
package checks

import (
	"context"
	"io"
	"net"

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
	// Run writes the check's own field of f, and no other. It must come back
	// soon after ctx ends; what it then leaves is its own business, the Set
	// makes it temperror.
	Run func(ctx context.Context, f *policy.Facts, msg Message)
}

// Message is what a check may read besides the facts: nothing before the
// header stage, the header from there on, the whole at the message stage.
type Message struct {
	Header smtp.Header
	Whole  io.ReaderAt // the message as received, unstuffed; nil before the message stage
	Size   int64       // of Whole
}

// Resolver asks the DNS. *net.Resolver has it, and spf asks for exactly this.
// Errors are bare *net.DNSError: IsNotFound for NXDOMAIN and NODATA,
// IsTimeout or IsTemporary for trouble.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// Deps is what checks are made of.
type Deps struct {
	Hostname string
	Resolver Resolver
	Config   configs.Checks
	Metrics  *metrics.Metrics // may be nil
}
