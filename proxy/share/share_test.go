package share

import (
	"fmt"
	"net/netip"
	"testing"
)

func of(s string) Client { return Of(netip.MustParseAddr(s)) }

func TestOf(t *testing.T) {
	for in, want := range map[string]Client{
		"192.0.2.1":              {Address: netip.MustParsePrefix("192.0.2.1/32")},
		"::ffff:192.0.2.1":       {Address: netip.MustParsePrefix("192.0.2.1/32")},
		"2001:db8:1:2:3:4:5:6":   {netip.MustParsePrefix("2001:db8:1:2::/64"), netip.MustParsePrefix("2001:db8:1::/48")},
		"2001:db8:1::":           {netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:1::/48")},
		"fe80::1:2%eth0":         {netip.MustParsePrefix("fe80::/64"), netip.MustParsePrefix("fe80::/48")},
		"2001:db8:1:ffff::1":     {netip.MustParsePrefix("2001:db8:1:ffff::/64"), netip.MustParsePrefix("2001:db8:1::/48")},
		"2001:db8:2:ffff:ff::ff": {netip.MustParsePrefix("2001:db8:2:ffff::/64"), netip.MustParsePrefix("2001:db8:2::/48")},
	} {
		if got := of(in); got != want {
			t.Errorf("%s: got %v, want %v", in, got, want)
		}
	}
	if Of(netip.Addr{}).IsValid() {
		t.Error("no address is nobody's")
	}
}

func TestEach(t *testing.T) {
	var b Budget
	l := Limits{All: 100, Each: 3}
	for i := range 5 {
		if got, want := b.Take(of("192.0.2.1"), 1, l), map[bool]Bound{true: None, false: ByClient}[i < 3]; got != want {
			t.Errorf("%d: got %q, want %q", i, got, want)
		}
	}
	// One /48 has four times what a /64 of it has.
	taken := 0
	for i := range 200 {
		switch got := b.Take(of(fmt.Sprintf("2001:db8:1:%x::1", i)), 1, l); got {
		case None:
			taken++
		case ByNetwork:
		default:
			t.Fatalf("got %q", got)
		}
	}
	if taken != 12 {
		t.Errorf("one /48 took %d", taken)
	}
	if got := b.Take(of("2001:db8:2::1"), 1, l); got != None {
		t.Errorf("another /48: %q", got)
	}
	if got := b.Take(Client{}, 50, l); got != None {
		t.Errorf("nobody: %q", got)
	}
	if got := b.Take(of("192.0.2.9"), 40, l); got != ByAll {
		t.Errorf("got %q", got)
	}
	b.Give(of("192.0.2.1"), 1)
	if got := b.Take(of("192.0.2.1"), 1, l); got != None {
		t.Errorf("what was given back: %q", got)
	}
}

// TestGreedyClientsLeaveSomething: however many clients take all that they can
// get, each has the same, and what is left is as much again.
func TestGreedyClientsLeaveSomething(t *testing.T) {
	for greedy, want := range map[int]int64{1: 5000, 3: 2500, 7: 1250, 19: 500} {
		var b Budget
		l := Limits{All: 10000}
		for took := true; took; {
			took = false
			for i := range greedy {
				if b.Take(of(fmt.Sprintf("192.0.2.%d", i+1)), 1, l) == None {
					took = true
				}
			}
		}
		if free := l.All - b.Used(); free != want || b.By(of("192.0.2.1")) != want {
			t.Errorf("%d greedy clients leave %d and have %d each, want %d", greedy, free, b.By(of("192.0.2.1")), want)
		}
		if got := b.Take(of("198.51.100.1"), want/2, l); got != None {
			t.Errorf("another one: %q", got)
		}
	}
}

// TestLeave: where others are to find more than as much again.
func TestLeave(t *testing.T) {
	for leave, want := range map[int64]int64{1: 99, 2: 88, 4: 72} {
		var b Budget
		l := Limits{All: 792, Leave: leave}
		for took := true; took; {
			took = false
			for i := range 7 {
				took = b.Take(of(fmt.Sprintf("192.0.2.%d", i+1)), 1, l) == None || took
			}
		}
		if has := b.By(of("192.0.2.7")); has != want {
			t.Errorf("each leaves %d times what it has, and has %d, want %d; %d are free", leave, has, want, l.All-b.Used())
		}
	}
}

// TestTheFirstIsBoundedByAllAlone: where there is little, a client gets one all the same.
func TestTheFirstIsBoundedByAllAlone(t *testing.T) {
	var b Budget
	l := Limits{All: 1}
	if got := b.Take(of("192.0.2.1"), 1, l); got != None {
		t.Errorf("got %q", got)
	}
	if got := b.Take(of("192.0.2.2"), 1, l); got != ByAll {
		t.Errorf("got %q", got)
	}
}

func TestNothingIsKept(t *testing.T) {
	var b Budget
	for i := range 100 {
		c := of(fmt.Sprintf("2001:db8:1:%x::1", i))
		b.Take(c, int64(i+1), Limits{})
		defer func() {
			b.Give(c, int64(i+1))
			if i == 0 && (b.Used() != 0 || len(b.by) != 0) {
				t.Errorf("%d used, by %d", b.Used(), len(b.by))
			}
		}()
	}
}
