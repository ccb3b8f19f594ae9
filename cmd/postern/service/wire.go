package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/checks/memory"
	"postern/checks/network"
	"postern/cmd/postern/control"
	"postern/configs"
	"postern/metrics"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy"
	"postern/proxy/amtp/receiver"
	"postern/proxy/backend"
)

// Load reads a configuration and builds its parts, for commands that look and
// do not serve.
func Load(opt configs.Options) (*Parts, error) {
	cfg, err := configs.Load(opt)
	if err != nil {
		return nil, err
	}
	return Build(cfg, &World{Log: slog.New(slog.DiscardHandler), Fallback: InnerBackend("maildir", "xclient")}, nil)
}

// WaitUp waits, for so long, until a backend is up and has told what it offers.
func (p *Parts) WaitUp(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !p.Backends.Up() {
		select {
		case <-ctx.Done():
			return errors.New("no backend comes up")
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// World is what outlives every configuration.
type World struct {
	Log     *slog.Logger
	metrics *metrics.Metrics
	// fallback is the backend where none is configured, and dial the way to
	// the backends; nil: the network.
	Fallback configs.Backend
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	// everything makes every check run and keeps the DNS answers, as somebody wants to see them.
	Everything bool
	// Serves says that mail comes: the store that is configured is opened.
	Serves bool
	// Store stands in for what is remembered where nobody is served; nil: nobody is known.
	Store memory.Store
	// answers stands in for the DNS in the checks, nil: the configured servers do;
	// now for the clock of lists, nil: time.Now.
	Answers checks.Resolver
	// Networks stands in for the files of networks where Answers does for the DNS.
	Networks checks.Networks
	// Services stands in for the policy services, those that a chain may read.
	Services func(*policy.Chain) []checks.Service
	// Milters stands in for the milters in the same way.
	Milters func(*policy.Chain) []checks.Milter
	Now     func() time.Time
}

// Parts is what one configuration makes of the program. A reload makes new ones,
// and takes over from the old what has not changed and is costly to lose: the
// DNS cache, the connections to the MTA, the TLS sessions.
type Parts struct {
	Config       *configs.Config
	Settings     *proxy.Settings
	Resolver     *dnscache.Resolver
	Rules        rules
	candidate    rules // what policy.candidate names; no chain: nothing
	Backends     *backend.Set
	Memory       *memory.Memory // nil: nobody asks for anything
	networks     *network.Files // nil: no file is configured
	filters      []filter
	judges       []judge
	Certificates *certificates
	keepers      []keeper           // that are asked for mail
	amtp         *receiver.Settings // nil: no listener speaks it
	token        []byte             // of the page; nil: none
	roots        string             // of client certificates: the file's content
}

// Build makes the parts, and connects to nobody. All that is wrong with them comes
// back as configs.Faults. old may be nil.
func Build(cfg *configs.Config, w *World, old *Parts) (*Parts, error) {
	p := &Parts{Config: cfg}
	var faults configs.Faults
	note := func(at string, err error) { faults = append(faults, configs.FaultsOf(cfg.At(at), err)...) }

	name := hostname(cfg)
	var err error
	if old != nil && same(configs.Config{DNS: cfg.DNS}, configs.Config{DNS: old.Config.DNS}) {
		p.Resolver = old.Resolver
	} else if p.Resolver, err = dnscache.New(dnscache.Options{
		Servers: cfg.DNS.Servers, Timeout: cfg.DNS.Timeout, Total: cfg.DNS.Total, Cache: cfg.DNS.Cache,
		Canaries: cfg.DNS.Canaries, Metrics: w.metrics, Log: w.Log,
	}); err != nil {
		note("dns.servers", err)
	}

	measured := cfg.Checks
	if w.Answers != nil {
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

	if p.Rules, err = buildRulesAt(cfg, w.Now); err != nil {
		note("policy", err)
	}
	if file := cfg.Policy.Candidate; file != "" {
		if p.candidate, err = LoadRules(file); err != nil {
			note("policy.candidate", err)
		}
	}
	if files := cfg.Checks.Geo.Files; len(files) > 0 && w.Networks == nil {
		var before *network.Files
		if old != nil {
			before = old.networks
		}
		p.networks = network.Open(files, before, w.Log)
	}
	if err := journal.Verify(cfg.Journal); err != nil {
		note("journal", err)
	}
	if w.Answers == nil { // made-up answers need no password
		checkState(&cfg.State, note)
		if p.token, err = readToken(cfg.Admin.TokenFile); err != nil {
			note("admin.token_file", fmt.Errorf("admin.token_file: %w", err))
		}
	}

	p.buildFilters(w, old)
	p.keepers = buildKeepers(cfg.Retrieve, note)
	p.buildAMTP(name, note)
	if path := cfg.Control.Socket; path != "" {
		if err := control.Verify(path); err != nil {
			note("control.socket", err)
		}
	}

	tlsConfig, err := p.buildTLS(name, w, old)
	if err != nil {
		note("tls", err)
	}

	backends := cfg.Backends
	if len(backends) == 0 {
		backends = []configs.Backend{w.Fallback}
	}
	if old != nil && sameBackends(cfg, old.Config) {
		p.Backends = old.Backends
	} else if p.Backends, err = backend.New(backends, cfg.Routes, backend.Options{
		PerClient: cfg.Limits.BackendConnectionsPerClient,
		Hostname:  name, Timeouts: cfg.Timeouts, Metrics: w.metrics, Log: w.Log, Dial: w.Dial,
	}); err != nil {
		note("backends", err)
	}
	if len(faults) == 0 {
		if err := p.remember(w, old); err != nil {
			note("state", err)
		}
	}
	if len(faults) > 0 {
		p.Close(old)
		return nil, faults.Sorted()
	}

	p.Resolver.Report()
	var answers checks.Resolver = p.Resolver
	if w.Answers != nil {
		answers = w.Answers
	}
	networks := w.Networks
	if p.networks != nil {
		networks = p.networks // NOT: in any case, a nil *Files is no nil Networks
	}
	p.Settings = &proxy.Settings{
		Hostname: name, TLS: tlsConfig,
		Checks: checks.NewSet(checks.Deps{
			Hostname: name, Resolver: answers, Config: measured, Timeout: cfg.DNS.Total, Healthy: p.Resolver.Healthy,
			Memory: p.Memory, Networks: networks, Services: p.services(w), Milters: p.milters(w), Reads: p.wants, Metrics: w.metrics, Log: w.Log, Uses: p.uses(w.Everything),
		}, p.wants),
		Chain: p.Rules.Chain, Candidate: p.candidate.Chain, Observe: cfg.Policy.Mode == "observe", Backends: p.Backends, Memory: p.Memory,
		Headers: cfg.Headers, Limits: cfg.Limits, Timeouts: cfg.Timeouts,
		TraceDNS: w.Everything || cfg.Journal.Path != "", LenientXtext: cfg.Checks.Submitter.LenientXtext,
	}
	return p, nil
}

// Close lets go of what p does not share with other, which may be nil.
func (p *Parts) Close(other *Parts) {
	if p.Resolver != nil && (other == nil || p.Resolver != other.Resolver) {
		p.Resolver.Close()
	}
	if p.Backends != nil && (other == nil || p.Backends != other.Backends) {
		p.Backends.Close()
	}
	p.closeFilters(other)
	if p.Memory != nil && (other == nil || p.Memory != other.Memory) {
		_ = p.Memory.Close() // the server that used it has closed it, and told what was wrong
	}
}

// wants says which checks the rules ask for.
func (p *Parts) wants(check string) bool {
	return p.Rules.Chain.Needs(check) || p.candidate.Chain != nil && p.candidate.Chain.Needs(check)
}

// uses says who asks for results besides the rules.
func (p *Parts) uses(everything bool) (uses checks.Use) {
	cfg := p.Config
	add := func(wanted bool, use checks.Use) {
		if wanted {
			uses |= use
		}
	}
	add(everything || cfg.Journal.Path != "", checks.Journal)
	add(cfg.Headers.AuthenticationResults, checks.AuthenticationResults)
	add(cfg.Headers.ReceivedSPF, checks.ReceivedSPF)
	add(cfg.Headers.Received, checks.ClientName)
	add(slices.ContainsFunc(cfg.Milters, func(m configs.Milter) bool { return m.AddFields }), checks.AddedFields)
	for _, b := range cfg.Backends {
		add(b.Identity == "xclient" || b.Identity == "xforward", checks.ClientName)
	}
	return uses
}

// certificateFiles are read again when they change.
func (p *Parts) certificateFiles() (files []string) {
	for _, c := range p.Config.TLS.Certificates {
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
