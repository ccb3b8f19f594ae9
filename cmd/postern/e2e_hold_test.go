//go:build e2e

package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// holder is a Postfix that keeps mail for example.org in its queue and gives it to
// Postern: somebody's MTA, or a backup MX that offers ETRN.
func holder(t *testing.T, to *postern) *postfix {
	t.Helper()
	p := newPostfix(t)
	f, err := os.OpenFile(p.dir+"/etc/main.cf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, `
virtual_mailbox_domains =
relay_domains = example.org
relay_recipient_maps =
fast_flush_domains = example.org
transport_maps = inline:{example.org=smtp:[127.0.0.1]:%d}
smtpd_recipient_restrictions = permit_mynetworks
smtpd_etrn_restrictions = permit_mynetworks
minimal_backoff_time = 2h
maximal_backoff_time = 2h
queue_run_delay = 1h
smtp_tls_security_level = none
`, to.port); err != nil {
		t.Fatal(err)
	}
	services := readFile(t, p.dir+"/etc/master.cf")
	writeFile(t, p.dir+"/etc/master.cf", string(services)+`
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
flush     unix  n       -       n       1000?   0       flush
pickup    unix  n       -       n       60      1       pickup
`)
	p.start(t)
	return p
}

// submit gives a message to the holder.
func (p *postfix) submit(t *testing.T, from, to, mark string) {
	t.Helper()
	c, _, err := connect(fmt.Sprintf("127.0.0.1:%d", p.port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	for _, step := range [][2]string{
		{"250 ", "EHLO client.example"}, {"250 ", "MAIL FROM:<" + from + ">"}, {"250 ", "RCPT TO:<" + to + ">"}, {"354 ", "DATA"},
		{"250 ", "From: " + from + "\r\nMessage-ID: <" + mark + "@load>\r\n\r\ntext\r\n."},
	} {
		if err := c.ask(step[0], step[1]); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *postern) command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(p.binary, append(args, "-c", p.config)...).CombinedOutput()
	if err != nil {
		t.Errorf("postern %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// soon waits a moment and says how long it was.
func soon(t *testing.T, what string, done func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, what, done)
	return time.Since(began)
}

// A real MTA sends, hears 451, and keeps the mail. It is delivered when an operator has
// released it and the holder is asked for it (ETRN), by us or by fetchmail; and what is
// held for a time is let in when it comes again after that.
func TestE2EHold(t *testing.T) {
	needs(t, "fetchmail", "redis-server")
	mta := startPostfix(t)
	holderPort := smtptest.FreePort(t)
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, fmt.Sprintf(`control: {socket: control}
state: {path: state, timeout: 10s}
journal: {path: journal}
retrieve: [{domain: example.org, host: "127.0.0.1:%d", tls: "off"}]
policy:
  builtin: off
  rules:
    - {name: clock, when: 'mail.domain == "plain.example"', do: hold, for: 3s}
    - {name: operator, when: 'mail.domain == "soft.example"', do: hold}
`, holderPort))
	h := holder(t, p)
	// The port of the holder was not known before: nobody has it yet.
	h.kill(t)
	services := strings.Replace(string(readFile(t, h.dir+"/etc/master.cf")), fmt.Sprintf("127.0.0.1:%d", h.port), fmt.Sprintf("127.0.0.1:%d", holderPort), 1)
	writeFile(t, h.dir+"/etc/master.cf", services)
	h.port = holderPort
	h.start(t)

	// By the clock: it comes again too soon, and then in time.
	h.submit(t, "ann@plain.example", "raw@example.org", "clock")
	h.logged(t, `status=deferred.*451 4\.7\.1 Held, please send it again\.`)
	etrn := func() {
		if out := p.command(t, "retrieve", "example.org"); !strings.Contains(out, "sends, or has nothing to send: 250 ") {
			t.Errorf("%s", out)
		}
	}
	began := time.Now()
	eventually(t, "the mail to be let in", func() bool {
		time.Sleep(500 * time.Millisecond)
		etrn()
		return len(mta.mailbox("raw")) == 1
	})
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was let in after %v", took)
	}

	// By an operator, whose release asks the holder for it.
	h.submit(t, "ann@soft.example", "late@example.org", "operator")
	p.transaction(t, "late@example.org")
	id := regexp.MustCompile(`(?m)^([0-9a-z]{16}) .* ann@soft\.example `).FindStringSubmatch(p.command(t, "held"))
	if id == nil {
		t.Fatalf("%s", p.command(t, "held"))
	}
	// Not before it is in the queue of what is deferred.
	h.logged(t, `from=<ann@soft\.example>(?s).*status=deferred`)
	if out := p.command(t, "release", id[1]); !strings.Contains(out, "released "+id[1]) || !strings.Contains(out, "250 ") {
		t.Errorf("%s", out)
	}
	if took := soon(t, "the released mail", func() bool { return len(mta.mailbox("late")) == 1 }); took > 20*time.Second {
		t.Errorf("it took %v", took)
	} else {
		t.Logf("released and there after %v", took)
	}
	if entry := p.transaction(t, `"state":"retrieved"`); entry["state"] != "retrieved" {
		t.Errorf("%v", entry)
	}

	// fetchmail in ETRN mode has the same effect on the same holder.
	h.submit(t, "bob@soft.example", "drain@example.org", "fetchmail")
	p.transaction(t, "bob@soft.example")
	h.logged(t, `from=<bob@soft\.example>(?s).*status=deferred`)
	list := p.command(t, "held", "--from", "bob@soft.example", "--json")
	id = regexp.MustCompile(`"id": "([0-9a-z]{16})"`).FindStringSubmatch(list)
	if id == nil {
		t.Fatalf("%s", list)
	}
	// Released by the store's own hand, without the retrieval of postern release.
	config := string(readFile(t, p.config))
	writeFile(t, p.config, regexp.MustCompile(`(?m)^retrieve:.*\n`).ReplaceAllString(config, ""))
	p.cmd.Process.Signal(syscall.SIGHUP)
	p.logged(t, "the reload", func(_ string, e map[string]any) bool { return e["msg"] == "configuration reloaded" })
	p.command(t, "release", id[1])
	rc := t.TempDir() + "/rc"
	writeFile(t, rc, fmt.Sprintf("poll localhost proto etrn port %d fetchdomains example.org\n", holderPort))
	if err := os.Chmod(rc, 0o600); err != nil {
		t.Fatal(err)
	}
	fetch := exec.Command("fetchmail", "-v", "-f", rc, "--nodetach", "--nosyslog", "--sslproto", "", "--pidfile", t.TempDir()+"/pid")
	fetch.Env = append(os.Environ(), "HOME="+t.TempDir(), "FETCHMAILHOME="+t.TempDir())
	out, err := fetch.CombinedOutput()
	t.Logf("fetchmail: %v\n%s", err, out)
	soon(t, "what fetchmail asked for", func() bool { return len(mta.mailbox("drain")) == 1 })
}

// kill -9 between the 451 and the retry: no notice that a client was told of is lost.
func TestE2EHoldSurvivesKills(t *testing.T) {
	mta := startPostfix(t)
	p := startPosternOn(t, smtptest.FreePort(t), mta.port, `control: {socket: control}
state: {path: state, timeout: 10s}
policy:
  builtin: off
  rules: [{name: operator, when: "true", do: hold}]
`)
	const kills = 100
	for i := range kills {
		c, _, err := connect(p.addr())
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range [][2]string{{"250 ", "EHLO mx.sender.example"}, {"250 ", "MAIL FROM:<user@plain.example>"}, {"451 4.7.1 Held", fmt.Sprintf("RCPT TO:<n%d@example.org>", i)}} {
			if err := c.ask(step[0], step[1]); err != nil {
				t.Fatal(err)
			}
		}
		p.cmd.Process.Kill()
		<-p.exited
		c.conn.Close()
		p.exited = make(chan error, 1)
		p.serve(t)
	}
	held := strings.Count(p.command(t, "held"), " operator ")
	if held != kills {
		t.Errorf("%d of %d notices are there", held, kills)
	}
	t.Logf("%d kills between 451 and the retry, %d notices lost", kills, kills-held)
}

// A fleet: two Posterns behind HAProxy, which tells them the client by PROXY, with one
// store. What the one holds the other releases, a rate counts over both, and when one of
// them dies under load, nothing is lost.
func TestE2EFleet(t *testing.T) {
	needs(t, "haproxy", "redis-server")
	dir := t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	background := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop(); _ = cmd.Wait() })
	}
	store := smtptest.FreePort(t)
	background("redis-server", "--port", fmt.Sprint(store), "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", dir)
	mta := startPostfix(t)
	var fleet [2]*postern
	for i := range fleet {
		port := smtptest.FreePort(t)
		fleet[i] = startPosternAs(t, setup{
			backends:  fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: off, identity: xclient}]`, mta.port),
			listeners: fmt.Sprintf("  - {name: fleet, address: \"127.0.0.1:%d\", proxy_protocol: [127.0.0.1]}\n", port),
			extra: fmt.Sprintf(`control: {socket: control}
state: {servers: ["127.0.0.1:%d"], timeout: 2s}
policy:
  builtin: off
  rules:
    - {name: many, when: 'rate.messages > 20 and client.ip == "127.0.0.9"', do: defer}
    - {name: held, when: 'mail.domain == "soft.example"', do: hold}
limits: {connections_per_client: 500}
`, store),
		})
		fleet[i].backendDown = false
		fleet[i].extraPort = port
	}
	front := smtptest.FreePort(t)
	writeFile(t, dir+"/haproxy.cfg", fmt.Sprintf(`global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch
listen mx
    bind 127.0.0.1:%d
    balance roundrobin
    option smtpchk EHLO balancer.example
    server a 127.0.0.1:%d send-proxy-v2 check check-send-proxy inter 200ms
    server b 127.0.0.1:%d send-proxy-v2 check check-send-proxy inter 200ms
`, front, fleet[0].extraPort, fleet[1].extraPort))
	if out, err := exec.Command("haproxy", "-c", "-f", dir+"/haproxy.cfg").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	background("haproxy", "-db", "-f", dir+"/haproxy.cfg")
	addr := fmt.Sprintf("127.0.0.1:%d", front)
	eventually(t, "HAProxy to have both", func() bool { return deliverMarked(addr, "raw@example.org", "first", nil) == nil })

	// The client is the one that HAProxy tells of, and each instance has its turn.
	try := func(client, from, to string) string {
		s, c := dial(t, addr, client)
		defer c.Close()
		s.say("250", "EHLO mx.sender.example")
		s.say("250 ", "MAIL FROM:<%s>", from)
		s.send("RCPT TO:<%s>", to)
		reply := s.reply()
		s.say("221 ", "QUIT")
		return reply
	}
	for range 2 {
		if got := try("127.0.0.7", "ann@soft.example", "late@example.org"); !strings.HasPrefix(got, "451 4.7.1 Held") {
			t.Fatal(got)
		}
	}
	list := fleet[1].command(t, "held")
	if !regexp.MustCompile(` 2 +ann@soft\.example +late@example\.org +mx\.sender\.example +held `).MatchString(list) {
		t.Errorf("the second knows\n%s", list)
	}
	fleet[1].command(t, "release", "--domain", "soft.example")
	for range 2 {
		if got := try("127.0.0.7", "ann@soft.example", "late@example.org"); !strings.HasPrefix(got, "250 ") {
			t.Errorf("released by the second: %s", got)
		}
	}

	// Each sees a half of these; together they see all.
	deferred := 0
	for i := 0; i < 60 && deferred < 4; i++ {
		s, c := dial(t, addr, "127.0.0.9")
		s.say("250", "EHLO mx.sender.example")
		s.send("MAIL FROM:<user@plain.example>")
		if got := s.reply(); strings.HasPrefix(got, "451 ") {
			deferred++
		} else {
			s.say("250 ", "RCPT TO:<bulk@example.org>")
			s.say("354 ", "DATA")
			s.say("250 ", "From: user@plain.example\r\n\r\nx\r\n.")
		}
		c.Close()
		time.Sleep(50 * time.Millisecond)
	}
	if n := len(mta.mailbox("bulk")); deferred == 0 || n < 15 || n > 50 {
		t.Errorf("%d were let in, then %d deferred", n, deferred)
	} else {
		t.Logf("rate.messages > 20: %d were let in over both before it held", n)
	}

	// One dies under load. Whoever heard 250 has delivered, and whoever did not tries again.
	var mu sync.Mutex
	said := map[string]bool{}
	var failed int
	time.AfterFunc(300*time.Millisecond, func() { fleet[0].cmd.Process.Kill() })
	const messages = 300
	err := parallel(messages, 20, func(i int) error {
		mark := fmt.Sprintf("load%d", i)
		time.Sleep(time.Duration(i) * 2 * time.Millisecond / 20)
		for attempt := 0; ; attempt++ {
			err := deliverMarked(addr, "big@example.org", mark, nil)
			mu.Lock()
			if err == nil {
				said[mark] = true
				mu.Unlock()
				return nil
			}
			failed++
			mu.Unlock()
			if attempt > 50 {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	if err != nil {
		t.Error(err)
	}
	eventually(t, "the mail to arrive", func() bool { return len(mta.marks(t, "big")) >= messages })
	found := mta.marks(t, "big")
	for mark := range said {
		if found[mark] == 0 {
			t.Errorf("%s heard 250 and is lost", mark)
		}
	}
	t.Logf("%d messages, one of two killed: %d attempts failed, %d arrived, 0 lost", messages, failed, len(found))
}
