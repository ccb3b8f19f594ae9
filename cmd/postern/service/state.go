package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"postern/checks/memory"
	"postern/configs"
)

const (
	// connectPatience is how long a connection to a server of the state may take to
	// come up, or to show that it is there still. Mail does not wait for it.
	connectPatience = 2 * time.Second
	// trialTimeout is state.timeout where nobody waits: a busy machine makes no other
	// verdict.
	trialTimeout = time.Minute
	// maxSecret bounds the file of a password or a token, in octets.
	maxSecret = 4 << 10
)

// checkState says what is wrong with the files that the state section names.
func checkState(c *configs.State, note func(at string, err error)) {
	if c.Path != "" {
		if err := memory.CheckFile(c.Path); err != nil {
			note("state.path", fmt.Errorf("state.path: %s: %w", c.Path, err))
		}
	}
	if c.PasswordFile != "" {
		if err := checkSecret(c.PasswordFile); err != nil {
			note("state.password_file", fmt.Errorf("state.password_file: %w", err))
		}
	}
	if _, err := stateTLS(c); err != nil {
		note("state.ca", fmt.Errorf("state.ca: %w", err))
	}
}

func checkSecret(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o004 != 0 {
		return fmt.Errorf("%s can be read by everybody on this machine (%v): chmod 0640, and give it the group of the proxy's user", file, mode)
	}
	_, err = readSecret(file)
	return err
}

func readSecret(file string) (string, error) {
	text, err := configs.ReadFile(file, maxSecret)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("%s: a secret is one line", file)
	}
	return password, nil
}

// stateTLS is how the servers are spoken to; nil: in the clear.
func stateTLS(c *configs.State) (*tls.Config, error) {
	if c.TLS != "verify" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", c.CA)
	}
	return t, nil
}

// OpenState makes the store that a configuration names, or nil where it names none.
// The store is connected, or its file opened, when it is first asked.
func OpenState(c *configs.State, w *World) (memory.Store, error) {
	switch {
	case c.Path != "":
		return memory.NewFile(c.Path, time.Now, w.Log), nil
	case len(c.Servers) == 0:
		return nil, nil
	}
	secure, err := stateTLS(c)
	if err != nil {
		return nil, err
	}
	f := memory.Fleet{
		Servers: c.Servers, TLS: secure, User: c.User, Prefix: c.Prefix,
		Timeout: max(c.Timeout, connectPatience), Now: time.Now,
	}
	if c.PasswordFile != "" {
		f.Password = func() (string, error) { return readSecret(c.PasswordFile) }
	}
	return memory.NewFleet(f), nil
}

// remember makes the memory, or takes over that of old: a file that is open cannot be
// opened again, and what the process knows would be lost. Parts that do not serve
// have a memory that knows nobody, and none where no rule would ask it.
func (p *Parts) remember(w *World, old *Parts) error {
	c := &p.Config.State
	if old != nil && old.Memory != nil && sameState(c, &old.Config.State) {
		p.Memory = old.Memory
		return nil
	}
	store, timeout := w.Store, trialTimeout
	if w.Serves {
		var err error
		if store, err = OpenState(c, w); err != nil {
			return err
		}
		timeout = c.Timeout
	}
	if !p.recalls() && !(w.Serves && c.Configured()) {
		return nil
	}
	if store == nil {
		store = memory.NewProcess(time.Now)
	}
	p.Memory = memory.New(store, memory.Options{
		Timeout: timeout, Keep: c.Keep, Bounds: bounds(p.Config), Log: w.Log, Sizes: func(s memory.Sizes) { w.metrics.StateSizes(s.Entries, s.Bytes) },
		Held: w.metrics.Held, Ended: func(e memory.End, held time.Duration) { w.metrics.HoldEnded(string(e), held) },
		Dropped: func(n int) {
			w.Log.Warn("counts of messages were lost, since the state store did not take them", "messages", n)
		},
	})
	return nil
}

// bounds are how many notices may wait.
func bounds(c *configs.Config) memory.Bounds {
	return memory.Bounds{Notices: c.Limits.Notices, PerSender: c.Limits.NoticesPerSender}
}

// recalls says whether anything reads what is remembered.
func (p *Parts) recalls() bool { return p.wants("past") || p.wants("rate") || p.wants("hold") }

// sameState says whether two configurations mean the same store.
func sameState(a, b *configs.State) bool {
	place := func(c *configs.State) configs.Config {
		s := *c
		s.Timeout, s.Keep = 0, 0 // these are changed in place
		return configs.Config{State: s}
	}
	return same(place(a), place(b))
}

// useState makes the memory of p the one in use.
func (s *Service) useState(old, p *Parts) {
	m := p.Memory
	s.metrics.StateHealthy(func() bool { return m == nil || m.Healthy() })
	if old == nil || old.Memory != m {
		s.metrics.ForgetState()
	}
	switch {
	case m == nil:
		return
	case old != nil && old.Memory == m:
		m.Tune(p.Config.State.Timeout, p.Config.State.Keep, bounds(p.Config))
		return
	}
	// NOT: a reason not to serve. Mail is more than what is remembered of it.
	if err := m.Begin(context.Background()); err != nil {
		s.Log.Error("the state store cannot be used: mail is served without it, its facts are unmeasured, and no mail is held until it answers", "error", err.Error())
	}
}

// retireState closes the memory of old parts, which their running transactions ask in
// vain from then on.
func (s *Service) retireState(old, p *Parts) {
	if old.Memory != nil && old.Memory != p.Memory {
		s.closeState(old.Memory)
	}
}

func (s *Service) closeState(m *memory.Memory) {
	if err := m.Close(); err != nil && !errors.Is(err, memory.ErrUnhealthy) {
		s.Log.Error("the state store was not closed as it should be", "error", err.Error())
	}
}
