package dnscache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/logtest"
	"postern/configs"
)

// site is what the name servers of a story do; a test changes it on the way.
type site struct {
	mu      sync.Mutex
	answer  func(address string, q question) *response // nil: silence
	queries []question
}

func (s *site) set(f func(address string, q question) *response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// asked returns the questions since the last call.
func (s *site) asked() []question {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queries
	s.queries = nil
	return q
}

func (s *site) reply(address, _ string, query []byte) [][]byte {
	q := asked(query)
	s.mu.Lock()
	s.queries = append(s.queries, q)
	f := s.answer
	s.mu.Unlock()
	if r := f(address, q); r != nil {
		return [][]byte{r.to(query)}
	}
	return nil
}

func always(r response) func(string, question) *response {
	return func(string, question) *response { return &r }
}

func silence(string, question) *response { return nil }

// story runs a test with a resolver whose servers are a site, on a clock that
// runs as fast as all wait.
func story(t *testing.T, o Options, f func(t *testing.T, r *Resolver, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{answer: silence}
		if o.Servers == nil {
			o.Servers = []string{"192.0.2.53"}
		}
		o.Dial = pipe(s.reply)
		r, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		f(t, r, s)
	})
}

func wantTXT(t *testing.T, r *Resolver, name, want string) {
	t.Helper()
	got, err := r.LookupTXT(context.Background(), name)
	if err != nil || !slices.Equal(got, []string{want}) {
		t.Errorf("TXT %s = %q, %v, want %q", name, got, err, want)
	}
}

func wantError(t *testing.T, r *Resolver, name, want string) {
	t.Helper()
	got, err := r.LookupTXT(context.Background(), name)
	if class(err) != want {
		t.Errorf("TXT %s = %q, %s (%v), want %s", name, got, class(err), err, want)
	}
}

// lookup returns where a TXT answer came from.
func source(t *testing.T, r *Resolver, name string) Source {
	t.Helper()
	var tr Trace
	_, _ = r.LookupTXT(WithTransaction(context.Background(), &Transaction{Trace: &tr}), name)
	return tr.Answers()[0].Source
}

func TestServesStaleWhileServersAreGone(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: []record{txt(60, "v=spf1 -all")}}))
		wantTXT(t, r, "a.example", "v=spf1 -all")
		wantTXT(t, r, "c.example", "v=spf1 -all")

		// Silent servers: the caller waits 1.8 s, not until they are given up.
		s.set(silence)
		time.Sleep(time.Minute)
		start := time.Now()
		if src := source(t, r, "a.example"); src != SourceStale {
			t.Errorf("source %s, want stale", src)
		}
		if took := time.Since(start); took != clientTimer {
			t.Errorf("waited %v, want %v", took, clientTimer)
		}
		// Once that has failed, callers do not wait, and the servers are asked
		// again behind their backs, but not all the time.
		time.Sleep(4 * time.Second)
		s.asked()
		start = time.Now()
		for range 3 {
			wantTXT(t, r, "a.example", "v=spf1 -all")
			synctest.Wait()
		}
		if took, q := time.Since(start), s.asked(); took != 0 || len(q) != 1 {
			t.Errorf("waited %v, asked %v", took, q)
		}
		// Nor does one with another name, the servers being what they are.
		wantTXT(t, r, "c.example", "v=spf1 -all")
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for another name", took)
		}
		// What was never known stays unknown.
		wantError(t, r, "b.example", "timeout")

		// Servers that answer SERVFAIL are no better than silent ones.
		time.Sleep(10 * time.Second)
		s.set(always(response{rcode: 2}))
		wantTXT(t, r, "a.example", "v=spf1 -all")
		synctest.Wait()

		// They are back: the next caller sees to it that the new answer counts.
		s.set(always(response{records: []record{txt(60, "v=spf1 +all")}}))
		time.Sleep(failureMaxTTL * time.Second)
		wantTXT(t, r, "a.example", "v=spf1 -all")
		synctest.Wait()
		wantTXT(t, r, "a.example", "v=spf1 +all")

		// An hour after its time an answer is gone for good.
		s.set(always(response{rcode: 2}))
		time.Sleep(time.Minute + time.Hour)
		wantError(t, r, "a.example", "temporary")
	})
}

func TestAnAnswerReplacesAStaleOne(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: []record{txt(60, "old")}}))
		wantTXT(t, r, "a.example", "old")
		time.Sleep(time.Minute)
		s.set(always(response{rcode: 3, soa: soa(60, 60)}))
		wantError(t, r, "a.example", "NXDOMAIN")
		s.set(always(response{rcode: 2}))
		time.Sleep(time.Minute)
		wantError(t, r, "a.example", "temporary") // neither the old record nor the old NXDOMAIN
	})
}

// Once a name is known not to exist, one question has answered all, and nothing
// that was known of it stands in for any type.
func TestNXDomainIsForAllTypes(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		here := response{records: []record{txt(60, "x")}}
		s.set(func(_ string, q question) *response {
			if q.rrtype == typeMX {
				return &response{soa: soa(60, 60)}
			}
			return &here
		})
		ctx := t.Context()
		wantTXT(t, r, "a.example", "x")
		if _, err := r.LookupMX(ctx, "a.example"); class(err) != "NODATA" {
			t.Error(err)
		}
		// The name goes, and with it what is past its time. Only the type that was
		// asked for is known to be wrong.
		time.Sleep(time.Minute)
		s.asked()
		s.set(always(response{rcode: 3, soa: soa(60, 60)}))
		if _, err := r.LookupIPAddr(ctx, "a.example"); class(err) != "NXDOMAIN" {
			t.Error(err)
		}
		wantError(t, r, "a.example", "NXDOMAIN")
		if _, err := r.LookupMX(ctx, "a.example"); class(err) != "NXDOMAIN" {
			t.Error(err)
		}
		// A and AAAA go side by side, unless the answer to the one was there before the other.
		q := s.asked()
		for _, asked := range q {
			if asked.rrtype != typeA && asked.rrtype != typeAAAA {
				t.Errorf("asked %v", q)
			}
		}
		if len(q) == 0 || len(q) > 2 || len(q) == 2 && q[0] == q[1] {
			t.Errorf("asked %v", q)
		}
		time.Sleep(time.Minute)
		s.set(always(response{rcode: 2}))
		wantError(t, r, "a.example", "temporary") // NOT: the TXT of two minutes ago
	})
}

// There are servers that say of a host with an A that it does not exist, when they
// are asked for its AAAA (RFC 4074 §4.2). It keeps its address; but once that is
// past its time, nothing stands in for it.
func TestNXDomainBesideAnAddress(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			if q.rrtype == typeA {
				return &response{records: []record{a(300, 192, 0, 2, 1)}}
			}
			return &response{rcode: 3, soa: soa(900, 900)}
		})
		for range 3 {
			if ips, err := r.LookupNetIP(t.Context(), "ip4", "lb.example"); err != nil || len(ips) != 1 {
				t.Errorf("%v, %v", ips, err)
			}
			if ips, err := r.LookupNetIP(t.Context(), "ip6", "lb.example"); class(err) != "NXDOMAIN" {
				t.Errorf("%v, %v", ips, err)
			}
			if ips, err := r.LookupIPAddr(t.Context(), "lb.example"); err != nil || len(ips) != 1 {
				t.Errorf("%v, %v", ips, err)
			}
		}
		if q := s.asked(); len(q) != 2 {
			t.Errorf("asked %v", q)
		}
		time.Sleep(5 * time.Minute)
		s.set(always(response{rcode: 2}))
		if ips, err := r.LookupNetIP(t.Context(), "ip4", "lb.example"); class(err) != "temporary" {
			t.Errorf("%v, %v", ips, err)
		}
	})
}

// An alias exists, if what it leads to does not: the answer is the same for all its
// types, and says nothing of the names below it. Nor does that of a name that does
// not exist.
func TestNXDomainBehindAnAlias(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			switch q.name {
			case "alias.example":
				return &response{rcode: 3, records: []record{cname("", 300, "gone.example")}, soa: soa(300, 300)}
			case "stops.example": // at the alias: the target is asked for
				return &response{records: []record{cname("", 300, "gone.example")}}
			case "gone.example":
				return &response{rcode: 3, soa: soa(300, 300)}
			}
			return &response{records: []record{txt(300, "x")}}
		})
		for _, name := range []string{"alias.example", "stops.example", "gone.example"} {
			wantError(t, r, name, "NXDOMAIN")
			if _, err := r.LookupMX(t.Context(), name); class(err) != "NXDOMAIN" {
				t.Error(name, err)
			}
			wantTXT(t, r, "below."+name, "x")
		}
		if q := s.asked(); len(q) != 7 {
			t.Errorf("asked %v", q)
		}
	})
}

// A resolver between us and the domain counts its TTL down to 0, and busy names
// are asked for in that last second as well. When the domain's own servers are
// gone by then, what was known is still there.
func TestAResolversLastSecondKeepsWhatMayStandIn(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: []record{txt(60, "one"), txt(60, "two")}}))
		ask := func() ([]string, error) { return r.LookupTXT(t.Context(), "a.example") }
		_, _ = ask()
		time.Sleep(time.Minute)
		s.set(always(response{records: []record{txt(0, "two"), txt(0, "one")}}))
		_, _ = ask()
		s.set(always(response{rcode: 2}))
		if got, err := ask(); len(got) != 2 {
			t.Errorf("%q, %v", got, err)
		}

		// Another answer is one: what was known before is not right any more.
		time.Sleep(10 * time.Second)
		s.set(always(response{records: []record{txt(0, "two"), txt(0, "three")}}))
		for range 2 { // the first is answered at once, what is found comes with the second
			_, _ = ask()
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		s.set(always(response{rcode: 2}))
		if got, err := ask(); class(err) != "temporary" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestServeStaleOff(t *testing.T) {
	c := configs.Default().DNS.Cache
	c.ServeStale = 0
	story(t, Options{Cache: c}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: []record{txt(60, "x")}}))
		wantTXT(t, r, "a.example", "x")
		time.Sleep(time.Minute)
		s.set(always(response{rcode: 2}))
		wantError(t, r, "a.example", "temporary")
	})
}

// TestNothingIsKept: a site may want each answer fresh, and says so with 0s. It
// must not get the default instead.
func TestNothingIsKept(t *testing.T) {
	c := configs.Default().DNS.Cache
	c.MaxTTL, c.NegativeMaxTTL = 0, 0
	story(t, Options{Cache: c}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			if q.name == "gone.example" {
				return &response{rcode: 3, soa: soa(600, 600)}
			}
			return &response{records: []record{txt(600, "x")}}
		})
		for range 3 {
			wantTXT(t, r, "a.example", "x")
			wantError(t, r, "gone.example", "NXDOMAIN")
		}
		if n := len(s.asked()); n != 6 {
			t.Errorf("%d queries for 6 look-ups", n)
		}
	})
}

func TestPrefetchesBusyNames(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: []record{txt(100, "x")}}))
		for range 1 + prefetchHits {
			wantTXT(t, r, "busy.example", "x")
		}
		wantTXT(t, r, "idle.example", "x")
		s.asked()
		time.Sleep(95 * time.Second)
		wantTXT(t, r, "busy.example", "x")
		wantTXT(t, r, "idle.example", "x")
		synctest.Wait()
		if q := s.asked(); len(q) != 1 || q[0].name != "busy.example" {
			t.Errorf("asked for %v, want busy.example", q)
		}
		time.Sleep(10 * time.Second) // beyond the time of the first answer
		wantTXT(t, r, "busy.example", "x")
		if q := s.asked(); len(q) != 0 {
			t.Errorf("asked for %v again", q)
		}

		// A refresh that fails is not tried at every hit, and harms nobody.
		for range prefetchHits {
			wantTXT(t, r, "busy.example", "x")
		}
		s.set(always(response{rcode: 2}))
		time.Sleep(81 * time.Second)
		for range 5 {
			wantTXT(t, r, "busy.example", "x")
			synctest.Wait()
		}
		if q := s.asked(); len(q) != 1 {
			t.Errorf("asked %d times, want once", len(q))
		}
	})
}

func TestSingleFlight(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		gate := make(chan struct{})
		s.set(func(string, question) *response { <-gate; return &response{records: []record{txt(60, "x")}} })
		// The first caller gives up; those who joined get the answer all the same.
		ctx, cancel := context.WithCancel(context.Background())
		var callers sync.WaitGroup
		callers.Go(func() {
			if _, err := r.LookupTXT(ctx, "a.example"); class(err) != "temporary" {
				t.Errorf("canceled: %v", err)
			}
		})
		synctest.Wait()
		for range 50 {
			callers.Go(func() { wantTXT(t, r, "A.example.", "x") })
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		callers.Wait()
		if q := s.asked(); len(q) != 1 {
			t.Errorf("%d queries, want 1", len(q))
		}
	})
}

func TestCallersOwnDeadline(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, _ *site) {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := r.LookupMX(ctx, "a.example")
		if took := time.Since(start); class(err) != "timeout" || took != 300*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestSilentServersAreGivenUp(t *testing.T) {
	for servers, want := range map[int]time.Duration{1: 4 * time.Second, 2: 4250 * time.Millisecond} {
		o := Options{Servers: []string{"192.0.2.1", "192.0.2.2"}[:servers]}
		story(t, o, func(t *testing.T, r *Resolver, s *site) {
			start := time.Now()
			wantError(t, r, "a.example", "timeout")
			if took := time.Since(start); took != want {
				t.Errorf("%d servers: given up after %v, want %v", servers, took, want)
			}
			if n := len(s.asked()); n != servers*rounds {
				t.Errorf("%d queries, want %d", n, servers*rounds)
			}
		})
	}
	o := Options{Total: 3 * time.Second}
	story(t, o, func(t *testing.T, r *Resolver, _ *site) {
		start := time.Now()
		wantError(t, r, "a.example", "timeout")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("given up after %v, want the total of 3 s", took)
		}
	})
}

func TestServersAreRaced(t *testing.T) {
	o := Options{Servers: []string{"192.0.2.1", "192.0.2.2"}}
	story(t, o, func(t *testing.T, r *Resolver, s *site) {
		good := &response{records: []record{txt(60, "x")}}
		slow := func(address string, _ question) *response {
			if address == "192.0.2.1:53" {
				return nil
			}
			return good
		}
		// The first is silent: the second is asked after a short wait ...
		s.set(slow)
		start := time.Now()
		wantTXT(t, r, "a.example", "x")
		if took := time.Since(start); took != 250*time.Millisecond {
			t.Errorf("answered after %v, want 250ms", took)
		}
		// ... and at once from then on.
		start = time.Now()
		wantTXT(t, r, "b.example", "x")
		if took := time.Since(start); took != 0 {
			t.Errorf("answered after %v, want none", took)
		}
		// After a while the first has another chance.
		s.set(always(*good))
		time.Sleep(maxBehind)
		s.asked()
		wantTXT(t, r, "c.example", "x")
		if (*r.servers.Load())[0].failures.Load() != 0 {
			t.Error("the first server is not forgiven")
		}
		// One that says it cannot is not waited for, and not asked again.
		s.set(func(address string, _ question) *response {
			if address == "192.0.2.1:53" {
				return &response{rcode: 5}
			}
			return good
		})
		s.asked()
		start = time.Now()
		wantTXT(t, r, "d.example", "x")
		if took, q := time.Since(start), s.asked(); took != 0 || len(q) != 2 {
			t.Errorf("answered after %v, %d queries", took, len(q))
		}
	})
}

// A server that was merely asked second, and cut short, is not to blame.
func TestServerThatWasCutShort(t *testing.T) {
	o := Options{Servers: []string{"192.0.2.1", "192.0.2.2"}}
	story(t, o, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(address string, _ question) *response {
			if address == "192.0.2.2:53" {
				return nil
			}
			time.Sleep(260 * time.Millisecond)
			return &response{records: []record{txt(60, "x")}}
		})
		wantTXT(t, r, "a.example", "x")
		servers := *r.servers.Load()
		if n := servers[1].failures.Load(); n != 0 {
			t.Errorf("%d failures counted after 10 ms", n)
		}
		servers[1].silent(time.Now())
		if r.order()[1].server != servers[1] || servers[1].behind.Load() == 0 {
			t.Error("a silent server is not behind")
		}
		servers[0].silent(time.Now())
		servers[1].answered(time.Millisecond)
		if r.order()[0].server != servers[1] {
			t.Error("the server that answered is not in front of the silent one")
		}
	})
}

func TestFailuresAreKeptForAMoment(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{rcode: 2}))
		// 1 s, then twice as long each time, 5 s at most.
		for _, seconds := range []int{1, 2, 4, 5, 5} {
			keep := time.Duration(seconds) * time.Second
			s.asked()
			wantError(t, r, "a.example", "temporary")
			time.Sleep(keep - time.Nanosecond)
			wantError(t, r, "a.example", "temporary")
			if q := s.asked(); len(q) != 1 {
				t.Errorf("kept %d s: %d queries, want 1", seconds, len(q))
			}
			time.Sleep(time.Nanosecond)
		}
	})
}

func TestNegativeAnswers(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		// NXDOMAIN is for all types, NODATA for the one asked for.
		s.set(func(_ string, q question) *response {
			if q.name == "nx.example" {
				return &response{rcode: 3, soa: soa(300, 100)}
			}
			return &response{soa: soa(100, 300)}
		})
		ctx := context.Background()
		for range 2 {
			wantError(t, r, "nx.example", "NXDOMAIN")
			if _, err := r.LookupMX(ctx, "nx.example"); class(err) != "NXDOMAIN" {
				t.Error(err)
			}
			wantError(t, r, "nodata.example", "NODATA")
			if _, err := r.LookupMX(ctx, "nodata.example"); class(err) != "NODATA" {
				t.Error(err)
			}
			if _, err := r.LookupIPAddr(ctx, "nodata.example"); class(err) != "NODATA" {
				t.Error(err)
			}
		}
		if q := s.asked(); len(q) != 5 {
			t.Errorf("asked %v, want 5 questions", q)
		}
		time.Sleep(100 * time.Second)
		// The name has come into being.
		s.set(always(response{records: []record{txt(1000, "x")}}))
		wantTXT(t, r, "nx.example", "x")
		// However long the zone says, a quarter of an hour at most.
		s.set(always(response{rcode: 3, soa: soa(86400, 86400)}))
		wantError(t, r, "long.example", "NXDOMAIN")
		time.Sleep(15*time.Minute - time.Nanosecond)
		s.asked()
		wantError(t, r, "long.example", "NXDOMAIN")
		time.Sleep(time.Nanosecond)
		wantError(t, r, "long.example", "NXDOMAIN")
		if q := s.asked(); len(q) != 1 {
			t.Errorf("asked %v, want one question", q)
		}
		// Without a SOA: for a second, and no longer.
		s.set(always(response{}))
		wantError(t, r, "forwarder.example", "NODATA")
		time.Sleep(time.Second - time.Nanosecond)
		wantError(t, r, "forwarder.example", "NODATA")
		if q := s.asked(); len(q) != 1 {
			t.Errorf("asked %v within a second, want one question", q)
		}
		time.Sleep(time.Nanosecond)
		wantError(t, r, "forwarder.example", "NODATA")
		if q := s.asked(); len(q) != 1 {
			t.Errorf("asked %v after a second, want one question", q)
		}
	})
}

func TestHalfOfTheAddressesIsNoAnswer(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			if q.rrtype == typeAAAA {
				return &response{rcode: 2}
			}
			return &response{records: []record{a(60, 192, 0, 2, 1)}}
		})
		if ips, err := r.LookupIPAddr(context.Background(), "a.example"); class(err) != "temporary" {
			t.Errorf("%v, %v", ips, err)
		}
		if ips, err := r.LookupNetIP(context.Background(), "ip4", "a.example"); err != nil || len(ips) != 1 || ips[0].String() != "192.0.2.1" {
			t.Errorf("%v, %v", ips, err)
		}
		if _, err := r.LookupNetIP(context.Background(), "ipx", "a.example"); class(err) != "temporary" {
			t.Error(err)
		}
	})
}

func TestAliases(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		// A server that stops at each alias: the target is asked for.
		stops := func(_ string, q question) *response {
			switch n, rest, _ := strings.Cut(q.name, "."); {
			case q.name == "end.example":
				return &response{records: []record{txt(50, "x")}}
			case n == "loop":
				return &response{records: []record{cname("", 60, "pool."+rest)}}
			case n == "pool":
				return &response{records: []record{cname("", 60, "loop."+rest)}}
			case len(n) == 1 && n > "a":
				return &response{records: []record{cname("", 300, string(n[0]-1)+".example")}}
			}
			return &response{records: []record{cname("", 300, "end.example")}}
		}
		s.set(stops)
		wantTXT(t, r, "d.example", "x")
		if n := len(s.asked()); n != 5 {
			t.Errorf("%d queries, want 5", n)
		}
		wantError(t, r, "z.example", "temporary") // 26 links
		wantError(t, r, "loop.example", "temporary")
		s.set(func(_ string, q question) *response {
			if q.name == "a.example" {
				return &response{records: []record{cname("", 60, "b.example")}}
			}
			return &response{rcode: 2}
		})
		var de *net.DNSError
		if _, err := r.LookupMX(context.Background(), "a.example"); !errors.As(err, &de) || de.Name != "a.example" {
			t.Errorf("the error is about %v, not the name asked for", err)
		}
		s.set(stops)
		if n := len(s.asked()); n > 3*maxChain {
			t.Errorf("%d queries for endless chains", n)
		}
		time.Sleep(50 * time.Second) // the least TTL of the chain
		wantTXT(t, r, "d.example", "x")
		if n := len(s.asked()); n != 5 {
			t.Errorf("%d queries, want 5", n)
		}
		// A whole chain in one answer, in the wrong order, and with a record of
		// somebody else.
		s.set(always(response{records: []record{
			{name: "t.example", rrtype: typeTXT, ttl: 60, rdata: []byte("\x01t")},
			{name: "evil.example", rrtype: typeTXT, ttl: 60, rdata: []byte("\x01e")},
			cname("m.example", 60, "t.example"), cname("", 60, "m.example"),
		}}))
		wantTXT(t, r, "w.example", "t")
	})
}

func TestTooMuchAtOnce(t *testing.T) {
	story(t, Options{MaxInFlight: 3}, func(t *testing.T, r *Resolver, s *site) {
		var callers sync.WaitGroup
		for i := range 3 {
			callers.Go(func() { wantError(t, r, fmt.Sprintf("n%d.example", i), "timeout") })
		}
		synctest.Wait()
		start := time.Now()
		wantError(t, r, "n4.example", "temporary")
		if time.Since(start) != 0 {
			t.Error("the look-up too many waited")
		}
		callers.Wait()
		s.set(always(response{records: []record{txt(60, "x")}}))
		wantTXT(t, r, "n4.example", "x") // it is not remembered as a failure
	})
}

func TestTooManyRecords(t *testing.T) {
	many := make([]record, 0, 255)
	for i := range 255 {
		many = append(many, a(60, 192, 0, 2, byte(i)))
	}
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: many}))
		if ips, err := r.LookupNetIP(context.Background(), "ip4", "a.example"); err != nil || len(ips) != 255 {
			t.Errorf("%d addresses, %v", len(ips), err)
		}
	})
	// The header's count has one octet in these tests, so the parser is asked.
	q := pack(question{"a.example", typeA}, false, true)
	m := response{records: many}.to(q.wire)
	m[6], m[7] = 2, 2 // 514
	rec := m[len(m)-16:]
	for range 514 - 255 {
		m = append(m, rec...)
	}
	if _, err := parse(m, q.question); !errors.Is(err, errTooMany) {
		t.Errorf("514 records: %v", err)
	}
}

// A resolver whose place another has taken serves those who still have it, as long
// as they like, and keeps nothing for itself.
func TestRetire(t *testing.T) {
	var open atomic.Int32
	synctest.Test(t, func(t *testing.T) {
		dial := pipe(func(_, network string, query []byte) [][]byte {
			switch name := asked(query).name; {
			case strings.HasSuffix(name, "dead.example"):
				return nil
			case network == "udp":
				return [][]byte{response{flags: 0x02}.to(query)}
			}
			time.Sleep(time.Second)
			return [][]byte{response{records: []record{txt(100, "x")}}.to(query)}
		})
		r, err := New(Options{Servers: []string{"192.0.2.53"}, Canaries: []string{"dead.example"}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			open.Add(1)
			return &counted{Conn: c, open: &open}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + prefetchHits {
			wantTXT(t, r, "a.example", "x")
		}
		for i := range healthRecent { // until the canaries are asked again and again
			wantError(t, r, fmt.Sprintf("n%d.d%d.dead.example", i, i), "timeout")
			r.health.observe(fmt.Sprintf("d%d.example", i), &entry{kind: kindFailure, blame: true})
		}
		var late sync.WaitGroup
		late.Go(func() { wantTXT(t, r, "b.example", "x") })
		synctest.Wait()
		r.Retire()
		late.Wait()
		time.Sleep(time.Hour)
		wantTXT(t, r, "c.example", "x")
		wantTXT(t, r, "c.example", "x")
		synctest.Wait()
		if n := open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
		// NOT: Close. The test ends only if nothing of it runs any more.
	})
}

// counted counts what is open.
type counted struct {
	net.Conn
	open *atomic.Int32
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(always(response{records: []record{txt(60, "x")}}))
		wantTXT(t, r, "known.example", "x")
		s.set(silence)
		var callers sync.WaitGroup
		callers.Go(func() {
			if _, err := r.LookupTXT(context.Background(), "a.example"); class(err) != "temporary" {
				t.Errorf("closed: %v", err)
			}
		})
		synctest.Wait()
		start := time.Now()
		r.Close()
		callers.Wait()
		if time.Since(start) != 0 {
			t.Error("Close waited")
		}
		wantError(t, r, "b.example", "temporary")
		wantTXT(t, r, "known.example", "x")
	})
}

func TestTrace(t *testing.T) {
	story(t, Options{}, func(t *testing.T, r *Resolver, s *site) {
		s.set(func(_ string, q question) *response {
			if q.rrtype == typeMX {
				return &response{records: []record{
					{rrtype: typeMX, ttl: 60, rdata: append([]byte{0, 20}, wireName("b.example")...)},
					{rrtype: typeMX, ttl: 60, rdata: append([]byte{0, 10}, wireName("a.example")...)},
				}}
			}
			return &response{rcode: 3, soa: soa(30, 30)}
		})
		var tr Trace
		ctx := WithTransaction(context.Background(), &Transaction{Trace: &tr})
		_, _ = r.LookupMX(ctx, "A.example")
		time.Sleep(20 * time.Second)
		_, _ = r.LookupMX(ctx, "a.example")
		_, _ = r.LookupAddr(ctx, "192.0.2.1")
		want := []Answer{
			{Name: "a.example", Type: "MX", Answer: []string{"10 a.example.", "20 b.example."}, TTL: 60, Source: SourceNetwork},
			{Name: "a.example", Type: "MX", Answer: []string{"10 a.example.", "20 b.example."}, TTL: 40, Source: SourceCache},
			{Name: "1.2.0.192.in-addr.arpa", Type: "PTR", Answer: []string{}, TTL: 30, Source: SourceNetwork, Error: textNXDomain},
		}
		got := tr.Answers()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		for range 2 * maxTrace {
			_, _ = r.LookupMX(ctx, "a.example")
		}
		if n := len(tr.Answers()); n != maxTrace {
			t.Errorf("%d answers kept, want %d", n, maxTrace)
		}
	})
}

// warnings counts the warnings in a log.
func warnings(log *logtest.Log) int { return strings.Count(log.String(), "level=WARN") }

func TestBrownOut(t *testing.T) {
	var log logtest.Log
	o := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
	story(t, o, func(t *testing.T, r *Resolver, s *site) {
		good, bad := always(response{records: []record{txt(60, "x")}}), always(response{rcode: 2})
		ctx := context.Background()
		ask := func(format string, n int) {
			for i := range n {
				_, _ = r.LookupTXT(ctx, fmt.Sprintf(format, i))
			}
		}
		s.set(good)
		ask("good%d.example", 20)
		wantTXT(t, r, "known.example", "x")
		s.set(bad)
		// One domain, however many names it has, is one domain's trouble.
		ask("n%d.broken.example", 50)
		// And reverse zones are broken all the time.
		for i := range 20 {
			_, _ = r.LookupAddr(ctx, fmt.Sprintf("192.0.2.%d", i))
		}
		if !r.Healthy() {
			t.Error("a broken domain is taken for our own trouble")
		}
		// Half of all domains failing is no sign yet: spam does that.
		for i := range 20 {
			s.set(good)
			_, _ = r.LookupTXT(ctx, fmt.Sprintf("fine%d.example", i))
			s.set(bad)
			_, _ = r.LookupTXT(ctx, fmt.Sprintf("ill%d.example", i))
		}
		if !r.Healthy() {
			t.Error("half of the domains failing is taken for our own trouble")
		}
		ask("domain%d.example", healthRecent)
		if r.Healthy() {
			t.Error("all domains fail, and that is healthy")
		}
		// Now stale answers are served without a wait.
		time.Sleep(time.Minute - time.Second)
		s.set(silence)
		ask("dead%d.example", healthLeast)
		start := time.Now()
		wantTXT(t, r, "known.example", "x")
		if time.Since(start) != 0 {
			t.Error("the caller waited for dead servers")
		}
		// The query goes on behind his back; its outcome is one of now, and not of later.
		time.Sleep(5 * time.Second)
		// A few answers do not end it, most of them do.
		s.set(good)
		ask("one%d.example", 2)
		if r.Healthy() {
			t.Error("two answers ended the trouble")
		}
		ask("back%d.example", healthRecent)
		if !r.Healthy() {
			t.Error("the servers are back, and that is not seen")
		}
		if n := warnings(&log); n != 2 {
			t.Errorf("%d warnings, want one for each change:\n%s", n, log.String())
		}
		// What is long ago is no ground for anything.
		s.set(bad)
		ask("again%d.example", healthRecent)
		if r.Healthy() {
			t.Error("the second trouble is not seen")
		}
		time.Sleep(healthWindow)
		if !r.Healthy() {
			t.Error("trouble without traffic never ends")
		}
	})
}

func TestCanaries(t *testing.T) {
	var log logtest.Log
	o := Options{Canaries: []string{"canary.example", "Bird.example.", "third.example"}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	story(t, o, func(t *testing.T, r *Resolver, s *site) {
		var dead, third atomic.Bool
		var probes atomic.Int32
		s.set(func(_ string, q question) *response {
			if slices.Contains([]string{"canary.example", "bird.example", "third.example"}, organization(q.name)) {
				probes.Add(1)
				if !dead.Load() && !(third.Load() && organization(q.name) == "third.example") {
					return &response{rcode: 3} // no such name: it answers
				}
			}
			return &response{rcode: 2}
		})
		ask := func(format string) {
			for i := range healthRecent {
				_, _ = r.LookupTXT(context.Background(), fmt.Sprintf(format, i))
			}
			synctest.Wait()
		}
		// Everything fails, one canary too, but two sing: it is their trouble.
		third.Store(true)
		ask("theirs%d.example")
		if !r.Healthy() || probes.Load() == 0 {
			t.Errorf("healthy %v after %d probes", r.Healthy(), probes.Load())
		}
		// The canaries are silent too: ours, until they answer again.
		dead.Store(true)
		time.Sleep(time.Minute)
		ask("ours%d.example")
		if r.Healthy() {
			t.Error("canaries are dead, and that is healthy")
		}
		time.Sleep(time.Hour)
		if r.Healthy() {
			t.Error("canaries are dead still")
		}
		dead.Store(false)
		time.Sleep(2 * canaryPause)
		if !r.Healthy() {
			t.Error("canaries answer, and that is not seen")
		}
		before := probes.Load()
		time.Sleep(time.Hour)
		if probes.Load() != before {
			t.Error("canaries are asked without need")
		}
		if n := warnings(&log); n != 2 {
			t.Errorf("%d warnings, want one for each change:\n%s", n, log.String())
		}
	})
}

// Where no server can be reached, one domain is witness enough.
func TestUnreachableServers(t *testing.T) {
	r := newTest(t, Options{Servers: []string{"192.0.2.1", "192.0.2.2"}, Dial: refuse})
	for i := range healthLeast {
		if !r.Healthy() {
			t.Errorf("in trouble after %d look-ups", i)
		}
		wantError(t, r, fmt.Sprintf("n%d.one.example", i), "temporary")
	}
	if r.Healthy() {
		t.Error("no server can be reached, and that is healthy")
	}
}

func TestConnectionRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTest(t, Options{Servers: []string{"127.0.0.1:9"}, Dial: refuse})
		start := time.Now()
		wantError(t, r, "a.example", "temporary")
		if took := time.Since(start); took != 0 {
			t.Errorf("a refused connection took %v", took)
		}
	})
}
