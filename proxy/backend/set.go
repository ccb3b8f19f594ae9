package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/configs"
	"postern/proxy/smtp"
)

// Set is all backends, and the routes to them.
type Set struct {
	o      Options
	pools  []*Pool
	routes []route
	routed []*Pool // pools that a recipient can be sent to, each once
}

// route is one recipient pattern and where it leads.
type route struct {
	local  string // lower case; empty: any
	domain string // A-labels in lower case; empty: any
	below  bool   // the domains below domain, not domain itself
	pool   *Pool
}

// New checks the configuration and makes the pools. It connects to nobody: Run
// does. All that is wrong is reported, each as a *configs.Fault, joined.
func New(backends []configs.Backend, routes []configs.Route, o Options) (*Set, error) {
	s := &Set{o: o.withDefaults()}
	var faults []error
	for _, b := range backends {
		fault := func(format string, a ...any) {
			faults = append(faults, &configs.Fault{Position: b.Position, Text: fmt.Sprintf("backend %q: ", b.Name) + fmt.Sprintf(format, a...)})
		}
		if slices.ContainsFunc(s.pools, func(p *Pool) bool { return p.name == b.Name }) {
			fault("the name is taken by an earlier one")
		}
		s.pools = append(s.pools, newPool(b, s.o, fault))
	}
	if len(backends) == 0 {
		faults = append(faults, &configs.Fault{Text: "no backend"})
	}
	for _, r := range routes {
		fault := func(format string, a ...any) {
			faults = append(faults, &configs.Fault{Position: r.Position, Text: "route: " + fmt.Sprintf(format, a...)})
		}
		i := slices.IndexFunc(s.pools, func(p *Pool) bool { return p.name == r.Backend })
		if i < 0 {
			fault("there is no backend %q", r.Backend)
			continue
		}
		if len(r.Recipients) == 0 {
			fault("no recipients; write \"*\" for all")
		}
		for _, pattern := range r.Recipients {
			rt, err := parseRoute(pattern)
			if err != nil {
				fault("%v", err)
				continue
			}
			rt.pool = s.pools[i]
			s.routes = append(s.routes, rt)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	s.routed = s.reachable()
	return s, nil
}

// reachable lists the pools that some recipient is routed to.
func (s *Set) reachable() []*Pool {
	var ps []*Pool
	add := func(p *Pool) {
		if !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	for _, r := range s.routes {
		add(r.pool)
		if r.local == "" && r.domain == "" {
			return ps
		}
	}
	add(s.pools[0])
	return ps
}

func newPool(b configs.Backend, o Options, fault func(string, ...any)) *Pool {
	p := &Pool{name: b.Name, identity: b.Identity, tlsMode: b.TLS, o: o, metrics: o.Metrics.Backend(b.Name, kinds)}
	p.loans.limits = limitsOf(b.Connections, o.PerClient)
	if p.identity == "" {
		p.identity = identityNone
	}
	if !slices.Contains([]string{identityXClient, identityXForward, identityProxyV2, identityNone}, p.identity) {
		fault("identity %q: want xclient, xforward, proxy-v2 or none", b.Identity)
	}
	if p.tlsMode == "" {
		p.tlsMode = tlsOpportunistic
	}
	if !slices.Contains([]string{tlsOff, tlsOpportunistic, tlsVerify}, p.tlsMode) {
		fault("tls %q: want off, opportunistic or verify", b.TLS)
	}
	if b.Connections < 0 {
		fault("connections: %d is less than none", b.Connections)
	}
	var roots *x509.CertPool
	if b.CA != "" {
		pem, err := os.ReadFile(b.CA)
		if err != nil {
			fault("ca: %v", err)
		} else if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			fault("ca: no certificate in %s", b.CA)
		}
	}
	if len(b.Addresses) == 0 {
		fault("no addresses")
	}
	// One cache for all addresses: its key is the server's name.
	sessions := tls.NewLRUClientSessionCache(64)
	for _, text := range b.Addresses {
		a := &address{pool: p, name: text, full: p.name + " " + text, network: "tcp", addr: text, wake: make(chan struct{}, 1), familyDue: true}
		host, port, err := net.SplitHostPort(text)
		if path, ok := strings.CutPrefix(text, "unix:"); ok {
			a.network, a.addr, host, err = "unix", path, "", nil
			if path == "" {
				fault("address %q: no path", text)
			}
			if p.tlsMode == tlsVerify {
				fault("address %q: a socket file has no name to verify a certificate by", text)
			}
		} else if err == nil && (host == "" || port == "") {
			err = errors.New("want host:port or unix:/path")
		}
		if err != nil {
			fault("address %q: %v", text, err)
		}
		if slices.ContainsFunc(p.addrs, func(b *address) bool { return b.name == text }) {
			fault("address %q: listed twice", text)
		}
		if p.tlsMode != tlsOff {
			a.tls = &tls.Config{
				ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: sessions,
				// Opportunistic TLS is against those who only listen. A
				// certificate that nobody checks is better than none at all.
				InsecureSkipVerify: p.tlsMode == tlsOpportunistic,
			}
		}
		p.addrs = append(p.addrs, a)
	}
	return p
}

// parseRoute reads "example.org", "*.example.org" (the domains below it),
// "user@example.org", or "*" (all).
func parseRoute(pattern string) (route, error) {
	var r route
	if pattern == "*" {
		return r, nil
	}
	d := pattern
	if local, domain, ok := smtp.CutAddress(pattern); ok {
		r.local, d = strings.ToLower(local), domain
		if r.local == "" {
			return r, fmt.Errorf("%q: no local part", pattern)
		}
	} else if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		r.below, d = true, rest
	}
	ascii, err := smtp.ASCIIDomain(d)
	if err != nil || ascii == "" || strings.ContainsAny(ascii, "* /:") {
		return r, fmt.Errorf("%q: want a domain, *.domain, an address or *", pattern)
	}
	r.domain = ascii
	return r, nil
}

// matches compares without regard to case, in the local part as well: a route
// is no mailbox, and nobody means two backends by two spellings.
func (r route) matches(local, domain string) bool {
	if r.local != "" && r.local != local {
		return false
	}
	switch {
	case r.below:
		n := len(domain) - len(r.domain)
		return n > 1 && domain[n-1] == '.' && domain[n:] == r.domain
	case r.domain != "":
		return r.domain == domain
	}
	return true
}

// Route returns the backend for a recipient: the first route that matches. A
// recipient that no route names belongs to the first backend, as every
// recipient does where there are no routes: so routes need name the exceptions
// only, and whether a domain is ours at all stays the MTA's to say.
func (s *Set) Route(rcpt smtp.Path) *Pool {
	if len(s.routes) == 0 {
		return s.pools[0]
	}
	local, domain := strings.ToLower(rcpt.Local), rcpt.Domain
	if ascii, err := smtp.ASCIIDomain(domain); err == nil {
		domain = ascii
	} else {
		domain = strings.ToLower(domain)
	}
	for _, r := range s.routes {
		if r.matches(local, domain) {
			return r.pool
		}
	}
	return s.pools[0]
}

// Capabilities returns what every backend that a recipient may be routed to
// offers now, as last learned: at each address that is up, or at each there is
// if none is. As long as one of the backends has told nothing, it offers
// nothing.
func (s *Set) Capabilities() Capabilities {
	var all Capabilities
	for i, p := range s.routed {
		c, ok := p.capabilities()
		if !ok {
			return Capabilities{}
		}
		if i == 0 {
			all = c
		} else {
			all = all.intersect(c)
		}
	}
	return all
}

// capabilities is what all addresses of p offer that a session may meet.
func (p *Pool) capabilities() (c Capabilities, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	anyUp := slices.ContainsFunc(p.addrs, func(a *address) bool { return a.up })
	for _, a := range p.addrs {
		if !a.known || a.up != anyUp {
			continue
		}
		if ok {
			c = c.intersect(a.caps)
		} else {
			c, ok = a.caps, true
		}
	}
	return c, ok
}

// Up says whether at least one address of at least one backend is usable, as
// far as is known.
func (s *Set) Up() bool {
	for _, p := range s.routed {
		p.mu.Lock()
		up := slices.ContainsFunc(p.addrs, func(a *address) bool { return a.up })
		p.mu.Unlock()
		if up {
			return true
		}
	}
	return false
}

// State is an address of a backend and whether it is usable, as far as is known.
type State struct {
	Backend, Address string
	Up               bool
}

// Addresses tells the state of each address, in the order of the configuration.
func (s *Set) Addresses() (all []State) {
	for _, p := range s.pools {
		p.mu.Lock()
		for _, a := range p.addrs {
			all = append(all, State{p.name, a.name, a.up})
		}
		p.mu.Unlock()
	}
	return all
}

// Run watches over the backends until ctx ends: it learns what they offer,
// finds out when one that failed is back, and ends idle connections.
func (s *Set) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range s.pools {
		for _, a := range p.addrs {
			s.o.Metrics.BackendUp(p.name, a.name, false)
			wg.Go(func() { a.watch(ctx) })
		}
	}
	t := time.NewTicker(max(s.o.IdleTime/4, 50*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-t.C:
			for _, p := range s.pools {
				p.sweep()
			}
		}
	}
}

// Close ends the idle connections. Those in use end when they are released, and
// so do those that are opened later for a transaction that is under way.
func (s *Set) Close() {
	for _, p := range s.pools {
		p.close()
	}
}
