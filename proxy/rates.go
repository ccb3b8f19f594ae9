package proxy

import (
	"net/netip"
	"sync"
	"time"
)

// ratesLimit bounds how many clients the table of rates remembers: some 8 MB.
const ratesLimit = 100_000

// rates remembers how much each client has had of what is rationed. It is GCRA,
// the leaky bucket as a meter: one time for each key, and no timer.
type rates struct {
	mu sync.Mutex
	m  map[rateKey]int64 // when all that was taken will have drained, in Unix nanoseconds
}

type rateKey struct {
	client netip.Addr
	what   ration
}

type ration uint8

const (
	rationConnections ration = iota
	rationMessages
	rationErrors
)

// take asks for one of what is rationed to perMinute, all of which may come in
// one burst. With nothing rationed (0), and to who is nobody's client (the zero
// Addr), it always says yes.
func (r *rates) take(client netip.Addr, what ration, perMinute int, now time.Time) bool {
	if perMinute <= 0 || !client.IsValid() {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k, at := rateKey{client, what}, now.UnixNano()
	drained := max(r.m[k], at) + int64(time.Minute)/int64(perMinute)
	if drained-at > int64(time.Minute) {
		return false
	}
	if r.m == nil {
		r.m = make(map[rateKey]int64)
	}
	if _, known := r.m[k]; !known && len(r.m) >= ratesLimit {
		r.makeRoom(at)
	}
	r.m[k] = drained
	return true
}

// spent says whether nothing more could be taken, and takes nothing.
func (r *rates) spent(client netip.Addr, what ration, perMinute int, now time.Time) bool {
	if perMinute <= 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := now.UnixNano()
	return max(r.m[rateKey{client, what}], at)+int64(time.Minute)/int64(perMinute)-at > int64(time.Minute)
}

// makeRoom forgets some clients, at random: those that have nothing left to
// drain, or, in a flood from everywhere, anyone. NOT: refusing those who are
// not in the table; that would let a botnet lock out the rest of the world.
func (r *rates) makeRoom(at int64) {
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
