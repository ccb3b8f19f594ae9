package dnscache

import (
	"context"
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"postern/configs"
	"postern/metrics"
)

// held counts what a cache holds, entry by entry.
func held(k *cache) (entries int, octets, counted int64) {
	for i := range k.shard {
		s := &k.shard[i]
		counted += s.bytes
		for _, q := range s.found.Keys() {
			e, _ := s.found.Peek(q)
			entries, octets = entries+1, octets+e.size(q)
		}
		for _, q := range s.negative.Keys() {
			e, _ := s.negative.Peek(q)
			entries, octets = entries+1, octets+e.size(q)
		}
	}
	return entries, octets, counted
}

func TestCacheIsBounded(t *testing.T) {
	const entries, octets = 1000, 200_000
	k, err := newCache(configs.DNSCache{Entries: entries}, octets)
	if err != nil {
		t.Fatal(err)
	}
	fill := func(n, size int, kind kind) {
		for i := range n {
			q := question{fmt.Sprintf("n%d.k%d.s%d.example", i, kind, size), typeTXT}
			e := &entry{kind: kind, ttl: 60, expires: 1 << 62}
			if kind == kindFound {
				e.text = []string{strings.Repeat("x", size)}
			} else {
				e.err = errNotFound(q.name, textNoData)
			}
			s := k.of(q.name)
			s.mu.Lock()
			s.put(q, e, 0)
			s.put(q, e, 0) // in its own place
			s.mu.Unlock()
		}
	}
	check := func(what string) int {
		t.Helper()
		n, sum, counted := held(k)
		if n > entries+shards || sum > octets || sum != counted {
			t.Errorf("%s: %d entries of %d octets, counted as %d", what, n, sum, counted)
		}
		return n
	}
	fill(50, 100, kindFound)
	good := check("a few good ones")
	// A flood of random names.
	fill(5000, 0, kindNoData)
	check("negatives")
	found := 0
	for i := range k.shard {
		found += k.shard[i].found.Len()
	}
	if found != good {
		t.Errorf("negatives drove out %d of %d answers", good-found, good)
	}
	fill(5000, 1000, kindFound)
	check("large ones")
	fill(10, octets, kindFound)
	check("too large ones")
	fill(5000, 1, kindFound)
	check("small ones")
}

// An answer takes the place of what it contradicts.
func TestAnswersContradict(t *testing.T) {
	k, err := newCache(configs.DNSCache{Entries: 1000}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	const name = "a.example"
	s := k.of(name)
	put := func(rr rrtype, kind kind, ttl uint32) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.put(question{name, rr}, &entry{kind: kind, ttl: ttl, expires: 100}, 0)
	}
	is := func(rr rrtype, want string) {
		t.Helper()
		got := "unknown"
		if e, _ := k.get(s, question{name, rr}, 0); e != nil {
			got = map[kind]string{kindFound: "found", kindNoData: "nodata", kindNXDomain: "nxdomain", kindFailure: "failure"}[e.kind]
		}
		if got != want {
			t.Errorf("type %v: %s, want %s", rr, got, want)
		}
	}
	put(typeA, kindNXDomain, 60)
	is(typeTXT, "nxdomain")
	put(typeTXT, kindFound, 60) // asked for before the NXDOMAIN came
	is(typeTXT, "found")
	is(typeA, "unknown")
	put(typeTXT, kindFailure, 5) // a refresh that failed
	is(typeTXT, "found")
	put(typeTXT, kindNoData, 60)
	is(typeTXT, "nodata")
	put(typeTXT, kindFound, 0) // for one use only
	is(typeTXT, "unknown")

	// While another type is there, NXDOMAIN is for its own type alone. Afterwards
	// it is for all, and nothing of what was there stands in.
	put(typeA, kindFound, 60)
	put(typeAAAA, kindNXDomain, 60)
	is(typeA, "found")
	is(typeAAAA, "nxdomain")
	is(typeTXT, "unknown")
	put(typeA, kindNXDomain, 60)
	for _, rr := range types {
		is(rr, "nxdomain")
	}
	put(typeMX, kindFailure, 5) // asked for before the NXDOMAIN came
	is(typeMX, "nxdomain")
	put(typeMX, kindFound, 0)
	is(typeMX, "unknown")
	if n, octets, counted := held(k); n != 0 || octets != 0 || counted != 0 {
		t.Errorf("%d entries of %d octets, counted as %d", n, octets, counted)
	}
}

// outcomes reads dns_queries_total for a type.
func outcomes(t *testing.T, m *metrics.Metrics, rrtype string) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "postern_dns_queries_total" {
			continue
		}
		for _, s := range f.GetMetric() {
			if label(s, "type") == rrtype {
				got[label(s, "outcome")] = s.GetCounter().GetValue()
			}
		}
	}
	return got
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func TestCounters(t *testing.T) {
	m := metrics.New()
	var now clock
	mode := "found"
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Metrics: m, Now: now.now, Dial: pipe(func(_, _ string, query []byte) [][]byte {
		switch mode {
		case "found":
			return [][]byte{someTXT.to(query)}
		case "none":
			return [][]byte{response{rcode: 3, soa: soa(60, 60)}.to(query)}
		}
		return [][]byte{response{rcode: 2}.to(query)}
	})})
	wantTXT(t, r, "a.example", "x") // miss
	wantTXT(t, r, "a.example", "x") // hit
	mode = "none"
	wantError(t, r, "nx.example", "NXDOMAIN") // miss
	wantError(t, r, "nx.example", "NXDOMAIN") // negative
	mode = "failing"
	wantError(t, r, "b.example", "temporary") // error
	wantError(t, r, "b.example", "temporary") // error, remembered
	now.advance(60e9)
	wantTXT(t, r, "a.example", "x") // stale
	_, _ = r.LookupNetIP(context.Background(), "ip6", "c.example")
	want := "map[error:2 hit:1 miss:2 negative:1 stale:1]"
	if got := fmt.Sprint(outcomes(t, m, "TXT")); got != want {
		t.Errorf("TXT: %s, want %s", got, want)
	}
	if got := fmt.Sprint(outcomes(t, m, "AAAA")); got != "map[error:1 hit:0 miss:0 negative:0 stale:0]" {
		t.Errorf("AAAA: %s", got)
	}
	if got := gauges(t, m); got != "cache_entries 0 healthy 1 " {
		t.Errorf("before Report: %s", got)
	}
	r.Report()
	if got := gauges(t, m); got != "cache_entries 5 healthy 1 " { // two failures are kept, and what they stand beside
		t.Errorf("after Report: %s", got)
	}
	for i := range healthRecent {
		_, _ = r.LookupTXT(context.Background(), fmt.Sprintf("domain%d.example", i))
	}
	if got := gauges(t, m); got != "cache_entries 17 healthy 0 " {
		t.Errorf("in trouble: %s", got)
	}
}

// gauges reads what Report has the metrics tell.
func gauges(t *testing.T, m *metrics.Metrics) (got string) {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name, ok := strings.CutPrefix(f.GetName(), "postern_dns_"); ok && f.GetType() == dto.MetricType_GAUGE {
			got += fmt.Sprint(name, " ", f.GetMetric()[0].GetGauge().GetValue(), " ")
		}
	}
	return got
}
