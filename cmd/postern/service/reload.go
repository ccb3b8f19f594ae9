package service

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"postern/configs"
)

// reload takes over a new configuration, or keeps the old one and says why.
func (s *Service) reload() {
	err := s.tryReload()
	s.reloaded(partConfiguration, err)
	if err != nil {
		s.Log.Error("configuration not reloaded, the running one stays in force", "error", oneLine(err))
		return
	}
	s.Log.Info("configuration reloaded")
}

func (s *Service) tryReload() error {
	cfg, err := configs.Load(s.opt.Config)
	if err != nil {
		return err
	}
	old := s.parts.Load()
	p, warnings, err := s.rebuild(cfg, old)
	if err != nil {
		return err
	}
	running, err := openListeners(cfg, s.running, nil)
	if err != nil {
		p.Close(old)
		return err
	}
	if err := s.openControl(cfg); err != nil {
		closeNew(running, s.running)
		p.Close(old)
		return err
	}
	for _, w := range warnings {
		s.Log.Warn("configuration", "warning", w.Error())
	}
	for _, key := range changedForTheNextStart(old.Config, cfg) {
		s.Log.Warn("a key has changed that takes effect at the next start, or by SIGUSR2", "key", key)
	}
	s.use(p)
	s.standOn(running)
	return nil
}

// atStart are the keys that a reload leaves as they are: log lines and records go on into what
// was opened at the start, and so does who asks the admin address.
var atStart = []struct {
	key string
	of  func(*configs.Config) configs.Config
}{
	{"admin.address", func(c *configs.Config) (only configs.Config) { only.Admin.Address = c.Admin.Address; return only }},
	{"journal", func(c *configs.Config) configs.Config { return configs.Config{Journal: c.Journal} }},
	{"log", func(c *configs.Config) configs.Config { return configs.Config{Log: c.Log} }},
}

// changedForTheNextStart returns those of atStart in which two configurations differ.
func changedForTheNextStart(old, next *configs.Config) (keys []string) {
	for _, k := range atStart {
		if !same(k.of(old), k.of(next)) {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// unharmed calls what reads files anew while clients are served. A mistake of ours over one line
// of a file is no reason to end all sessions: a panic is an error, and the file is not taken.
func (s *Service) unharmed(read func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.Log.Error("panic over a configuration", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			first, _, _ := strings.Cut(fmt.Sprint(v), "\n")
			err = fmt.Errorf("panic: %s", first)
		}
	}()
	return read()
}

// rebuild builds what a configuration asks for beside what runs, and looks it over.
func (s *Service) rebuild(cfg *configs.Config, old *Parts) (p *Parts, warnings []configs.Fault, err error) {
	err = s.unharmed(func() (err error) {
		if p, err = Build(cfg, &s.World, old); err != nil {
			p = nil
			return err
		}
		warnings = p.Warnings(time.Now())
		return nil
	})
	if err != nil {
		if p != nil {
			p.Close(old)
		}
		return nil, nil, err
	}
	return p, warnings, nil
}

// watch calls changed after files have changed, until ctx ends.
func (s *Service) watch(ctx context.Context, files []string, changed func()) {
	if len(files) == 0 {
		return
	}
	if err := configs.Watch(ctx, files, changed); err != nil {
		s.Log.Warn("changes of files will be noticed late", "error", err.Error())
	}
}

func (s *Service) reloadCertificates(p *Parts) {
	err := s.unharmed(p.Certificates.reload)
	s.reloaded(partCertificates, err)
	if err != nil {
		s.Log.Error("certificates not reloaded, the old ones stay in use", "error", oneLine(err))
		return
	}
	p.Certificates.publish()
	s.Log.Info("certificates reloaded")
	for _, w := range p.Certificates.warnings(time.Now(), p.Config.Hostname) {
		s.Log.Warn("configuration", "warning", w.Error())
	}
}

func (s *Service) reloadLists(r *rules) {
	err := s.unharmed(r.reload)
	s.reloaded(partLists, err)
	if err != nil {
		s.Log.Error("lists not reloaded, the old ones stay in use", "error", oneLine(err))
		return
	}
	s.Log.Info("lists reloaded")
}

// oneLine joins the faults in an error for a line of the log.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
