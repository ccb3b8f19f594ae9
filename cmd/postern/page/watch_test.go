package page

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"postern/metrics"
	"postern/policy/journal"
	"postern/policy/journal/journaltest"
)

// What comes often is found in a flood of what comes once, in a bounded place.
func TestOften(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	l := newLately(now)
	for i := range 200_000 {
		l.add(fmt.Sprintf("random-%d.example", i), now)
		if i%20 == 0 {
			l.add("often.example", now)
		}
		if i%40 == 0 {
			l.add("less.example", now)
		}
	}
	if n := len(l.now.by); n > maxOften {
		t.Errorf("%d values are kept", n)
	}
	top, since := l.most(2, now)
	if len(top) != 2 || top[0].Value != "often.example" || top[1].Value != "less.example" || !since.Equal(now) {
		t.Fatalf("%+v since %v", top, since)
	}
	for i, came := range []uint64{10_000, 5_000} {
		if c := top[i].Count; c > came || c+l.now.lost < came || l.now.lost > l.now.total/maxOften {
			t.Errorf("%s came %d times, and %d is said, at most %d too few", top[i].Value, came, c, l.now.lost)
		}
	}
	// What was is forgotten, with the hour after the next.
	now = now.Add(turnover)
	l.add("new.example", now)
	if top, since := l.most(1, now); top[0].Value != "often.example" || !since.Equal(now.Add(-turnover)) {
		t.Errorf("%+v since %v", top, since)
	}
	now = now.Add(turnover)
	l.add("new.example", now)
	if top, _ := l.most(5, now); len(top) != 1 || top[0] != (counted{"new.example", 2}) {
		t.Errorf("%+v", top)
	}
	if top, _ := l.most(5, now.Add(5*turnover)); len(top) != 0 {
		t.Errorf("%+v", top)
	}
	l.add(string(make([]byte, 10_000)), now)
	for v := range l.now.by {
		if len(v) > maxKey {
			t.Errorf("a value of %d octets is kept", len(v))
		}
	}
}

// Steps begin anew when their time comes round, and sums are of the time that is asked for.
func TestSteps(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 2, 3, 0, time.UTC)
	w := newWatch(now)
	ended := func(n int, r *journal.Record) {
		for range n {
			w.record(r, now)
		}
	}
	good, bad := journaltest.Delivery(1, "good.example", "pass"), refusal(2, "bad.example")
	ended(3, good)
	now = now.Add(30 * time.Minute)
	ended(2, bad)
	s := w.sum(now.Add(-time.Hour))
	if s.Fates[0].Count != 3 || s.Fates[1].Count != 2 || len(s.Verdicts) != 2 || len(s.Checks) != 1 || len(s.Checks[0].Results) != 2 {
		t.Errorf("%+v", s)
	}
	now = now.Add(45 * time.Minute)
	if s := w.sum(now.Add(-time.Hour)); s.Fates[0].Count != 0 || s.Fates[1].Count != 2 {
		t.Errorf("%+v", s.Fates)
	}
	now = now.Add(24 * time.Hour)
	ended(1, good)
	if s := w.sum(now.Add(-24 * time.Hour)); s.Fates[0].Count != 1 || s.Fates[1].Count != 0 {
		t.Errorf("%+v", s.Fates)
	}
	// A site with a thousand rules does not grow without end.
	for i := range 3 * maxKinds {
		r := *bad
		r.Rule = fmt.Sprint("rule-", i)
		w.record(&r, now)
	}
	if n := len(stepAt(w.wide[:], wideStep, now).verdicts); n > maxKinds {
		t.Errorf("%d verdicts are counted apart", n)
	}
	if records, count := w.since(0, 1000); len(records) > maxLast || count != uint64(6+3*maxKinds) {
		t.Errorf("%d of %d records are kept", len(records), count)
	}
}

func TestFates(t *testing.T) {
	for name, c := range map[string]struct {
		outcome     journal.Outcome
		disposition journal.Disposition
	}{
		"delivered": {journal.OutcomeDelivered, journal.DispositionTag}, "refused": {journal.OutcomeRefused, journal.DispositionReject},
		"held": {journal.OutcomeRefused, journal.DispositionHold}, "put off": {journal.OutcomeFailed, journal.DispositionPass},
		"refused by the MTA": {journal.OutcomeBackendRefused, journal.DispositionPass}, "other": {journal.OutcomeAbandoned, journal.DispositionPass},
	} {
		if got := fates[fateOf(&journal.Record{Outcome: c.outcome, Disposition: c.disposition})]; got != name {
			t.Errorf("%+v: %s, not %s", c, got, name)
		}
	}
}

func TestQuantiles(t *testing.T) {
	bounds := []float64{.1, 1, 10}
	before := metrics.Cumulated{Bounds: bounds, Counts: []uint64{5, 5, 5}}
	half, most := quantiles(before, metrics.Cumulated{Bounds: bounds, Counts: []uint64{15, 25, 25}})
	if half != .1 || most < .9 || most > 1 {
		t.Errorf("%v %v", half, most)
	}
	if half, most = quantiles(before, before); half >= 0 || most >= 0 {
		t.Errorf("of no message: %v %v", half, most)
	}
	if half, most = quantiles(metrics.Cumulated{}, metrics.Cumulated{}); half >= 0 || most >= 0 {
		t.Errorf("of nothing: %v %v", half, most)
	}
}

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { close(p.ended); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// One that does not take what it is told is let go after answerTime, and holds nobody up.
func TestSlowListenerIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := pipes{make(chan net.Conn), make(chan struct{})}
		let := make(chan time.Duration, 1)
		srv := &http.Server{WriteTimeout: time.Hour, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			l := listening{w: w, to: http.NewResponseController(w)}
			began := time.Now()
			for l.tell("records", []byte(`{"rows":[]}`)) == nil {
			}
			let <- time.Since(began)
		})}
		go func() { _ = srv.Serve(ln) }()
		ours, theirs := net.Pipe()
		ln.conns <- theirs
		if _, err := io.WriteString(ours, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if took := <-let; took != answerTime {
			t.Errorf("let go after %v", took)
		}
		ours.Close()
		srv.Close()
	})
}
