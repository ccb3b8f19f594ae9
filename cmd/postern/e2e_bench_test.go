//go:build e2e

package main_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// The benchmark of the built binary, beside what others have, on this machine: `make
// bench-serve`. All peers are measured in turn within each repeat, each time by a process
// of its own, so that what drifts on the machine hits them alike; what is to be compared
// is the processor time of a message, as a ratio to that of HAProxy in the same repeat.

var (
	benchCases    = flag.String("bench.cases", "", "the cases to measure, separated by commas, or all; see proxy/PERFORMANCE.md")
	benchPeer     = flag.String("bench.peers", "", "the peers to measure, by the beginnings of their names and separated by commas; empty: all that are here")
	benchRepeats  = flag.Int("bench.repeats", 5, "how often each is measured")
	benchMessages = flag.Int("bench.messages", 0, "messages of one measurement; 0: as many as suit the case")
	benchOld      = flag.String("bench.old", "", "another postern binary, to be measured beside the built one")
	benchReport   = flag.String("bench.report", "", "a file that gets a line of JSON for every measurement")
	benchCalls    = flag.Bool("bench.calls", false, "count system calls as well, once, in a run of its own under strace")
	benchUpdate   = flag.Bool("bench.update", false, "write the tables of what was measured into proxy/PERFORMANCE.md")
)

// benchCase is a load with a name.
type benchCase struct {
	name, what string
	load
	delay     time.Duration // of every answer of the DNS
	cold      bool          // no sender domain was seen before
	large     bool          // for the MTA that takes large messages
	encrypted bool          // STARTTLS, TLS 1.3, a full handshake
	idle      int           // connections besides, which have said EHLO and then nothing
	waiting   int           // connections that say EHLO and wait: how much memory one has is measured, and no message
	rest      time.Duration // how long nothing is done before memory is looked at
	calls     bool          // count system calls as well
	beside    string        // the peer that the others are compared with
	own       bool          // of the proxies only Postern can do it
	tells     []figure      // what the table of all cases has of it; the peers are compared by the first
}

// theCases are what a proxy for mail meets, from the worst for it to the best.
var theCases = []benchCase{
	{name: "a", what: "20 connections, one message of 4 KiB in each", beside: theirs, tells: []figure{processor, rate},
		load: load{connections: 20, perConnection: 1, messages: 6000, size: 4 << 10}},
	{name: "b", what: "a with STARTTLS, TLS 1.3, a full handshake each (X25519, ECDSA P-256)", encrypted: true, beside: "nginx", tells: []figure{processor, rate},
		load: load{connections: 20, perConnection: 1, messages: 6000, size: 4 << 10}},
	{name: "c", what: "20 connections, 100 messages of 4 KiB in each", beside: theirs, tells: []figure{processor, rate},
		load: load{connections: 20, perConnection: 100, messages: 10000, size: 4 << 10}},
	{name: "c-pipeline", what: "c, with MAIL, RCPT and DATA in one write", beside: theirs, tells: []figure{processor, rate},
		load: load{connections: 20, perConnection: 100, messages: 10000, size: 4 << 10, pipelined: true}},
	{name: "d", what: "4 connections, messages of 10 MiB", large: true, beside: theirs, tells: []figure{processor, peak},
		load: load{connections: 4, perConnection: 1, messages: 60, size: 10 << 20}},
	{name: "d100", what: "messages of 100 MiB, one after the other", large: true, beside: theirs, tells: []figure{processor, peak},
		load: load{connections: 1, perConnection: 1, messages: 5, size: 100 << 20}},
	{name: "e", what: "5,000 connections that have said EHLO and wait", waiting: 5000, rest: 3 * time.Second, beside: theirs, tells: []figure{kibEach},
		load: load{connections: 4, perConnection: 1, messages: 1000, size: 4 << 10}},
	{name: "e-tls", what: "e with STARTTLS", waiting: 5000, rest: 3 * time.Second, encrypted: true, beside: "nginx", tells: []figure{kibEach},
		load: load{connections: 4, perConnection: 1, messages: 1000, size: 4 << 10}},
	{name: "f1", what: "a, all from one sender domain whose records are known", own: true, beside: unchecked, tells: []figure{processor, questions},
		load: load{connections: 20, perConnection: 1, messages: 6000, size: 4 << 10}},
	{name: "f10k", what: "a from 10,000 sender domains that nobody has seen, and a DNS that is 20 ms away", own: true, beside: unchecked, tells: []figure{processor, rate, questions},
		delay: 20 * time.Millisecond, cold: true,
		load: load{connections: 20, perConnection: 1, messages: 10000, size: 4 << 10, domains: 10000}},
	{name: "f10k-100", what: "f10k with 100 connections", own: true, beside: unchecked, tells: []figure{processor, rate, questions},
		delay: 20 * time.Millisecond, cold: true,
		load: load{connections: 100, perConnection: 1, messages: 10000, size: 4 << 10, domains: 10000}},
	{name: "h", what: "an idle proxy: 10 messages of 12 KiB a second, one a connection", beside: theirs, tells: []figure{p50},
		load: load{connections: 1, perConnection: 1, messages: 30, size: 12 << 10, every: 100 * time.Millisecond}},
}

// meets says whether the case is one for the peer.
func (c benchCase) meets(p peer) bool {
	if c.encrypted && !p.encrypts || c.waiting > 0 && p.name == "direct" {
		return false
	}
	return !c.own || strings.HasPrefix(p.name, ours)
}

// chosen are the cases of -bench.cases.
func chosen(t *testing.T) (cases []benchCase) {
	t.Helper()
	names := strings.Split(*benchCases, ",")
	for _, c := range theCases {
		if *benchCases == "all" || slices.Contains(names, c.name) {
			if *benchMessages > 0 {
				c.messages = *benchMessages
			}
			cases = append(cases, c.whole())
		}
	}
	if *benchCases != "all" && len(cases) != len(names) {
		t.Fatalf("-bench.cases %s: each is one of %v", *benchCases, theCases)
	}
	return cases
}

func (c benchCase) String() string { return c.name }

// measurement is one run of one peer, and a line of the report.
type measurement struct {
	Case        string    `json:"case"`
	Peer        string    `json:"peer"`
	Repeat      int       `json:"repeat"`
	At          time.Time `json:"at"`
	Messages    int       `json:"messages"`
	Seconds     float64   `json:"seconds"`
	Processor   float64   `json:"cpu_us"` // of a message, as are the next three
	Allocations float64   `json:"allocations"`
	Octets      float64   `json:"allocated_octets"`
	Questions   float64   `json:"dns_questions"`
	P50         float64   `json:"p50_ms"`
	P99         float64   `json:"p99_ms"`
	Peak        float64   `json:"peak_mib"`
	Before      float64   `json:"before_mib,omitempty"` // resident with the first of the connections that wait, and with all of them
	With        float64   `json:"with_mib,omitempty"`
	Waiting     int       `json:"waiting,omitempty"`      // connections
	Calls       float64   `json:"system_calls,omitempty"` // of a message
}

// callsMessages is how many messages strace looks at.
const callsMessages = 1000

// whole fills in what is not said.
func (c benchCase) whole() benchCase {
	c.domains, c.recipients = max(c.domains, 1), max(c.recipients, 1)
	return c
}

// loadOf is the load for a peer that runs.
func (c benchCase) loadOf(proxy served) load {
	l := c.load
	if c.encrypted {
		l.roots = proxy.roots
	}
	return l
}

// warm starts a peer, and lets it work until it is as it will be.
func (c benchCase) warm(t *testing.T, p peer, s *site, with setup) served {
	t.Helper()
	backend := s.small
	if c.large {
		backend = s.large
	}
	s.zone.SetDelay(0)
	proxy := p.start(t, s, backend, with)
	if c.idle > 0 {
		crowd(t, proxy, c.idle, false)
	}
	l := c.loadOf(proxy)
	l.every, l.messages = 0, max(l.messages/5, l.connections)
	if c.large {
		l.messages = l.connections
	}
	if c.cold {
		l.firstDomain = l.domains
	}
	nothing := func() {}
	if _, err := l.run(proxy.addr, nothing, nothing); err != nil {
		t.Fatalf("%s, %s: %v", c.name, p.name, err)
	}
	return proxy
}

// measure starts a peer, lets it get warm, and loads it.
func (c benchCase) measure(t *testing.T, p peer, s *site, with setup) (m measurement) {
	t.Helper()
	proxy := c.warm(t, p, s, with)
	if c.waiting > 0 {
		return c.wait(t, p, proxy)
	}
	l := c.loadOf(proxy)
	if p.slow && l.messages >= few {
		l.messages /= 4
	}
	s.zone.SetDelay(c.delay)
	defer s.zone.SetDelay(0)

	runtime.GC() // the clients' and the MTA's, not in the middle of it
	var asking, before garbage
	var questions int
	var used time.Duration
	o, err := l.run(proxy.addr, func() {
		asking = proxy.garbage(t)
		before = proxy.garbage(t)
		asking = before.less(asking)
		questions, used = s.zone.Queries(), proxy.processor(t)
	}, func() { used = proxy.processor(t) - used })
	if err != nil {
		t.Fatalf("%s, %s: %v", c.name, p.name, err)
	}
	left := proxy.garbage(t).less(before).less(asking)
	n := float64(l.messages)
	m = measurement{
		Case: c.name, Peer: p.name, At: time.Now().UTC().Truncate(time.Second), Messages: l.messages, Seconds: o.took.Seconds(),
		Processor: float64(used.Nanoseconds()) / n / 1e3, Allocations: left.allocations / n, Octets: left.octets / n,
		Questions: float64(s.zone.Queries()-questions) / n,
		P50:       milliseconds(o.latencies, 50), P99: milliseconds(o.latencies, 99), Peak: float64(proxy.memory(t, "VmHWM")) / (1 << 20),
	}
	if c.calls && proxy.pid != 0 && !c.cold {
		l.messages = min(l.messages, callsMessages)
		m.Calls = float64(proxy.calls(t, func() { _, err = l.run(proxy.addr, func() {}, func() {}) })) / float64(l.messages)
		if err != nil {
			t.Fatalf("%s, %s, under strace: %v", c.name, p.name, err)
		}
	}
	return m
}

// wait measures the memory of connections that wait, behind a tenth of them: the first ones cost
// what the program needs to serve any.
func (c benchCase) wait(t *testing.T, p peer, proxy served) measurement {
	t.Helper()
	resident := func() float64 {
		time.Sleep(c.rest) // in which it does nothing: it is the memory of that state that is asked for
		return float64(proxy.memory(t, "VmRSS")) / (1 << 20)
	}
	crowd(t, proxy, c.waiting/10, c.encrypted)
	before := resident()
	crowd(t, proxy, c.waiting, c.encrypted)
	return measurement{
		Case: c.name, Peer: p.name, At: time.Now().UTC().Truncate(time.Second),
		Before: before, With: resident(), Waiting: c.waiting, Peak: float64(proxy.memory(t, "VmHWM")) / (1 << 20),
	}
}

// milliseconds is a percentile of sorted times.
func milliseconds(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[(len(sorted)-1)*percent/100].Microseconds()) / 1e3
}

// TestBench measures what -bench.cases names; without it there is nothing to do.
func TestBench(t *testing.T) {
	if *benchCases == "" && !*benchGrowth {
		return
	}
	descriptors(t, 12000) // 5,000 clients that wait, twice in a proxy, and what else there is
	peers, missing := benchPeers(*benchOld)
	if *benchPeer != "" {
		peers = slices.DeleteFunc(peers, func(p peer) bool {
			return !slices.ContainsFunc(strings.Split(*benchPeer, ","), func(begin string) bool { return strings.HasPrefix(p.name, begin) })
		})
	}
	for _, m := range missing {
		fmt.Fprintln(os.Stderr, m)
	}
	report := func(measurement) {}
	if *benchReport != "" {
		f, err := os.Create(*benchReport)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}()
		lines := json.NewEncoder(f)
		report = func(m measurement) {
			if err := lines.Encode(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := newSite(t)
	switch {
	case *benchProfile:
		tellProfiles(t, s)
		return
	case *benchGrowth:
		tellGrowth(t, s, report)
		return
	}
	for _, c := range chosen(t) {
		var all []measurement
		peers := slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return !c.meets(p) })
		for repeat := range *benchRepeats {
			c.calls = *benchCalls && repeat == 0
			for i := range peers {
				p := peers[(i+repeat)%len(peers)] // nobody is always behind the same one
				t.Run(fmt.Sprintf("%s/%d/%s", c.name, repeat+1, p.name), func(t *testing.T) {
					m := c.measure(t, p, s, setup{})
					m.Repeat = repeat + 1
					all = append(all, m)
					report(m)
					fmt.Fprintf(os.Stderr, "%s %d %s:", m.Case, m.Repeat, m.Peer)
					for _, f := range c.tells {
						fmt.Fprintf(os.Stderr, " %s %s;", number(f.of(m)), f.head)
					}
					fmt.Fprintln(os.Stderr)
				})
				if t.Failed() {
					return
				}
			}
		}
		table, row := c.table(all, peers), c.row(all)
		fmt.Println(table)
		if *benchUpdate { // at once: a run that is cut short has not been for nothing
			tables.renew(t, c.name, table)
			summary.renew(t, c.name, row)
		}
	}
}

// The benchmark itself works: every case, every peer, and hardly any messages.
func TestE2EBench(t *testing.T) {
	s := newSite(t)
	peers, missing := benchPeers("")
	t.Log(missing)
	for _, c := range theCases {
		c = c.whole()
		c.messages, c.connections, c.every = 20, min(c.connections, 4), c.every/10
		c.size, c.waiting, c.rest = min(c.size, 1<<20), min(c.waiting, 50), 0
		var all []measurement
		for _, p := range peers {
			others := c.name == "a" || c.name == "b" || c.name == "f10k" // in the other cases there is nothing new for them
			if !c.meets(p) || !others && p.name != ours {
				continue
			}
			t.Run(c.name+"/"+p.name, func(t *testing.T) {
				m := c.measure(t, p, s, setup{})
				all = append(all, m)
				if c.waiting > 0 {
					if m.Waiting != c.waiting || m.Before < 1 || m.With < 1 {
						t.Errorf("measured: %+v", m)
					}
					return
				}
				if proxied := p.name != "direct"; proxied != (m.Processor > 0) || proxied != (m.Peak > 0) || (m.Allocations != 0) != strings.HasPrefix(p.name, ours) {
					t.Errorf("measured: %+v", m)
				}
				if cold := c.cold && strings.HasPrefix(p.name, ours) && p.name != unchecked; cold && m.Questions < 2 || !cold && m.Questions > 1 || p.name == unchecked && m.Questions != 0 {
					t.Errorf("%.1f questions to the DNS for each message", m.Questions)
				}
			})
		}
		if table := c.table(all, peers); strings.Count(table, "\n| "+ours+" |") != 1 {
			t.Errorf("the table:\n%s", table)
		}
	}
}
