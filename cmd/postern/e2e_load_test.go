//go:build e2e

package main_test

import (
	"bufio"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What many clients cost, and what they do not hear when the proxy is
// reloaded, stopped or replaced under them.

// descriptors makes sure that this process may have so many open, and Postern
// after it, which inherits the limit.
func descriptors(t *testing.T, n uint64) {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	l.Cur, l.Max = max(l.Cur, n), max(l.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatalf("%d descriptors are needed: %v", n, err)
	}
}

// client is one connection, for tests that have thousands of them: what goes
// wrong is an error, not the end of the test.
type client struct {
	conn net.Conn
	r    *bufio.Reader
}

var sources atomic.Uint32

// connect comes from one of many loopback addresses and reads the greeting.
func connect(addr string) (*client, string, error) {
	n := sources.Add(1)
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n%200))}}
	tcp, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, "", err
	}
	conn := patientConn{tcp}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, 512)}
	greeting, err := c.hear()
	if err != nil {
		conn.Close()
		return nil, "", fmt.Errorf("no greeting: %w", err)
	}
	return c, greeting, nil
}

// hear reads a reply and returns its last line.
func (c *client) hear() (string, error) {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimRight(line, "\r\n"), nil
		}
	}
}

// ask sends a command and wants a reply that begins with want.
func (c *client) ask(want, command string) error {
	if _, err := io.WriteString(c.conn, command+"\r\n"); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	got, err := c.hear()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if !strings.HasPrefix(got, want) {
		return &unwanted{command, got}
	}
	return nil
}

// unwanted is a reply other than the wanted one.
type unwanted struct{ command, reply string }

func (u *unwanted) Error() string { return u.command + ": " + u.reply }

// startTLS puts TLS on the connection; it wants the certificate in roots.
func (c *client) startTLS(roots *x509.CertPool) (*x509.Certificate, error) {
	if err := c.ask("220 ", "STARTTLS"); err != nil {
		return nil, err
	}
	tc := tls.Client(c.conn, &tls.Config{ServerName: "mx.example.org", RootCAs: roots})
	if err := tc.Handshake(); err != nil {
		return nil, err
	}
	c.conn, c.r = tc, bufio.NewReaderSize(tc, 512)
	return tc.ConnectionState().PeerCertificates[0], nil
}

// roots holds the certificate that Postern has now.
func (p *postern) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(readFile(t, p.ca)) {
		t.Fatal("no certificate")
	}
	return pool
}

// openDescriptors counts those of a process.
func openDescriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// goroutines asks the metrics.
func (p *postern) goroutines(t *testing.T) int {
	t.Helper()
	return int(p.metrics(t, "go_goroutines")[0])
}

// parallel calls work for 0 to n-1, some at a time, and returns what went wrong.
func parallel(n, atATime int, work func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	faults := make([]error, n)
	for range atATime {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := work(i); err != nil {
					faults[i] = fmt.Errorf("%d: %w", i, err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

// Five thousand clients that said EHLO and then nothing: all are served, and each
// costs little.
func TestE2EIdleConnections(t *testing.T) {
	const many = 5000
	descriptors(t, 2*many+1000)
	for _, c := range []struct {
		name  string
		tls   bool
		limit int64 // octets of resident memory for each
	}{
		// What a connection lives on is 2 KiB, and 6 KiB inside TLS: once it is
		// parked it has no stack. The rest is what the collector has not freed yet,
		// the stacks that the last ones had among it.
		{"plain", false, 8 << 10},
		{"TLS", true, 20 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPosternAs(t, setup{extra: fmt.Sprintf("limits: {connections: %d, connections_per_client: %d}\n", many+1, many+1)})
			pid := p.cmd.Process.Pid
			roots := p.roots(t)
			clients := make([]*client, many)
			defer func() {
				for _, c := range clients {
					if c != nil {
						c.conn.Close()
					}
				}
			}()
			open := func(i int) error {
				cl, greeting, err := connect(p.addr())
				if err != nil {
					return err
				}
				clients[i] = cl
				if !strings.HasPrefix(greeting, "220 ") {
					return errors.New(greeting)
				}
				if err := cl.ask("250 ", "EHLO mx.sender.example"); err != nil || !c.tls {
					return err
				}
				if _, err := cl.startTLS(roots); err != nil {
					return err
				}
				return cl.ask("250 ", "EHLO mx.sender.example")
			}
			if err := open(0); err != nil { // what comes with the first is no cost of the others
				t.Fatal(err)
			}
			before := memory(t, pid, "VmRSS")
			began := time.Now()
			if err := parallel(many-1, 16, func(i int) error { return open(i + 1) }); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)

			// What is resident falls while they go on, if it is no more than what the
			// collector has not freed or given back yet. What they need stays.
			var after, each int64
			for end := time.Now().Add(patience); ; {
				after = memory(t, pid, "VmRSS")
				each = (after - before) / (many - 1)
				if each <= c.limit || time.Now().After(end) {
					break
				}
				if err := parallel(many, 16, func(i int) error { return clients[i].ask("250 ", "NOOP") }); err != nil {
					t.Fatal(err)
				}
			}
			began = time.Now() // everybody is still served
			if err := parallel(many, 16, func(i int) error { return clients[i].ask("250 ", "NOOP") }); err != nil {
				t.Error(err)
			}
			perConnection := func(family string) float64 { return p.metrics(t, family)[0] / many / 1024 }
			t.Logf("of that, each: stack %.2f KiB, heap in use %.2f KiB", perConnection("go_memstats_stack_inuse_bytes"), perConnection("go_memstats_heap_inuse_bytes"))
			t.Logf("%d idle %s connections: %.1f MiB resident, %.2f KiB each; opened in %v, NOOP to all in %v; %d goroutines, %d descriptors",
				many, c.name, float64(after)/(1<<20), float64(each)/(1<<10), took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond),
				p.goroutines(t), openDescriptors(t, pid))
			if each > c.limit {
				t.Errorf("%d octets for each connection, want at most %d", each, c.limit)
			}
		})
	}
}

// Where all connections are in use, the next one hears 421 at once, or takes the
// place of one that has been idle for five seconds: no other session is closed.
func TestE2EConnectionsAtTheLimit(t *testing.T) {
	const many = 20
	p := startPosternAs(t, setup{extra: fmt.Sprintf("limits: {connections: %d, connections_per_client: %d}\n", many, many+1)})
	clients := make([]*client, many+1)
	var greeting string
	for i := range clients {
		var err error
		if clients[i], greeting, err = connect(p.addr()); err != nil {
			t.Fatal(err)
		}
		defer clients[i].conn.Close()
		if i < many {
			if err := clients[i].ask("250 ", "EHLO mx.sender.example"); !strings.HasPrefix(greeting, "220 ") || err != nil {
				t.Fatalf("connection %d: %q, %v", i, greeting, err)
			}
		}
	}
	gone := 0
	for _, c := range clients[:many] {
		if err := c.ask("250 ", "NOOP"); err != nil {
			gone++
			if !strings.Contains(err.Error(), "421 4.3.2 ") {
				t.Error(err)
			}
		}
	}
	switch {
	case strings.HasPrefix(greeting, "421 4.7.0 ") && gone == 0:
		if _, err := clients[many].hear(); !errors.Is(err, io.EOF) {
			t.Errorf("after the 421: %v, want the end", err)
		}
	case strings.HasPrefix(greeting, "220 ") && gone == 1:
	default:
		t.Errorf("at the limit: %q, and %d of the others were closed", greeting, gone)
	}
}

// A thousand sessions that end where nobody expects it, half of them with a
// reset, leave nothing behind.
func TestE2EAbortedSessions(t *testing.T) {
	const many = 1000
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	pid := p.cmd.Process.Pid
	if err := deliverMarked(p.addr(), "raw@example.org", "warm-up", nil); err != nil {
		t.Fatal(err)
	}
	p.goroutines(t) // the connection for the metrics is open from now on
	goroutines, files := 0, 0
	eventually(t, "a start value that holds", func() bool {
		g, f := p.goroutines(t), openDescriptors(t, pid)
		held := g == goroutines && f == files
		goroutines, files = g, f
		return held
	})

	body := strings.Repeat("half of a body\r\n", 200)
	plain := "EHLO mx.sender.example\r\nMAIL FROM:<user@plain.example>\r\nRCPT TO:<kill@example.org>\r\nDATA\r\nFrom: user@plain.example\r\n\r\n" + body
	chunks := strings.Replace(plain, "DATA\r\n", "BDAT 5000\r\n", 1)
	inTLS := "EHLO mx.sender.example\r\nSTARTTLS\r\n\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + body
	random := rand.New(rand.NewPCG(1, 2)) // the cuts are the same each time
	type cut struct {
		wire  string
		reset bool
		wait  bool // for a reply before the cut
	}
	cuts := make([]cut, many)
	for i := range cuts {
		wire := []string{plain, chunks, inTLS}[i%3]
		cuts[i] = cut{wire[:random.IntN(len(wire)+1)], random.IntN(2) == 0, random.IntN(2) == 0}
	}
	err := parallel(many, 20, func(i int) error {
		c, _, err := connect(p.addr())
		if err != nil {
			return err
		}
		defer c.conn.Close()
		_, _ = io.WriteString(c.conn, cuts[i].wire)
		if cuts[i].wait && strings.Contains(cuts[i].wire, "\r\n") {
			if _, err := c.hear(); err != nil {
				return err // EHLO is answered, whatever is cut off behind it
			}
		}
		if cuts[i].reset {
			_ = c.conn.(patientConn).Conn.(*net.TCPConn).SetLinger(0)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	var g, f int
	end := time.Now().Add(patience)
	for g, f = p.goroutines(t), openDescriptors(t, pid); (g > goroutines || f > files) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		g, f = p.goroutines(t), openDescriptors(t, pid)
	}
	t.Logf("goroutines: %d before, %d after %d aborted sessions; descriptors: %d before, %d after", goroutines, g, many, files, f)
	if g > goroutines || f > files {
		t.Errorf("%d goroutines and %d descriptors more than before", g-goroutines, f-files)
	}
	if n := len(mta.mailbox("kill")); n != 0 {
		t.Errorf("%d messages arrived of sessions that never ended one", n)
	}
	if err := deliverMarked(p.addr(), "raw@example.org", "after", nil); err != nil {
		t.Error(err)
	}
}

// deliverMarked sends one message in a session of its own. In the middle of the body
// it calls pause, if that is not nil.
func deliverMarked(addr, to, mark string, pause func()) error {
	c, greeting, err := connect(addr)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	if !strings.HasPrefix(greeting, "220 ") {
		return &unwanted{"connect", greeting}
	}
	if err := c.ask("250 ", "EHLO mx.sender.example"); err != nil {
		return err
	}
	if err := c.message(to, mark, pause); err != nil {
		return err
	}
	return c.ask("221 ", "QUIT")
}

// message is one transaction.
func (c *client) message(to, mark string, pause func()) error {
	for _, step := range [][2]string{{"250 ", "MAIL FROM:<user@plain.example>"}, {"250 ", "RCPT TO:<" + to + ">"}, {"354 ", "DATA"}} {
		if err := c.ask(step[0], step[1]); err != nil {
			return err
		}
	}
	lines := strings.Repeat("some line of the body\r\n", 500)
	if _, err := io.WriteString(c.conn, "From: user@plain.example\r\nMessage-ID: <"+mark+"@load>\r\n\r\n"+lines); err != nil {
		return err
	}
	if pause != nil {
		pause()
	}
	if _, err := io.WriteString(c.conn, lines); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	return c.ask("250 ", ".")
}

// marks counts the messages in a mailbox by their mark.
func (p *postfix) marks(t *testing.T, mailbox string) map[string]int {
	t.Helper()
	found := map[string]int{}
	re := regexp.MustCompile(`Message-ID: <(\S+)@load>`)
	for _, file := range p.mailbox(mailbox) {
		if m := re.FindSubmatch(readFile(t, file)); m != nil {
			found[string(m[1])]++
		}
	}
	return found
}

// running100 has a hundred clients in the middle of DATA, calls meanwhile, and
// lets those finish that may. It returns what became of each.
func running100(t *testing.T, p *postern, mayFinish func(i int) bool, meanwhile func()) []error {
	t.Helper()
	const many = 100
	var inData sync.WaitGroup
	inData.Add(many)
	goOn := make(chan struct{})
	var faults [many]error
	var ended sync.WaitGroup
	for i := range many {
		ended.Go(func() {
			once := sync.OnceFunc(inData.Done)
			defer once()
			faults[i] = deliverMarked(p.addr(), "bulk@example.org", fmt.Sprintf("m%d", i), func() {
				once()
				<-goOn
				if !mayFinish(i) {
					select {
					case err := <-p.exited: // holds its place until nobody is there to hear the rest
						p.exited <- err
					case <-time.After(2 * patience):
					}
				}
			})
		})
	}
	inData.Wait()
	meanwhile()
	close(goOn)
	ended.Wait()
	return faults[:]
}

func everybody(int) bool { return true }

// A reload in the middle of a hundred running messages: all arrive, and the
// sessions go on under the new configuration.
func TestE2EReloadDuringData(t *testing.T) {
	mta := startPostfix(t)
	p := startPostern(t, mta.port)
	old, _, err := connect(p.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer old.conn.Close()
	if err := old.ask("250 ", "EHLO mx.sender.example"); err != nil {
		t.Fatal(err)
	}
	faults := running100(t, p, everybody, func() {
		writeFile(t, p.config, string(readFile(t, p.config))+"limits: {message_size: 1MiB}\n")
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.logged(t, "the reload", func(_ string, entry map[string]any) bool { return entry["msg"] == "configuration reloaded" })
	})
	if err := errors.Join(faults...); err != nil {
		t.Error(err)
	}
	if err := old.message("bulk@example.org", "old", nil); err != nil {
		t.Errorf("a session from before the reload: %v", err)
	}
	var big *unwanted
	if err := old.ask("250 ", "MAIL FROM:<user@plain.example> SIZE=2000000"); !errors.As(err, &big) || !strings.HasPrefix(big.reply, "552 5.3.4 ") {
		t.Errorf("the new limit does not hold in it: %v", err)
	}
	eventually(t, "the last of the messages", func() bool { return len(mta.mailbox("bulk")) >= 101 })
	if got := mta.marks(t, "bulk"); len(got) != 101 {
		t.Errorf("%d different messages arrived, 101 were accepted", len(got))
	}
	t.Logf("SIGHUP during 100 DATA: 100 accepted, %d arrived with the one after", len(mta.mailbox("bulk")))
}

// SIGTERM in the middle of a hundred running messages. Those who go on are
// served to their end; those who stall hear 421 when timeouts.drain is over,
// and nothing of theirs arrives.
func TestE2EStopDuringData(t *testing.T) {
	for _, c := range []struct {
		name, drain string
		stalled     int
	}{
		{"all finish", "30s", 0},
		{"a tenth stalls", "12s", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			mta := startPostfix(t)
			p := startPosternAs(t, setup{backends: mta.asBackend(), timeouts: ", drain: " + c.drain})
			idle, _, err := connect(p.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer idle.conn.Close()
			faults := running100(t, p, func(i int) bool { return i >= c.stalled }, func() {
				if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if got, err := idle.hear(); !strings.HasPrefix(got, "421 4.3.2 ") {
					t.Errorf("an idle client hears %q, %v; want 421", got, err)
				}
			})
			accepted, deferred := 0, 0
			for i, err := range faults {
				var no *unwanted
				switch {
				case err == nil, errors.As(err, &no) && no.command == "QUIT" && strings.HasPrefix(no.reply, "421 4.3.2 "):
					accepted++ // its message had its 250; instead of QUIT's answer there may be the 421
				case errors.As(err, &no) && no.reply[0] == '4' && i < c.stalled, i < c.stalled && errors.Is(err, syscall.EPIPE), i < c.stalled && errors.Is(err, syscall.ECONNRESET):
					deferred++
				default:
					t.Errorf("%d: %v", i, err)
				}
			}
			err = <-p.exited
			p.exited <- err
			if err != nil {
				t.Errorf("postern ended with %v", err)
			}
			eventually(t, "the last of the messages", func() bool { return len(mta.mailbox("bulk")) >= accepted })
			got := mta.marks(t, "bulk")
			if accepted != 100-c.stalled || deferred != c.stalled || len(got) != accepted || len(mta.mailbox("bulk")) != accepted {
				t.Errorf("%d accepted, %d deferred, %d arrived", accepted, deferred, len(mta.mailbox("bulk")))
			}
			for i := range c.stalled {
				if got[fmt.Sprintf("m%d", i)] != 0 {
					t.Errorf("%d was never finished and arrived", i)
				}
			}
			t.Logf("SIGTERM during 100 DATA: %d accepted and arrived, %d deferred and not", accepted, deferred)
		})
	}
}

// asBackend is the configuration of Postfix as the backend.
func (p *postfix) asBackend() string {
	return fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: off, identity: xclient}]`, p.port)
}

// The certificate is replaced on the disk while clients come and go: nobody
// fails, the next handshake has the new one, and half of a pair changes nothing.
func TestE2ECertificateReplaced(t *testing.T) {
	p := startPosternAs(t, setup{})
	both := p.roots(t)
	first := readFile(t, p.ca)
	next, nextKey := p.dir+"/next.pem", p.dir+"/next-key.pem"
	writeCertificate(t, next, nextKey)
	both.AppendCertsFromPEM(readFile(t, next))

	handshake := func() (string, error) {
		c, _, err := connect(p.addr())
		if err != nil {
			return "", err
		}
		defer c.conn.Close()
		if err := c.ask("250 ", "EHLO mx.sender.example"); err != nil {
			return "", err
		}
		cert, err := c.startTLS(both)
		if err != nil {
			return "", err
		}
		if err := c.ask("250 ", "EHLO mx.sender.example"); err != nil {
			return "", err
		}
		if err := c.message("anybody@example.org", "tls", nil); err != nil {
			return "", err
		}
		return string(cert.Raw), c.ask("221 ", "QUIT")
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	var sessions atomic.Int64
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := handshake(); err != nil {
					t.Errorf("under load: %v", err)
					return
				}
				sessions.Add(1)
			}
		})
	}
	before, err := handshake()
	if err != nil {
		t.Fatal(err)
	}
	// As certificate managers do it, one file after the other; between them the
	// pair does not fit.
	replace := func(from, to string) {
		writeFile(t, to+".new", string(readFile(t, from)))
		if err := os.Rename(to+".new", to); err != nil {
			t.Fatal(err)
		}
	}
	replace(nextKey, p.key)
	p.logged(t, "the pair that does not fit", func(_ string, entry map[string]any) bool {
		return entry["msg"] == "certificates not reloaded, the old ones stay in use"
	})
	if got, err := handshake(); err != nil || got != before {
		t.Errorf("half of a pair was taken over (%v)", err)
	}
	replace(next, p.ca)
	p.logged(t, "the new pair", func(_ string, entry map[string]any) bool { return entry["msg"] == "certificates reloaded" })
	after, err := handshake()
	if err != nil {
		t.Fatal(err)
	}
	if after == before {
		t.Error("the next handshake still has the old certificate")
	}
	close(stop)
	load.Wait()
	if string(first) == string(readFile(t, p.ca)) {
		t.Error("nothing was replaced")
	}
	t.Logf("%d TLS sessions with a message each while the certificate was replaced, none failed", sessions.Load())
}

// Steady clients during two hand-overs to a new process: no connection is
// refused, no reply is a bad one, every message accepted arrives once and is
// in the journal once. Then one that cannot succeed, which changes nothing.
func TestE2EHandOver(t *testing.T) {
	mta := startPostfix(t)
	journal := t.TempDir()
	p := startPosternAs(t, setup{backends: mta.asBackend(), extra: fmt.Sprintf("journal: {path: %q, rotate_size: 64KiB}\nlimits: {connections_per_client: 1000}\n", journal)})
	pid := p.cmd.Process.Pid
	t.Cleanup(func() {
		if pid != p.cmd.Process.Pid && running(pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	stop := make(chan struct{})
	var load sync.WaitGroup
	var accepted atomic.Int64
	for w := range 6 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := deliverMarked(p.addr(), "bulk@example.org", fmt.Sprintf("w%d-%d", w, n), nil); err != nil {
					t.Errorf("client %d, message %d: %v", w, n, err)
					return
				}
				accepted.Add(1)
			}
		})
	}
	stopLoad := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer stopLoad()
	steady := func(n int64) {
		t.Helper()
		from := accepted.Load()
		eventually(t, "steady mail", func() bool { return accepted.Load() >= from+n || t.Failed() })
	}
	steady(20)
	var goOn [2]chan struct{}
	long := make(chan error, len(goOn))
	for i := range goOn {
		// One message is on its way all the while.
		goOn[i] = make(chan struct{})
		begun := make(chan struct{})
		go func() {
			long <- deliverMarked(p.addr(), "bulk@example.org", fmt.Sprintf("long%d", i), func() { close(begun); <-goOn[i] })
		}()
		select {
		case <-begun:
		case err := <-long:
			t.Fatalf("the message that is to be on its way: %v", err)
		}
		old := pid
		if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		entry := p.logged(t, "the hand-over", func(_ string, entry map[string]any) bool {
			return entry["msg"] == "handed over" && entry["process"] != float64(old)
		})
		pid = int(entry["process"].(float64))
		steady(20)
		if !running(old) {
			t.Error("the old process left a message behind")
		}
		close(goOn[i])
		if err := <-long; err != nil {
			t.Errorf("the message during hand-over %d: %v", i+1, err)
		}
		accepted.Add(1)
		eventually(t, "the end of the old process", func() bool { return !running(old) })
	}
	steady(10)

	good := readFile(t, p.config)
	writeFile(t, p.config, "listeners: nonsense\n")
	if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	// NOT p.logged: the process that fails tells the faults of its file to people.
	eventually(t, "the hand-over to fail", func() bool {
		return strings.Contains(string(readFile(t, p.log)), `"msg":"not handed over, this process goes on"`)
	})
	writeFile(t, p.config, string(good))
	steady(10)
	stopLoad()
	if status, body := p.get("/readyz"); status != http200 {
		t.Errorf("/readyz says %d %s", status, body)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the last process", func() bool { return !running(pid) })

	want := int(accepted.Load())
	eventually(t, "the last of the messages", func() bool { return len(mta.mailbox("bulk")) >= want })
	marks := mta.marks(t, "bulk")
	records := journalled(t, journal)
	if len(mta.mailbox("bulk")) != want || len(marks) != want || records != want {
		t.Errorf("%d accepted; %d arrived, %d of them different; %d in the journal", want, len(mta.mailbox("bulk")), len(marks), records)
	}
	t.Logf("two hand-overs: %d messages accepted, %d arrived, %d in the journal, no connection refused", want, len(marks), records)
}

// journalled counts the delivered messages in a journal; every line must be whole.
func journalled(t *testing.T, dir string) (delivered int) {
	t.Helper()
	ids := map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".index") {
			continue // by which records are found
		}
		f, err := os.Open(dir + "/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var r io.Reader = f
		if strings.HasSuffix(e.Name(), ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				t.Fatal(err)
			}
		}
		d := json.NewDecoder(r)
		for {
			var record struct {
				ID      string `json:"id"`
				Outcome string `json:"outcome"`
			}
			err := d.Decode(&record)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", e.Name(), err)
			}
			if record.Outcome == "delivered" {
				if ids[record.ID] {
					t.Errorf("%s is in the journal twice", record.ID)
				}
				ids[record.ID] = true
				delivered++
			}
		}
	}
	return delivered
}
