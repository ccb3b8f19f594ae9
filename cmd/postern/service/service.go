// Package service is the proxy that runs: it assembles what a configuration asks for, opens the listeners, reloads, hands over and stops.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"postern/cmd/postern/control"
	"postern/configs"
	"postern/metrics"
	"postern/metrics/admin"
	"postern/policy"
	"postern/policy/journal"
	"postern/proxy"
	"postern/proxy/amtp/receiver"
	"postern/proxy/backend"
)

// journalPatience is how long a disk may take for what waits at the end.
const journalPatience = 5 * time.Second

// Service is a running proxy with all that stands around it.
type Service struct {
	World
	opt     Options
	started time.Time

	smtp    *proxy.Server
	admin   *admin.Server
	maildir *backend.Maildir
	journal *journal.Writer // nil: none is kept
	inner   *innerListener

	parts     atomic.Pointer[Parts]
	reloads   reloads
	listening atomic.Bool
	before    *estate              // nil: nobody served before us
	running   map[string]*standing // by name
	AdminAt   net.Addr             // nil: none
	page      Page                 // nil: none
	written   configs.Journal      // which a reload does not change

	endWatch, endBackends context.CancelFunc // of the current parts
	endRetrieval          context.CancelFunc // of that at start; nil: there is none

	adminSocket *socket         // nil: none
	control     *control.Server // nil: none
	retriever   retriever
	amtp        *amtpSide                         // nil: no listener has spoken it
	amtpLast    atomic.Pointer[receiver.Settings] // the newest that there were

	included chan struct{} // a file that the configuration includes has changed
	failed   chan error    // a listener, or the admin side, gave up
	stopping chan struct{} // closed when nothing is served any more
	wg       sync.WaitGroup
}

// Run runs the proxy until a signal or ctx ends it. page makes what a person sees; nil: nothing.
func Run(ctx context.Context, opt configs.Options, buildVersion string, page func(*Service) Page, errout io.Writer) error {
	// What another processor does while this one starts. The beginnings of the program's packages have mapped half
	// of its file by now, and do not run again. Their pages are given back before the configuration takes memory: with both
	// the process would hold more than it ever does later. The built-in policy is read once, and most sites have it.
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() {
		forgetPages()
		policy.BuiltIn()
	})

	cfg, err := configs.Load(opt)
	if err != nil {
		return err
	}
	// Before anything else, so that a signal that comes early is not lost.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)

	lines := newGathering(errout)
	defer lines.Flush()
	s := New(Options{
		Config: opt, Version: buildVersion, Maildir: "Maildir", Page: page,
		Log: slog.New(urgent{NewLogger(cfg.Log, lines).Handler(), lines}),
	})
	if s.before, err = takeEstate(); err != nil {
		return err
	}
	inherited, err := inheritedSockets()
	if err != nil {
		return err
	}
	if err := s.Start(cfg, inherited, nil); err != nil {
		return err
	}
	for name, ln := range inherited {
		s.Log.Warn("a socket from systemd fits no listener", "socket", name, "address", ln.Addr().String())
		_ = ln.Close()
	}
	if err := s.before.served(); err != nil {
		s.Log.Error("the process before us was not told that we serve", "error", err.Error())
	}
	tell("READY=1")
	forgetStart()
	err = s.loop(ctx, signals)
	if errors.Is(err, errHandedOver) {
		s.leave(signals)
		err = nil
	} else {
		tell("STOPPING=1")
	}
	s.Stop(signals)
	return err
}

// tell informs systemd, if it is there and wants to know.
func tell(state string) { _, _ = daemon.SdNotify(false, state) }

// Options are what a service is made with.
type Options struct {
	Config  configs.Options // where the configuration is read from again at a reload
	Version string          // of this build
	Log     *slog.Logger
	Maildir string // folder of the embedded backend
	// Page makes what the admin address shows a person; nil: nothing.
	Page func(*Service) Page
}

// New makes a service that does not run yet: start begins it.
func New(opt Options) *Service {
	m := metrics.New()
	m.BuildInfo(opt.Version)
	inner := NewInnerListener()
	return &Service{
		World: World{Log: opt.Log, metrics: m, Dial: inner.Dial, Fallback: InnerBackend("maildir", "xclient"), Serves: true},
		opt:   opt, started: time.Now(), inner: inner, retriever: retriever{log: opt.Log, metrics: m, asking: make(chan struct{}, 1)},
		included: make(chan struct{}, 1), failed: make(chan error, 1), stopping: make(chan struct{}),
	}
}

// Start builds everything, opens the listeners, and serves. record is told of every
// transaction besides the journal; it may be nil.
func (s *Service) Start(cfg *configs.Config, inherited map[string]net.Listener, record func(*journal.Record)) (err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	p, err := Build(cfg, &s.World, nil)
	if err != nil {
		return err
	}
	undo = append(undo, func() { p.Close(nil) })
	running, err := openListeners(cfg, s.before.listeners(), inherited)
	if err != nil {
		return err
	}
	undo = append(undo, func() {
		for _, st := range running {
			_ = st.ln.Close()
		}
	})
	adminLn, err := s.listenAdmin(cfg, inherited, running)
	if err != nil {
		return err
	}
	if adminLn != nil {
		undo = append(undo, func() { _ = adminLn.Close() })
	}
	if cfg.Journal.Path != "" {
		if s.journal, err = journal.New(cfg.Journal, journal.Options{Metrics: s.metrics, Log: s.Log}); err != nil {
			return &configs.Fault{Position: cfg.At("journal"), Text: err.Error()}
		}
		s.written = cfg.Journal
		record = both(record, s.journal.Write)
	}
	if adminLn != nil && s.opt.Page != nil {
		s.page = s.opt.Page(s)
		undo = append(undo, s.page.Close)
		record = both(record, s.page.Record)
	}
	if err := s.openControl(cfg); err != nil {
		return err
	}
	for _, w := range p.Warnings(time.Now()) {
		s.Log.Warn("configuration", "warning", w.Error())
	}

	s.useState(nil, p)
	s.metrics.NetworkFilesUnreadable(p.unreadNetworks)
	s.smtp = proxy.New(proxy.Options{Log: s.Log, Metrics: s.metrics, Record: record}, p.Settings)
	s.use(p)
	if s.control != nil {
		s.control.Serve()
	}
	if s.before != nil {
		// The first client comes at once, and shall not find us offering little.
		_ = p.WaitUp(context.Background(), 2*time.Second)
	}
	s.standOn(running)
	s.listening.Store(true)
	if adminLn != nil {
		s.admin = admin.New(admin.Options{
			Metrics: s.metrics.Handler(), Ready: s.ready, Page: s.page, Hosts: s.adminHosts, Log: s.Log,
		})
		s.goServe("admin", func() error { return s.admin.Serve(adminLn) })
		s.Log.Info("admin", "address", adminLn.Addr().String())
		if a := s.Access(); s.page != nil && a.Token == nil && !a.Open {
			s.Log.Info("the page is not shown: admin.address can be reached from other machines, and admin.token_file names no token")
		}
	}
	s.retrieveAtStart(p)
	return nil
}

// listenAdmin returns the listener of the HTTP side: the one before, one that was
// inherited, or a new one; nil: there is none.
func (s *Service) listenAdmin(cfg *configs.Config, inherited map[string]net.Listener, running map[string]*standing) (ln net.Listener, err error) {
	if cfg.Admin.Address == "" {
		return nil, nil
	}
	if ln = s.before.takeAdmin(cfg.Admin.Address); ln == nil {
		ln = takeInherited(inherited, "admin", false)
	}
	if ln == nil {
		if ln, err = listen(cfg.Admin.Address, s.before.admin(), slices.Collect(maps.Values(running))); err != nil {
			return nil, &configs.Fault{Position: cfg.At("admin.address"), Text: "admin: " + err.Error()}
		}
	}
	s.AdminAt = ln.Addr()
	s.adminSocket = &socket{Name: "admin", Address: cfg.Admin.Address, Admin: true, ln: ln}
	return ln, nil
}

// Address is where the listener of that name can be reached.
func (s *Service) Address(listener string) net.Addr { return s.running[listener].ln.Addr() }

// WaitUp waits, for so long, until a backend is up and has told what it offers.
func (s *Service) WaitUp(ctx context.Context, limit time.Duration) error {
	return s.parts.Load().WaitUp(ctx, limit)
}

// both calls two functions, the first of which may be nil.
func both(first, second func(*journal.Record)) func(*journal.Record) {
	if first == nil {
		return second
	}
	return func(r *journal.Record) {
		first(r)
		second(r)
	}
}

// use makes p the current parts.
func (s *Service) use(p *Parts) {
	old := s.parts.Swap(p)
	if p.amtp != nil {
		s.amtpLast.Store(p.amtp)
	}
	if len(p.Config.Backends) == 0 {
		s.embed(p)
	}
	p.Certificates.publish()
	if old == nil || old.Backends != p.Backends {
		if s.endBackends != nil {
			s.endBackends()
		}
		s.metrics.ForgetBackends()
		var ctx context.Context
		ctx, s.endBackends = context.WithCancel(context.Background())
		s.wg.Go(func() { p.Backends.Run(ctx) })
		if old != nil {
			// Until they have told what they offer, EHLO would offer little, and
			// we would count as not ready. If they are down, so it is.
			_ = p.WaitUp(ctx, 2*time.Second)
		}
	}
	if s.endWatch != nil {
		s.endWatch()
	}
	var ctx context.Context
	ctx, s.endWatch = context.WithCancel(context.Background())
	if p.amtp != nil && p.amtp.Users != nil {
		s.watch(ctx, []string{p.amtp.Users.Path()}, func() { s.reloadUsers(p.amtp.Users) })
	}
	s.watch(ctx, p.certificateFiles(), func() { s.reloadCertificates(p) })
	if p.networks != nil {
		s.watch(ctx, p.networks.Paths(), p.networks.Reload)
	}
	s.watch(ctx, p.Config.Included(), func() {
		select {
		case s.included <- struct{}{}:
		default: // a notice waits already, and brings what the file has by then
		}
	})
	for _, r := range []*rules{&p.Rules, &p.candidate} {
		s.watch(ctx, r.files(), func() { s.reloadLists(r) })
	}
	if old != nil {
		s.useState(old, p)
		s.metrics.NetworkFilesUnreadable(p.unreadNetworks)
	}
	s.smtp.Configure(p.Settings)
	if old != nil {
		s.retireState(old, p)
		s.retire(old, p)
	}
}

// retire lets go of old parts when nobody uses them any more. Sessions take the
// new ones with their next transaction; a running one asks the old resolver as long
// as it lasts. NOT: for so many minutes, which a message may well outlast.
func (s *Service) retire(old, p *Parts) {
	if old.Backends != p.Backends {
		old.Backends.Close() // its connections in use go on until they are released
	}
	if old.Resolver == p.Resolver {
		return
	}
	old.Resolver.Retire()
}

// embed starts the embedded backend, once.
func (s *Service) embed(p *Parts) {
	if s.maildir != nil {
		return
	}
	s.maildir = &backend.Maildir{
		Dir: s.opt.Maildir, Hostname: p.Settings.Hostname,
		MaxSize: int64(p.Config.Limits.MessageSize) + 1<<20, // the fields that we add
	}
	s.Log.Info("no backend is configured: mail goes into a Maildir", "folder", s.opt.Maildir)
	s.goServe("maildir", func() error {
		if err := s.maildir.Serve(s.inner); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// goServe runs one of those that should never come back while we run.
func (s *Service) goServe(name string, run func() error) {
	s.wg.Go(func() {
		if err := run(); err != nil {
			select {
			case s.failed <- fmt.Errorf("%s: %w", name, err):
			default: // the first failure is what ends us
			}
		}
	})
}

// standOn serves on the listeners, and leaves those that are not among them.
func (s *Service) standOn(next map[string]*standing) {
	for name, st := range s.running {
		if next[name] != st {
			st.left.Store(true)
			_ = st.ln.Close()
			s.Log.Info("listener closed", "listener", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(next)) { // so that the log has them in the same order each time
		st := next[name]
		if s.running[name] == st {
			continue
		}
		s.Log.Info("listening", "listener", name, "address", st.ln.Addr().String(), "tls", st.config.TLS)
		if st.config.Protocol == configs.ProtocolAMTP {
			side := s.beginAMTP()
			s.goServe("listener "+name, func() error {
				if err := s.serveAMTP(side, st.ln, st.config); err != nil && !st.left.Load() {
					return err
				}
				return nil
			})
			continue
		}
		s.goServe("listener "+name, func() error {
			err := s.smtp.Serve(st.ln, ProxyListener(st.config))
			if errors.Is(err, proxy.ErrServerClosed) || st.left.Load() {
				return nil
			}
			return err
		})
	}
	s.running = next
}

// ready says what stands in the way of mail. It is asked from other goroutines.
func (s *Service) ready() (reasons []string) {
	if !s.listening.Load() {
		reasons = append(reasons, "no listener yet")
	}
	if s.smtp.Draining() {
		reasons = append(reasons, "draining")
	}
	if !s.parts.Load().Backends.Up() {
		reasons = append(reasons, "no backend is up")
	}
	return reasons
}

// loop waits for what happens until it is time to stop.
func (s *Service) loop(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		case <-s.included:
			s.reload()
		case sig := <-signals:
			switch sig {
			case syscall.SIGHUP:
				tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%s", daemon.SdNotifyMonotonicUsec()))
				s.reload()
				tell("READY=1")
			case syscall.SIGUSR1:
				// The log goes to standard error, which is not ours to reopen.
				if s.journal != nil {
					s.journal.Reopen()
				}
				s.Log.Info("files reopened")
			case syscall.SIGUSR2:
				if err := s.handOver(); err != nil {
					s.Log.Error("not handed over, this process goes on", "error", oneLine(err))
					continue
				}
				return errHandedOver
			default:
				s.Log.Info("stopping", "signal", sig.String())
				return nil
			}
		}
	}
}

// Stop drains the sessions and ends everything. A further SIGTERM or SIGINT ends it at once.
func (s *Service) Stop(signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), s.parts.Load().Config.Timeouts.Drain)
	defer cancel()
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				if sig == syscall.SIGTERM || sig == syscall.SIGINT {
					cancel()
				}
			case <-done:
				return
			}
		}
	}()
	var amtpErr error
	var amtpDone sync.WaitGroup
	amtpDone.Go(func() { amtpErr = s.amtp.shutdown(ctx) })
	err := s.smtp.Shutdown(ctx)
	if amtpDone.Wait(); err == nil {
		err = amtpErr
	}
	if err != nil {
		// Whoever was cut off keeps the message and comes again.
		s.Log.Warn("sessions were cut off", "cause", err.Error())
	}
	close(done)
	s.closePage()
	if s.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = s.admin.Shutdown(ctx) // a scraper that hangs on is cut off
		cancel()
	}
	if s.endRetrieval != nil {
		s.endRetrieval()
	}
	if s.control != nil {
		s.control.Close()
	}
	s.endWatch()
	s.endBackends()
	close(s.stopping)
	if s.maildir != nil {
		_ = s.maildir.Close()
	}
	_ = s.inner.Close()
	s.wg.Wait()
	if s.journal != nil {
		ctx, cancel := context.WithTimeout(context.Background(), journalPatience)
		if err := s.journal.Close(ctx); err != nil {
			s.Log.Error("journal", "error", err.Error())
		}
		cancel()
	}
	p := s.parts.Load()
	if p.Memory != nil {
		s.closeState(p.Memory)
	}
	p.Close(nil)
	s.Log.Info("stopped")
}
