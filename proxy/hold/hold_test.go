package hold

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"postern/configs"
	"postern/proxy/share"
)

// spoolOf fills a spool for a client until it has size octets.
func spoolOf(h *Space, address string, l configs.Limits, size int) (*Spool, error) {
	sp := h.Spool(share.Of(netip.MustParseAddr(address)), l)
	block := bytes.Repeat([]byte("x"), 10_000)
	for size > 0 {
		n, err := sp.Write(block[:min(size, len(block))])
		if err != nil {
			return sp, err
		}
		size -= n
	}
	return sp, nil
}

// What is held is bounded in all and for one client, comes out as it went in, and
// is given back, all of it.
func TestRoomForHeldMessages(t *testing.T) {
	limits := configs.Limits{Held: 16 * configs.MiB, HeldPerClient: 5 * configs.MiB, MessageSize: configs.MiB}
	var h Space
	var spools []*Spool
	count := func(address func(i int) string) (n int) {
		for i := range 30 {
			sp, err := spoolOf(&h, address(i), limits, 1<<20)
			if spools = append(spools, sp); err == nil {
				n++
			} else if !errors.Is(err, ErrNoRoom) {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := sp.BodyTo(&b); err != nil || int64(b.Len()) != sp.size {
				t.Fatalf("%d octets of %d: %v", b.Len(), sp.size, err)
			}
		}
		return n
	}
	if n := count(func(int) string { return "192.0.2.1" }); n != 5 {
		t.Errorf("one client holds %d, want 5", n)
	}
	if n := count(func(i int) string { return fmt.Sprintf("2001:db8:1:%x::1", i) }); n != 11 {
		t.Errorf("a /48 holds %d, want the 11 that are left", n)
	}
	for _, sp := range spools {
		sp.Close()
		sp.Close()
	}
	if h.octets.Used() != 0 || h.memory.Used() != 0 {
		t.Errorf("%d octets, %d in memory are still taken", h.octets.Used(), h.memory.Used())
	}
}

// Where memory is short, what would fit in there goes to the disk: nobody is refused.
func TestHeldMemoryIsBounded(t *testing.T) {
	var h Space
	limits := configs.Limits{Held: configs.GiB, HeldPerClient: configs.GiB}
	for i := range 300 { // 75 MiB, were all in memory
		sp, err := spoolOf(&h, fmt.Sprintf("192.0.2.%d", i%10), limits, spoolMemory)
		if err != nil {
			t.Fatal(err)
		}
		defer sp.Close()
		if i == 9 && sp.file != nil {
			t.Error("there was memory for it")
		}
	}
	if used := h.memory.Used(); used > spoolMemoryShare || used < spoolMemoryShare-10*spoolMemory {
		t.Errorf("%d octets in memory, of %d", used, spoolMemoryShare)
	}
	if n := h.memory.By(share.Of(netip.MustParseAddr("192.0.2.1"))); n > spoolMemoryShare/heldShares {
		t.Errorf("one client has %d", n)
	}
}

// Nothing said: a half of what is free, and for one client an eighth, but one
// message at the least.
func TestHeldDefaults(t *testing.T) {
	h := Space{looked: time.Now().Add(time.Hour), free: 16 << 30}
	l := configs.Default().Limits
	if got := h.limits(l); got.All != 8<<30 || got.Each != 1<<30 {
		t.Errorf("got %+v", got)
	}
	h.free = 100 << 20
	if got := h.limits(l); got.All != 50<<20 || got.Each != int64(l.MessageSize+l.HeaderSize) {
		t.Errorf("got %+v", got)
	}
	h.free = 0
	if got := h.limits(l); got.All != 1 {
		t.Errorf("a full disk: %+v", got)
	}
	if got := new(Space).limits(l); got.All < 2 {
		t.Errorf("of this disk: %+v", got)
	}
}
