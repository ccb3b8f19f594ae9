package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/configs"
	"postern/metrics"
	"postern/policy/journal"
	"postern/policy/journal/jsonline"
	"postern/proxy"
	"postern/proxy/backend"
)

// world is what outlives every configuration.
type world struct {
	log     *slog.Logger
	metrics *metrics.Metrics
	// fallback is the backend where none is configured, and dial the way to
	// the backends; nil: the network.
	fallback configs.Backend
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	// everything makes every check run and keeps the DNS answers, as somebody wants to see them.
	everything bool
	// answers stands in for the DNS in the checks, nil: the configured servers do;
	// now for the clock of lists, nil: time.Now.
	answers checks.Resolver
	now     func() time.Time
}

// parts is what one configuration makes of the program. A reload makes new ones,
// and takes over from the old what has not changed and is costly to lose: the
// DNS cache, the connections to the MTA, the TLS sessions.
type parts struct {
	config       *configs.Config
	settings     *proxy.Settings
	resolver     *dnscache.Resolver
	rules        rules
	candidate    rules // what policy.candidate names; no chain: nothing
	backends     *backend.Set
	certificates *certificates
	roots        string // of client certificates: the file's content
}

// build makes the parts, and connects to nobody. All that is wrong with them comes
// back as configs.Faults. old may be nil.
func build(cfg *configs.Config, w *world, old *parts) (*parts, error) {
	p := &parts{config: cfg}
	var faults configs.Faults
	note := func(at string, err error) { faults = append(faults, asFaults(cfg.At(at), err)...) }

	name := hostname(cfg)
	var err error
	if old != nil && same(configs.Config{DNS: cfg.DNS}, configs.Config{DNS: old.config.DNS}) {
		p.resolver = old.resolver
	} else if p.resolver, err = dnscache.New(dnscache.Options{
		Servers: cfg.DNS.Servers, Timeout: cfg.DNS.Timeout, Total: cfg.DNS.Total, Cache: cfg.DNS.Cache,
		Canaries: cfg.DNS.Canaries, Metrics: w.metrics, Log: w.log,
	}); err != nil {
		note("dns.servers", err)
	}

	measured := cfg.Checks
	if w.answers != nil {
		// Made-up answers are for everybody to read: no key stands in their names.
		measured.DNSBL.Zones = slices.Clone(measured.DNSBL.Zones)
		for i := range measured.DNSBL.Zones {
			measured.DNSBL.Zones[i].ZoneKeyFile = ""
		}
	}
	for i, z := range measured.DNSBL.Zones {
		if key, err := checks.CheckDNSBLZone(z); err != nil {
			at := fmt.Sprintf("checks.dnsbl.zones[%d].%s", i, key)
			note(at, fmt.Errorf("%s: %w", at, err))
		}
	}

	if p.rules, err = buildRulesAt(cfg, w.now); err != nil {
		note("policy", err)
	}
	if file := cfg.Policy.Candidate; file != "" {
		if p.candidate, err = loadRules(file); err != nil {
			note("policy.candidate", err)
		}
	}
	if err := journal.Verify(cfg.Journal); err != nil {
		note("journal", err)
	}

	tlsConfig, err := p.buildTLS(name, w, old)
	if err != nil {
		note("tls", err)
	}

	backends := cfg.Backends
	if len(backends) == 0 {
		backends = []configs.Backend{w.fallback}
	}
	if old != nil && sameBackends(cfg, old.config) {
		p.backends = old.backends
	} else if p.backends, err = backend.New(backends, cfg.Routes, backend.Options{
		PerClient: cfg.Limits.BackendConnectionsPerClient,
		Hostname:  name, Timeouts: cfg.Timeouts, Metrics: w.metrics, Log: w.log, Dial: w.dial,
	}); err != nil {
		note("backends", err)
	}
	if len(faults) > 0 {
		p.close(old)
		return nil, faults.Sorted()
	}

	p.resolver.Report()
	var answers checks.Resolver = p.resolver
	if w.answers != nil {
		answers = w.answers
	}
	p.settings = &proxy.Settings{
		Hostname: name, TLS: tlsConfig,
		Checks: checks.NewSet(checks.Deps{
			Hostname: name, Resolver: answers, Config: measured, Timeout: cfg.DNS.Total, Healthy: p.resolver.Healthy,
			Metrics: w.metrics, Log: w.log,
		}, p.wants(w.everything)),
		Chain: p.rules.chain, Candidate: p.candidate.chain, Observe: cfg.Policy.Mode == "observe", Backends: p.backends,
		Headers: cfg.Headers, Limits: cfg.Limits, Timeouts: cfg.Timeouts,
		TraceDNS: w.everything || cfg.Journal.Path != "", LenientXtext: cfg.Checks.Submitter.LenientXtext,
	}
	return p, nil
}

// close lets go of what p does not share with other, which may be nil.
func (p *parts) close(other *parts) {
	if p.resolver != nil && (other == nil || p.resolver != other.resolver) {
		p.resolver.Close()
	}
	if p.backends != nil && (other == nil || p.backends != other.backends) {
		p.backends.Close()
	}
}

// wants says which checks somebody asks for: a rule, a header field, the MTA
// that is told the client's name, the journal. Those of the message stage are
// run for a rule only, since the message must be held for them.
func (p *parts) wants(everything bool) func(name string) bool {
	cfg := p.config
	everything = everything || cfg.Journal.Path != ""
	identity := false
	for _, b := range cfg.Backends {
		identity = identity || b.Identity == "xclient" || b.Identity == "xforward"
	}
	return func(name string) bool {
		if p.rules.chain.Needs(name) || p.candidate.chain != nil && p.candidate.chain.Needs(name) {
			return true
		}
		switch name {
		case "spf", "spf_helo":
			return everything || cfg.Headers.AuthenticationResults || cfg.Headers.ReceivedSPF
		case "submitter", "pra":
			return everything || cfg.Headers.ReceivedSPF
		case "iprev":
			return everything || cfg.Headers.AuthenticationResults || cfg.Headers.Received || identity
		case "mx", "dnsbl":
			return everything
		}
		return false
	}
}

// certificateFiles are read again when they change.
func (p *parts) certificateFiles() (files []string) {
	for _, c := range p.config.TLS.Certificates {
		files = append(files, c.Certificate, c.Key)
	}
	return files
}

// hostname is our name: the configured one, or the machine's.
func hostname(cfg *configs.Config) string {
	if cfg.Hostname != "" {
		return cfg.Hostname
	}
	if name, err := os.Hostname(); err == nil && name != "" {
		return name
	}
	return "localhost"
}

// same compares by what is said, not by where.
func same(a, b configs.Config) bool { return a.Equal(&b) }

func sameBackends(a, b *configs.Config) bool {
	for _, be := range a.Backends {
		if be.CA != "" {
			return false // the file may have changed
		}
	}
	pick := func(c *configs.Config) configs.Config {
		share := configs.Limits{BackendConnectionsPerClient: c.Limits.BackendConnectionsPerClient}
		return configs.Config{Hostname: c.Hostname, Backends: c.Backends, Routes: c.Routes, Timeouts: c.Timeouts, Limits: share}
	}
	return same(pick(a), pick(b))
}

// asFaults takes an error apart into its faults; what has no place gets at.
func asFaults(at configs.Position, err error) (faults configs.Faults) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			faults = append(faults, asFaults(at, e)...)
		}
		return faults
	}
	var f *configs.Fault
	if errors.As(err, &f) {
		return configs.Faults{f}
	}
	return configs.Faults{{Position: at, Text: err.Error()}}
}

// newLogger writes the log as configured.
func newLogger(c configs.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // the words were checked
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(jsonline.NewHandler(w, level))
}
