package dnscache

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"postern/configs"
)

// deviations are the steps of Unbound's scenarios in which Postern answers
// otherwise, by file and step; step 0 is a whole file that does not apply. Such a
// step must differ, or the entry has to go.
var deviations = map[string]map[int]string{
	"fwd_no_cache.rpl":     {0: "there is no switch to keep nothing"},
	"ttl_min.rpl":          {0: "there is no least TTL: it would lengthen what the domain published"},
	"ttl_min_negative.rpl": {0: "as ttl_min"},
	"ttl_msg.rpl": {
		36: "a SOA seen with another name does not renew this answer: each is kept by itself",
		46: "as step 36",
	},
	"serve_expired.rpl":               {40: "TTL 0 is shown for a stale answer: a client of ours keeps nothing"},
	"serve_expired_0ttl_nodata.rpl":   {50: "that there is no such record is not said after its time: it could refuse mail for trouble of ours"},
	"serve_expired_0ttl_nxdomain.rpl": {50: "as serve_expired_0ttl_nodata"},
}

// Unbound's scenarios about forwarding, TTLs and expired answers, with the
// resolver in the place of Unbound. Of a scenario that asks the whole tree of name
// servers, only those answer that are asked for the name itself, as a forwarder
// would. Queries without RD look into Unbound's cache and are passed over.
func TestUnboundScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/unbound/*.rpl")
	if err != nil || len(files) != 18 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		known := deviations[name]
		if known[0] != "" {
			continue
		}
		t.Run(strings.TrimSuffix(name, ".rpl"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseScenario(string(text))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { s.play(t, known) })
		})
	}
}

// scenario is a replay file.
type scenario struct {
	config map[string]string
	ranges []rplRange
	steps  []rplStep
}

type rplRange struct {
	from, to int
	entries  []rplEntry
}

type rplStep struct {
	number int
	do     string // QUERY, CHECK_ANSWER, ...
	elapse time.Duration
	entry  rplEntry
}

// rplEntry is a message: to be sent, or to be compared with.
type rplEntry struct {
	match, reply []string
	question     question
	answer, auth []dns.RR
}

func parseScenario(text string) (*scenario, error) {
	s := &scenario{config: map[string]string{}}
	config, ranges := true, false
	section := ""
	var entry *rplEntry
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, ";")
		if config {
			line, _, _ = strings.Cut(line, "#")
			if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				s.config[k] = strings.TrimSpace(v)
			}
		}
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		switch f[0] {
		case "CONFIG_END":
			config = false
		case "RANGE_BEGIN":
			from, _ := strconv.Atoi(f[1])
			to, _ := strconv.Atoi(f[2])
			s.ranges, ranges = append(s.ranges, rplRange{from: from, to: to}), true
		case "RANGE_END":
			ranges = false
		case "STEP":
			n, _ := strconv.Atoi(f[1])
			step := rplStep{number: n, do: f[2]}
			if i := slices.Index(f, "ELAPSE"); i > 0 {
				sec, _ := strconv.Atoi(f[i+1])
				step.elapse = time.Duration(sec) * time.Second
			}
			s.steps = append(s.steps, step)
		case "ENTRY_BEGIN":
			if ranges {
				r := &s.ranges[len(s.ranges)-1]
				r.entries = append(r.entries, rplEntry{})
				entry = &r.entries[len(r.entries)-1]
			} else {
				entry = &s.steps[len(s.steps)-1].entry
			}
			section = ""
		case "ENTRY_END":
			entry = nil
		case "MATCH":
			entry.match = append(entry.match, f[1:]...)
		case "REPLY":
			entry.reply = append(entry.reply, f[1:]...)
		case "SECTION":
			section = f[1]
		default:
			if entry == nil || section == "" {
				continue // ADDRESS, ADJUST, scenario texts
			}
			if section == "QUESTION" {
				if len(f) == 3 {
					entry.question = question{strings.TrimSuffix(strings.ToLower(f[0]), "."), rrtype(dns.StringToType[f[2]])}
				}
				continue
			}
			rr, err := dns.NewRR(strings.TrimSpace(line))
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			switch section {
			case "ANSWER":
				entry.answer = append(entry.answer, rr)
			case "AUTHORITY":
				entry.auth = append(entry.auth, rr)
			}
		}
	}
	return s, nil
}

// message is the entry as an answer to a query.
func (e *rplEntry) message(query []byte) []byte {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		panic(err)
	}
	m := new(dns.Msg).SetReply(&q)
	m.RecursionAvailable = true
	m.Rcode = e.rcode()
	m.Answer, m.Ns = e.answer, e.auth
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func (e *rplEntry) rcode() int {
	for _, w := range e.reply {
		if code, ok := dns.StringToRcode[w]; ok {
			return code
		}
	}
	return dns.RcodeSuccess
}

// outcome of one QUERY step.
type rplResult struct {
	err   error
	trace Answer
}

// rplQuery is a query that arrived at the server and waits for a REPLY step.
type rplQuery struct {
	question question
	query    []byte
	reply    chan []byte
}

func (s *scenario) play(t *testing.T, known map[int]string) {
	seconds := func(key string, otherwise time.Duration) time.Duration {
		if n, err := strconv.Atoi(s.config[key]); err == nil {
			return time.Duration(n) * time.Second
		}
		return otherwise
	}
	cache := configs.Default().DNS.Cache
	cache.ServeStale = 0
	if s.config["serve-expired"] == "yes" {
		cache.ServeStale = 24 * time.Hour
	}
	cache.MaxTTL = seconds("cache-max-ttl", cache.MaxTTL)
	cache.NegativeMaxTTL = seconds("cache-max-negative-ttl", 3600*time.Second)

	at := 0 // the step; only read while the player waits
	arrived := make(chan *rplQuery, 16)
	broken := false // the server's host refuses
	manual := slices.ContainsFunc(s.steps, func(st rplStep) bool { return st.do == "CHECK_OUT_QUERY" })
	server := pipe(func(_, _ string, query []byte) [][]byte {
		q := asked(query)
		for _, r := range s.ranges {
			for _, e := range r.entries {
				if r.from <= at && at <= r.to && e.question == q && !slices.Contains(e.match, "subdomain") {
					return [][]byte{e.message(query)}
				}
			}
		}
		if !manual {
			return nil
		}
		w := &rplQuery{q, slices.Clone(query), make(chan []byte)}
		arrived <- w
		if m := <-w.reply; m != nil {
			return [][]byte{m}
		}
		return nil
	})
	r, err := New(Options{
		Servers: []string{"216.0.0.1"}, Cache: cache,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if broken {
				return refuse(ctx, network, address)
			}
			return server(ctx, network, address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if s.config["serve-expired-client-timeout"] == "0" {
		r.clientTimer = 0
	}
	broken = slices.ContainsFunc(s.steps, func(st rplStep) bool { return st.do == "ERROR" })

	results := map[question]chan rplResult{}
	skipped := map[question]bool{}
	var last *rplQuery
	for _, step := range s.steps {
		at = step.number
		q := step.entry.question
		switch step.do {
		case "QUERY":
			if skipped[q] = len(step.entry.reply) == 0; skipped[q] {
				continue
			}
			done := make(chan rplResult, 1)
			results[q] = done
			go func() { done <- ask(r, q) }()
			synctest.Wait()
		case "CHECK_ANSWER":
			if step.entry.question.name == "" { // some files have the question behind MATCH
				for k := range results {
					q = k
				}
			}
			if skipped[q] {
				continue
			}
			res := <-results[q]
			// The next step's answers are not for what goes on behind this one.
			synctest.Wait()
			diff := step.entry.compare(res)
			switch reason := known[step.number]; {
			case reason == "" && diff != "":
				t.Errorf("step %d: %s", step.number, diff)
			case reason != "" && diff == "":
				t.Errorf("step %d is as Unbound has it, but listed as different (%s)", step.number, reason)
			}
		case "CHECK_OUT_QUERY":
			last = <-arrived
			if last.question != q {
				t.Errorf("step %d: asked for %v, want %v", step.number, last.question, q)
			}
		case "REPLY":
			last.reply <- step.entry.message(last.query)
			synctest.Wait()
		case "TIME_PASSES":
			time.Sleep(step.elapse)
			synctest.Wait()
		case "NOTHING", "TIMEOUT", "ERROR": // the server is silent, or its host refuses, all the time
		default:
			t.Fatalf("step %d: %s is not known", step.number, step.do)
		}
	}
}

// ask looks a question up, with its trace.
func ask(r *Resolver, q question) rplResult {
	var tr Trace
	ctx := WithTransaction(context.Background(), &Transaction{Trace: &tr})
	_, err := r.LookupNetIP(ctx, "ip4", q.name)
	return rplResult{err, tr.Answers()[0]}
}

// compare returns what differs between an answer and the expected one.
func (e *rplEntry) compare(res rplResult) string {
	var want []string
	ttl := -1
	for _, rr := range e.answer {
		if a, ok := rr.(*dns.A); ok {
			ip, _ := netip.AddrFromSlice(a.A.To4())
			want, ttl = append(want, ip.String()), int(a.Hdr.Ttl)
		}
	}
	kind := "ok"
	switch {
	case e.rcode() == dns.RcodeServerFailure:
		kind = "temporary"
	case e.rcode() == dns.RcodeNameError:
		kind = "NXDOMAIN"
	case want == nil:
		kind = "NODATA"
	}
	if kind == "NXDOMAIN" || kind == "NODATA" {
		for _, rr := range e.auth {
			if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Ttl != 3600 {
				ttl = int(soa.Hdr.Ttl)
			}
		}
	}
	got := class(res.err)
	if got == "timeout" {
		got = "temporary"
	}
	if got != kind || !slices.Equal(res.trace.Answer, want) && len(res.trace.Answer)+len(want) > 0 {
		return fmt.Sprintf("%s %v, want %s %v", got, res.trace.Answer, kind, want)
	}
	if slices.Contains(e.match, "ttl") && ttl >= 0 && res.trace.TTL != ttl {
		return fmt.Sprintf("TTL %d, want %d", res.trace.TTL, ttl)
	}
	return ""
}
