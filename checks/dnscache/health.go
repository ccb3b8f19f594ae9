package dnscache

import (
	"context"
	"crypto/rand"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A look-up that fails does not say whose fault it is: that domain's name
// servers, or the resolver that we ask and the network behind it. Domains fail
// one by one; our own trouble makes different domains fail together. So the
// share of failures among the last different domains is watched, and where
// canaries are configured, they are asked before anything is concluded.
const (
	healthWindow = time.Minute // older outcomes say nothing about now
	healthRecent = 12          // different domains, the last ones
	healthLeast  = 6           // fewer outcomes are no ground for a suspicion

	// In trouble from three quarters of failures up, out of it at a third:
	// between the two nothing changes, or the state would flap.
	troubleNumerator, troubleDenominator   = 3, 4
	recoveryNumerator, recoveryDenominator = 1, 3

	canaryPause = 5 * time.Second
)

// health is the state of our own name servers.
type health struct {
	r        *Resolver
	canaries []string
	seed     maphash.Seed
	trouble  atomic.Bool

	mu      sync.Mutex
	recent  [healthRecent]outcome // the newest last; the rest is zero
	probing bool
}

// outcome is how the last query for a domain ended.
type outcome struct {
	domain uint64 // hash
	at     int64  // Unix nanoseconds; 0: none
	failed bool
}

func newHealth(r *Resolver, canaries []string) *health {
	return &health{r: r, canaries: canaries, seed: maphash.MakeSeed()}
}

// Healthy tells whether our own name servers seem to work. It is false while
// different domains fail together (a brown-out): what fails then is no fault of
// the domain asked for.
func (r *Resolver) Healthy() bool {
	if !r.health.trouble.Load() {
		return true
	}
	return r.health.recheck()
}

// observe takes the outcome of a query. A domain has one vote, however many
// names of it fail, unless no server could be reached at all. Those of reverse zones count only when
// they succeed: so many of them are broken that their failures say nothing.
func (h *health) observe(name string, e *entry) {
	failed := e.kind == kindFailure
	if failed && (!e.blame || strings.HasSuffix(name, ".arpa")) {
		return
	}
	if !e.unreached {
		name = organization(name)
	}
	domain := maphash.String(h.seed, name)
	h.mu.Lock()
	defer h.mu.Unlock()
	i := max(slices.IndexFunc(h.recent[:], func(o outcome) bool { return o.domain == domain }), 0)
	copy(h.recent[i:], h.recent[i+1:])
	h.recent[healthRecent-1] = outcome{domain, h.r.now().UnixNano(), failed}
	h.judge()
}

// recheck lets a site without traffic out of trouble when what spoke for it is
// old.
func (h *health) recheck() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.judge()
	return !h.trouble.Load()
}

// judge concludes from the recent outcomes. The lock is held.
func (h *health) judge() {
	since := h.r.now().Add(-healthWindow).UnixNano()
	total, failed := 0, 0
	for _, o := range h.recent {
		if o.at <= since {
			continue
		}
		total++
		if o.failed {
			failed++
		}
	}
	trouble := h.trouble.Load()
	switch {
	case !trouble && total >= healthLeast && failed*troubleDenominator >= total*troubleNumerator:
		if len(h.canaries) == 0 {
			h.set(true, total, failed)
		} else {
			h.probe()
		}
	case trouble && failed*recoveryDenominator <= total*recoveryNumerator:
		if len(h.canaries) == 0 {
			h.set(false, total, failed)
		}
	}
}

// set changes the state. The lock is held.
func (h *health) set(trouble bool, total, failed int) {
	if h.trouble.Swap(trouble) == trouble {
		return
	}
	if trouble {
		h.r.log.Warn("dns: our name servers are in trouble, different domains fail together", "domains", total, "failed", failed, "canaries", len(h.canaries), "servers", h.r.serverNames())
	} else {
		h.r.log.Warn("dns: our name servers answer again", "domains", total, "failed", failed, "canaries", len(h.canaries), "servers", h.r.serverNames())
	}
}

// probe asks the canaries in the background, again and again while they fail.
// The lock is held.
func (h *health) probe() {
	r := h.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.probing || r.closed {
		return
	}
	h.probing = true
	r.wg.Go(func() {
		pause := time.NewTimer(0)
		defer pause.Stop()
		for {
			select {
			case <-pause.C:
			case <-r.ctx.Done():
				return
			}
			if h.probed(h.failing()) || r.retired.Load() {
				return
			}
			pause.Reset(canaryPause)
		}
	})
}

// probed takes the number of canaries that failed. It reports whether the
// probing is over: half of them answered, so that failures are those of the
// domains that fail.
func (h *health) probed(failed int) (over bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.r.ctx.Err() != nil {
		return true
	}
	trouble := 2*failed > len(h.canaries)
	h.set(trouble, len(h.canaries), failed)
	if trouble {
		return false
	}
	h.probing = false
	// What led here is answered; the next suspicion needs failures of its own.
	h.recent = [healthRecent]outcome{}
	return true
}

// failing asks all canaries at once, and counts those without an answer. A
// random label goes in front, since the answer must come from the zone and not
// from the memory of the server we ask; that there is no such name is the
// answer to expect.
func (h *health) failing() int {
	ctx, cancel := context.WithTimeout(h.r.ctx, h.r.total)
	defer cancel()
	var failed atomic.Int32
	var all sync.WaitGroup
	for _, name := range h.canaries {
		all.Go(func() {
			probe := strings.ToLower(rand.Text()[:12]) + "." + name
			if len(probe) > maxName {
				probe = name
			}
			if _, err := h.r.ask(ctx, question{probe, typeA}); err != nil && isOurs(err) {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	return int(failed.Load())
}

// organization cuts a name down to what one operator answers for, about: two
// labels, three below a short one (example.co.uk). It is for counting only.
func organization(name string) string {
	labels, short := 0, false
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] != '.' {
			continue
		}
		labels++
		rest := name[i+1:]
		if labels == 2 {
			second, _, _ := strings.Cut(rest, ".")
			short = len(second) <= 3
		}
		if labels == 3 || labels == 2 && !short {
			return rest
		}
	}
	return name
}
