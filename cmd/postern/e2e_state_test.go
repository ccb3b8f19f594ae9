//go:build e2e

package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/checks/roadtest"
	"postern/proxy/smtptest"
)

// slowRoad is a way to a server on which every answer takes as long as delay says.
func slowRoad(t *testing.T, to string, delay *atomic.Int64) string {
	t.Helper()
	return roadtest.To(t, to, func(_ int, near io.Writer, far io.Reader) {
		b := make([]byte, 64<<10)
		for {
			n, err := far.Read(b)
			time.Sleep(time.Duration(delay.Load()))
			if _, werr := near.Write(b[:n]); err != nil || werr != nil {
				return
			}
		}
	})
}

// redis is a server of the state, in memory alone.
type redis struct {
	port int
	args []string // besides the usual ones
	cmd  *exec.Cmd
}

func (s *redis) start(t *testing.T, args ...string) {
	t.Helper()
	s.args = args
	s.cmd = exec.Command("redis-server", append([]string{"--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}, args...)...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "redis-server to listen", func() bool {
		c, err := net.DialTimeout("tcp", s.addr(), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (s *redis) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

func (s *redis) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
}

func (s *redis) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// cli is what redis-cli says to a command.
func (s *redis) cli(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-p", fmt.Sprint(s.port)}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func (s *redis) say(t *testing.T, line string) {
	t.Helper()
	c, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, line+"\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
}

// figures are what clients saw of some messages.
type figures struct {
	sent    int
	refused []string
	worst   time.Duration // from MAIL to its answer, which waits for the store
}

// send sends messages at 200 a second from twenty clients.
func send(t *testing.T, p *postern, messages int) (all figures) {
	t.Helper()
	const clients, perSecond = 20, 200
	var mu sync.Mutex
	err := parallel(clients, clients, func(int) error {
		c, _, err := connect(p.addr())
		if err != nil {
			return err
		}
		defer c.conn.Close()
		if err := c.ask("250 ", "EHLO mx.sender.example"); err != nil {
			return err
		}
		tick := time.NewTicker(clients * time.Second / perSecond)
		defer tick.Stop()
		for range messages / clients {
			<-tick.C
			var f figures
			for _, step := range [][2]string{{"250 ", "MAIL FROM:<user@plain.example>"}, {"250 ", "RCPT TO:<alice@example.org>"}, {"354 ", "DATA"}, {"250 ", "From: user@plain.example\r\n\r\nA line.\r\n."}} {
				began := time.Now()
				err := c.ask(step[0], step[1])
				if strings.HasPrefix(step[1], "MAIL") {
					f.worst = time.Since(began)
				}
				if err != nil {
					f.refused = append(f.refused, err.Error())
					break
				}
			}
			mu.Lock()
			all.sent++
			all.refused = append(all.refused, f.refused...)
			all.worst = max(all.worst, f.worst)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// lastFacts is what the last transaction in the log was told: past.result, and state.healthy.
func lastFacts(t *testing.T, p *postern) (past string, fine bool) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(readFile(t, p.log))), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		var entry struct {
			Msg   string
			Facts struct {
				Past  struct{ Result string }
				State struct{ Healthy bool }
			}
		}
		if json.Unmarshal([]byte(lines[i]), &entry) == nil && entry.Msg == "transaction" {
			return entry.Facts.Past.Result, entry.Facts.State.Healthy
		}
	}
	return "", false
}

// A store that is killed, stopped, emptied and slowed, under load: nobody is refused,
// nobody waits longer than the store may take, its facts are unmeasured, and one line is
// logged each way.
func TestE2EStateInTrouble(t *testing.T) {
	needs(t, "redis-server")
	sink := smtptest.NewSink(smtptest.SinkOptions{})
	defer sink.Close()
	server := &redis{port: smtptest.FreePort(t)}
	server.start(t)
	defer func() { server.kill(t) }()
	var delay atomic.Int64
	road := slowRoad(t, server.addr(), &delay)
	const timeout = 2 * time.Second
	p := startPosternAs(t, setup{backends: fmt.Sprintf(`[{name: mta, addresses: [%q], tls: off}]`, sink.Addr()), extra: fmt.Sprintf(`state: {servers: [%q], timeout: %s}
policy:
  builtin: off
  rules:
    - {name: new, when: 'past.delivered == 0', do: tag, header: "X-New: yes"}
    - {name: many, when: 'rate.messages > 1000000 or past.refused > 0', do: reject}
    - {name: few, when: 'not (rate.messages > -1)', do: reject}
`, road, timeout)})

	told := func(words string) int { return strings.Count(string(readFile(t, p.log)), words) }
	const falls, rises = "the state store does not answer", "the state store answers again"
	healthy := func(want string) {
		t.Helper()
		eventually(t, "postern_state_healthy "+want, func() bool {
			_, page := p.get("/metrics")
			return strings.Contains(page, "\npostern_state_healthy "+want+"\n")
		})
	}
	last := func() (past string, fine bool) { return lastFacts(t, p) }

	quiet := send(t, p, 400)
	t.Logf("well: %d messages, the worst answer to MAIL after %v", quiet.sent, quiet.worst)
	if past, fine := last(); past != "pass" || !fine || len(quiet.refused) > 0 {
		t.Fatalf("well: past %s, healthy %v, refused %q", past, fine, quiet.refused)
	}
	for i, trouble := range []struct {
		name          string
		begin, finish func()
	}{
		{"killed", func() { server.kill(t) }, func() { server.start(t) }},
		{"stopped", func() { server.signal(t, syscall.SIGSTOP) }, func() { server.signal(t, syscall.SIGCONT) }},
		{"slowed", func() { delay.Store(int64(3 * timeout)) }, func() { delay.Store(0) }},
	} {
		time.AfterFunc(time.Second, trouble.begin)
		got := send(t, p, 800) // the trouble begins in the middle
		past, fine := last()
		t.Logf("%s: %d messages, %d refused, the worst answer to MAIL after %v, then past %s", trouble.name, got.sent, len(got.refused), got.worst, past)
		if len(got.refused) > 0 {
			t.Errorf("%s: refused: %q", trouble.name, got.refused)
		}
		// What the machine itself takes at its worst is not the store's.
		if most := timeout*3/2 + quiet.worst; got.worst > most {
			t.Errorf("%s: an answer after %v, of at most %v", trouble.name, got.worst, most)
		}
		if past != "temperror" || fine {
			t.Errorf("%s: past %s, healthy %v", trouble.name, past, fine)
		}
		healthy("0")
		trouble.finish()
		healthy("1")
		eventually(t, "the log to say so", func() bool { return told(rises) > i }) // which is told behind the metric
		if f, r := told(falls), told(rises); f != i+1 || r != i+1 {
			t.Errorf("%s: told %d times that it fell, %d that it rose", trouble.name, f, r)
		}
		if after := send(t, p, 40); len(after.refused) > 0 {
			t.Errorf("after %s: refused: %q", trouble.name, after.refused)
		}
		if past, fine := last(); past == "temperror" || !fine {
			t.Errorf("after %s: past %s, healthy %v", trouble.name, past, fine)
		}
	}
	server.say(t, "FLUSHALL")
	got := send(t, p, 20)
	t.Logf("emptied: %d messages, %d refused", got.sent, len(got.refused))
	if f := told(falls); len(got.refused) > 0 || f != 3 {
		t.Errorf("emptied: refused %q, told %d times that it fell", got.refused, f)
	}
}

// smallDisk is a folder on a disk of its own with room for so many MiB, which nobody else on
// the machine sees but by this path.
func smallDisk(t *testing.T, room int) string {
	t.Helper()
	at := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", fmt.Sprintf("mount -t tmpfs -o size=%dm none %q && echo ready && exec sleep infinity", room, at))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("no disk: %q, %v", line, err)
	}
	return fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, at)
}

// heldFor sends a transaction from a sender that is held, with so many recipients, and
// returns how many of them were held, and the worst time that one waited.
func heldFor(t *testing.T, p *postern, from string, recipients int) (held int, worst time.Duration) {
	t.Helper()
	c, _, err := connect(p.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	for _, line := range []string{"EHLO mx.sender.example", "MAIL FROM:<" + from + ">"} {
		if err := c.ask("250 ", line); err != nil {
			t.Fatal(err)
		}
	}
	for i := range recipients {
		began := time.Now()
		err := c.ask("451 4.7.1 Held", fmt.Sprintf("RCPT TO:<alice+%d%s@example.org>", i, strings.Repeat("x", 40)))
		worst = max(worst, time.Since(began))
		switch {
		case err == nil:
			held++
		case !strings.Contains(err.Error(), "250 "):
			t.Errorf("recipient %d: %v", i, err)
		}
	}
	return held, worst
}

// A disk that is full under load, and a kill -9 while it is: nobody is refused, nobody waits
// longer than the store may take, and what was told to come again is known when there is room.
func TestE2EStateOnAFullDisk(t *testing.T) {
	sink := smtptest.NewSink(smtptest.SinkOptions{})
	defer sink.Close()
	disk := smallDisk(t, 8)
	const timeout = 2 * time.Second
	p := startPosternAs(t, setup{backends: fmt.Sprintf(`[{name: mta, addresses: [%q], tls: off}]`, sink.Addr()), extra: fmt.Sprintf(`state: {path: %q, timeout: %s}
control: {socket: control}
limits: {notices_per_sender: 100000}
policy:
  builtin: off
  rules:
    - {name: held, when: 'mail.domain == "soft.example"', do: hold}
    - {name: new, when: 'past.delivered == 0', do: tag, header: "X-New: yes"}
`, disk+"/state", timeout)})
	healthy := func(want string) {
		t.Helper()
		eventually(t, "postern_state_healthy "+want, func() bool {
			_, page := p.get("/metrics")
			return strings.Contains(page, "\npostern_state_healthy "+want+"\n")
		})
	}
	told := func(words string) int { return strings.Count(string(readFile(t, p.log)), words) }
	quiet := send(t, p, 200)
	if held, _ := heldFor(t, p, "first@soft.example", 20); held != 20 || len(quiet.refused) > 0 {
		t.Fatalf("well: %d held, refused %q", held, quiet.refused)
	}
	ballast, err := os.Create(disk + "/ballast")
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	// What is held fills what the file has left, in the middle of other mail.
	done := make(chan time.Duration)
	go func() {
		_, worst := heldFor(t, p, "second@soft.example", 500)
		done <- worst
	}()
	got := send(t, p, 800)
	worst := max(<-done, got.worst)
	healthy("0")
	t.Logf("full: %d messages, %d refused, the worst answer after %v (before %v)", got.sent, len(got.refused), worst, quiet.worst)
	if len(got.refused) > 0 {
		t.Errorf("full: refused %q", got.refused)
	}
	if most := timeout*3/2 + quiet.worst; worst > most {
		t.Errorf("full: an answer after %v, of at most %v", worst, most)
	}
	if f, r := told("the state store does not answer"), told("the state store answers again"); f != 1 || r != 0 {
		t.Errorf("told %d times that it fell, %d that it rose", f, r)
	}

	p.cmd.Process.Kill()
	<-p.exited
	p.exited = make(chan error, 1)
	p.serve(t) // a new log as well
	if got := send(t, p, 100); len(got.refused) > 0 {
		t.Errorf("begun on a full disk: refused %q", got.refused)
	}
	if err := os.Remove(disk + "/ballast"); err != nil {
		t.Fatal(err)
	}
	ballast.Close()
	healthy("1")
	if n := strings.Count(p.command(t, "held", "--from", "first@soft.example"), " held "); n != 20 || told("moved aside") != 0 {
		t.Errorf("%d of 20 notices are there", n)
	}
	if held, _ := heldFor(t, p, "third@soft.example", 20); held != 20 {
		t.Errorf("there is room again, and %d of 20 were held", held)
	}
}

// cluster is three servers that share the keys out.
type cluster [3]*redis

func startCluster(t *testing.T) (c cluster) {
	t.Helper()
	dir := t.TempDir()
	create := []string{"--cluster", "create"}
	for i := range c {
		c[i] = &redis{port: smtptest.FreePort(t)}
		args := []string{"--cluster-enabled", "yes", "--cluster-config-file", fmt.Sprintf("%s/nodes%d", dir, i), "--cluster-node-timeout", "1000", "--dir", dir, "--cluster-port", fmt.Sprint(smtptest.FreePort(t))}
		c[i].start(t, args...)
		t.Cleanup(func() {
			_ = c[i].cmd.Process.Kill()
			_ = c[i].cmd.Wait()
		})
		create = append(create, c[i].addr())
	}
	if out, err := exec.Command("redis-cli", append(create, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return c
}

// A cluster of servers: rates, what is known of senders, and notices, each on the server that
// has its key. When one of them dies mail flows with unmeasured facts, and when it is back all
// is known again but for what it alone had.
func TestE2EStateInACluster(t *testing.T) {
	needs(t, "redis-server", "redis-cli")
	sink := smtptest.NewSink(smtptest.SinkOptions{})
	defer sink.Close()
	servers := startCluster(t)
	const timeout = 2 * time.Second
	p := startPosternAs(t, setup{backends: fmt.Sprintf(`[{name: mta, addresses: [%q], tls: off}]`, sink.Addr()), extra: fmt.Sprintf(`state: {servers: [%q, %q], timeout: %s}
control: {socket: control}
limits: {notices_per_sender: 30}
policy:
  builtin: off
  rules:
    - {name: held, when: 'mail.domain == "soft.example"', do: hold}
    - {name: new, when: 'past.delivered == 0', do: tag, header: "X-New: yes"}
    - {name: many, when: 'rate.messages > 1000000 or past.refused > 0', do: reject}
`, servers[0].addr(), servers[1].addr(), timeout)})
	healthy := func(want string) {
		t.Helper()
		eventually(t, "postern_state_healthy "+want, func() bool {
			_, page := p.get("/metrics")
			return strings.Contains(page, "\npostern_state_healthy "+want+"\n")
		})
	}
	if got := send(t, p, 400); len(got.refused) > 0 {
		t.Errorf("refused: %q", got.refused)
	}
	// More recipients than one sender may have notices.
	if held, _ := heldFor(t, p, "user@soft.example", 40); held != 40 {
		t.Errorf("%d held", held)
	}
	list := p.command(t, "held")
	if n := strings.Count(list, " held "); n != 30 {
		t.Errorf("%d of 30 are listed\n%s", n, list)
	}
	if n := strings.Count(p.command(t, "release", "--domain", "soft.example"), "released "); n != 30 {
		t.Errorf("%d of 30 are released", n)
	}
	if held, _ := heldFor(t, p, "user@soft.example", 30); held != 0 {
		t.Errorf("%d are held that were released", held)
	}
	shared := 0
	for _, s := range servers {
		if n := strings.TrimSpace(s.cli(t, "DBSIZE")); n != "0" {
			shared++
			t.Logf("%s has %s keys", s.addr(), n)
		}
	}
	if shared < 2 {
		t.Errorf("%d servers have keys", shared)
	}

	quiet := send(t, p, 200)
	servers[1].kill(t)
	got := send(t, p, 600)
	healthy("0")
	t.Logf("one of three died: %d messages, %d refused, the worst answer to MAIL after %v (before %v)", got.sent, len(got.refused), got.worst, quiet.worst)
	if most := timeout*3/2 + quiet.worst; len(got.refused) > 0 || got.worst > most {
		t.Errorf("refused %q, an answer after %v, of at most %v", got.refused, got.worst, most)
	}
	if past, fine := lastFacts(t, p); past != "temperror" || fine {
		t.Errorf("one of three is gone: past %s, healthy %v", past, fine)
	}
	servers[1].start(t, servers[1].args...)
	healthy("1")
	got = send(t, p, 40)
	if past, fine := lastFacts(t, p); past == "temperror" || !fine || len(got.refused) > 0 {
		t.Errorf("it is back: past %s, healthy %v, refused %q", past, fine, got.refused)
	}
}

// Two that share a server know what each other saw: who asked the one for recipients that
// are not there is banned by the other, and is that when the first one is gone.
func TestE2EAFleetCountsTogether(t *testing.T) {
	needs(t, "redis-server")
	sink := smtptest.NewSink(smtptest.SinkOptions{Script: func(st smtptest.Step) (a smtptest.Action) {
		if st.Verb == "RCPT" && strings.Contains(st.Line, "<nobody") {
			a.Reply = "550 5.1.1 User unknown\r\n"
		}
		return a
	}})
	defer sink.Close()
	server := &redis{port: smtptest.FreePort(t)}
	server.start(t)
	defer func() { server.kill(t) }()
	extra := fmt.Sprintf(`state: {servers: [%q], timeout: 5s}
policy:
  builtin: off
  rules:
    - {name: ban, when: 'rate.unknown > 20', do: defer, reply: "450 4.7.1 Too many unknown recipients."}
`, server.addr())
	backends := fmt.Sprintf(`[{name: mta, addresses: [%q], tls: off}]`, sink.Addr())
	one := startPosternAs(t, setup{backends: backends, extra: extra})
	other := startPosternAs(t, setup{backends: backends, extra: extra})
	dial := func(p *postern) *client {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, 250)}}
		tcp, err := d.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		conn := patientConn{tcp}
		t.Cleanup(func() { conn.Close() })
		c := &client{conn: conn, r: bufio.NewReaderSize(conn, 512)}
		if _, err := c.hear(); err != nil {
			t.Fatal(err)
		}
		if err := c.ask("250 ", "EHLO mx.sender.example"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	// Half of them hear it from the one, half from the other: only together they are too many.
	for _, p := range []*postern{one, other} {
		c := dial(p)
		if err := c.ask("250 ", "MAIL FROM:<user@plain.example>"); err != nil {
			t.Fatal(err)
		}
		for i := range 11 {
			if err := c.ask("550 5.1.1", fmt.Sprintf("RCPT TO:<nobody%d@example.org>", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.ask("221 ", "QUIT"); err != nil {
			t.Fatal(err)
		}
	}
	banned := func(p *postern) bool {
		c := dial(p)
		defer c.conn.Close()
		return c.ask("450 4.7.1 Too many unknown recipients.", "MAIL FROM:<user@plain.example>") == nil
	}
	for _, p := range []*postern{one, other} {
		eventually(t, "the ban by what both have counted", func() bool { return banned(p) })
	}
	one.cmd.Process.Kill()
	if !banned(other) {
		t.Error("what the one knew went with it")
	}
}
