package dnscache

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/metrics"
	"postern/proxy/share"
)

// client is the nth of the clients of a test.
func client(n int) share.Client {
	return share.Of(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}))
}

// of is the context of a message from the nth client; 0 is nobody in particular.
func of(ctx context.Context, n int) context.Context {
	t := new(Transaction)
	if n > 0 {
		t.Client = client(n)
	}
	return WithTransaction(ctx, t)
}

// refused reads dns_refused_total.
func refused(t *testing.T, m *metrics.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "postern_dns_refused_total" {
			for _, s := range f.GetMetric() {
				got[label(s, "bound")] = s.GetCounter().GetValue()
			}
		}
	}
	return got
}

// crowd is a few clients who ask all the time for names below dead.example, in as
// many sessions as they may have, with some questions of each message under way;
// and the messages of others, one after the other from many addresses. It returns
// how many of these were served.
func crowd(t *testing.T, r *Resolver, hostile int, shared bool) (served, messages int) {
	t.Helper()
	const sessions, each, honest = 50, 6, 100
	ctx, cancel := context.WithCancel(t.Context())
	var attack, all sync.WaitGroup
	var names atomic.Int64
	message := func(n int) context.Context {
		if !shared {
			n = 0
		}
		return of(ctx, n)
	}
	for h := range hostile {
		for range sessions * each {
			attack.Go(func() {
				for ctx.Err() == nil {
					// Those who are refused come again soon.
					_, _ = r.LookupTXT(message(1+h), fmt.Sprintf("n%d.dead.example", names.Add(1)))
					pause := time.NewTimer(300 * time.Millisecond)
					select {
					case <-pause.C:
					case <-ctx.Done():
					}
				}
			})
		}
	}
	time.Sleep(3 * time.Second)
	var good atomic.Int64
	for n := range honest {
		all.Go(func() {
			var questions sync.WaitGroup
			var bad atomic.Bool
			for i := range each {
				questions.Go(func() {
					if _, err := r.LookupTXT(message(100+n), fmt.Sprintf("n%d.good%d.example", i, n)); err != nil {
						bad.Store(true)
					}
				})
			}
			questions.Wait()
			if !bad.Load() {
				good.Add(1)
			}
		})
		time.Sleep(20 * time.Millisecond) // fifty messages in a second
	}
	all.Wait()
	cancel()
	attack.Wait()
	return int(good.Load()), honest
}

// slowly answers what is not below dead.example, in the time of a real name
// server.
func slowly(_ string, q question) *response {
	if strings.HasSuffix(q.name, "dead.example") {
		return nil
	}
	time.Sleep(30 * time.Millisecond)
	return &response{records: []record{txt(60, "v=spf1 -all")}}
}

// Seven addresses, with domains whose name servers are dead, keep nobody else from
// being served. Without shares they keep nearly everybody.
func TestSharesOfHonestClients(t *testing.T) {
	for _, shared := range []bool{true, false} {
		m := metrics.New()
		story(t, Options{Metrics: m}, func(t *testing.T, r *Resolver, s *site) {
			s.set(slowly)
			served, messages := crowd(t, r, 7, shared)
			t.Logf("shares: %v: %d of %d messages were served; refused %v", shared, served, messages, refused(t, m))
			switch {
			case shared && served < messages*95/100:
				t.Errorf("%d of %d messages were served", served, messages)
			case !shared && served > messages/2:
				t.Errorf("%d of %d messages were served without shares: this test shows nothing", served, messages)
			}
			if n := refused(t, m); shared && (n["client"] == 0 || n["all"] != 0 || n["connections"] != 0) {
				t.Errorf("counted as %v", n)
			}
		})
	}
}

// The connections to a tls:// server are few, and a question takes one as long as
// the server thinks about it.
func TestSharesOfConnections(t *testing.T) {
	for _, shared := range []bool{true, false} {
		m := metrics.New()
		// Every answer by UDP is cut, so that all go by streams, which have no
		// handshake that would need a real clock.
		streams := func(address, network string, query []byte) [][]byte {
			if network == "udp" {
				return [][]byte{response{flags: 0x02}.to(query)}
			}
			if answer := slowly(address, asked(query)); answer != nil {
				return [][]byte{answer.to(query)}
			}
			return nil
		}
		synctest.Test(t, func(t *testing.T) {
			r, err := New(Options{Servers: []string{"192.0.2.53"}, Metrics: m, Dial: pipe(streams)})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			served, messages := crowd(t, r, 7, shared)
			t.Logf("shares: %v: %d of %d messages were served; refused %v", shared, served, messages, refused(t, m))
			switch {
			case shared && served < messages*95/100:
				t.Errorf("%d of %d messages were served", served, messages)
			case !shared && served > messages/2:
				t.Errorf("%d of %d messages were served without shares: this test shows nothing", served, messages)
			}
			if (*r.servers.Load())[0].behind.Load() > r.now().UnixNano() && shared {
				t.Error("the server is taken for a silent one, since there was no connection to ask it by")
			}
		})
	}
}

// A question whose connection was never there is nobody's failure.
func TestNoConnectionIsNoAnswer(t *testing.T) {
	m := metrics.New()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r, err := New(Options{Servers: []string{"192.0.2.53"}, Timeout: time.Second, Metrics: m, Dial: pipe(func(_, network string, query []byte) [][]byte {
			if network == "udp" {
				return [][]byte{response{flags: 0x02}.to(query)}
			}
			<-gate
			return [][]byte{someTXT.to(query)}
		})})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		s := (*r.servers.Load())[0]
		for range maxConns {
			if !s.pool.turnstile.Enter(t.Context(), share.Client{}, time.Hour) {
				t.Fatal("no place")
			}
		}
		wantError(t, r, "a.example", "timeout")
		if n := refused(t, m); n["connections"] != rounds {
			t.Errorf("counted as %v", n)
		}
		if s.failures.Load() != 0 || r.health.recent != [healthRecent]outcome{} {
			t.Error("the wait was held against the server, or the domain")
		}
		for range maxConns {
			s.pool.turnstile.Leave(share.Client{})
		}
		close(gate)
		wantTXT(t, r, "a.example", "x") // it is not remembered as a failure
	})
}

// A question that nobody waits for makes room for others.
func TestAbandonedQuestionsAreGivenUp(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		ask := func(name string, patience time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := r.LookupTXT(ctx, name)
			synctest.Wait()
			return err
		}
		if err := ask("a.example", time.Second); class(err) != "timeout" || underWay(r) != 0 {
			t.Errorf("%v; %d under way", err, underWay(r))
		}
		// The servers had too little time for that to say anything of them.
		s.set(always(someTXT))
		wantTXT(t, r, "a.example", "x")

		// Here they had enough, and the next one is told so at once.
		s.set(silence)
		start := time.Now()
		if err := ask("b.example", 3*time.Second); class(err) != "timeout" || underWay(r) != 0 {
			t.Errorf("%v; %d under way", err, underWay(r))
		}
		wantError(t, r, "b.example", "timeout")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("waited %v", took)
		}

		// One of two who wait leaves: the other one gets his answer.
		s.set(func(string, question) *response { time.Sleep(time.Second); return &someTXT })
		var other sync.WaitGroup
		other.Go(func() { wantTXT(t, r, "c.example", "x") })
		synctest.Wait()
		_ = ask("c.example", 500*time.Millisecond)
		other.Wait()

		// What the cache wants goes on: the next one has what was asked for.
		s.set(always(someTXT))
		wantTXT(t, r, "stale.example", "x")
		time.Sleep(2 * time.Minute)
		s.set(func(string, question) *response {
			time.Sleep(time.Second)
			return &response{records: []record{txt(60, "new")}}
		})
		if err := ask("stale.example", 100*time.Millisecond); err != nil || underWay(r) != 1 {
			t.Errorf("%v; %d under way", err, underWay(r))
		}
		time.Sleep(time.Second)
		wantTXT(t, r, "stale.example", "new")
	})
}

// Whoever asks again for what was just given up gets an answer of his own, and
// what comes of the first question late does not overwrite it.
func TestAskedAgainAfterItWasGivenUp(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = r.LookupTXT(ctx, "a.example") }()
		synctest.Wait()
		s.set(always(someTXT))
		cancel()
		wantTXT(t, r, "a.example", "x")
		synctest.Wait()
		wantTXT(t, r, "a.example", "x")
		if n := len(s.asked()); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// No check of a message asks for what another one was told, be the TTL 0.
func TestOnceForEachMessage(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			if strings.HasPrefix(q.name, "gone.") {
				return &response{rcode: 3, soa: soa(0, 0)}
			}
			return &response{records: []record{txt(0, "x")}}
		})
		for message := range 2 {
			ctx := of(t.Context(), 1)
			for range 3 {
				if got, err := r.LookupTXT(ctx, "a.example"); err != nil || !slices.Equal(got, []string{"x"}) {
					t.Errorf("%q, %v", got, err)
				}
				if _, err := r.LookupTXT(ctx, "gone.example"); class(err) != "NXDOMAIN" {
					t.Error(err)
				}
			}
			if n := len(s.asked()); n != 2 {
				t.Errorf("message %d: asked %d times, want once for each name", message, n)
			}
		}
		// A message keeps what has room, and no more.
		ctx := of(t.Context(), 1)
		for i := range 1000 {
			_, _ = r.LookupTXT(ctx, fmt.Sprintf("n%d.example", i))
		}
		if kept := askerOf(ctx).transaction.keeping().octets; kept > maxOnce {
			t.Errorf("%d octets are kept", kept)
		}
	})
}

// That there is no such name, for one message, counts for its other types as it does where it is
// cached: not beside what was found of the name, before or after, for this message or another.
func TestNXDomainForOneMessageBesideWhatIsFound(t *testing.T) {
	const before, passed, after, others = "found before", "found before, and past its time", "found after", "found after, for another"
	for _, c := range []struct {
		when      string
		ttl       uint32 // of what is found
		questions int
	}{{before, 300, 4}, {before, 0, 4}, {passed, 300, 5}, {after, 300, 4}, {after, 0, 4}, {others, 300, 4}} {
		t.Run(fmt.Sprintf("%s, TTL %d", c.when, c.ttl), func(t *testing.T) {
			story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
				s.set(func(_ string, q question) *response {
					switch q.rrtype {
					case typeAAAA:
						return &response{rcode: 3, soa: soa(0, 0)}
					case typeA:
						return &response{records: []record{a(c.ttl, 192, 0, 2, 1)}}
					case typeTXT:
						return &response{records: []record{txt(300, "x")}}
					}
					return &response{soa: soa(300, 300)}
				})
				mine := of(t.Context(), 1)
				none := func() {
					if ips, err := r.LookupNetIP(mine, "ip6", "h.example"); class(err) != "NXDOMAIN" {
						t.Errorf("AAAA: %v, %v", ips, err)
					}
				}
				some := func(ctx context.Context) {
					if ips, err := r.LookupNetIP(ctx, "ip4", "h.example"); err != nil || len(ips) != 1 {
						t.Errorf("A: %v, %v", ips, err)
					}
				}
				switch c.when {
				case before, passed:
					some(mine)
					none()
					if c.when == passed {
						time.Sleep(5 * time.Minute)
					}
				case after: // both are asked for before either is known
					p4, p6 := r.begin(mine, question{"h.example", typeA}), r.begin(mine, question{"h.example", typeAAAA})
					r.finish(mine, p6)
					r.finish(mine, p4)
				case others:
					none()
					some(of(t.Context(), 2))
				}
				if mx, err := r.LookupMX(mine, "h.example"); class(err) != "NODATA" {
					t.Errorf("MX: %v, %v", mx, err)
				}
				if texts, err := r.LookupTXT(mine, "h.example"); err != nil || !slices.Equal(texts, []string{"x"}) {
					t.Errorf("TXT: %q, %v", texts, err)
				}
				some(mine)
				none()
				if q := s.asked(); len(q) != c.questions {
					t.Errorf("asked %v", q)
				}
			})
		})
	}
}

// Where nothing speaks against it, a name that does not exist is asked for once in a message.
func TestNXDomainForOneMessageIsForAllTypes(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{rcode: 3, soa: soa(0, 0)}))
		ctx := of(t.Context(), 1)
		for range 2 {
			_, err4 := r.LookupNetIP(ctx, "ip4", "h.example")
			_, errMX := r.LookupMX(ctx, "h.example")
			if class(err4) != "NXDOMAIN" || class(errMX) != "NXDOMAIN" {
				t.Error(err4, errMX)
			}
		}
		if q := s.asked(); len(q) != 1 {
			t.Errorf("asked %v", q)
		}
	})
}

// A context that was made of an attempt may end by its clock just as the attempt does, and then looks
// at what is above it a moment later.
func TestContextsOutliveTheirAttempt(t *testing.T) {
	for range 3 {
		attempt := NewAttempt(t.Context())
		ctx, cancel := context.WithTimeout(attempt, time.Hour)
		attempt.Close()
		next := NewAttempt(of(t.Context(), 1))
		cancel() // as the clock does
		if ctx.Err() == nil || attempt.Err() != nil || attempt.Value(transactionKey{}) != nil {
			t.Error("the context of an attempt is another's")
		}
		next.Close()
	}
}

// What is asked ahead is not waited for, and serves whoever wants it later, though whoever asked
// has gone; its share is given back.
func TestAskedAhead(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			time.Sleep(time.Second)
			if q.rrtype == typePTR {
				return &response{records: []record{{rrtype: typePTR, ttl: 300, rdata: wireName("c.example")}}}
			}
			return &response{records: []record{txt(300, "x")}}
		})
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		r.AheadTXT(of(ctx, 1), "a.example")
		r.AheadAddr(of(t.Context(), 1), "192.0.2.1")
		if n := underWay(r); n != 2 || time.Since(start) != 0 {
			t.Errorf("%d questions are under way after %v", n, time.Since(start))
		}
		r.AheadTXT(of(ctx, 1), "a.example") // which is under way
		cancel()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n, q := underWay(r), s.asked(); n != 0 || len(q) != 2 {
			t.Errorf("%d are under way; asked %v", n, q)
		}
		r.AheadTXT(of(t.Context(), 1), "a.example")
		r.AheadAddr(of(t.Context(), 1), "192.0.2.1")
		wantTXT(t, r, "a.example", "x")
		if names, err := r.LookupAddr(t.Context(), "192.0.2.1"); err != nil || !slices.Equal(names, []string{"c.example."}) {
			t.Errorf("%q, %v", names, err)
		}
		if q := s.asked(); len(q) != 0 {
			t.Errorf("asked %v again", q)
		}
	})
}

// An answer for one use that was asked for ahead is there for the message that it was asked for, and
// for no other.
func TestAskedAheadForOneUse(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(string, question) *response {
			return &response{records: []record{{rrtype: typePTR, ttl: 0, rdata: wireName("c.example")}}}
		})
		first := of(t.Context(), 1)
		if !r.AheadAddr(first, "192.0.2.1") {
			t.Error("nothing was asked")
		}
		synctest.Wait() // the answer has come
		if r.AheadAddr(first, "192.0.2.1") {
			t.Error("it was asked for again")
		}
		for _, c := range []struct {
			message context.Context
			asks    int
		}{{first, 0}, {of(t.Context(), 1), 1}, {t.Context(), 1}} {
			s.asked()
			if names, err := r.LookupAddr(c.message, "192.0.2.1"); err != nil || !slices.Equal(names, []string{"c.example."}) {
				t.Errorf("%q, %v", names, err)
			}
			if q := s.asked(); len(q) != c.asks {
				t.Errorf("asked %v, want %d", q, c.asks)
			}
		}
	})
}

// Nothing is asked ahead where half of the questions that there may be are under way, and
// by a resolver that has been retired or closed.
func TestNothingIsAskedAheadInTheWayOfOthers(t *testing.T) {
	m := metrics.New()
	story(t, Options{MaxInFlight: 4, Metrics: m}, func(t *testing.T, r *Resolver, s *site) {
		ahead := func() {
			r.AheadTXT(t.Context(), "a.example")
			r.AheadAddr(t.Context(), "192.0.2.1")
			synctest.Wait()
		}
		var callers sync.WaitGroup
		for i := range 2 {
			callers.Go(func() { _, _ = r.LookupTXT(t.Context(), fmt.Sprintf("n%d.example", i)) })
		}
		synctest.Wait()
		if ahead(); underWay(r) != 2 || refused(t, m)["all"] != 0 {
			t.Errorf("%d questions are under way, %v were refused", underWay(r), refused(t, m))
		}
		callers.Wait()
		r.Retire()
		if ahead(); underWay(r) != 0 {
			t.Errorf("a resolver that was retired asks %d questions", underWay(r))
		}
		r.retired.Store(false)
		r.Close()
		if ahead(); underWay(r) != 0 {
			t.Errorf("a resolver that was closed asks %d questions", underWay(r))
		}
	})
}

// An answer that comes while a look-up begins is one from the cache.
func TestAnAnswerThatHasJustComeIsFromTheCache(t *testing.T) {
	m := metrics.New()
	story(t, Options{Metrics: m}, func(t *testing.T, r *Resolver, _ *site) {
		q, asked := question{"a.example", typeTXT}, 0
		r.now = func() time.Time {
			if asked++; asked == 2 { // the cache has been looked into, and is about to be again
				r.cache.of(q.name).put(q, &entry{kind: kindFound, text: []string{"x"}, ttl: 300, expires: time.Now().Add(time.Hour).UnixNano()}, time.Now().UnixNano())
			}
			return time.Now()
		}
		if from := source(t, r, q.name); from != SourceCache {
			t.Errorf("from %s", from)
		}
		if got := outcomes(t, m, "TXT"); got["hit"] != 1 || got["miss"] != 0 {
			t.Errorf("counted %v", got)
		}
	})
}

// The share costs nothing where the answer is at hand.
func TestSharesAreFreeOnHits(t *testing.T) {
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: pipe(func(_, _ string, query []byte) [][]byte { return [][]byte{someTXT.to(query)} })})
	bare, shared := t.Context(), of(t.Context(), 1)
	wantTXT(t, r, "a.example", "x")
	cost := func(ctx context.Context) float64 {
		return testing.AllocsPerRun(1000, func() { _, _ = r.LookupTXT(ctx, "a.example") })
	}
	if a, b := cost(bare), cost(shared); b > a {
		t.Errorf("%v allocations for a hit, %v without a share", b, a)
	}
}

// Whatever is under way takes a bounded part of memory.
func TestMemoryOfQuestions(t *testing.T) {
	block := func(_, _ string, query []byte) [][]byte { return nil }
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: pipe(block)})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // for what pools keep
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for i := range defaultInFlight {
		callers.Go(func() { _, _ = r.LookupTXT(ctx, fmt.Sprintf("n%d.example", i)) })
	}
	for underWay(r) < defaultInFlight {
		runtime.Gosched()
	}
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / defaultInFlight
	t.Logf("%d octets for a question", each)
	if each > 64<<10 {
		t.Errorf("%d octets for a question", each)
	}
	cancel()
	callers.Wait()
	for underWay(r) > 0 {
		runtime.Gosched()
	}
}

var _ net.Error = busy{} // it is taken for a time-out, and the server is tried again
