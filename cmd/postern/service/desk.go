package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"postern/checks/memory"
	"postern/cmd/postern/control"
	"postern/configs"
	"postern/proxy/smtp"
)

// desk does what the control commands ask for.
type desk struct{ s *Service }

// Held implements control.Desk.
func (d desk) Held(ctx context.Context, f control.Filter, tell func(memory.Notice) error) (err error) {
	m := d.s.parts.Load().Memory
	if m == nil {
		return nil // no rule asks whether anything is held
	}
	broken := m.Store().Waiting(ctx, true, func(n memory.Notice) bool {
		if f.Past(n) {
			return false
		}
		if f.Match(n) {
			err = tell(n)
		}
		return err == nil
	})
	return errors.Join(err, broken)
}

// releaseSome is how many notices are released in one go.
const releaseSome = 1000

// Release implements control.Desk. The hosts that keep mail for the recipients are
// asked for it.
func (d desk) Release(ctx context.Context, ids []string, domain string, tell func(memory.Notice) error) (got []control.Retrieval, err error) {
	p := d.s.parts.Load()
	if p.Memory == nil {
		return nil, nil
	}
	asked := map[string]bool{} // the domains of recipients for which somebody keeps mail
	release := func(ids []string) (n int, err error) {
		list, err := p.Memory.Store().Release(ctx, ids)
		for _, n := range list {
			_, domain, _ := smtp.CutAddress(n.Rcpt)
			for _, k := range p.keepers {
				if strings.EqualFold(k.Domain, domain) {
					asked[strings.ToLower(domain)] = true
				}
			}
			err = errors.Join(err, tell(n))
		}
		return len(list), err
	}
	if domain == "" {
		_, err = release(ids)
	} else {
		err = releaseAll(ctx, p.Memory.Store(), domain, release)
	}
	if len(asked) > 0 && ctx.Err() == nil {
		got = d.s.retriever.ask(ctx, p, "release", func(k keeper) bool { return asked[strings.ToLower(k.Domain)] })
	}
	return got, err
}

// releaseAll releases what is of a domain, and what came again while it did, which stands
// in another place then.
func releaseAll(ctx context.Context, store memory.Store, domain string, release func(ids []string) (int, error)) error {
	for {
		var ids []string
		var err error
		released := 0
		some := func() {
			n := 0
			n, err = release(ids)
			ids, released = ids[:0], released+n
		}
		broken := store.Waiting(ctx, true, func(n memory.Notice) bool {
			if !n.Released && control.OfDomain(n, domain) {
				if ids = append(ids, n.ID); len(ids) == releaseSome {
					some()
				}
			}
			return err == nil
		})
		if err == nil && len(ids) > 0 {
			some()
		}
		if err = errors.Join(err, broken); err != nil || released == 0 {
			return err
		}
	}
}

// Retrieve implements control.Desk.
func (d desk) Retrieve(ctx context.Context, domain string) ([]control.Retrieval, error) {
	got := d.s.retriever.ask(ctx, d.s.parts.Load(), "command", ofDomain(domain))
	if len(got) == 0 && ctx.Err() == nil {
		return nil, errNoKeeper
	}
	return got, ctx.Err()
}

// openControl makes the control socket that a configuration asks for: the one that is
// there stays where nothing has changed.
func (s *Service) openControl(cfg *configs.Config) error {
	path := cfg.Control.Socket
	if s.control != nil && s.control.Path() == path {
		return nil
	}
	var next *control.Server
	if path != "" {
		var err error
		if next, err = control.Listen(path, s.before != nil, desk{s}, s.Log); err != nil {
			return &configs.Fault{Position: cfg.At("control.socket"), Text: err.Error()}
		}
		s.Log.Info("control", "socket", path)
	}
	if s.control != nil {
		s.control.Close()
	}
	if s.control = next; next != nil && s.parts.Load() != nil {
		next.Serve()
	}
	return nil
}

// retrieveAtStart asks for what came while nobody served, beside the mail.
func (s *Service) retrieveAtStart(p *Parts) {
	if s.before != nil || !slices.ContainsFunc(p.keepers, func(k keeper) bool { return k.atStart }) {
		return // one that hands over was never away
	}
	var ctx context.Context
	ctx, s.endRetrieval = context.WithCancel(context.Background())
	s.wg.Go(func() {
		// Asked sooner, it would come while all is deferred.
		_ = p.WaitUp(ctx, backendPatience)
		s.retriever.ask(ctx, p, "start", func(k keeper) bool { return k.atStart })
	})
}

// backendPatience is how long a retrieval at start waits for a backend.
const backendPatience = time.Minute
