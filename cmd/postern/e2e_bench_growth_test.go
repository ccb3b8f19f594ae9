//go:build e2e

package main_test

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// How what a message costs grows: with connections, processors, rules, lists, recipients
// and the journal; and how start and memory do. One thing grows at a time, and all else is
// as in case c.

var benchGrowth = flag.Bool("bench.growth", false, "say how what a message costs grows, in place of comparing peers")

// chart is where the curves are drawn.
const chart = "../../proxy/performance.svg"

// point is a measurement of a series: x of what grows.
type point struct {
	x    int
	c    benchCase
	peer peer
	with func(t *testing.T) setup
}

// series is what grows, and the points at which it is measured.
type series struct {
	name, unit string
	points     []point
}

// growing is case c with something changed.
func growing(change func(*benchCase)) benchCase {
	c := theCases[slices.IndexFunc(theCases, func(c benchCase) bool { return c.name == "c" })].whole()
	change(&c)
	return c
}

// extra is a setup with further keys in its configuration.
func extra(keys string) func(*testing.T) setup {
	return func(*testing.T) setup { return setup{extra: keys} }
}

// theSeries are those for whom there are descriptors enough.
func theSeries(limit int) []series {
	peers, _ := benchPeers("")
	named := func(name string) peer {
		return peers[slices.IndexFunc(peers, func(p peer) bool { return p.name == name })]
	}
	at := named(ours)
	var all []series
	// A proxy has two descriptors for each connection that is at work.
	busy := func(name string, p peer) {
		s := series{name: name, unit: "connections"}
		for _, n := range []int{1, 10, 100, 1000, 5000, 10000} {
			if 2*n+500 <= limit && (p.name == ours || n <= 5000) { // HAProxy's configuration has room for so many
				s.points = append(s.points, point{n, growing(func(c *benchCase) { c.connections, c.messages, c.standing = n, max(8000, 4*n), true }), p, extra("")})
			}
		}
		all = append(all, s)
	}
	busy(atWork, at)
	busy(atWork+", "+theirs, named(theirs))
	idle := series{name: mostlyIdle, unit: "connections"}
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		if n+500 <= limit {
			idle.points = append(idle.points, point{n, growing(func(c *benchCase) { c.connections, c.standing = min(n, 20), true; c.idle = n - c.connections }), at, extra("")})
		}
	}
	cores := series{name: "processors", unit: "processors"}
	for n := 1; n <= min(runtime.NumCPU(), 8); n *= 2 {
		cores.points = append(cores.points, point{n, growing(func(*benchCase) {}), at, func(*testing.T) setup {
			return setup{prefix: []string{"taskset", "-c", fmt.Sprintf("0-%d", n-1)}}
		}})
	}
	ruled := series{name: withRules, unit: "rules"}
	for _, n := range []int{1, 10, 100, 1000} {
		var b strings.Builder
		b.WriteString("policy:\n  rules:\n")
		for i := range n {
			fmt.Fprintf(&b, "    - {name: partner-%d, when: 'mail.domain == \"partner-%d.example\" and spf.result == \"fail\"', do: reject}\n", i, i)
		}
		ruled.points = append(ruled.points, point{n, growing(func(*benchCase) {}), at, extra(b.String())})
	}
	listed := series{name: withEntries, unit: "entries"}
	for _, n := range []int{10, 1000, 100000, 1000000} {
		listed.points = append(listed.points, point{n, growing(func(*benchCase) {}), at, func(t *testing.T) setup { return setup{extra: listOf(t, n)} }})
	}
	many := series{name: "recipients of a message", unit: "recipients"}
	for _, n := range []int{1, 10, 100} {
		many.points = append(many.points, point{n, growing(func(c *benchCase) { c.recipients, c.messages = n, max(500, 8000/n) }), at, extra("")})
	}
	journal := series{name: "journal (0: off, 1: on)", unit: ""}
	for x, p := range []peer{named(withoutJournal), at} {
		journal.points = append(journal.points, point{x, growing(func(*benchCase) {}), p, extra("")})
	}
	return append(all, idle, cores, ruled, listed, many, journal)
}

// The series that are drawn.
const (
	atWork      = "connections, all at work"
	mostlyIdle  = "connections, 20 of them at work"
	withRules   = "rules that are asked and do not match"
	withEntries = "entries of a list that is asked twice for each message"
)

// listOf writes a list of half mail addresses and half networks, none of which is that of a client, and
// returns the configuration by which two rules ask it.
func listOf(t *testing.T, entries int) string {
	t.Helper()
	file := t.TempDir() + "/list.txt"
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range entries {
		if i%2 == 0 {
			fmt.Fprintf(w, "user%d@partner-%d.example\n", i, i%1000)
		} else {
			fmt.Fprintf(w, "10.%d.%d.%d\n", i>>16, i>>8&255, i&255)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`lists: [{name: known, file: %q}]
policy:
  rules:
    - {name: known-sender, when: 'in_list("known", mail.from)', do: reject}
    - {name: known-client, when: 'in_list("known", client.ip)', do: reject}
`, file)
}

// crowd opens connections that have said EHLO and wait until the test ends.
func crowd(t *testing.T, proxy served, n int, encrypted bool) {
	t.Helper()
	conns := make([]*client, n)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.conn.Close()
			}
		}
	})
	if err := parallel(n, 16, func(i int) (err error) {
		if conns[i], _, err = connect(proxy.addr); err != nil {
			return err
		}
		const hello = "EHLO mx.client.example"
		if err := conns[i].ask("250 ", hello); err != nil || !encrypted {
			return err
		}
		if _, err := conns[i].startTLS(proxy.roots); err != nil {
			return err
		}
		return conns[i].ask("250 ", hello)
	}); err != nil {
		t.Fatal(err)
	}
}

// started is what a start took, and the memory thereafter.
type started struct {
	entries            int
	milliseconds       float64
	idle, peak, mapped float64 // MiB: resident when nothing is done; the most until then; of the former, what is the program itself
}

// start starts Postern with a list of so many entries, and waits for its first 220.
func start(t *testing.T, s *site, entries int) started {
	t.Helper()
	p := configurePostern(t, benchSetup(t, s, s.small, setup{extra: listOf(t, entries)}, true))
	began := time.Now()
	p.launch(t)
	for {
		conn, err := net.DialTimeout("tcp", p.addr(), time.Second)
		if err == nil {
			line, err := bufio.NewReader(patientConn{conn}).ReadString('\n')
			conn.Close()
			if err == nil && strings.HasPrefix(line, "220 ") {
				break
			}
		}
		if time.Since(began) > 4*patience {
			t.Fatalf("no 220 within %v: %v", 4*patience, err)
		}
		time.Sleep(time.Millisecond)
	}
	m := started{entries: entries, milliseconds: float64(time.Since(began).Microseconds()) / 1e3}
	time.Sleep(3 * time.Second) // in which it does nothing: it is the memory of that state that is asked for
	pid := p.cmd.Process.Pid
	mib := func(field string) float64 { return float64(memory(t, pid, field)) / (1 << 20) }
	m.idle, m.peak, m.mapped = mib("VmRSS"), mib("VmHWM"), mib("RssFile")
	return m
}

// tellGrowth prints the tables, and draws the chart.
func tellGrowth(t *testing.T, s *site, report func(measurement)) {
	t.Helper()
	needs(t, "taskset")
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	const wanted = 25000 // 10,000 clients that are all at work, twice, and what else there is
	limit := int(min(l.Max, wanted))
	if limit < wanted {
		fmt.Fprintf(os.Stderr, "ulimit -Hn is %d: series that need more descriptors end earlier; %d are enough for all of them\n", l.Max, wanted)
	}
	descriptors(t, uint64(limit))
	var text strings.Builder
	drawn := map[string][]mark{}
	for _, g := range theSeries(limit) {
		measured := map[int][]measurement{}
		for repeat := range *benchRepeats {
			for i := range g.points {
				p := g.points[(i+repeat)%len(g.points)]
				t.Run(fmt.Sprintf("%s/%d/%d", g.name, p.x, repeat+1), func(t *testing.T) {
					m := p.c.measure(t, p.peer, s, p.with(t))
					m.Case, m.Peer, m.Repeat = g.name, strconv.Itoa(p.x), repeat+1
					fmt.Fprintf(os.Stderr, "%s, %s, %d: %.0f messages/s, %.1f µs\n", m.Case, m.Peer, m.Repeat, float64(m.Messages)/m.Seconds, m.Processor)
					measured[p.x] = append(measured[p.x], m)
					report(m)
				})
				if t.Failed() {
					return
				}
			}
		}
		text.WriteString(g.table(measured))
		for _, p := range g.points {
			drawn[g.name] = append(drawn[g.name], markOf(p.x, measured[p.x]))
		}
	}
	starts := map[int][]started{}
	sizes := []int{10, 100000, 1000000}
	for range *benchRepeats {
		for _, n := range sizes {
			t.Run(fmt.Sprintf("start/%d", n), func(t *testing.T) { starts[n] = append(starts[n], start(t, s, n)) })
		}
	}
	if t.Failed() {
		return
	}
	text.WriteString(startTable(sizes, starts))
	fmt.Println(text.String())
	if *benchUpdate {
		writeSection(t, "growth", text.String())
		if err := os.WriteFile(filepath.Clean(chart), []byte(drawGrowth(drawn)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// mark is a point of a curve.
type mark struct{ x, rate, processor float64 }

func markOf(x int, all []measurement) mark {
	var rate, processor []float64
	for _, m := range all {
		rate, processor = append(rate, float64(m.Messages)/m.Seconds), append(processor, m.Processor)
	}
	return mark{float64(x), middleOf(rate).median, middleOf(processor).median}
}

// table is the series, medians.
func (g series) table(measured map[int][]measurement) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n**%s**\n\n", g.name)
	writeRow(&b, []string{cmp.Or(g.unit, "journal"), "messages/s", "CPU µs a message (spread)", "p50 / p99 ms", "allocations", "peak MiB"})
	writeRow(&b, slices.Repeat([]string{"---"}, 6))
	for _, p := range g.points {
		of := func(value func(measurement) float64) middle {
			var values []float64
			for _, m := range measured[p.x] {
				values = append(values, value(m))
			}
			return middleOf(values)
		}
		k := markOf(p.x, measured[p.x])
		spread := of(func(m measurement) float64 { return m.Processor })
		allocations := "-"
		if n := of(func(m measurement) float64 { return m.Allocations }).median; n > 0 {
			allocations = number(n)
		}
		writeRow(&b, []string{count(p.x), number(k.rate), fmt.Sprintf("%s (%s to %s)", number(k.processor), number(spread.least), number(spread.most)),
			fmt.Sprintf("%.2f / %.2f", of(func(m measurement) float64 { return m.P50 }).median, of(func(m measurement) float64 { return m.P99 }).median),
			allocations, number(of(func(m measurement) float64 { return m.Peak }).median)})
	}
	return b.String()
}

func startTable(sizes []int, starts map[int][]started) string {
	var b strings.Builder
	b.WriteString("\n**start, with the list's file read**\n\n")
	writeRow(&b, []string{"entries", "ms to the first 220 (spread)", "resident when idle, MiB", "of that the program's file", "most until then"})
	writeRow(&b, slices.Repeat([]string{"---"}, 5))
	for _, n := range sizes {
		of := func(value func(started) float64) middle {
			var values []float64
			for _, s := range starts[n] {
				values = append(values, value(s))
			}
			return middleOf(values)
		}
		took := of(func(s started) float64 { return s.milliseconds })
		writeRow(&b, []string{count(n), fmt.Sprintf("%s (%s to %s)", number(took.median), number(took.least), number(took.most)),
			number(of(func(s started) float64 { return s.idle }).median), number(of(func(s started) float64 { return s.mapped }).median),
			number(of(func(s started) float64 { return s.peak }).median)})
	}
	return b.String()
}

// count writes a whole number.
func count(n int) string {
	if n < 100 {
		return strconv.Itoa(n)
	}
	return number(float64(n))
}

// panel is one of the chart's diagrams.
type panel struct {
	title, x, y string
	curves      []curve
}

type curve struct {
	name  string
	marks [][2]float64
}

// drawGrowth draws the series that are worth it.
func drawGrowth(drawn map[string][]mark) string {
	of := func(name, series string, y func(mark) float64) curve {
		c := curve{name: name}
		for _, m := range drawn[series] {
			c.marks = append(c.marks, [2]float64{m.x, y(m)})
		}
		return c
	}
	rate := func(m mark) float64 { return m.rate }
	processor := func(m mark) float64 { return m.processor }
	return drawPanels([]panel{
		{"Messages a second", "connections", "messages/s", []curve{of("all at work", atWork, rate), of("20 at work", mostlyIdle, rate), of(theirs+", all at work", atWork+", "+theirs, rate)}},
		{"Processor time of a message", "connections", "µs", []curve{of("all at work", atWork, processor), of("20 at work", mostlyIdle, processor), of(theirs+", all at work", atWork+", "+theirs, processor)}},
		{"Processor time of a message", "rules", "µs", []curve{of("", withRules, processor)}},
		{"Processor time of a message", "entries of a list", "µs", []curve{of("", withEntries, processor)}},
	})
}
