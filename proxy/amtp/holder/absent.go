package holder

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// absentFor is how long it is remembered that an address has no AMTP. It may be that its server was being started.
	absentFor = 10 * time.Minute
	// absentMost bounds how many such addresses are remembered.
	absentMost = 10_000
)

// absences are addresses at which nobody speaks AMTP, and when that was found. Nearly all are of that kind, and to find it
// out takes a connection that nobody answers.
type absences struct {
	mu sync.Mutex
	m  map[netip.Addr]time.Time // when that was found
}

func (a *absences) knows(addr netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.m[addr]
	return ok && now.Sub(at) < absentFor
}

func (a *absences) forget(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.m, addr)
}

func (a *absences) note(addr netip.Addr, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[netip.Addr]time.Time{}
	}
	if len(a.m) >= absentMost {
		for k, at := range a.m { // the old ones, or else any one
			if delete(a.m, k); now.Sub(at) < absentFor {
				break
			}
		}
	}
	a.m[addr] = now
}
