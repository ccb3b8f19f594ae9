package backend

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/proxy/smtptest"
)

// from is alice at another address.
func from(address string) Client {
	c := alice
	c.Addr = netip.AddrPortFrom(netip.MustParseAddr(address), 25000)
	return c
}

// A client alone has a half of the connections, and the last one is for who has none.
func TestSharesOfConnections(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	for connections, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 2, 20: 10} {
		b := backendAt(identityNone, sink.Addr())
		b.Connections = connections
		s := newSet(t, Options{Timeouts: configs.Timeouts{BackendConnect: 50 * time.Millisecond}}, b)
		var lent []*Conn
		for len(lent) < connections {
			c, err := s.pools[0].Open(context.Background(), from("192.0.2.1"))
			if err != nil {
				break
			}
			lent = append(lent, c)
		}
		if len(lent) != want {
			t.Errorf("of %d connections a client got %d, want %d", connections, len(lent), want)
		}
		if connections > 1 {
			lent = append(lent, open(t, s, from("192.0.2.2")))
		}
		for _, c := range lent {
			c.Release()
		}
		if n := s.pools[0].loans.lent(); n != 0 {
			t.Errorf("%d lent", n)
		}
	}
}

// What is said in the configuration holds, be there a limit for all or not. The
// /64 of one /48 have four times as much together.
func TestConnectionsPerClient(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	s := newSet(t, Options{PerClient: 2, Timeouts: configs.Timeouts{BackendConnect: 50 * time.Millisecond}}, backendAt(identityNone, sink.Addr()))
	for prefix, want := range map[string]int{"192.0.2.1": 2, "2001:db8:1:1::%d": 2, "2001:db8:2:%x::1": 8} {
		var lent []*Conn
		for i := range 10 {
			address := prefix
			if prefix[0] == '2' {
				address = fmt.Sprintf(prefix, i)
			}
			if c, err := s.pools[0].Open(context.Background(), from(address)); err == nil {
				lent = append(lent, c)
			}
		}
		if len(lent) != want {
			t.Errorf("%s: got %d, want %d", prefix, len(lent), want)
		}
		for _, c := range lent {
			c.Release()
		}
	}
}

// Where the queue is full, who has most in it makes room for who has none. Served
// is who has waited longest of those that may have one.
func TestTheQueueIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newSink(t, smtptest.SinkOptions{})
		b := backendAt(identityNone, "mx:25")
		b.Connections = 3
		s := newSet(t, Options{Dial: sink.Dial}, b)
		greedy := []*Conn{open(t, s, from("192.0.2.1")), open(t, s, from("192.0.2.1")), open(t, s, from("192.0.2.3"))}
		type result struct {
			c   *Conn
			err error
		}
		wait := func(address string) chan result {
			ch := make(chan result, 1)
			go func() {
				c, err := s.pools[0].Open(context.Background(), from(address))
				ch <- result{c, err}
			}()
			synctest.Wait()
			return ch
		}
		first, second, third := wait("192.0.2.1"), wait("192.0.2.1"), wait("192.0.2.1")
		honest := wait("192.0.2.2")
		if r := <-third; r.err == nil {
			t.Error("the last one of the greedy client was served")
		}
		if e := failure(t, s, from("192.0.2.1")); e.Kind != KindBusy {
			t.Error(e)
		}
		greedy[2].Release()
		r := <-honest // although others came before
		if r.err != nil {
			t.Fatal(r.err)
		}
		greedy[0].Release()
		greedy[1].Release()
		for _, ch := range []chan result{first, second} {
			r := <-ch
			if r.err != nil {
				t.Error(r.err)
				continue
			}
			r.c.Release()
		}
		r.c.Release()
		if l := &s.pools[0].loans; l.lent() != 0 || len(l.waiting) != 0 {
			t.Errorf("%d lent, %d wait", l.lent(), len(l.waiting))
		}
		s.Close()
		sink.Close()
	})
}

// Who has its share already asks for nobody's connection but its own client's.
func TestOnlyTheOwnAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newSink(t, smtptest.SinkOptions{})
		b := backendAt(identityNone, "mx:25")
		b.Connections = 4
		s := newSet(t, Options{Dial: sink.Dial}, b)
		other, one, two := open(t, s, from("192.0.2.2")), open(t, s, from("192.0.2.1")), open(t, s, from("192.0.2.1"))
		theirs := &borrower{at: make(chan time.Time, 1), given: other}
		other.Spare(theirs)
		time.Sleep(time.Second)
		own := &borrower{at: make(chan time.Time, 1), given: one}
		one.Spare(own)
		got := open(t, s, from("192.0.2.1"))
		if len(own.at) != 1 || len(theirs.at) != 0 {
			t.Errorf("own %d, others %d", len(own.at), len(theirs.at))
		}
		other.Wanted()
		for _, c := range []*Conn{other, two, got} {
			c.Release()
		}
		s.Close()
		sink.Close()
	})
}
