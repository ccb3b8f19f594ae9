package metrics

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var update = flag.Bool("update", false, "rewrite testdata/names.txt")

var checkResults = []string{"pass", "fail"}

// used returns metrics of which each has counted something.
func used() *Metrics {
	m := New()
	m.Connection("mx", "quit")
	m.SessionStarted()
	m.Transaction("reject", "spf-fail")
	m.Transaction("pass", "")
	m.Check("spf", checkResults).Done("fail", 30*time.Millisecond)
	m.Filter("service.grey", []string{"dunno", "temperror"}).Done("temperror", 5*time.Second)
	m.Reply(550, "7.1")
	m.Reply(354, "")
	m.DNSQuery("TXT", "miss")
	m.DNSRefused("client")
	m.DNSQueryTook(20 * time.Millisecond)
	m.DNSCacheEntries(func() float64 { return 7 })
	m.DNSHealthy(func() bool { return false })
	m.Message("spf")
	m.StateHealthy(func() bool { return false })
	m.NetworkFilesUnreadable(func() int { return 1 })
	m.StateSizes(map[string]int64{"past": 3}, 4096)
	m.Held(map[string]int{"greylist": 3})
	m.HoldEnded("clock", time.Minute)
	m.BackendUp("mta", "127.0.0.1:10025", true)
	m.Backend("mta", nil).Took(PhaseConnect, time.Millisecond)
	m.Backend("mta", nil).Error("dial")
	m.MessageBytes(5000)
	m.TimeToFinalReply(time.Second, "4k0m9d0x4qzr7k2m")
	m.TLSHandshake("1.3", "ok")
	m.CertificateNotAfter("default", time.Unix(2e9, 0))
	m.OutcomeUnknown()
	m.LimitReached("held")
	m.HeldBytes(65536)
	m.Disagreement("pass", "reject")
	m.ConfigReload("ok")
	m.JournalRecord("written")
	m.BuildInfo("v1")
	return m
}

// Names and labels are contract: dashboards and alert rules hang on them.
func TestNames(t *testing.T) {
	families, err := used().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "postern_") {
			continue // Go's and the process's own
		}
		labels := map[string]bool{}
		for _, metric := range f.Metric {
			for _, l := range metric.Label {
				labels[l.GetName()] = true
			}
		}
		fmt.Fprintf(&b, "%s %s {", f.GetName(), strings.ToLower(f.GetType().String()))
		sep := ""
		for _, l := range slices.Sorted(mapKeys(labels)) {
			b.WriteString(sep + l)
			sep = ","
		}
		b.WriteString("}\n")
	}
	if *update {
		if err := os.WriteFile("testdata/names.txt", []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func mapKeys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(used().Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestValues(t *testing.T) {
	m := used()
	m.ForgetBackends()
	m.BackendUp("new", "a", false)
	want := `
# HELP postern_replies_total Replies to clients, by code and enhanced status code.
# TYPE postern_replies_total counter
postern_replies_total{code="354",enhanced=""} 1
postern_replies_total{code="451",enhanced="4.3.0"} 0
postern_replies_total{code="451",enhanced="4.4.1"} 0
postern_replies_total{code="451",enhanced="4.4.3"} 0
postern_replies_total{code="452",enhanced="4.3.1"} 0
postern_replies_total{code="550",enhanced="5.7.1"} 1
# HELP postern_transactions_total Mail transactions, by verdict and by the rule that decided.
# TYPE postern_transactions_total counter
postern_transactions_total{disposition="pass",rule="none"} 1
postern_transactions_total{disposition="reject",rule="spf-fail"} 1
# HELP postern_backend_up Whether an address of a backend is taken for usable.
# TYPE postern_backend_up gauge
postern_backend_up{address="a",backend="new"} 0
# HELP postern_dns_cache_entries DNS answers in the cache.
# TYPE postern_dns_cache_entries gauge
postern_dns_cache_entries 7
# HELP postern_dns_healthy Whether our own name servers seem to work: 0 while different domains fail together.
# TYPE postern_dns_healthy gauge
postern_dns_healthy 0
# HELP postern_config_reloads_total Attempts to load the configuration anew.
# TYPE postern_config_reloads_total counter
postern_config_reloads_total{result="error"} 0
postern_config_reloads_total{result="ok"} 1
`
	err := testutil.GatherAndCompare(m.Gatherer(), strings.NewReader(want), "postern_replies_total", "postern_transactions_total",
		"postern_backend_up", "postern_dns_cache_entries", "postern_dns_healthy", "postern_config_reloads_total")
	if err != nil {
		t.Error(err)
	}
}

// Nobody needs a registry to run a session: every method works on nil.
func TestNilCountsNothing(t *testing.T) {
	v := reflect.ValueOf((*Metrics)(nil))
	for i := range v.NumMethod() {
		name := v.Type().Method(i).Name
		if name == "Handler" || name == "Gatherer" {
			continue // there is nothing to serve
		}
		var args []reflect.Value
		for j := range v.Method(i).Type().NumIn() {
			args = append(args, reflect.Zero(v.Method(i).Type().In(j)))
		}
		v.Method(i).Call(args)
	}
}

func TestBadTextsAndOpenSetsDoNoHarm(t *testing.T) {
	m := New()
	bad := "\xff\xfe"
	m.Connection(bad, bad)
	m.Transaction(bad, bad)
	m.Check(bad, nil).Done(bad, 0)
	m.DNSQuery(bad, bad)
	m.DNSRefused(bad)
	m.BackendUp(bad, bad, true)
	m.Backend(bad, nil).Took(PhaseData, 0)
	m.Backend(bad, nil).Error(bad)
	m.TLSHandshake(bad, bad)
	m.CertificateNotAfter(bad, time.Time{})
	m.Disagreement(bad, bad)
	m.ConfigReload(bad)
	m.BuildInfo(bad)
	m.Listener(bad, []string{bad})
	m.Rule(bad, bad)
	m.Candidate([]string{"pass", "reject"})
	m.TimeToFinalReply(time.Second, bad)
	m.TimeToFinalReply(time.Second, strings.Repeat("x", 200))
	m.Reply(-1, bad)
	m.Reply(100000, "x")
	for i := range 5 * maxReplies {
		m.Reply(550, fmt.Sprintf("7.%d", i))
	}
	n, err := testutil.GatherAndCount(m.Gatherer(), "postern_replies_total")
	if err != nil || n > maxReplies+1 {
		t.Errorf("%d reply codes, %v", n, err)
	}
	if got := testutil.ToFloat64(m.replies.vec.WithLabelValues(other, other)); got < 4*maxReplies {
		t.Errorf("%v replies under %q", got, other)
	}
}

func TestHandler(t *testing.T) {
	s := httptest.NewServer(used().Handler())
	defer s.Close()
	for accept, want := range map[string]string{
		"": "postern_build_info{goversion=",
		"application/openmetrics-text; version=1.0.0":                                                "# EOF",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "postern_message_bytes",
	} {
		req, err := http.NewRequest(http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%q: %s, %v, %d octets without %q", accept, resp.Status, err, len(body), want)
		}
	}
}

// Counting happens several times a command: it may not allocate.
func TestCountingAllocatesNothing(t *testing.T) {
	m := used()
	spf, mta := m.Check("spf", checkResults), m.Backend("mta", nil)
	if n := testing.AllocsPerRun(100, func() {
		m.Connection("mx", "quit")
		m.Transaction("reject", "spf-fail")
		spf.Done("fail", time.Millisecond)
		m.Reply(550, "7.1")
		m.DNSQuery("TXT", "miss")
		mta.Took(PhaseConnect, time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkReply(b *testing.B) {
	m := New()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Reply(250, "2.0")
		}
	})
}

func BenchmarkCheckDone(b *testing.B) {
	spf := New().Check("spf", checkResults)
	b.ReportAllocs()
	for b.Loop() {
		spf.Done("fail", time.Millisecond)
	}
}

func BenchmarkDNSQuery(b *testing.B) {
	m := New()
	b.ReportAllocs()
	for b.Loop() {
		m.DNSQuery("TXT", "miss")
	}
}

func BenchmarkTransaction(b *testing.B) {
	m := New()
	b.ReportAllocs()
	for b.Loop() {
		m.Transaction("reject", "spf-fail")
	}
}

func BenchmarkBackendTook(b *testing.B) {
	mta := New().Backend("mta", nil)
	b.ReportAllocs()
	for b.Loop() {
		mta.Took(PhaseConnect, time.Millisecond)
	}
}

// From a slow point of a graph an id leads to `postern explain`, where the scraper can carry it.
func TestExemplarOfTheFinalReply(t *testing.T) {
	m := New()
	m.TimeToFinalReply(3*time.Second, "4k0m9d0x4qzr7k2m")
	s := httptest.NewServer(m.Handler())
	defer s.Close()
	for accept, carries := range map[string]bool{"application/openmetrics-text; version=1.0.0": true, "text/plain": false} {
		req, err := http.NewRequest(http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(body), `postern_time_to_final_reply_seconds_bucket{le="5.0"} 1 # {id="4k0m9d0x4qzr7k2m"} 3.0`); got != carries {
			t.Errorf("%s: carries the id: %v", accept, got)
		}
	}
}

// A bucket has a new exemplar each second at the most, whatever the others have.
func TestExemplarsAreFew(t *testing.T) {
	m := New()
	start := time.Unix(1_700_000_000, 0)
	for _, tt := range []struct {
		took  time.Duration
		after time.Duration
		want  bool
	}{
		{3 * time.Millisecond, 0, true},
		{4 * time.Millisecond, 999 * time.Millisecond, false},
		{5 * time.Millisecond, 999 * time.Millisecond, false},
		{5*time.Millisecond + 1, 999 * time.Millisecond, true}, // the next bucket
		{4 * time.Millisecond, time.Second, true},
		{4 * time.Millisecond, 0, true}, // the clock was set back
		{time.Hour, 0, true},
		{time.Hour, time.Second, true},
	} {
		if got := m.exemplarDue(tt.took, start.Add(tt.after)); got != tt.want {
			t.Errorf("%v after %v: %v, want %v", tt.took, tt.after, got, tt.want)
		}
	}
	m.TimeToFinalReply(time.Millisecond, "4k0m9d0x4qzr7k2m")
	if got := testing.AllocsPerRun(1000, func() { m.TimeToFinalReply(time.Millisecond, "4k0m9d0x4qzr7k2m") }); got > 0.5 {
		t.Errorf("%v allocations an observation", got)
	}
}

// A counter that appears with its first event hides that event from rate().
func TestSeriesAreThereFromTheStart(t *testing.T) {
	m := New()
	m.Rule("reject", "spf-fail")
	m.Rule("pass", "")
	m.Rule("hold", "greylist")
	m.Held(map[string]int{"gone": 2})
	m.Rule("hold", "greylist")
	m.Listener("mx", []string{"quit", "lost"})
	m.Backend("mta", []string{"dial"})
	m.Candidate([]string{"pass", "reject"})
	m.Transaction("reject", "spf-fail")
	m.Rule("reject", "spf-fail") // a reload takes nothing away
	want := `
# HELP postern_backend_errors_total Failures of backends.
# TYPE postern_backend_errors_total counter
postern_backend_errors_total{backend="mta",kind="dial"} 0
# HELP postern_connections_total Connections of clients, by listener and by how they ended.
# TYPE postern_connections_total counter
postern_connections_total{listener="mx",result="lost"} 0
postern_connections_total{listener="mx",result="quit"} 0
# HELP postern_held Mail that was told to come again and has not yet, by the rule that holds it, as counted within the last minute; the newest 10,000 are looked at.
# TYPE postern_held gauge
postern_held{rule="gone"} 2
postern_held{rule="greylist"} 0
# HELP postern_policy_disagreement_total Transactions on which the active and the candidate policy disagree.
# TYPE postern_policy_disagreement_total counter
postern_policy_disagreement_total{active="pass",candidate="reject"} 0
postern_policy_disagreement_total{active="reject",candidate="pass"} 0
# HELP postern_transactions_total Mail transactions, by verdict and by the rule that decided.
# TYPE postern_transactions_total counter
postern_transactions_total{disposition="hold",rule="greylist"} 0
postern_transactions_total{disposition="pass",rule="none"} 0
postern_transactions_total{disposition="reject",rule="spf-fail"} 1
`
	if err := testutil.GatherAndCompare(m.Gatherer(), strings.NewReader(want), "postern_backend_errors_total", "postern_connections_total", "postern_held",
		"postern_policy_disagreement_total", "postern_transactions_total"); err != nil {
		t.Error(err)
	}
}

// The page of operation has each metric with the words that a scraper is told.
func TestMetricsAreOnThePage(t *testing.T) {
	const file, head = "../deploy/reference.md", "| name | type | labels | meaning |\n|---|---|---|---|\n"
	families, err := used().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "postern_") {
			continue
		}
		labels := map[string]bool{}
		for _, metric := range f.Metric {
			for _, l := range metric.Label {
				labels["`"+l.GetName()+"`"] = true
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(mapKeys(labels)), " "), f.GetHelp())
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), head)
	if !ok {
		t.Fatal("there is no table of metrics")
	}
	table, after, _ := strings.Cut(rest, "\n\n")
	if strings.TrimSpace(table) == strings.TrimSpace(b.String()) {
		return
	}
	if !*update {
		t.Errorf("the table of metrics is not what is counted: go test ./metrics -update\n%s", cmp.Diff(table, b.String()))
		return
	}
	if err := os.WriteFile(file, []byte(strings.TrimRight(before+head+b.String()+"\n"+strings.TrimSpace(after), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
