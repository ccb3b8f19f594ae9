package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/configs"
)

// serveTCP serves on a real socket: only there sessions are parked.
func (r *rig) serveTCP() (dial func() *client) {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.serving.Go(func() {
		if err := r.srv.Serve(ln, Listener{Name: "mx", TLS: "starttls"}); !errors.Is(err, ErrServerClosed) {
			r.t.Error(err)
		}
	})
	ended := make(chan struct{})
	close(ended) // nobody but the server knows when a session has ended
	return func() *client {
		r.t.Helper()
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(5 * time.Minute)) // for all that is to come
		c := &client{t: r.t, conn: conn, br: bufio.NewReader(conn), done: ended}
		c.expect("220 ")
		c.ehlo()
		return c
	}
}

// parked returns how many sessions are.
func (r *rig) parked() int {
	p := &r.srv.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.parked)
}

// waitParked waits until so many sessions are parked.
func (r *rig) waitParked(want int) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%d sessions parked", want), func() bool { return r.parked() == want })
}

func (r *rig) wait(what string, done func() bool) {
	r.t.Helper()
	for began := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			r.t.Fatalf("not after %v: %s; %d are parked", time.Since(began), what, r.parked())
		}
	}
}

// TestParked: sessions of silent clients hold no goroutine, and all that can
// happen to a session finds them.
func TestParked(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			const many = 40
			r := newRig(t, rigOptions{policy: &openPolicy})
			dial := r.serveTCP()
			before := runtime.NumGoroutine()
			var cs []*client
			for range many {
				c := dial()
				if secure {
					c.cmd("STARTTLS", "220 ")
					if err := c.tls(); err != nil {
						t.Fatal(err)
					}
					_ = c.conn.SetDeadline(time.Now().Add(5 * time.Minute))
					c.ehlo()
				}
				cs = append(cs, c)
			}
			r.waitParked(many)
			r.wait("few goroutines", func() bool { return runtime.NumGoroutine() < before+many/2 })

			// One has a message, one pauses within a line, the others say a word.
			if got := cs[0].message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
				t.Error(got)
			}
			cs[1].send("NO")
			cs[2].send("NOOP\r\nNOOP\r\n")
			cs[2].expect("250 ")
			for i, c := range cs[2:] {
				if i > 0 {
					c.send("NOOP\r\n")
				}
				c.expect("250 ")
			}
			time.Sleep(2 * parkAfter)
			cs[1].cmd("OP", "250 ")
			if got := cs[1].message("MAIL FROM:<alice@good.example>", rigMessage); code(got) != "250" {
				t.Error(got)
			}
			r.waitParked(many)

			// Who leaves is let go.
			for _, c := range cs[:many/2] {
				_ = c.conn.Close()
			}
			r.waitParked(many / 2)
			r.wait("the sessions that are left", func() bool {
				r.srv.mu.Lock()
				defer r.srv.mu.Unlock()
				return len(r.srv.sessions) == many/2
			})

			// Who stays is told.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := r.srv.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			for _, c := range cs[many/2:] {
				c.expect("421 4.3.2 ")
				c.closed()
			}
			if n := r.parked(); n != 0 || r.srv.parking.ep != nil {
				t.Errorf("%d are parked still", n)
			}
		})
	}
}

// TestParkedTimeout: to be parked prolongs nothing.
func TestParkedTimeout(t *testing.T) {
	const limit = max(12*parkAfter, 15*time.Second) // long enough to be seen parked
	r := newRig(t, rigOptions{config: func(c *configs.Config) { c.Timeouts.Command = limit }})
	c := r.serveTCP()()
	began := time.Now() // before the server's time for the next command begins
	c.cmd("RSET", "250 ")
	r.waitParked(1)
	c.expect("421 4.4.2 ")
	if d := time.Since(began); d < limit {
		t.Errorf("after %v, and not %v", d, limit)
	}
	c.closed()
	r.waitParked(0)
}

// TestParkedRecord: a TLS record that comes in two parts, with a long pause
// between them, parks the session twice and is one command.
func TestParkedRecord(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.serveTCP()()
	c.cmd("STARTTLS", "220 ")
	slow := &twoParts{Conn: c.conn}
	c.conn = slow
	if err := c.tls(); err != nil {
		t.Fatal(err)
	}
	r.waitParked(1)
	before := r.alarms() // NOT: once half of the record is there, and the session awake
	slow.between = func() {
		r.wait("the session is parked anew", func() bool {
			now := r.alarms()
			return len(now) == 1 && now[0] != before[0]
		})
	}
	c.ehlo()
}

// alarms returns those of the parked sessions: each has a new one every time.
func (r *rig) alarms() (all []*time.Timer) {
	p := &r.srv.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.parked {
		all = append(all, s.idle.place.alarm)
	}
	return all
}

// twoParts writes everything in two parts, once between is set.
type twoParts struct {
	net.Conn
	between func()
}

func (c *twoParts) Write(b []byte) (int, error) {
	if c.between == nil {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	c.between()
	m, err := c.Conn.Write(b[n:])
	return n + m, err
}

// TestParkedAndHeardAtOnce: commands that come just when a session is parked, and
// sessions that are resumed for nothing, lose no octet.
func TestParkedAndHeardAtOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	dial := r.serveTCP()
	end := make(chan struct{})
	var alarm, clients sync.WaitGroup
	alarm.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
			r.srv.mu.Lock()
			for s := range r.srv.sessions {
				if rand.IntN(20) == 0 {
					r.srv.parking.unpark(s)
				}
			}
			r.srv.mu.Unlock()
		}
	})
	for range 30 {
		c := dial()
		clients.Go(func() {
			for i := range 8 {
				time.Sleep(parkAfter + time.Duration(rand.IntN(5)-2)*time.Millisecond)
				c.say(fmt.Sprintf("VRFY %d\r\n", i))
				if got := c.hear(); !strings.HasPrefix(got, "252 ") {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	clients.Wait()
	close(end)
	alarm.Wait()
}

// TestParkedGiveWay: a session that is parked is one that gives way, too.
func TestParkedGiveWay(t *testing.T) {
	r := newRig(t, rigOptions{config: func(c *configs.Config) { c.Limits.Connections = 1 }})
	var ahead atomic.Int64
	r.srv.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	dial := r.serveTCP()
	first := dial()
	r.waitParked(1)
	ahead.Store(int64(giveWayAfter))
	second := dial()
	first.expect("421 4.3.2 ")
	if got := first.hear(); got != "close" {
		t.Error(got)
	}
	second.cmd("NOOP", "250 ")
}
