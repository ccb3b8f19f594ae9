package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"postern/configs"
	"postern/proxy/amtp"
	"postern/proxy/amtp/receiver"
	"postern/proxy/amtp/users"
	"postern/proxy/smtp"
)

// buildAMTP makes what a listener of AMTP needs; nothing where there is none. note is told what is wrong.
func (p *Parts) buildAMTP(name string, note func(at string, err error)) {
	cfg := p.Config
	if !cfg.ServesAMTP() {
		return
	}
	a := &cfg.AMTP
	set := &receiver.Settings{
		Hostname: name, Lifetime: a.Lifetime, Timeout: a.CallTimeout, Port: uint16(a.Port),
		Size: int64(cfg.Limits.MessageSize), HeaderSize: int(cfg.Limits.HeaderSize), HeaderFields: cfg.Limits.HeaderFields,
		Block: cfg.Timeouts.DataBlock, Resolver: p.Resolver,
		Ready: func() bool { return p.Backends.Up() },
		Takes: func(client netip.Addr) bool { return client.Is4() || p.Backends.TakesIPv6() },
	}
	for _, d := range a.Domains {
		if d, err := smtp.ASCIIDomain(d); err == nil { // the loader has looked
			set.Domains = append(set.Domains, d)
		}
	}
	for _, text := range a.Allow {
		if prefix, err := configs.ParsePrefix(text); err == nil { // the same
			set.Allow = append(set.Allow, prefix)
		}
	}
	if a.Users != "" {
		var err error
		if set.Users, err = users.Open(a.Users); err != nil {
			note("amtp.users", fmt.Errorf("amtp.users: %w", err))
		}
	}
	p.amtp = set
}

// amtpSide is what serves AMTP beside SMTP. It begins with the first listener that speaks it.
type amtpSide struct {
	receiver *receiver.Receiver

	mu      sync.Mutex
	servers []*amtp.Server // of each listener that was ever opened
}

// beginAMTP makes it, once.
func (s *Service) beginAMTP() *amtpSide {
	if s.amtp == nil {
		side := &amtpSide{}
		side.receiver = receiver.New(receiver.Options{
			Settings: func() *receiver.Settings {
				return s.amtpLast.Load() // what was announced is fetched although its listener has gone
			},
			Inside: s.smtp.Inside, Misbehaved: s.smtp.Misbehaved, Log: s.Log, Metrics: s.metrics,
		})
		s.amtp = side
	}
	return s.amtp
}

// serveAMTP serves on a listener of AMTP until it is closed.
func (s *Service) serveAMTP(side *amtpSide, ln net.Listener, l configs.Listener) error {
	srv := &amtp.Server{
		Name: l.Name, Handler: side.receiver, Admit: s.smtp.Admit, Log: s.Log, Metrics: s.metrics,
		Settings: func() *amtp.Settings {
			p := s.parts.Load()
			set := &amtp.Settings{Hostname: p.Settings.Hostname, Limits: p.Settings.Limits, Timeouts: p.Settings.Timeouts}
			if l.TLS != "off" {
				set.TLS = p.Settings.TLS
			}
			return set
		},
	}
	side.mu.Lock()
	side.servers = append(side.servers, srv)
	side.mu.Unlock()
	err := srv.Serve(ln)
	if errors.Is(err, amtp.ErrServerClosed) {
		return nil
	}
	return err
}

// shutdown ends the connections of AMTP, and the calls, as proxy.Server.Shutdown ends the others.
func (a *amtpSide) shutdown(ctx context.Context) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	var done sync.WaitGroup
	errs := make([]error, len(a.servers)+1)
	for i, srv := range a.servers {
		done.Go(func() { errs[i] = srv.Shutdown(ctx) })
	}
	a.mu.Unlock()
	done.Go(func() { errs[len(errs)-1] = a.receiver.Shutdown(ctx) })
	done.Wait()
	return errors.Join(errs...)
}

// reloadUsers reads the users' file again. With a fault in it those that were there stay.
func (s *Service) reloadUsers(f *users.File) {
	if err := f.Reload(); err != nil {
		s.Log.Error("users not reloaded, the old ones stay in use", "error", oneLine(err))
		return
	}
	s.Log.Info("users reloaded", "users", f.Len())
}
