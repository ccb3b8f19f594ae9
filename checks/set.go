package checks

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"postern/checks/dnscache"
	"postern/checks/milter"
	"postern/policy"
)

// defaultTimeout is what RFC 7208 §4.6.4 names as the least that a limit on
// one evaluation should allow.
const defaultTimeout = 20 * time.Second

// Set is the checks that somebody wants, by stage. It is safe for use by many
// sessions at once.
type Set struct {
	deps    Deps
	cache   bool      // the resolver can be asked for what it has
	ahead   asksAhead // what it will be asked for; nil where it cannot be
	byStage [policy.Message + 1][]Check

	size      int  // checks of all stages
	milters   bool // one is asked
	addedSize int  // octets that those asked for fields on top may add
}

// resultWords are the results that checks count from the start: those of RFC 8601.
var resultWords = []string{
	string(policy.None), string(policy.Neutral), string(policy.Pass), string(policy.Fail), string(policy.SoftFail),
	string(policy.TempError), string(policy.PermError), string(policy.Skipped),
}

// Ran is one check that ran.
type Ran struct {
	Name   string
	Took   time.Duration
	Result policy.Result
}

// NewSet builds those checks of All that wanted or d.Uses want, and those whose
// results they read; nil wants all.
func NewSet(d Deps, wanted func(name string) bool) *Set {
	if d.Timeout <= 0 {
		d.Timeout = defaultTimeout
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	d.judged = newJudgements()
	all := All(d)
	want := make(map[string]bool, len(all))
	for i := range all {
		if c := &all[i]; wanted == nil || wanted(c.Name) || c.wantedFor(d.Uses) {
			want[c.Name] = true
			for _, n := range c.needs {
				want[n] = true
			}
		}
	}
	s := &Set{deps: d}
	_, s.cache = d.Resolver.(interface{ TakesAttempts() })
	s.ahead, _ = d.Resolver.(asksAhead)
	for _, c := range all {
		if want[c.Name] {
			if c.filter != nil {
				c.counts = d.Metrics.Filter(c.Name, c.filter)
			} else {
				c.counts = d.Metrics.Check(c.Name, resultWords)
			}
			s.byStage[c.Stage] = append(s.byStage[c.Stage], c)
			s.size++
			if c.Uses&AddedFields != 0 {
				s.addedSize += 2 * milter.MaxFieldsSize // as many CRs as lines, which may be short
			}
			s.milters = s.milters || c.filter != nil && c.Stage == policy.Message
		}
	}
	return s
}

// Wants says whether the set holds the check of that name.
func (s *Set) Wants(name string) bool {
	for _, cs := range s.byStage {
		for _, c := range cs {
			if c.Name == name {
				return true
			}
		}
	}
	return false
}

// HasMilters says whether the set has a milter judge messages.
func (s *Set) HasMilters() bool { return s.milters }

// HasStage says whether any check of the set runs at that stage, so that a
// message need not be held for nothing.
func (s *Set) HasStage(st policy.Stage) bool { return len(s.byStage[st]) > 0 }

// Run runs the checks of a stage side by side, each for Deps.Timeout at the
// most, comes back when all of them have, and appends to ran which they were. A check that panics or runs out
// of time leaves temperror: whether that fails open is a rule that the operator
// can read. At the mail stage dns.healthy, identity and state.healthy are filled as well.
//
// Nobody else may touch f and msg.Rcpt meanwhile.
func (s *Set) Run(ctx context.Context, st policy.Stage, f *policy.Facts, msg Message, ran []Ran) []Ran {
	checks := s.byStage[st]
	if st == policy.Mail {
		f.DNS.Healthy = s.deps.Healthy == nil || s.deps.Healthy()
	}
	if len(checks) == 0 {
		if st == policy.Mail {
			f.Identity = strongest(f)
		}
		return ran
	}

	if msg.Rcpt == nil {
		msg.Rcpt = &f.Recipient
	}
	if ran == nil {
		ran = make([]Ran, 0, s.size) // the stages to come have room as well
	}
	ran = append(ran, make([]Ran, len(checks))...)
	r := round{set: s, checks: checks, ran: ran[len(ran)-len(checks):], facts: f, msg: msg, stage: st}
	if s.cache {
		r.cached = dnscache.NewAttempt(ctx)
		defer r.cached.Close()
	}
	r.run(ctx, false)
	if st == policy.Mail {
		f.Identity = strongest(f)
	}
	r.run(ctx, true)
	if st == policy.Mail {
		f.State.Healthy = s.healthy(f)
	}
	for i := range checks {
		c, ran := &checks[i], &r.ran[i]
		ran.Name, ran.Result = c.Name, *c.result(f, msg.Rcpt)
		if c.tried != nil && !c.tried(f, msg.Rcpt) {
			c.counts.Untimed(string(ran.Result))
			continue
		}
		c.counts.Done(string(ran.Result), ran.Took)
	}
	return ran
}

// healthy says whether the store of what lasts between sessions told what it was
// asked for.
func (s *Set) healthy(f *policy.Facts) bool {
	m := s.deps.Memory
	return (m == nil || m.Healthy()) && f.Past.Result != policy.TempError && f.Rate.Result != policy.TempError
}

// settled begins c and says whether that was all.
func (s *Set) settled(c *Check, f *policy.Facts, msg Message) (done bool) {
	if c.begin == nil {
		return false
	}
	defer func() {
		if p := recover(); p != nil {
			s.panicked(c, f, msg, p)
			done = true
		}
	}()
	return c.begin(f, msg)
}

func (s *Set) panicked(c *Check, f *policy.Facts, msg Message, p any) {
	s.deps.Log.Error("check panicked", "id", f.ID, "check", c.Name, "panic", p, "stack", string(debug.Stack()))
	*c.result(f, msg.Rcpt) = policy.TempError
}

func (s *Set) run(ctx context.Context, c *Check, f *policy.Facts, msg Message) (took time.Duration) {
	start := time.Now()
	result := c.result(f, msg.Rcpt)
	defer func() {
		took = time.Since(start)
		if p := recover(); p != nil {
			s.panicked(c, f, msg, p)
			return
		}
		// NOT: only where the result is missing. What a check concluded from
		// look-ups that we cut short is no statement of the domain's, unless it
		// knows that it needed none of them.
		if ctx.Err() != nil && !c.stands || *result == "" || *result == policy.Skipped {
			*result = policy.TempError
		}
	}()
	c.Run(ctx, f, msg)
	return
}
