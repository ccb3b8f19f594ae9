// Package dnscache is a caching stub resolver: it answers from memory what it
// may, and asks the name servers of the site for the rest. Its answers tell a
// domain that published nothing from name servers that do not answer, and
// Healthy tells whose fault the latter is.
package dnscache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"postern/configs"
	"postern/metrics"
)

// Options is what a Resolver is made of. The zero Options ask the servers of
// resolv.conf, with the configuration's defaults.
type Options struct {
	// Servers are "address", "address:port" or "tls://address:port#name", at
	// most 8, in order of preference; none: those of resolv.conf, which is read
	// again when it changes.
	Servers []string
	// Timeout is for one try at one server, Total for a whole look-up. 0: the
	// defaults of configs.DNS.
	Timeout, Total time.Duration
	// Cache is as configured; with no entries, the default.
	Cache configs.DNSCache
	// CacheBytes bounds what the cache holds, by estimate, in octets. 0: 640
	// for each entry, 1 MiB at the least.
	CacheBytes int64
	// MaxInFlight bounds the questions that are under way at a time, of which a
	// client (WithTransaction) leaves twice as many to others as it has; those
	// beyond fail with a temporary error. 0: 1024.
	MaxInFlight int
	// Canaries are names of zones known to work, of several operators, at most
	// configs.MaxCanaries. They are asked for when much fails, to tell our
	// trouble from theirs; none: what fails is judged by itself.
	Canaries []string
	// RootCAs verify tls:// servers; nil: the system's.
	RootCAs *x509.CertPool
	// ResolvConf is read if there are no Servers. "": /etc/resolv.conf.
	ResolvConf string

	Metrics *metrics.Metrics // may be nil
	Log     *slog.Logger     // may be nil
	Now     func() time.Time // nil: time.Now
	// Dial opens a connection ("udp" or "tcp"; TLS is put on top). nil: a
	// net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultInFlight = 1024
	bytesPerEntry   = 640
	minCacheBytes   = 1 << 20
	maxTTLSeconds   = 7 * 24 * 3600 // RFC 8767 §4
	maxNegativeCap  = 3 * 3600      // RFC 2308 §5: one to three hours
)

// New makes a resolver. It sends nothing and starts nothing; an error says
// which setting is wrong, and how it is written.
func New(o Options) (*Resolver, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	var system *systemFile
	if len(o.Servers) == 0 {
		system = &systemFile{name: o.ResolvConf, checked: o.Now()}
		var err error
		if o.Servers, err = system.read(); err != nil {
			return nil, err
		}
	}
	if len(o.Servers) > maxServers {
		return nil, fmt.Errorf("dns: %d servers; at most %d can be asked", len(o.Servers), maxServers)
	}
	r := &Resolver{
		timeout: o.Timeout, total: o.Total,
		maxTTL:         uint32(min(o.Cache.MaxTTL.Seconds(), maxTTLSeconds)),
		maxNegativeTTL: uint32(min(o.Cache.NegativeMaxTTL.Seconds(), maxNegativeCap)),
		maxInFlight:    o.MaxInFlight,
		clientTimer:    clientTimer,
		metrics:        o.Metrics, log: o.Log, now: o.Now, dial: o.Dial,
	}
	base := &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	servers := make([]*server, 0, len(o.Servers))
	for _, text := range o.Servers {
		s, err := parseServer(text, base)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	r.servers.Store(&servers)
	r.system = system
	canaries, err := canonicalCanaries(o.Canaries)
	if err != nil {
		return nil, err
	}
	if r.cache, err = newCache(o.Cache, o.CacheBytes); err != nil {
		return nil, fmt.Errorf("dns cache: %w", err)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.health = newHealth(r, canaries)
	return r, nil
}

func canonicalCanaries(names []string) (canaries []string, err error) {
	if len(names) > configs.MaxCanaries {
		return nil, fmt.Errorf("dns: %d canaries; at most %d", len(names), configs.MaxCanaries)
	}
	for _, name := range names {
		n, ok := canonical(name)
		if !ok {
			return nil, fmt.Errorf("dns: canary %q is no domain name; write for example iana.org", name)
		}
		canaries = append(canaries, n)
	}
	return canaries, nil
}

// complete puts in what is left out, and refuses what cannot be.
func (o *Options) complete() error {
	d := configs.Default().DNS
	if o.Timeout == 0 {
		o.Timeout = d.Timeout
	}
	if o.Total == 0 {
		o.Total = d.Total
	}
	if o.Cache.Entries == 0 {
		o.Cache = d.Cache // as a whole: a TTL of 0 says that nothing is kept
	}
	if o.Timeout < 0 || o.Total < 0 || o.Cache.Entries < 0 || o.Cache.MaxTTL < 0 || o.Cache.NegativeMaxTTL < 0 || o.Cache.ServeStale < 0 || o.CacheBytes < 0 || o.MaxInFlight < 0 {
		return errors.New("dns: a negative time or size; write for example timeout: 2s, total: 20s, entries: 100000")
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = max(int64(o.Cache.Entries)*bytesPerEntry, minCacheBytes)
	}
	if o.MaxInFlight == 0 {
		o.MaxInFlight = defaultInFlight
	}
	if o.ResolvConf == "" {
		o.ResolvConf = resolvConf
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return nil
}

// Report has the metrics tell of this resolver: of the answers in its cache, and
// whether it is healthy. It is for the resolver in use to call, and NOT: for New,
// since a configuration that is refused at a reload has made one as well.
func (r *Resolver) Report() {
	r.metrics.DNSCacheEntries(r.cache.entries)
	r.metrics.DNSHealthy(r.Healthy)
}
