package share

import (
	"net/netip"
	"sync"
	"time"
)

// ratesLimit bounds how many clients the table of rates remembers: some 8 MB.
const ratesLimit = 100_000

// Rates remembers how much each client has had of what is rationed. It is GCRA,
// the leaky bucket as a meter: one time for each key, and no timer. The zero Rates is
// ready; its methods may be called by several goroutines at once.
type Rates struct {
	mu sync.Mutex
	m  map[rateKey]int64 // when all that was taken will have drained, in Unix nanoseconds
}

type rateKey struct {
	client netip.Prefix
	what   Ration
}

// Ration is what there may be so many of in a minute.
type Ration uint8

const (
	// PerConnection rations connections.
	PerConnection Ration = iota
	// PerMessage rations messages.
	PerMessage
	// PerError rations faults of the client.
	PerError
)

// Take asks for one of what is rationed to perMinute, all of which may come in
// one burst. With nothing rationed (0), and to a session that is nobody's (the zero
// Client), it always says yes. The clients of one network have together
// NetworkFactor times as much as one.
func (r *Rates) Take(c Client, what Ration, perMinute int, now time.Time) bool {
	if perMinute <= 0 || !c.IsValid() {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := now.UnixNano()
	address, ok := r.drained(c.Address, what, perMinute, at)
	network, fits := r.drained(c.Network, what, perMinute*NetworkFactor, at)
	if !ok || !fits {
		return false
	}
	r.set(c.Address, what, address, at)
	if c.Network.IsValid() {
		r.set(c.Network, what, network, at)
	}
	return true
}

// Spent says whether nothing more could be taken, and takes nothing.
func (r *Rates) Spent(c Client, what Ration, perMinute int, now time.Time) bool {
	if perMinute <= 0 || !c.IsValid() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := now.UnixNano()
	_, ok := r.drained(c.Address, what, perMinute, at)
	_, fits := r.drained(c.Network, what, perMinute*NetworkFactor, at)
	return !ok || !fits
}

// drained is when all will have drained that key has taken, with one more; not ok:
// it would be too much.
func (r *Rates) drained(key netip.Prefix, what Ration, perMinute int, at int64) (t int64, ok bool) {
	t = max(r.m[rateKey{key, what}], at) + int64(time.Minute)/int64(perMinute)
	return t, t-at <= int64(time.Minute) || !key.IsValid()
}

func (r *Rates) set(key netip.Prefix, what Ration, drained, at int64) {
	k := rateKey{key, what}
	if r.m == nil {
		r.m = make(map[rateKey]int64)
	}
	if _, known := r.m[k]; !known && len(r.m) >= ratesLimit {
		r.makeRoom(at)
	}
	r.m[k] = drained
}

// makeRoom forgets some clients, at random: those that have nothing left to
// drain, or, in a flood from everywhere, anyone. NOT: refusing those who are
// not in the table; that would let a botnet lock out the rest of the world.
func (r *Rates) makeRoom(at int64) {
	looked, forgot := 0, 0
	for k, drained := range r.m {
		if looked++; drained <= at || looked > 64 && forgot == 0 {
			delete(r.m, k)
			forgot++
		}
		if looked > 64 && forgot > 0 {
			return
		}
	}
}
