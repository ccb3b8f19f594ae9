//go:build e2e

package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
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
	cmd  *exec.Cmd
}

func (s *redis) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("redis-server", "--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
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

// A store that is killed, stopped, emptied and slowed, under load: nobody is refused,
// nobody waits longer than the store may take, its facts are unmeasured, and one line is
// logged each way.
func TestE2EStateInTrouble(t *testing.T) {
	needs(t, "redis-server")
	sink := smtptest.NewSink(smtptest.SinkOptions{})
	defer sink.Close()
	server := &redis{port: freePort(t)}
	server.start(t)
	defer func() { server.kill(t) }()
	var delay atomic.Int64
	road := slowRoad(t, server.addr(), &delay)
	const timeout = 400 * time.Millisecond
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
	last := func() (past string, fine bool) {
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
		if most := timeout*6/5 + quiet.worst; got.worst > most {
			t.Errorf("%s: an answer after %v, of at most %v", trouble.name, got.worst, most)
		}
		if past != "temperror" || fine {
			t.Errorf("%s: past %s, healthy %v", trouble.name, past, fine)
		}
		healthy("0")
		trouble.finish()
		healthy("1")
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
	server := &redis{port: freePort(t)}
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
