// Package hold keeps messages until their last fact is known, in memory while they are
// small, else in files without a name, and counts the room for them: what there is for
// all together, and for each client.
package hold

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"postern/configs"
	"postern/metrics"
	"postern/proxy/share"
)

const (
	// Memory is how much of all held messages together, and of large header
	// sections, is in memory, in octets. One client has an eighth of it.
	Memory = 64 << 20
	// spoolMemoryShare is how much of Memory held messages may use. They have the
	// disk besides; a header section has not.
	spoolMemoryShare = Memory * 3 / 4
	// heldShares is into how many parts limits.held is divided where
	// limits.held_per_client says nothing: seven greedy clients leave one.
	heldShares = 8
)

// Space is the room for messages that are held until their last fact is known, and
// for large header sections while they are gathered. The zero Space is ready.
type Space struct {
	octets  share.Budget     // held messages, wherever they are
	memory  share.Budget     // what of them is in memory, and header sections
	Metrics *metrics.Metrics // may be nil

	mu     sync.Mutex
	looked time.Time // when the disk was looked at
	free   int64     // octets that were free on it then
}

// ErrNoRoom is that limits.held or limits.held_per_client is reached.
var ErrNoRoom = errors.New("no room to hold the message")

// Used is how many octets are held, and how many are in memory: of those, and of header
// sections.
func (s *Space) Used() (held, memory int64) { return s.octets.Used(), s.memory.Used() }

// limits is what there is for held messages: what the configuration says, or a
// half of what would be free on the disk if none were held. One client has an
// eighth, and at least one message of the largest size that is taken.
func (s *Space) limits(l configs.Limits) share.Limits {
	all, each := int64(l.Held), int64(l.HeldPerClient)
	if all == 0 {
		all = max((s.freeDisk()+s.octets.Used())/2, 1)
	}
	if each == 0 {
		each = max(all/heldShares, int64(l.MessageSize)+int64(l.HeaderSize))
	}
	return share.Limits{All: all, Each: each}
}

// freeDisk is what is free where held messages are, in octets: as it was a second
// ago at most.
func (s *Space) freeDisk() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.looked) > time.Second {
		s.looked, s.free = now, 0
		var disk syscall.Statfs_t
		if syscall.Statfs(os.TempDir(), &disk) == nil {
			s.free = int64(disk.Bavail * uint64(disk.Bsize)) // which is signed elsewhere
		}
	}
	return s.free
}

// Room is what one message has of a Space. The zero Room takes what is not counted.
type Room struct {
	of     *Space
	who    share.Client
	limits share.Limits
	octets int64
	memory int64
}

// RoomFor begins to hold something for a client.
func (s *Space) RoomFor(who share.Client, l configs.Limits) Room {
	return Room{of: s, who: who, limits: s.limits(l)}
}

// hold takes room until there is enough for so many octets.
func (r *Room) hold(octets int64) error {
	n := octets - r.octets
	if r.of == nil || n <= 0 {
		return nil
	}
	switch r.of.octets.Take(r.who, n, r.limits) {
	case share.None:
		r.octets = octets
		r.of.Metrics.HeldBytes(n)
		return nil
	case share.ByAll:
		r.of.Metrics.LimitReached("held")
	default:
		r.of.Metrics.LimitReached("held_per_client")
	}
	return ErrNoRoom
}

// InMemory takes memory until there is enough for so many octets; all is how much of
// it those who call it with the same all may have together, and one client has an
// eighth of that.
func (r *Room) InMemory(octets, all int64) bool {
	n := octets - r.memory
	if r.of == nil || n <= 0 {
		return true
	}
	if r.of.memory.Take(r.who, n, share.Limits{All: all, Each: all / heldShares}) != share.None {
		return false
	}
	r.memory = octets
	return true
}

// leaveMemory gives all memory back.
func (r *Room) leaveMemory() {
	if r.of != nil && r.memory > 0 {
		r.of.memory.Give(r.who, r.memory)
		r.memory = 0
	}
}

// Close gives all back. It may be called again.
func (r *Room) Close() {
	r.leaveMemory()
	if r.of != nil && r.octets > 0 {
		r.of.octets.Give(r.who, r.octets)
		r.of.Metrics.HeldBytes(-r.octets)
		r.octets = 0
	}
}
