//go:build e2e

package main_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// What clients see while the DNS behind Postern is in trouble: Postern asks a
// real Unbound, and that asks a real NSD.

var longOutage = flag.Duration("e2e.outage", 0, "how long the DNS is away, with the default times of the dns section; 0: a short outage, with short times")

// nameServers is an Unbound that answers on port, out of what an NSD serves.
type nameServers struct {
	t       *testing.T
	dir     string
	port    int
	unbound *exec.Cmd
	nsd     *exec.Cmd
}

// The root zone, as NSD serves it. What is known expires soon, so that it is
// stale in the outage; every other domain is there, and as strict.
const rootZone = `$ORIGIN .
$TTL 60
@                     SOA ns.example. hostmaster.example. 1 3600 600 86400 1
@                     NS  ns.example.
ns.example.           A   127.0.0.1
known.example.        3 TXT "v=spf1 ip4:127.0.0.7 -all"
_dmarc.known.example. 3 TXT "v=DMARC1; p=reject"
mx.sender.example.    3 A 127.0.0.7
7.0.0.127.in-addr.arpa. 3 PTR mx.sender.example.
*.example.            TXT "v=spf1 ip4:127.0.0.7 -all"
`

// writeNSD writes what NSD wants to serve a zone as the root, at an address: dir/nsd.conf.
func writeNSD(t *testing.T, dir, address, zone string) {
	t.Helper()
	writeFile(t, dir+"/root.zone", zone)
	writeFile(t, dir+"/nsd.conf", fmt.Sprintf(`
server:
	ip-address: %s
	username: ""
	chroot: ""
	zonesdir: %[2]q
	database: ""
	pidfile: ""
	xfrdfile: "%[2]s/xfrd"
	zonelistfile: "%[2]s/zones"
	logfile: "%[2]s/nsd.log"
	server-count: 1
	rrl-ratelimit: 0
	rrl-whitelist-ratelimit: 0
remote-control:
	control-enable: no
zone:
	name: "."
	zonefile: "root.zone"
`, address, dir))
}

func startNameServers(t *testing.T) *nameServers {
	t.Helper()
	needs(t, "nsd", "unbound")
	s := &nameServers{t: t, dir: t.TempDir(), port: smtptest.FreePort(t)}
	authority := smtptest.FreePort(t)
	writeNSD(t, s.dir, fmt.Sprintf("127.0.0.1@%d", authority), rootZone)
	writeFile(t, s.dir+"/unbound.conf", fmt.Sprintf(`
server:
	interface: 127.0.0.1
	port: %d
	username: ""
	chroot: ""
	directory: %[2]q
	pidfile: ""
	use-syslog: no
	logfile: "%[2]s/unbound.log"
	num-threads: 1
	module-config: "iterator"
	do-not-query-localhost: no
	local-zone: "127.in-addr.arpa." nodefault
remote-control:
	control-enable: no
stub-zone:
	name: "."
	stub-addr: 127.0.0.1@%[3]d
`, s.port, s.dir, authority))
	nsd := exec.Command("nsd", "-d", "-c", s.dir+"/nsd.conf")
	s.nsd = nsd
	nsd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := nsd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		for _, pid := range processTree(t, nsd.Process.Pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		nsd.Wait()
		if t.Failed() {
			for _, log := range []string{"nsd.log", "unbound.log"} {
				t.Logf("%s:\n%s", log, readFile(t, filepath.Join(s.dir, log)))
			}
		}
	})
	s.start()
	return s
}

func (s *nameServers) start() {
	s.t.Helper()
	s.unbound = exec.Command("unbound", "-d", "-c", s.dir+"/unbound.conf")
	s.unbound.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.unbound.Start(); err != nil {
		s.t.Fatal(err)
	}
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.addr())
	}}
	eventually(s.t, "an answer from Unbound", func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		txts, err := r.LookupTXT(ctx, "known.example.")
		return err == nil && len(txts) == 1
	})
}

func (s *nameServers) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

func (s *nameServers) kill() {
	if s.unbound != nil {
		s.unbound.Process.Kill()
		s.unbound.Wait()
		s.unbound = nil
	}
}

// servfail answers every query on Unbound's port with SERVFAIL, until stop.
func (s *nameServers) servfail() (stop func()) {
	s.t.Helper()
	conn, err := net.ListenPacket("udp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if n >= 12 {
				b[2], b[3] = b[2]|0x80, 0x80|2 // QR; RA and SERVFAIL
				conn.WriteTo(b[:n], from)
			}
		}
	})
	return func() { conn.Close(); wg.Wait() }
}

// startPosternOnDNS runs Postern with the built-in policy, its own Maildir
// behind it, and a dns section.
func startPosternOnDNS(t *testing.T, dns string) *postern {
	t.Helper()
	needs(t)
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &postern{
		binary: binary, config: dir + "/postern.yaml", log: dir + "/log",
		port: smtptest.FreePort(t), admin: smtptest.FreePort(t), exited: make(chan error, 1),
	}
	writeFile(t, p.config, fmt.Sprintf(`hostname: mx.example.org
listeners: [{name: mx, address: "127.0.0.1:%d", tls: off}]
dns: %s
admin: {address: "127.0.0.1:%d"}
log: {level: info, format: json}
`, p.port, dns, p.admin))
	p.serve(t)
	return p
}

// deliver tries to deliver a small message and returns the reply that ended it.
// Unlike attempt.run it may be called by many goroutines.
func deliver(addr, source, from string) (string, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * patience))
	r := bufio.NewReader(conn)
	for _, say := range []string{
		"", "EHLO mx.sender.example\r\n", "MAIL FROM:<" + from + ">\r\n", "RCPT TO:<someone@example.org>\r\n", "DATA\r\n",
		"From: <" + from + ">\r\nSubject: mail in hard times\r\n\r\nText.\r\n.\r\n",
	} {
		if _, err := conn.Write([]byte(say)); err != nil {
			return "", err
		}
		var line string
		for {
			if line, err = r.ReadString('\n'); err != nil {
				return "", err
			}
			if len(line) < 4 || line[3] != '-' {
				break
			}
		}
		if line[0] > '3' || strings.HasPrefix(say, "From:") {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("no reply ended the session")
}

// delivered is one try in the traffic of a test.
type delivered struct {
	kind  string
	begun time.Time
	took  time.Duration
	reply string
}

// traffic is four kinds of clients that send one message after the other.
type traffic struct {
	addr string
	ctx  context.Context
	mu   sync.Mutex
	all  []delivered
	errs []error
	wg   sync.WaitGroup
	stop context.CancelFunc
}

// The kinds: domains that Postern has just asked for, and a new one each time.
const (
	kindKnown       = "known domain, its client"
	kindNew         = "new domains, their client"
	kindKnownForger = "known domain, a forger"
	kindNewForger   = "new domains, a forger"
)

var kinds = []string{kindKnown, kindNew, kindKnownForger, kindNewForger}

func startTraffic(t *testing.T, addr string) *traffic {
	tr := &traffic{addr: addr}
	tr.ctx, tr.stop = context.WithCancel(t.Context())
	// Several at a time, as one alone would spend the outage waiting.
	for n := range 4 {
		tr.repeat(kindNew, honest, func(i int) string { return fmt.Sprintf("u@n%d-%d.example", n, i) })
		tr.repeat(kindNewForger, forger, func(i int) string { return fmt.Sprintf("u@f%d-%d.example", n, i) })
	}
	return tr
}

const known = "alice@known.example"

func (tr *traffic) repeat(kind, source string, from func(i int) string) {
	tr.wg.Go(func() {
		for i := 0; tr.ctx.Err() == nil; i++ {
			tr.send(kind, source, from(i))
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func (tr *traffic) send(kind, source, from string) {
	d := delivered{kind: kind, begun: time.Now()}
	var err error
	d.reply, err = deliver(tr.addr, source, from)
	d.took = time.Since(d.begun)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.all = append(tr.all, d)
	if err != nil {
		tr.errs = append(tr.errs, fmt.Errorf("%s: %w", kind, err))
	}
}

// end waits for the clients and returns what they saw.
func (tr *traffic) end(t *testing.T) []delivered {
	t.Helper()
	tr.stop()
	tr.wg.Wait()
	for _, err := range tr.errs {
		t.Error(err)
	}
	return tr.all
}

// since counts the tries of a kind that began after a moment and ended so.
func (tr *traffic) since(at time.Time, kind, prefix string) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, d := range tr.all {
		if d.kind == kind && d.begun.After(at) && strings.HasPrefix(d.reply, prefix) {
			n++
		}
	}
	return n
}

// timeline prints what each kind of client saw between the marks.
func timeline(t *testing.T, all []delivered, marks []time.Time, names []string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-28s", "")
	for _, n := range names {
		fmt.Fprintf(&b, "%-34s", n)
	}
	for _, kind := range kinds {
		fmt.Fprintf(&b, "\n%-28s", kind)
		for i := range names {
			codes := map[string]int{}
			var slowest time.Duration
			for _, d := range all {
				if d.kind == kind && !d.begun.Before(marks[i]) && d.begun.Before(marks[i+1]) {
					code, _, _ := strings.Cut(d.reply, " ")
					codes[code]++
					slowest = max(slowest, d.took)
				}
			}
			var cell []string
			for code, n := range codes {
				cell = append(cell, fmt.Sprintf("%s x%d", code, n))
			}
			slices.Sort(cell)
			fmt.Fprintf(&b, "%-34s", fmt.Sprintf("%s (<= %v)", strings.Join(cell, ", "), slowest.Round(time.Millisecond)))
		}
	}
	t.Log(b.String())
}

// The DNS goes away in three ways while mail flows, and comes back. No client of
// a domain is ever refused for it, no forger gets in; domains that are known are
// served from what was known, others are put off.
func TestE2EOutageOfTheDNS(t *testing.T) {
	for _, outage := range []struct {
		name string
		// begin takes Unbound away and returns what brings it back.
		begin func(s *nameServers) (end func())
	}{
		{"killed", func(s *nameServers) func() { s.kill(); return s.start }},
		{"silent", func(s *nameServers) func() {
			s.unbound.Process.Signal(syscall.SIGSTOP)
			return func() { s.unbound.Process.Signal(syscall.SIGCONT) }
		}},
		{"authority", func(s *nameServers) func() {
			all := processTree(s.t, s.nsd.Process.Pid)
			for _, pid := range all {
				syscall.Kill(pid, syscall.SIGSTOP)
			}
			return func() {
				for _, pid := range all {
					syscall.Kill(pid, syscall.SIGCONT)
				}
			}
		}},
		{"SERVFAIL", func(s *nameServers) func() {
			s.kill()
			stop := s.servfail()
			return func() { stop(); s.start() }
		}},
	} {
		t.Run(outage.name, func(t *testing.T) {
			servers := startNameServers(t)
			away, times := 3*time.Second, ", timeout: 500ms, total: 2s"
			if *longOutage > 0 {
				away, times = *longOutage, ""
			}
			p := startPosternOnDNS(t, fmt.Sprintf("{servers: [%q]%s}", servers.addr(), times))
			began := time.Now()
			tr := startTraffic(t, p.addr())
			good := map[string]string{kindKnown: "250 ", kindNew: "250 ", kindKnownForger: "550 5.7.2", kindNewForger: "550 5.7.2"}
			all := func(since time.Time, times int) func() bool {
				return func() bool {
					for kind, reply := range good {
						if tr.since(since, kind, reply) < times {
							return false
						}
					}
					return true
				}
			}
			// Until they are right, and not again before the outage: asked all the time, Unbound
			// would end its last second with a TTL of 0, which leaves nothing to keep.
			for kind, source := range map[string]string{kindKnown: honest, kindKnownForger: forger} {
				eventually(t, kind, func() bool {
					tr.send(kind, source, known)
					return tr.since(began, kind, good[kind]) > 0
				})
			}
			forgotten := time.Now().Add(3100 * time.Millisecond)
			eventually(t, "mail of every kind", all(began, 1))
			time.Sleep(time.Until(forgotten))
			eventually(t, "a good start", func() bool {
				_, metrics := p.get("/metrics")
				return strings.Contains(metrics, "\npostern_dns_healthy 1\n")
			})
			warnings := func() int {
				return strings.Count(string(readFile(t, p.log)), "our name servers are in trouble")
			}
			before := warnings()

			gone := time.Now()
			end := outage.begin(servers)
			tr.repeat(kindKnown, honest, func(int) string { return known })
			tr.repeat(kindKnownForger, forger, func(int) string { return known })
			eventually(t, "postern_dns_healthy to be 0 while the DNS is away", func() bool {
				_, metrics := p.get("/metrics")
				return strings.Contains(metrics, "\npostern_dns_healthy 0\n")
			})
			time.Sleep(time.Until(gone.Add(away)))
			p.logged(t, "a transaction while the DNS was away", func(line string, entry map[string]any) bool {
				return entry["disposition"] == "defer" && strings.Contains(line, `"dns":{"healthy":false}`)
			})
			end()
			back := time.Now()
			eventually(t, "mail of every kind once more", all(back, 3))
			eventually(t, "postern_dns_healthy to be 1 again", func() bool {
				_, metrics := p.get("/metrics")
				return strings.Contains(metrics, "\npostern_dns_healthy 1\n")
			})
			healthy, told := time.Now(), warnings()-before
			seen := tr.end(t)

			timeline(t, seen, []time.Time{began, gone, gone.Add(time.Second), back, back.Add(time.Second), time.Now()},
				[]string{"before", "first second", "until its return", "first second back", "later"})
			for _, kind := range kinds {
				i := slices.IndexFunc(seen, func(d delivered) bool {
					return d.kind == kind && d.begun.Add(d.took).After(back) && strings.HasPrefix(d.reply, good[kind])
				})
				t.Logf("%s: right again %v after its return", kind, seen[i].begun.Add(seen[i].took).Sub(back).Round(time.Millisecond))
			}
			t.Logf("healthy again %v after its return", healthy.Sub(back).Round(time.Millisecond))

			wrong := map[string]int{}
			for _, d := range seen {
				text, _ := splitID(d.reply)
				switch ok := strings.HasPrefix(text, good[d.kind]) || strings.HasPrefix(text, "451 4.4.3"); {
				case !ok:
					wrong[d.kind+" hears "+text]++
				case d.kind == kindKnown && text[0] != '2' && d.begun.After(gone):
					wrong[d.kind+" is put off, though its record was known"]++
				}
			}
			for what, n := range wrong {
				t.Errorf("%d times: %s", n, what)
			}
			if !slices.ContainsFunc(seen, func(d delivered) bool { return d.kind == kindNew && d.reply[0] == '4' }) {
				t.Error("no new domain was put off: the DNS was not away")
			}
			if told != 1 {
				t.Errorf("%d warnings of trouble, want 1", told)
			}
		})
	}
}
