//go:build e2e

package main_test

import (
	"bufio"
	"cmp"
	"debug/elf"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// Where the time of a message goes: perf (Debian: linux-perf) looks at the built binary some
// thousand times a second while it is under load, and each look is put down to one subject by
// the functions on its stack. What is allocated is put down in the same way, by a binary that
// has a listener for it besides.

var benchProfile = flag.Bool("bench.profile", false, "say where the time and the allocations of a message go, in place of comparing peers; needs perf")

// subject is what a function belongs to.
type subject string

const (
	subjectConnection subject = "accept, connection"
	subjectRead       subject = "read from the client"
	subjectWrite      subject = "write to the client"
	subjectParse      subject = "parse"
	subjectSession    subject = "session"
	subjectChecks     subject = "checks"
	subjectDNS        subject = "DNS"
	subjectChain      subject = "chain"
	subjectFields     subject = "fields on top"
	subjectBackend    subject = "backend"
	subjectLog        subject = "log"
	subjectJournal    subject = "journal"
	subjectMetrics    subject = "metrics"
	subjectScheduler  subject = "scheduler"
	subjectCollector  subject = "allocation, collector"
	subjectOther      subject = "other"
	subjectCaller     subject = "" // serves several: its caller tells
)

var subjects = []subject{
	subjectConnection, subjectRead, subjectWrite, subjectParse, subjectSession, subjectChecks, subjectDNS, subjectChain, subjectFields,
	subjectBackend, subjectLog, subjectJournal, subjectMetrics, subjectScheduler, subjectCollector, subjectOther,
}

// belongings say whose a function is: the innermost one that is here tells the subject, by the first line that has it. Each
// names functions that are there; TestE2EBenchSubjects finds those that are not.
var belongings = []struct {
	subject   subject
	functions []string // regular expressions of whole names
}{
	{subjectCaller, []string{
		`postern/proxy/smtp\.\(\*ReplyReader\)\.Read`, `postern/proxy/smtp\.AppendReply`, `postern/policy/journal/jsonline\..*`, `encoding/json\..*`,
		`postern/proxy/socket\..*`,
	}},
	{subjectCollector, []string{
		`runtime\.mallocgc.*`, `runtime\.newobject`, `runtime\.makeslice`, `runtime\.growslice`, `runtime\.gcBgMarkWorker.*`, `runtime\.gcAssistAlloc.*`,
		`runtime\.gcStart.*`, `runtime\.gcMark.*`, `runtime\.bgsweep`, `runtime\.bgscavenge`, `runtime\.wbBufFlush.*`, `runtime\.gcDrain.*`, `runtime\.deductSweepCredit`,
	}},
	{subjectScheduler, []string{
		`runtime\.schedule`, `runtime\.findRunnable`, `runtime\.park_m`, `runtime\.mcall`, `runtime\.mstart.*`, `runtime\.sysmon`, `runtime\.netpoll`,
		`runtime\.wakep`, `runtime\.startm`, `runtime\.ready`, `runtime\.goexit0`, `runtime\.newproc.*`, `runtime\.newstack`, `runtime\.copystack`, `runtime\.gopark`,
	}},
	{subjectLog, []string{
		`log/slog\..*`, `postern/proxy\.\(\*Server\)\.logTransaction`, `postern/cmd/postern/service\.\(\*gathering\)\..*`,
		`postern/cmd/postern/service\.\(\*serial\)\..*`,
	}},
	{subjectJournal, []string{`postern/policy/journal\..*`}},
	{subjectMetrics, []string{`postern/metrics\..*`, `postern/metrics/admin\..*`, `github\.com/prometheus/.*`}},
	{subjectDNS, []string{`postern/checks/dnscache\..*`, `github\.com/miekg/dns\..*`, `github\.com/hashicorp/golang-lru/.*`}},
	{subjectChecks, []string{`postern/checks\..*`, `postern/checks/[a-z]+\..*`, `blitiri\.com\.ar/go/spf\..*`}},
	{subjectChain, []string{`postern/policy\..*`, `postern/policy/expr\..*`}},
	{subjectFields, []string{`postern/proxy/fields\..*`, `postern/proxy\.\(\*transaction\)\.appendFields`}},
	{subjectBackend, []string{`postern/proxy/backend\..*`, `postern/proxy/relay\..*`}},
	{subjectWrite, []string{`postern/proxy/wire\.\(\*Conn\)\.Flush`, `postern/proxy/wire\.\(\*Conn\)\.Say`}},
	{subjectRead, []string{`postern/proxy/wire\..*`, `postern/proxy\.\(\*session\)\.nextLine`, `postern/proxy\.\(\*idle\)\..*`}},
	{subjectParse, []string{`postern/proxy/smtp\..*`}},
	{subjectConnection, []string{
		`net\.\(\*TCPListener\)\.Accept`, `postern/proxy\.\(\*Server\)\.Serve`, `postern/proxy\.\(\*Server\)\.begin`, `postern/proxy\.\(\*session\)\.open`,
		`postern/proxy\.\(\*session\)\.run`, `postern/proxy/share\..*`,
	}},
	{subjectSession, []string{`postern/proxy\..*`, `postern/proxy/[a-z]+\..*`}},
}

// rulesOf are the rules, ready for use.
type rulesOf struct {
	patterns [][]*regexp.Regexp
	known    map[string]int // what was asked for before
}

func compileRules() *rulesOf {
	r := &rulesOf{known: map[string]int{}}
	for _, rule := range belongings {
		var patterns []*regexp.Regexp
		for _, f := range rule.functions {
			patterns = append(patterns, regexp.MustCompile("^(?:"+f+")$"))
		}
		r.patterns = append(r.patterns, patterns)
	}
	return r
}

// rule is the number of the first rule for a function, or -1.
func (r *rulesOf) rule(function string) int {
	if n, ok := r.known[function]; ok {
		return n
	}
	n := slices.IndexFunc(r.patterns, func(ps []*regexp.Regexp) bool {
		return slices.ContainsFunc(ps, func(p *regexp.Regexp) bool { return p.MatchString(function) })
	})
	r.known[function] = n
	return n
}

// subject of a stack, the innermost function first.
func (r *rulesOf) subject(stack []string) subject {
	for _, function := range stack {
		if n := r.rule(function); n >= 0 && belongings[n].subject != subjectCaller {
			return belongings[n].subject
		}
	}
	return subjectOther
}

// looks are how often the processor was found at a subject: in the kernel, and in the program.
type looks struct {
	kernel, program map[subject]int
	all             float64
	others          map[string]float64 // stacks that belong to nothing
}

// readLooks reads what `perf script -F ip,sym` prints: for each look its functions, the innermost
// first, "ffffffff816d6bc3 ksys_write", and an empty line.
func readLooks(r io.Reader) (looks, error) {
	by := compileRules()
	l := looks{kernel: map[subject]int{}, program: map[subject]int{}, others: map[string]float64{}}
	var stack []string
	kernel := false
	done := func() {
		if len(stack) == 0 {
			return
		}
		s := by.subject(stack)
		l.all++
		if kernel {
			l.kernel[s]++
		} else {
			l.program[s]++
		}
		if s == subjectOther {
			l.others[strings.Join(stack[:min(len(stack), 8)], " < ")]++
		}
		stack = stack[:0]
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		address, function, found := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if !found {
			done()
			continue
		}
		if len(stack) == 0 {
			kernel = len(address) == 16 && strings.HasPrefix(address, "ffff")
		}
		stack = append(stack, strings.TrimSpace(function))
	}
	done()
	return l, lines.Err()
}

// allocated is what Go's profile of allocations says, by subject.
type allocated struct {
	objects, octets map[subject]float64
	others          map[string]float64 // stacks that belong to nothing
}

var allocationLine = regexp.MustCompile(`^\d+: \d+ \[(\d+): (\d+)\] @`)

// readAllocations reads the profile that testdata/bench/profiler.go gives, in which each stack has a line with its counts
// and then a line for each of its functions: "#	0x4b5c6d	net.(*netFD).accept+0x29	fd_unix.go:172".
func readAllocations(r io.Reader) (allocated, error) {
	by := compileRules()
	a := allocated{map[subject]float64{}, map[subject]float64{}, map[string]float64{}}
	var objects, octets float64
	var stack []string
	done := func() {
		asking := slices.ContainsFunc(stack, func(f string) bool { return strings.HasPrefix(f, "net/http.") }) // for this very profile
		if len(stack) > 0 && !asking {
			s := by.subject(stack)
			a.objects[s] += objects
			a.octets[s] += octets
			if s == subjectOther {
				a.others[strings.Join(stack[:min(len(stack), 8)], " < ")] += objects
			}
		}
		stack, objects, octets = stack[:0], 0, 0
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := allocationLine.FindStringSubmatch(line); m != nil {
			done()
			objects, _ = strconv.ParseFloat(m[1], 64)
			octets, _ = strconv.ParseFloat(m[2], 64)
		} else if f := strings.Split(line, "\t"); len(f) >= 3 && f[0] == "#" && objects > 0 {
			function, _, _ := strings.Cut(f[2], "+0x")
			stack = append(stack, function)
		} else {
			done()
		}
	}
	done()
	return a, lines.Err()
}

// buildWithProfiler builds Postern with testdata/bench/profiler.go, which no binary that is shipped has.
func buildWithProfiler(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here + "/profiler.go": here + "/testdata/bench/profiler.go"}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/overlay.json", string(overlay))
	cmd := exec.Command("go", "build", "-overlay", dir+"/overlay.json", "-o", dir+"/postern", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir + "/postern"
}

// allocations says what a message of the case allocates.
func (c benchCase) allocations(t *testing.T, s *site, binary string) allocated {
	t.Helper()
	port := smtptest.FreePort(t)
	proxy := c.warm(t, peer{name: ours, start: func(t *testing.T, s *site, backend int, with setup) served {
		return startBenchPostern(t, s, backend, with, true)
	}}, s, setup{binary: binary, env: []string{fmt.Sprintf("PROFILER=127.0.0.1:%d", port)}})
	ask := func() allocated {
		t.Helper()
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		a, err := readAllocations(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	before := ask()
	if _, err := c.loadOf(proxy).run(proxy.addr, func() {}, func() {}); err != nil {
		t.Fatal(err)
	}
	after := ask()
	for _, s := range subjects {
		after.objects[s] = (after.objects[s] - before.objects[s]) / float64(c.messages)
		after.octets[s] = (after.octets[s] - before.octets[s]) / float64(c.messages)
	}
	for stack, n := range before.others {
		after.others[stack] -= n
	}
	return after
}

// look loads a warm Postern while perf looks at it, and says where it was, and how many
// microseconds of processor time a message took.
func (c benchCase) look(t *testing.T, s *site) (l looks, microseconds float64) {
	t.Helper()
	proxy := c.warm(t, peer{name: ours, start: func(t *testing.T, s *site, backend int, with setup) served {
		return startBenchPostern(t, s, backend, with, true)
	}}, s, setup{})
	data := t.TempDir() + "/perf.data"
	perf := exec.Command("perf", "record", "-e", "cpu-clock", "-F", "2000", "-g", "-o", data, "-p", strconv.Itoa(proxy.pid))
	if err := perf.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "perf to look", func() bool { _, err := os.Stat(data); return err == nil })
	var used time.Duration
	if _, err := c.loadOf(proxy).run(proxy.addr, func() { used = proxy.processor(t) }, func() { used = proxy.processor(t) - used }); err != nil {
		t.Fatal(err)
	}
	perf.Process.Signal(syscall.SIGINT)
	perf.Wait()
	script := exec.Command("perf", "script", "-i", data, "--no-inline", "-F", "ip,sym")
	out, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	l, err = readLooks(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Wait(); err != nil {
		t.Fatalf("perf script: %v", err)
	}
	if l.all == 0 {
		t.Fatal("perf has seen nothing")
	}
	return l, float64(used.Microseconds()) / float64(c.messages)
}

// profileTable is where a message of the case goes.
func (c benchCase) profileTable(l looks, microseconds float64, a allocated) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n**%s**: %s. %s µs a message, in %s looks.\n\n", c.name, c.what, number(microseconds), number(l.all))
	writeRow(&b, []string{"subject", "µs in the kernel", "µs in the program", "share", "allocations", "octets"})
	writeRow(&b, slices.Repeat([]string{"---"}, 6))
	row := func(name string, kernel, program int, objects, octets float64) {
		each := microseconds / l.all
		writeRow(&b, []string{name, number(float64(kernel) * each), number(float64(program) * each),
			fmt.Sprintf("%.1f %%", 100*float64(kernel+program)/l.all), number(objects), number(octets)})
	}
	kernel, program, objects, octets := 0, 0, 0.0, 0.0
	for _, s := range subjects {
		row(string(s), l.kernel[s], l.program[s], a.objects[s], a.octets[s])
		kernel, program = kernel+l.kernel[s], program+l.program[s]
		objects, octets = objects+a.objects[s], octets+a.octets[s]
	}
	row("all", kernel, program, objects, octets)
	return b.String()
}

// tellOthers names the stacks that belong to nothing, most frequent first.
func tellOthers(w io.Writer, others map[string]float64, all float64) {
	stacks := slices.SortedFunc(maps.Keys(others), func(a, b string) int { return cmp.Compare(others[b], others[a]) })
	for _, s := range stacks[:min(5, len(stacks))] {
		if others[s] < all/500 {
			break
		}
		fmt.Fprintf(w, "%s of %s belong to nothing: %s\n", number(others[s]), number(all), s)
	}
}

// tellProfiles prints where the messages of the chosen cases go.
func tellProfiles(t *testing.T, s *site) {
	t.Helper()
	needs(t, "perf", "go")
	binary := buildWithProfiler(t)
	for _, c := range chosen(t) {
		if c.waiting > 0 { // no message goes anywhere
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			var l looks
			var microseconds float64
			var a allocated
			t.Run("time", func(t *testing.T) { l, microseconds = c.look(t, s) })
			t.Run("allocations", func(t *testing.T) {
				c.messages = min(c.messages, 4*few)
				a = c.allocations(t, s, binary)
			})
			if t.Failed() {
				return
			}
			tellOthers(os.Stderr, l.others, l.all)
			tellOthers(os.Stderr, a.others, float64(c.messages))
			table := c.profileTable(l, microseconds, a)
			fmt.Println(table)
			if other := l.kernel[subjectOther] + l.program[subjectOther]; float64(other) > l.all/10 {
				t.Errorf("%d looks of %s belong to no subject", other, number(l.all))
			} else if *benchUpdate {
				profiles.renew(t, c.name, table)
			}
		})
	}
}

// Every function that a rule names is in the binary. One that was renamed would fall to
// another subject, and nobody would see it.
func TestE2EBenchSubjects(t *testing.T) {
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatalf("%s: %v (one that was linked with -s has none)", binary, err)
	}
	for _, rule := range belongings {
		for _, function := range rule.functions {
			re := regexp.MustCompile("^(?:" + function + ")$")
			if !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return elf.ST_TYPE(s.Info) == elf.STT_FUNC && re.MatchString(s.Name) }) {
				t.Errorf("%q: no function is %s", rule.subject, function)
			}
		}
	}
}

// What perf and Go print is read, and put down to whom it belongs.
func TestE2EBenchStacks(t *testing.T) {
	l, err := readLooks(strings.NewReader(`
	ffffffff816d6bc3 ksys_write
	ffffffff81000130 entry_SYSCALL_64_after_hwframe
	          105410 internal/poll.(*FD).Write
	          649bff postern/proxy/wire.(*Conn).Flush
	          c5a1ab postern/proxy.(*session).serve

	           1234a encoding/json.(*encodeState).marshal
	           649bf postern/policy/journal.(*Writer).Write
	           c5a1a postern/proxy.(*session).serve

	           1234a runtime.memmove
	           649bf runtime.mallocgc
	           c5a1a postern/checks.Iprev

	           1234a [unknown]
`))
	if err != nil || l.all != 4 || l.kernel[subjectWrite] != 1 || l.program[subjectJournal] != 1 || l.program[subjectCollector] != 1 || l.program[subjectOther] != 1 {
		t.Errorf("read as %+v, %v", l, err)
	}
	a, err := readAllocations(strings.NewReader("heap profile: 2: 3 [4: 5] @ heap/2\n" +
		"1: 32 [10: 320] @ 0x1 0x2\n#\t0x1\tstrings.Clone+0x1\t/go/strings.go:1\n#\t0x2\tpostern/checks.none+0x33\t/x.go:12\n\n" +
		"0: 0 [7: 7] @ 0x3\n#\t0x3\tmain.main+0x1\t/x.go:1\n\n# runtime.MemStats\n# Alloc = 1\n"))
	if err != nil || a.objects[subjectChecks] != 10 || a.octets[subjectChecks] != 320 || a.objects[subjectOther] != 7 {
		t.Errorf("read as %+v, %v", a, err)
	}
}

// The binary with the listener can be built, and says what a message allocates.
func TestE2EBenchAllocations(t *testing.T) {
	c := theCases[1].whole()
	c.messages, c.connections = 100, 4
	a := c.allocations(t, newSite(t), buildWithProfiler(t))
	all := 0.0
	for _, s := range subjects {
		all += a.objects[s]
	}
	if a.objects[subjectChecks] <= 0 || a.objects[subjectSession] <= 0 || all <= 0 || a.objects[subjectOther] > all/10 {
		t.Errorf("a message allocates %v", a.objects)
	}
}
