package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
	"postern/proxy/smtptest"
)

// hosts is a small net: addresses, and the Sinks that stand there.
type hosts struct {
	mu sync.Mutex
	at map[string]*smtptest.Sink
}

func newHosts(at map[string]*smtptest.Sink) *hosts { return &hosts{at: at} }

func (h *hosts) get(address string) *smtptest.Sink {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at[address]
}

// set puts a Sink, or nobody (nil), where another may have been.
func (h *hosts) set(address string, s *smtptest.Sink) {
	h.mu.Lock()
	old := h.at[address]
	h.at[address] = s
	h.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

func (h *hosts) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if s := h.get(address); s != nil {
		return s.Dial(ctx, network, address)
	}
	return nil, errors.New("connection refused")
}

func (h *hosts) close() {
	for address := range h.at {
		h.set(address, nil)
	}
}

type sinks = map[string]*smtptest.Sink

// One connection serves many sessions, and each time the backend is told anew
// who the client is.
func TestAConnectionIsUsedAgain(t *testing.T) {
	bob := Client{Addr: alice.Addr, Name: "bob.example", Helo: "bob.example"}
	for _, identity := range []string{identityXClient, identityXForward, identityNone} {
		t.Run(identity, func(t *testing.T) {
			sink := newSink(t, smtptest.SinkOptions{})
			s := newSet(t, Options{}, backendAt(identity, sink.Addr()))
			for i := range 6 {
				client := alice
				if i%2 == 1 {
					client = bob
				}
				c := open(t, s, client)
				if i == 3 { // a transaction left open is reset
					c.QueueMail(sender, nil)
					want(t, c, 250)
					c.Release()
					continue
				}
				send(t, c, "x\r\n")
				c.Release()
			}
			if n := sink.Connections(); n != 1 {
				t.Errorf("%d connections", n)
			}
			m := sink.Messages()
			if len(m) != 5 {
				t.Fatalf("%d messages", len(m))
			}
			for i, name := range []string{"mail.example.com", "bob.example", "mail.example.com", "mail.example.com", "bob.example"} {
				told := map[string]string{identityXClient: m[i].XClient["NAME"], identityXForward: m[i].XForward["NAME"], identityNone: name}[identity]
				if told != name {
					t.Errorf("message %d came from %q, not %q", i, told, name)
				}
			}
		})
	}
}

// A connection that the backend has ended while it was idle costs nothing but
// another connection.
func TestADeadIdleConnectionIsReplacedUnseen(t *testing.T) {
	t.Run("seen by the socket", func(t *testing.T) {
		sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
			return smtptest.Action{Close: st.Verb == "." && st.Connection == 1, Reply: map[bool]string{true: "250 2.0.0 OK\r\n"}[st.Verb == "." && st.Connection == 1]}
		}})
		s := newSet(t, Options{}, backendAt(identityNone, sink.Addr()))
		for range 2 {
			c := open(t, s, alice)
			send(t, c, "x\r\n")
			c.Release()
		}
		if sink.Connections() != 2 {
			t.Errorf("%d connections", sink.Connections())
		}
	})
	// Over a pipe nothing can be seen beforehand, so it is the first command
	// of the session that meets the dead connection, and is said again.
	for _, tc := range []struct {
		name string
		at   string
		does smtptest.Action
	}{
		{"cut at RSET", "RSET", smtptest.Action{Close: true}},
		{"421 to RSET", "RSET", smtptest.Action{Reply: "421 4.4.2 Idle too long\r\n", Close: true}},
		{"RSET refused", "RSET", smtptest.Action{Reply: "502 5.5.1 Not here\r\n"}},
		{"RSET refused for now", "RSET", smtptest.Action{Reply: "451 4.3.0 Later\r\n"}},
		{"cut at MAIL", "MAIL", smtptest.Action{Close: true}},
		{"421 to MAIL", "MAIL", smtptest.Action{Reply: "421 4.7.0 Too many messages\r\n", Close: true}},
		{"cut at XFORWARD", "XFORWARD", smtptest.Action{Close: true}},
	} {
		for _, identity := range []string{identityNone, identityXForward} {
			if tc.at == "XFORWARD" && identity == identityNone {
				continue
			}
			for _, pipelining := range []bool{true, false} {
				t.Run(fmt.Sprint(tc.name, identity, pipelining), func(t *testing.T) {
					mails := 0
					o := smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
						if st.Verb == "MAIL" {
							mails++
						}
						if st.Connection == 1 && st.Verb == tc.at && (st.Verb == "RSET" || mails > 1 || st.Verb == "XFORWARD" && mails == 1) {
							return tc.does
						}
						return smtptest.Action{}
					}}
					if !pipelining {
						o.Without = []string{"PIPELINING"}
					}
					sink := newSink(t, o)
					s := newSet(t, Options{Dial: sink.Dial}, backendAt(identity, "mta:25"))
					for range 2 {
						c := open(t, s, alice)
						send(t, c, "x\r\n")
						c.Release()
					}
					m := sink.Messages()
					if len(m) != 2 || sink.Connections() != 2 {
						t.Fatalf("%d messages over %d connections", len(m), sink.Connections())
					}
					if identity == identityXForward && m[1].XForward["ADDR"] != "192.0.2.7" {
						t.Errorf("%+v", m[1].XForward)
					}
				})
			}
		}
	}
}

// The same holds between two transactions of one session.
func TestAConnectionThatEndedBetweenTransactions(t *testing.T) {
	for _, does := range []smtptest.Action{{Close: true}, {Reply: "421 4.4.2 Idle too long\r\n", Close: true}} {
		mails := 0
		sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
			if st.Verb == "MAIL" {
				if mails++; mails == 3 {
					return does
				}
			}
			return smtptest.Action{}
		}})
		s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityXClient, "mta:25"))
		c := open(t, s, alice)
		for range 4 {
			send(t, c, "x\r\n")
		}
		c.Release()
		m := sink.Messages()
		if len(m) != 4 || sink.Connections() != 2 || m[3].XClient["ADDR"] != "192.0.2.7" {
			t.Errorf("%d messages over %d connections", len(m), sink.Connections())
		}
	}
	// But a connection that is new and dies at once is a failure.
	sink := newSink(t, smtptest.SinkOptions{Script: script("MAIL", smtptest.Action{Close: true})})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c := open(t, s, alice)
	defer c.Abort()
	c.QueueMail(sender, nil)
	if r, err := c.Reply(); err == nil || sink.Connections() != 1 {
		t.Errorf("%v over %d connections", r, sink.Connections())
	}
}

// Postfix judges a second XCLIENT by the address in the first, and says so by
// not listing it any more. Then a connection is one client's.
func TestXClientThatWorksOnce(t *testing.T) {
	told := map[int]bool{}
	sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		switch {
		case st.Verb == "XCLIENT":
			told[st.Connection] = true
		case st.Verb == "EHLO" && told[st.Connection]:
			return smtptest.Action{Reply: "250-mta\r\n250 PIPELINING\r\n", Do: true}
		}
		return smtptest.Action{}
	}})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityXClient, "mta:25"))
	for range 2 {
		c := open(t, s, alice)
		send(t, c, "x\r\n")
		send(t, c, "y\r\n")
		c.Release()
	}
	if sink.Connections() != 2 || len(sink.Messages()) != 4 || idleOf(s) != 0 {
		t.Errorf("%d connections, %d messages", sink.Connections(), len(sink.Messages()))
	}
	// What was learned is what was offered before that.
	if c := s.Capabilities(); !c.Chunking {
		t.Errorf("%+v", c)
	}
}

// From the last octet of the message on, nothing is said twice.
func TestAWholeMessageIsNeverSentAgain(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		return smtptest.Action{Close: st.Verb == "RSET"} // reads it all, answers nothing
	}})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c := open(t, s, alice)
	send(t, c, "x\r\n")
	c.Release()
	c = open(t, s, alice)
	defer c.Abort()
	c.QueueMail(sender, nil)
	c.QueueRcpt(recipient, nil)
	c.QueueBdat(3, true)
	_, _ = c.Write([]byte("x\r\n"))
	if r, err := c.Reply(); err == nil {
		t.Errorf("%v", r)
	}
	if sink.Connections() != 1 || !c.EndSent() {
		t.Errorf("%d connections, end sent %v", sink.Connections(), c.EndSent())
	}
}

// The search for another connection ends with Abort, like every other wait.
func TestAbortEndsTheSearchForAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := smtptest.NewSink(smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
			return smtptest.Action{Close: st.Verb == "RSET", Stall: st.Verb == "CONNECT" && st.Connection > 1}
		}})
		defer sink.Close()
		s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
		c := open(t, s, alice)
		send(t, c, "x\r\n")
		c.Release()
		c = open(t, s, alice)
		time.AfterFunc(time.Second, c.Abort)
		start := time.Now()
		c.QueueMail(sender, nil)
		if r, err := c.Reply(); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", r, time.Since(start))
		}
		synctest.Wait()
		p := s.pools[0]
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.loans.lent() != 0 || p.addrs[0].inUse != 0 || p.addrs[0].failed {
			t.Errorf("in use: %d, %d; blamed: %v", p.loans.lent(), p.addrs[0].inUse, p.addrs[0].failed)
		}
	})
}

// A backend may stand behind a socket file.
func TestASocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mta")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	m := &Maildir{Dir: t.TempDir()}
	done := make(chan error, 1)
	go func() { done <- m.Serve(ln) }()
	s := newSet(t, Options{}, m.Backend("unix:"+path))
	for range 2 {
		c := open(t, s, alice)
		send(t, c, "x\r\n")
		c.Release()
	}
	if n := len(files(t, m, "new")); n != 2 || idleOf(s) != 1 {
		t.Errorf("%d messages, %d idle", n, idleOf(s))
	}
	_ = m.Close()
	<-done
}

// The replacement must offer what the commands were written for.
func TestAReplacementThatOffersLessIsNone(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		switch {
		case st.Verb == "RSET":
			return smtptest.Action{Close: true}
		case st.Verb == "EHLO" && st.Connection == 2:
			return smtptest.Action{Reply: "250-mta\r\n250 PIPELINING\r\n", Do: true}
		}
		return smtptest.Action{}
	}})
	s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
	c := open(t, s, alice)
	send(t, c, "x\r\n")
	c.Release()
	c = open(t, s, alice)
	defer c.Abort()
	c.QueueMail(sender, nil)
	if r, err := c.Reply(); err == nil {
		t.Errorf("%v", r)
	}
}

// A connection is not lent for ever: not to those who would inherit another's
// errors, not beyond what the backend allows, not when it is old.
func TestWhenAConnectionIsNotUsedAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		sink smtptest.SinkOptions
		o    Options
		want int // connections for four messages
	}{
		{"MaxUses", smtptest.SinkOptions{}, Options{MaxUses: 2}, 2},
		{"MAILMAX", smtptest.SinkOptions{Keywords: []string{"PIPELINING", "LIMITS MAILMAX=2 RCPTMAX=100"}}, Options{}, 2},
		{"MaxAge", smtptest.SinkOptions{}, Options{MaxAge: 15 * time.Second}, 2},
		{"IdleTime", smtptest.SinkOptions{}, Options{IdleTime: 9 * time.Second}, 4},
		{"none idle", smtptest.SinkOptions{}, Options{IdlePerAddress: -1}, 4},
		{"good", smtptest.SinkOptions{}, Options{}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := smtptest.NewSink(tc.sink)
				defer sink.Close()
				tc.o.Dial = sink.Dial
				s := newSet(t, tc.o, backendAt(identityNone, "mta:25"))
				for range 4 {
					c := open(t, s, alice)
					send(t, c, "x\r\n")
					c.Release()
					time.Sleep(10 * time.Second)
				}
				if n := sink.Connections(); n != tc.want {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
	t.Run("errors", func(t *testing.T) {
		sink := newSink(t, smtptest.SinkOptions{Script: script("RCPT", smtptest.Action{Reply: "550 5.1.1 Who?\r\n"})})
		s := newSet(t, Options{}, backendAt(identityNone, sink.Addr()))
		for range maxErrors + 1 {
			c := open(t, s, alice)
			c.QueueMail(sender, nil)
			c.QueueRcpt(recipient, nil)
			want(t, c, 250)
			want(t, c, 550)
			c.Release()
		}
		if n := sink.Connections(); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestIdleConnectionsEndWithQuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := smtptest.NewSink(smtptest.SinkOptions{})
		defer sink.Close()
		s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityNone, "mta:25"))
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		c := open(t, s, alice)
		send(t, c, "x\r\n")
		c.Release()
		time.Sleep(76 * time.Second)
		synctest.Wait()
		if n := idleOf(s); n != 0 {
			t.Errorf("%d idle", n)
		}
		cancel()
		wg.Wait()
		if !strings.HasSuffix(string(sink.Wire(1))+string(sink.Wire(2)), "QUIT\r\n") {
			t.Errorf("%q %q", sink.Wire(1), sink.Wire(2))
		}
	})
}

// As many connections wait for the next session as are at work, a few in any case: what
// comes back while others go on is not closed and opened again, and what comes back
// when the load has gone is closed.
func TestAsManyConnectionsWaitAsAreAtWork(t *testing.T) {
	for _, tc := range []struct {
		perAddress, open, back int
		want                   int // that wait
	}{
		{0, 20, 20, 20},
		{0, 25, 24, 20},
		{0, 25, 25, 20},
		{0, 60, 29, 29},
		{0, 60, 30, 30},
		{0, 60, 60, 30},
		{2, 3, 3, 2},
		{2, 8, 4, 4},
		{2, 8, 8, 4},
		{-1, 8, 4, 0},
	} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			sink := smtptest.NewSink(smtptest.SinkOptions{})
			defer sink.Close()
			s := newSet(t, Options{Dial: sink.Dial, IdlePerAddress: tc.perAddress}, backendAt(identityNone, "mta:25"))
			conns := make([]*Conn, tc.open)
			for i := range conns {
				conns[i] = open(t, s, alice)
			}
			defer func() {
				for _, c := range conns[tc.back:] {
					c.Release()
				}
			}()
			for _, c := range conns[:tc.back] {
				c.Release()
			}
			if n := idleOf(s); n != tc.want {
				t.Errorf("%d wait, want %d", n, tc.want)
			}
			// Those who come next open no more than what does not wait.
			for range tc.want {
				defer open(t, s, alice).Release()
			}
			if n := sink.Connections(); n != tc.open {
				t.Errorf("%d connections were opened, want %d", n, tc.open)
			}
		})
	}
}

func idleOf(s *Set) int {
	n := 0
	for _, p := range s.pools {
		p.mu.Lock()
		for _, a := range p.addrs {
			n += len(a.idle)
		}
		p.mu.Unlock()
	}
	return n
}

// The least busy address first.
func TestLoadIsSpread(t *testing.T) {
	h := newHosts(sinks{"one:25": smtptest.NewSink(smtptest.SinkOptions{}), "two:25": smtptest.NewSink(smtptest.SinkOptions{}), "three:25": smtptest.NewSink(smtptest.SinkOptions{})})
	defer h.close()
	s := newSet(t, Options{Dial: h.dial}, backendAt(identityNone, "one:25", "two:25", "three:25"))
	var conns []*Conn
	for range 9 {
		conns = append(conns, open(t, s, alice))
	}
	for _, c := range conns {
		c.Release()
	}
	for name, sink := range h.at {
		if n := sink.Connections(); n != 3 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

func TestFailover(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  *smtptest.Sink // nil: nobody there
	}{
		{"dial", nil},
		{"554", smtptest.NewSink(smtptest.SinkOptions{Script: script("CONNECT", smtptest.Action{Reply: "554 5.3.2 No\r\n"})})},
		{"silent", smtptest.NewSink(smtptest.SinkOptions{Script: script("CONNECT", smtptest.Action{Close: true})})},
		{"EHLO", smtptest.NewSink(smtptest.SinkOptions{Script: script("EHLO", smtptest.Action{Reply: "500 5.5.1 No\r\n"})})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHosts(sinks{"good:25": smtptest.NewSink(smtptest.SinkOptions{}), "bad:25": tc.bad})
			defer h.close()
			s := newSet(t, Options{Dial: h.dial}, backendAt(identityNone, "bad:25", "good:25"))
			for range 5 {
				c := open(t, s, alice)
				if c.Name() != "mta good:25" {
					t.Error(c.Name())
				}
				defer c.Release()
			}
			if tc.bad != nil && tc.bad.Connections() > 1 {
				t.Errorf("asked %d times", tc.bad.Connections())
			}
			if !s.Up() {
				t.Error("not up")
			}
		})
	}
}

// A client whose name the backend does not like says nothing about the
// backend's health.
func TestAnUnwelcomeClientTalksNoBackendDown(t *testing.T) {
	for _, identity := range []string{identityXClient, identityProxyV2} {
		sink := newSink(t, smtptest.SinkOptions{Proxy: identity == identityProxyV2, Script: func(st smtptest.Step) smtptest.Action {
			if strings.HasPrefix(st.Line, "EHLO evil") {
				return smtptest.Action{Reply: "550 5.7.1 Not you\r\n"}
			}
			return smtptest.Action{}
		}})
		s := newSet(t, Options{}, backendAt(identity, sink.Addr()))
		evil := alice
		evil.Helo = "evil.example"
		if e := failure(t, s, evil); e.Kind != KindRefused || e.Reply.Code != 550 {
			t.Error(e)
		}
		if s.pools[0].addrs[0].failed {
			t.Errorf("%s: blamed", identity)
		}
	}
}

// Back-off is 1 s, doubled up to a minute, and ends with the first success.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var tries []time.Duration
		h := newHosts(sinks{})
		var mu sync.Mutex
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, time.Since(start))
			return h.dial(ctx, network, address)
		}
		s := newSet(t, Options{Dial: dial}, backendAt(identityXClient, "mta:25"))
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		time.Sleep(200 * time.Second)
		synctest.Wait()
		sum, step := time.Duration(0), time.Second
		mu.Lock()
		for i, at := range tries {
			if at != sum {
				t.Errorf("try %d at %v, not %v", i, at, sum)
			}
			sum += step
			step = min(2*step, time.Minute)
		}
		if len(tries) < 8 || s.Up() {
			t.Errorf("%d tries, up %v", len(tries), s.Up())
		}
		h.set("mta:25", smtptest.NewSink(smtptest.SinkOptions{Without: []string{"DSN"}}))
		mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if c := s.Capabilities(); !s.Up() || !c.Chunking || c.DSN {
			t.Errorf("up %v, %+v", s.Up(), c)
		}
		// Refreshed every minute.
		mu.Lock()
		n := len(tries)
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if got := len(tries) - n; got != 10 {
			t.Errorf("%d refreshes in ten minutes", got)
		}
		cancel()
		wg.Wait()
		h.close()
	})
}

// While another one is up, an address that failed is left alone; if none is,
// it is tried all the same.
func TestAFailedAddressIsTheLastResort(t *testing.T) {
	h := newHosts(sinks{"two:25": smtptest.NewSink(smtptest.SinkOptions{})})
	defer h.close()
	s := newSet(t, Options{Dial: h.dial}, backendAt(identityNone, "one:25", "two:25"))
	for range 2 {
		defer open(t, s, alice).Release()
	}
	h.set("one:25", smtptest.NewSink(smtptest.SinkOptions{}))
	for range 3 {
		defer open(t, s, alice).Release()
	}
	if h.get("one:25").Connections() != 0 {
		t.Error("not left alone")
	}
	h.set("two:25", nil)
	c := open(t, s, alice)
	defer c.Release()
	if c.Name() != "mta one:25" {
		t.Error(c.Name())
	}
}

// At the limit one waits, in a short queue and for a short while.
func TestTheLimitOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := smtptest.NewSink(smtptest.SinkOptions{})
		defer sink.Close()
		b := backendAt(identityXClient, "mta:25")
		b.Connections = 2
		s := newSet(t, Options{PerClient: 2, Dial: sink.Dial, Timeouts: configs.Timeouts{BackendConnect: 10 * time.Second}}, b)
		one, two := open(t, s, alice), open(t, s, alice)

		start := time.Now()
		if e := failure(t, s, alice); e.Kind != KindBusy || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", e, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if _, err := s.pools[0].Open(ctx, alice); err == nil {
			t.Error("opened")
		}
		cancel()

		got := make(chan *Conn, 2)
		for range 2 {
			go func() {
				c, err := s.pools[0].Open(context.Background(), alice)
				if err != nil {
					t.Error(err)
				}
				got <- c
			}()
		}
		synctest.Wait()
		start = time.Now()
		if e := failure(t, s, alice); e.Kind != KindBusy || time.Since(start) != 0 {
			t.Errorf("the queue is longer than it should be: %v after %v", e, time.Since(start))
		}
		one.Release()
		two.Abort()
		for range 2 {
			(<-got).Release()
		}
		s.pools[0].mu.Lock()
		if s.pools[0].loans.lent() != 0 || s.pools[0].addrs[0].inUse != 0 {
			t.Errorf("in use: %d, %d", s.pools[0].loans.lent(), s.pools[0].addrs[0].inUse)
		}
		s.pools[0].mu.Unlock()
		if n := sink.Connections(); n < 2 || n > 3 {
			t.Errorf("%d connections", n)
		}
	})
}

// borrower notes when it was asked for its connection, and gives it up if it may.
type borrower struct {
	at    chan time.Time
	given *Conn
}

func (b *borrower) Asked() {
	b.at <- time.Now()
	if c := b.given; c != nil {
		go c.Release() // NOT: here. The pool is locked.
	}
}

// Who waits gets the connection that its session could have done without for
// longest, once that is so for three seconds; no other session is asked.
func TestSpareConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newSink(t, smtptest.SinkOptions{})
		b := backendAt(identityNone, "mx:25")
		b.Connections = 3
		s := newSet(t, Options{PerClient: 3, Dial: sink.Dial}, b)
		start := time.Now()
		old, young, busy := open(t, s, alice), open(t, s, alice), open(t, s, alice)
		// A session that was spare, and has a use for it again, is left alone.
		never := &borrower{at: make(chan time.Time, 1), given: busy}
		busy.Spare(never)
		first := &borrower{at: make(chan time.Time, 1), given: old}
		old.Spare(first)
		time.Sleep(time.Second)
		second := &borrower{at: make(chan time.Time, 1), given: young}
		young.Spare(second)
		busy.Wanted()
		got := open(t, s, alice)
		if d := (<-first.at).Sub(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("asked after %v", d)
		}
		if len(second.at)+len(never.at) > 0 {
			t.Error("more were asked than waited")
		}
		young.Wanted()
		for _, c := range []*Conn{got, young, busy} {
			c.Release()
		}
		s.pools[0].mu.Lock()
		if p := s.pools[0]; len(p.loans.spare) > 0 || p.loans.lent() > 0 {
			t.Errorf("%d spare, %d in use", len(p.loans.spare), p.loans.lent())
		}
		s.pools[0].mu.Unlock()
		s.Close()
		sink.Close()
	})
}

// Nobody spare: who waits hears so in time. One that became spare meanwhile does,
// and where a wait is short, so is the time that a connection must be of no use.
func TestSpareConnectionsComeLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newSink(t, smtptest.SinkOptions{})
		b := backendAt(identityNone, "mx:25")
		b.Connections = 1
		s := newSet(t, Options{Dial: sink.Dial, Timeouts: configs.Timeouts{BackendConnect: time.Second}}, b)
		c := open(t, s, alice)
		start := time.Now()
		if e := failure(t, s, alice); e.Kind != KindBusy || time.Since(start) != time.Second {
			t.Errorf("%v after %v", e, time.Since(start))
		}
		late := &borrower{at: make(chan time.Time, 1), given: c}
		time.AfterFunc(300*time.Millisecond, func() {
			c.QueueMail(sender, nil)
			if _, err := c.Reply(); err != nil {
				t.Error(err)
			}
			c.Spare(late)
		})
		start = time.Now()
		open(t, s, alice).Release()
		if d := time.Since(start); d < 800*time.Millisecond || d >= time.Second {
			t.Errorf("after %v", d)
		}
		s.Close()
		sink.Close()
	})
}

// Idle connections count: at the limit one of them makes room for an address
// that has none.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	h := newHosts(sinks{"one:25": smtptest.NewSink(smtptest.SinkOptions{})})
	defer h.close()
	b := backendAt(identityNone, "one:25", "two:25")
	b.Connections = 2
	s := newSet(t, Options{PerClient: 2, Dial: h.dial}, b)
	c, d := open(t, s, alice), open(t, s, alice)
	c.Release()
	d.Release()
	if idleOf(s) != 2 {
		t.Fatal(idleOf(s))
	}
	h.set("two:25", smtptest.NewSink(smtptest.SinkOptions{}))
	s.pools[0].addrs[1].markUp()
	c, d = open(t, s, alice), open(t, s, alice)
	defer c.Release()
	defer d.Release()
	if c.Name() == d.Name() || idleOf(s) != 0 {
		t.Errorf("%s %s, %d idle", c.Name(), d.Name(), idleOf(s))
	}
}

// Many sessions at once, most of them rude.
func TestCrowd(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	b := backendAt(identityXClient, sink.Addr())
	b.Connections = 8
	s := newSet(t, Options{}, b)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := 0
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				c, err := s.pools[0].Open(context.Background(), alice)
				if err != nil {
					var e *Error
					if !errors.As(err, &e) || e.Kind != KindBusy {
						t.Error(err)
					}
					continue
				}
				switch (i + j) % 3 {
				case 0:
					c.QueueMail(sender, nil)
					_, _ = c.Reply()
					c.Abort()
				case 1:
					c.QueueMail(sender, nil)
					_, _ = c.Reply()
					c.Release()
				default:
					send(t, c, "x\r\n")
					c.Release()
					mu.Lock()
					sent++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if n := len(sink.Messages()); n != sent || sent == 0 {
		t.Errorf("%d messages, %d sent", n, sent)
	}
	s.pools[0].mu.Lock()
	defer s.pools[0].mu.Unlock()
	if s.pools[0].loans.lent() != 0 || s.pools[0].addrs[0].inUse != 0 || len(s.pools[0].loans.waiting) != 0 {
		t.Errorf("in use: %d, %d", s.pools[0].loans.lent(), s.pools[0].addrs[0].inUse)
	}
}
