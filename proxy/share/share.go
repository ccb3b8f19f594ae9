// Package share divides what is for all among the clients: connections, the
// backend's connections, room for messages that are held. One client, or a
// handful, must not take all of it from the others.
package share

import (
	"math"
	"net/netip"
	"sync"
)

// NetworkFactor is how many times the bound of one client a whole network may
// have, where clients of it are counted together.
const NetworkFactor = 4

// Client is who counts as one: an IPv4 address, or an IPv6 /64, which is the least
// that a customer gets. Many get a /56 or a /48 (RFC 6177 §2), and so 256 or 65,536
// clients, which is why those of one /48 are counted together as well. The zero
// Client is nobody's, and no bound of a client holds for it.
type Client struct {
	Address netip.Prefix
	Network netip.Prefix // an IPv6 /48; zero for IPv4
}

// Of returns the client that has an address.
func Of(a netip.Addr) Client {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return Client{}
	case a.Is4():
		return Client{Address: netip.PrefixFrom(a, 32)}
	}
	address, _ := a.Prefix(64)
	network, _ := a.Prefix(48)
	return Client{Address: address, Network: network}
}

// IsValid says whether c is anybody.
func (c Client) IsValid() bool { return c.Address.IsValid() }

// Limits is what there is to divide.
type Limits struct {
	All int64 // for all together; 0: there is no end of it
	// Each is for one client. 0: as much as it leaves free for others. A client that
	// takes what it can get then has a half of All, and seven have an eighth each
	// and leave an eighth, whatever they do.
	Each int64
	// Leave is, where Each is 0, how many times as much as it has one client leaves
	// free for others; 0: once. Where it is 4, seven have an eleventh each, and leave
	// four.
	Leave int64
}

// Bound says which bound was reached.
type Bound string

// The bounds.
const (
	None      Bound = ""
	ByAll     Bound = "all"
	ByClient  Bound = "client"
	ByNetwork Bound = "network"
)

// Budget counts who has how much. The zero Budget is ready, and any number of
// goroutines may use it. What it holds is forgotten with the last that is given
// back, so it is bounded by what was taken.
type Budget struct {
	mu   sync.Mutex
	used int64
	by   map[netip.Prefix]int64
}

// Take takes n for c, or says which bound is in the way. The first that a client
// takes is bounded by All alone, unless Each says otherwise.
func (b *Budget) Take(c Client, n int64, l Limits) Bound {
	b.mu.Lock()
	defer b.mu.Unlock()
	if why := b.bound(c, n, l); why != None {
		return why
	}
	b.add(c, n)
	return None
}

// Fits says what Take would say, and takes nothing.
func (b *Budget) Fits(c Client, n int64, l Limits) Bound {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bound(c, n, l)
}

func (b *Budget) bound(c Client, n int64, l Limits) Bound {
	free := int64(math.MaxInt64)
	if l.All > 0 {
		free = l.All - b.used
	}
	if n > free {
		return ByAll
	}
	over := func(key netip.Prefix, factor int64) bool {
		has := b.by[key]
		switch {
		case !key.IsValid():
			return false
		case l.Each > 0:
			return has+n > l.Each*factor
		}
		return has > 0 && (has+n)*max(1, l.Leave) > free
	}
	switch {
	case over(c.Address, 1):
		return ByClient
	case over(c.Network, NetworkFactor):
		return ByNetwork
	}
	return None
}

// Give gives back n of what c took.
func (b *Budget) Give(c Client, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(c, -n)
}

// Used returns how much is taken, by all.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// By returns how much c has taken.
func (b *Budget) By(c Client) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.by[c.Address]
}

func (b *Budget) add(c Client, n int64) {
	b.used += n
	for _, key := range [...]netip.Prefix{c.Address, c.Network} {
		if !key.IsValid() {
			continue
		}
		if b.by == nil {
			b.by = make(map[netip.Prefix]int64)
		}
		if b.by[key] += n; b.by[key] <= 0 {
			delete(b.by, key)
		}
	}
}
