package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"postern/checks/dnscache"
	"postern/configs"
	"postern/proxy/amtp"
	"postern/proxy/amtp/holder"
	"postern/proxy/amtp/spool"
	"postern/proxy/amtp/users"
	"postern/proxy/backend"
	"postern/proxy/smtp"
)

// holding is `postern amtp hold` as it runs.
type holding struct {
	cfg          *configs.Config
	log          *slog.Logger
	users        *users.File
	spool        *spool.Spool
	certificates *certificates
	resolver     *dnscache.Resolver
	smarthost    *backend.Set
	holder       *holder.Holder
	server       *amtp.Server
	listeners    []net.Listener
	own          []netip.AddrPort // where we listen
}

// Hold runs the server of AMTP's senders until a signal or ctx ends it.
func Hold(ctx context.Context, opt configs.Options, errout io.Writer) error {
	cfg, err := configs.Load(opt)
	if err != nil {
		return err
	}
	if !cfg.AMTP.Hold.Configured() {
		return &configs.Fault{Position: cfg.At("amtp.hold"), Text: "amtp.hold.addresses: missing: where users and servers connect, such as [\":26\"]"}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	lines := newGathering(errout)
	defer lines.Flush()
	h := &holding{cfg: cfg, log: slog.New(urgent{NewLogger(cfg.Log, lines).Handler(), lines})}
	defer h.close()
	if err := h.build(); err != nil {
		return err
	}
	return h.run(ctx, signals)
}

// build makes the parts and opens the listeners.
func (h *holding) build() (err error) {
	c := &h.cfg.AMTP.Hold
	var faults configs.Faults
	note := func(at string, err error) {
		if err != nil {
			faults = append(faults, configs.FaultsOf(h.cfg.At("amtp.hold."+at), err)...)
		}
	}
	name := hostname(h.cfg)
	h.users, err = users.Open(c.Users)
	note("users", err)
	h.certificates, err = loadCertificates(c.Certificates, name, nil)
	note("certificates", err)
	h.resolver, err = dnscache.New(dnscache.Options{
		Servers: h.cfg.DNS.Servers, Timeout: h.cfg.DNS.Timeout, Total: h.cfg.DNS.Total, Cache: h.cfg.DNS.Cache,
		Canaries: h.cfg.DNS.Canaries, Log: h.log,
	})
	note("", err)
	h.smarthost, err = backend.New([]configs.Backend{{
		Name: "smarthost", Addresses: []string{c.Smarthost.Address}, TLS: c.Smarthost.TLS, CA: c.Smarthost.CA, Identity: "none",
		Position: h.cfg.At("amtp.hold.smarthost"),
	}}, nil, backend.Options{Hostname: name, Timeouts: h.cfg.Timeouts, Log: h.log})
	note("smarthost", err)
	if len(faults) > 0 {
		return faults.Sorted()
	}
	if h.spool, err = spool.Open(c.Spool, spool.Limits{
		Octets: int64(c.SpoolSize), OctetsPerUser: int64(c.SpoolSizePerUser), Entries: c.Entries, EntriesPerUser: c.EntriesPerUser,
	}, h.log); err != nil {
		return &configs.Fault{Position: h.cfg.At("amtp.hold.spool"), Text: err.Error()}
	}
	for i, address := range c.Addresses {
		ln, err := listenConfig.Listen(context.Background(), "tcp", address)
		if err != nil {
			return &configs.Fault{Position: h.cfg.At(fmt.Sprintf("amtp.hold.addresses[%d]", i)), Text: err.Error()}
		}
		h.listeners = append(h.listeners, ln)
		if at, err := netip.ParseAddrPort(ln.Addr().String()); err == nil {
			h.own = append(h.own, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
		}
	}
	allow := make([]netip.Prefix, 0, len(c.Allow))
	for _, text := range c.Allow {
		if p, err := configs.ParsePrefix(text); err == nil { // the texts were checked
			allow = append(allow, p)
		}
	}
	h.holder = holder.New(holder.Options{
		Hostname: name, Users: h.users, Spool: h.spool, Resolver: h.resolver, Smarthost: h.smarthost.Route(smtp.Path{}),
		Fallback: c.Fallback == "smtp", Port: uint16(c.Port), Lifetime: c.Lifetime, Retry: c.Retry, Timeout: c.CallTimeout, Log: h.log, Dial: h.dial,
		Connections: h.cfg.Limits.Connections, ConnectionsPerClient: h.cfg.Limits.ConnectionsPerClient,
		Callable: func(a netip.Addr) error {
			switch here, err := h.ours(a, uint16(c.Port)); {
			case err != nil:
				return fmt.Errorf("%w: %w", holder.ErrTrouble, err)
			case here:
				return errors.New(a.String() + " is this server itself")
			}
			return amtp.Callable(a, allow)
		},
	})
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: h.certificates.get}
	settings := &amtp.Settings{Hostname: name, TLS: config, Limits: h.cfg.Limits, Timeouts: h.cfg.Timeouts}
	h.server = &amtp.Server{
		Name: "amtp-hold", Handler: h.holder, Settings: func() *amtp.Settings { return settings }, Admit: h.holder.Admit, Log: h.log,
	}
	return nil
}

// dial calls from the address that we listen on, where one is named: other servers call back where they were called from,
// and look whether the users' domain has that address.
func (h *holding) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{}
	if to, err := netip.ParseAddrPort(address); err == nil {
		d.LocalAddr = h.from(to.Addr().Unmap())
	}
	return d.DialContext(ctx, network, address)
}

// from is the address to call another from; nil: the system chooses.
func (h *holding) from(to netip.Addr) net.Addr {
	for _, own := range h.own {
		if a := own.Addr(); !a.IsUnspecified() && a.Is4() == to.Is4() && (!a.IsLoopback() || to.IsLoopback()) {
			return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
		}
	}
	return nil
}

// domainsLooked bounds how many domains of users are looked up at the start.
const domainsLooked = 20

// lookAtDomains warns of domains whose users' mail nobody will fetch: other servers call back only where the domain
// resolves to the address that they were called from.
func (h *holding) lookAtDomains(ctx context.Context) {
	domains := h.users.Domains()
	for _, d := range domains[:min(len(domains), domainsLooked)] {
		addrs, err := h.resolver.LookupNetIP(ctx, "ip", d)
		here := slices.ContainsFunc(addrs, func(a netip.Addr) bool {
			ours, err := h.ours(a.Unmap(), h.own[0].Port())
			return ours || err != nil // which is said where somebody is to be called
		})
		switch {
		case ctx.Err() != nil:
			return
		case here:
		case err != nil:
			h.log.Warn("configuration", "warning", fmt.Sprintf("the domain %s cannot be looked up, and who cannot does not fetch its users' mail: %v", d, err))
		default:
			h.log.Warn("configuration", "warning", fmt.Sprintf("the domain %s resolves to %v, and to no address that is served here: nobody fetches its users' mail, unless a router puts one address in place of the other", d, addrs))
		}
	}
}

// ours says whether who calls an address would reach us.
func (h *holding) ours(a netip.Addr, port uint16) (bool, error) {
	for _, own := range h.own {
		switch {
		case own.Port() != port:
		case own.Addr() == a:
			return true, nil
		case own.Addr().IsUnspecified():
			if here, err := onThisMachine(a); here || err != nil {
				return here, err
			}
		}
	}
	return false, nil
}

// onThisMachine says whether an address is one of this machine's.
func onThisMachine(a netip.Addr) (bool, error) {
	own, err := amtp.OwnAddresses()
	if err != nil {
		return false, fmt.Errorf("the addresses of this machine cannot be read (name one in amtp.hold.addresses): %w", err)
	}
	return slices.Contains(own, a), nil
}

// run serves until it is time to stop.
func (h *holding) run(ctx context.Context, signals <-chan os.Signal) error {
	watching, endWatch := context.WithCancel(context.Background())
	defer endWatch()
	h.watch(watching, []string{h.users.Path()}, "users", h.users.Reload)
	var pairs []string
	for _, c := range h.cfg.AMTP.Hold.Certificates {
		pairs = append(pairs, c.Certificate, c.Key)
	}
	h.watch(watching, pairs, "certificates", h.certificates.reload)

	working, endWork := context.WithCancel(context.Background())
	defer endWork()
	cut, cutWork := context.WithCancel(context.Background())
	defer cutWork()
	var wg sync.WaitGroup
	wg.Go(func() { h.holder.Run(working, cut) })
	failed := make(chan error, len(h.listeners))
	for _, ln := range h.listeners {
		h.log.Info("listening", "listener", h.server.Name, "address", ln.Addr().String(), "tls", "starttls")
		wg.Go(func() {
			if err := h.server.Serve(ln); !errors.Is(err, amtp.ErrServerClosed) {
				failed <- err
			}
		})
	}
	if len(h.cfg.AMTP.Hold.Certificates) == 0 {
		h.log.Warn("configuration", "warning", "amtp.hold.certificates names none: users meet one that is made at each start, and cannot tell it from another's")
	}
	wg.Go(func() { h.lookAtDomains(working) })
	tell("READY=1")
	var err error
	for over := false; !over; {
		select {
		case <-ctx.Done():
			over = true
		case err = <-failed:
			over = true
		case sig := <-signals:
			if over = sig != syscall.SIGHUP; over {
				h.log.Info("stopping", "signal", sig.String())
				break
			}
			h.reload("users", h.users.Reload)
			h.reload("certificates", h.certificates.reload)
			h.log.Info("the rest of the configuration is read at a start alone")
		}
	}
	tell("STOPPING=1")
	endWork()
	drain, cancel := context.WithTimeout(context.Background(), h.cfg.Timeouts.Drain)
	defer cancel()
	stop := context.AfterFunc(drain, cutWork)
	defer stop()
	go func() {
		select {
		case <-signals: // a second one: at once
			cancel()
		case <-drain.Done():
		}
	}()
	if shut := h.server.Shutdown(drain); shut != nil {
		h.log.Warn("connections were cut off", "cause", shut.Error())
	}
	wg.Wait()
	octets, entries := h.spool.Used()
	h.log.Info("stopped", "entries", entries, "octets", octets)
	return err
}

// watch reads files again when they have changed.
func (h *holding) watch(ctx context.Context, files []string, what string, reload func() error) {
	if len(files) == 0 {
		return
	}
	if err := configs.Watch(ctx, files, func() { h.reload(what, reload) }); err != nil {
		h.log.Warn("changes of files will be noticed late", "error", err.Error())
	}
}

func (h *holding) reload(what string, reload func() error) {
	if err := reload(); err != nil {
		h.log.Error(what+" not reloaded, the old ones stay in use", "error", oneLine(err))
		return
	}
	h.log.Info(what + " reloaded")
}

// close lets go of what build has made.
func (h *holding) close() {
	for _, ln := range h.listeners {
		_ = ln.Close()
	}
	if h.spool != nil {
		_ = h.spool.Close()
	}
	if h.smarthost != nil {
		h.smarthost.Close()
	}
	if h.resolver != nil {
		h.resolver.Close()
	}
}
