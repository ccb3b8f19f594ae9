package service

import (
	"context"
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

// Held implements control.Desk: the newest come first.
func (d desk) Held(ctx context.Context, f control.Filter) ([]memory.Notice, error) {
	m := d.s.parts.Load().Memory
	if m == nil {
		return nil, nil // no rule asks whether anything is held
	}
	list, err := m.Store().Held(ctx, f.Limit, f.Match)
	slices.SortFunc(list, func(a, b memory.Notice) int {
		if c := b.Last.Compare(a.Last); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, err
}

// releaseSome is how many notices are released in one go.
const releaseSome = 1000

// Release implements control.Desk. The hosts that keep mail for the recipients are
// asked for it.
func (d desk) Release(ctx context.Context, ids []string, domain string) (all []memory.Notice, got []control.Retrieval, err error) {
	m := d.s.parts.Load().Memory
	if m == nil {
		return nil, nil, nil
	}
	store := m.Store()
	for domain != "" && ctx.Err() == nil {
		held, err := store.Held(ctx, releaseSome, func(n memory.Notice) bool { return !n.Released && control.OfDomain(n, domain) })
		if err != nil {
			return all, nil, err
		}
		if len(held) == 0 {
			break
		}
		ids := make([]string, len(held))
		for i := range held {
			ids[i] = held[i].ID
		}
		released, err := store.Release(ctx, ids)
		all = append(all, released...)
		if err != nil {
			return all, nil, err
		}
	}
	if len(ids) > 0 {
		all, err = store.Release(ctx, ids)
	}
	of := map[string]bool{}
	for _, n := range all {
		if _, domain, ok := smtp.CutAddress(n.Rcpt); ok {
			of[strings.ToLower(domain)] = true
		}
	}
	if len(of) > 0 && ctx.Err() == nil {
		got = d.s.retriever.ask(ctx, d.s.parts.Load(), "release", func(k keeper) bool { return of[strings.ToLower(k.Domain)] })
	}
	return all, got, err
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
