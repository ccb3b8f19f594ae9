package proxy

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
	// heldMemory is how much of all held messages together, and of large header
	// sections, is in memory, in octets. One client has an eighth of it.
	heldMemory = 64 << 20
	// spoolShare is how much of heldMemory held messages may use. They have the
	// disk besides; a header section has not.
	spoolShare = heldMemory * 3 / 4
	// heldShares is into how many parts limits.held is divided where
	// limits.held_per_client says nothing: seven greedy clients leave one.
	heldShares = 8
)

// held is the room for messages that are held until their last fact is known, and
// for large header sections while they are gathered. The zero held is ready.
type held struct {
	octets  share.Budget // of held messages, wherever they are
	memory  share.Budget // of that what is in memory, and header sections
	metrics *metrics.Metrics

	mu     sync.Mutex
	looked time.Time // when the disk was looked at
	free   int64     // and what was free
}

// errNoRoom is that limits.held or limits.held_per_client is reached.
var errNoRoom = errors.New("no room to hold the message")

// limits is what there is for held messages: what the configuration says, or a
// half of what would be free on the disk if none were held. One client has an
// eighth, and at least one message of the largest size that is taken.
func (h *held) limits(l configs.Limits) share.Limits {
	all, each := int64(l.Held), int64(l.HeldPerClient)
	if all == 0 {
		all = max((h.freeDisk()+h.octets.Used())/2, 1)
	}
	if each == 0 {
		each = max(all/heldShares, int64(l.MessageSize)+int64(l.HeaderSize))
	}
	return share.Limits{All: all, Each: each}
}

// freeDisk is what is free where held messages are, in octets: as it was a second
// ago at most.
func (h *held) freeDisk() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.looked) > time.Second {
		h.looked, h.free = now, 0
		var disk syscall.Statfs_t
		if syscall.Statfs(os.TempDir(), &disk) == nil {
			h.free = int64(disk.Bavail * uint64(disk.Bsize)) // which is signed elsewhere
		}
	}
	return h.free
}

// room is what one message has of it.
type room struct {
	of     *held
	who    share.Client
	limits share.Limits
	octets int64
	memory int64
}

// roomFor begins to hold something for a client.
func (h *held) roomFor(who share.Client, l configs.Limits) room {
	return room{of: h, who: who, limits: h.limits(l)}
}

// hold takes room until there is enough for so many octets.
func (r *room) hold(octets int64) error {
	n := octets - r.octets
	if r.of == nil || n <= 0 {
		return nil
	}
	switch r.of.octets.Take(r.who, n, r.limits) {
	case share.None:
		r.octets = octets
		r.of.metrics.HeldBytes(n)
		return nil
	case share.ByAll:
		r.of.metrics.LimitReached("held")
	default:
		r.of.metrics.LimitReached("held_per_client")
	}
	return errNoRoom
}

// inMemory takes memory until there is enough for so many octets; all is how much
// of it those may have together who ask so.
func (r *room) inMemory(octets, all int64) bool {
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
func (r *room) leaveMemory() {
	if r.of != nil && r.memory > 0 {
		r.of.memory.Give(r.who, r.memory)
		r.memory = 0
	}
}

// close gives all back.
func (r *room) close() {
	r.leaveMemory()
	if r.of != nil && r.octets > 0 {
		r.of.octets.Give(r.who, r.octets)
		r.of.metrics.HeldBytes(-r.octets)
		r.octets = 0
	}
}
