//go:build e2e

package main_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// AMTP between machines: each is a network namespace with one address, on one bridge. Nothing of it leaves this
// machine, so the addresses may be those of others, which are called as any of the Internet is.
const (
	holderAt = "11.26.0.1"  // of near.example: postern amtp hold
	serverAt = "11.26.0.2"  // of example.org: postern serve, and Postfix behind it
	forgerAt = "11.26.0.3"  // of nobody
	dnsAt    = "11.26.0.53" // NSD
)

const amtpZone = `$ORIGIN .
$TTL 60
@                SOA ns.example. hostmaster.example. 1 3600 600 86400 1
@                NS  ns.example.
ns.example.      A   11.26.0.53
near.example.    A   11.26.0.1
near.example.    TXT "v=spf1 a -all"
example.org.     MX  10 mx.example.org.
mx.example.org.  A   11.26.0.2
forger.example.  A   11.26.0.3
`

// machine is a network namespace.
type machine struct {
	t    *testing.T
	name string
}

// command is a program on that machine; nil is ours.
func (m *machine) command(name string, args ...string) *exec.Cmd {
	if m == nil {
		return exec.Command(name, args...)
	}
	return exec.Command("ip", append([]string{"netns", "exec", m.name, name}, args...)...)
}

// dial connects from that machine; nil is ours.
func (m *machine) dial(address string, within time.Duration) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: within} // of an IP address: one that looks names up would use other threads
	if m == nil {
		return d.Dial("tcp", address)
	}
	m.inside(func() { conn, err = d.Dial("tcp", address) })
	return conn, err
}

// inside does something on that machine: a socket belongs to where its thread was when it was made. The thread comes
// back. NOT: to let it end, which would kill what was started from it (Pdeathsig).
func (m *machine) inside(do func()) {
	m.t.Helper()
	runtime.LockOSThread()
	back, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		m.t.Fatal(err)
	}
	defer back.Close()
	there, err := os.Open("/run/netns/" + m.name)
	if err != nil {
		m.t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	do()
	if err := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); err != nil {
		m.t.Fatalf("back from %s: %v", m.name, err)
	}
	runtime.UnlockOSThread()
}

// listen listens on that machine.
func (m *machine) listen(address string) (ln *net.TCPListener) {
	m.t.Helper()
	m.inside(func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			m.t.Fatal(err)
		}
		ln = l.(*net.TCPListener)
	})
	return ln
}

// network is the machines and the bridge between them.
type network struct {
	t      *testing.T
	bridge *machine
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	needs(t, "ip", "nsd")
	n := &network{t: t}
	n.bridge = n.namespace("bridge")
	b := n.bridge.name
	ip(t, "-n", b, "link", "add", "br0", "type", "bridge")
	ip(t, "-n", b, "addr", "add", dnsAt+"/24", "dev", "br0")
	ip(t, "-n", b, "link", "set", "br0", "up")
	return n
}

func (n *network) namespace(name string) *machine {
	n.t.Helper()
	m := &machine{n.t, fmt.Sprintf("postern-e2e-%d-%s", os.Getpid(), name)}
	ip(n.t, "netns", "add", m.name)
	n.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", m.name).Run() })
	ip(n.t, "-n", m.name, "link", "set", "lo", "up")
	return m
}

// machine makes one with an address.
func (n *network) machine(name, address string) *machine {
	n.t.Helper()
	m := n.namespace(name)
	b := n.bridge.name
	ip(n.t, "-n", b, "link", "add", "to-"+name, "type", "veth", "peer", "name", "eth0", "netns", m.name)
	ip(n.t, "-n", b, "link", "set", "to-"+name, "master", "br0", "up")
	ip(n.t, "-n", m.name, "addr", "add", address+"/24", "dev", "eth0")
	ip(n.t, "-n", m.name, "link", "set", "eth0", "up")
	return m
}

// nameServer starts NSD at dnsAt.
func (n *network) nameServer(zone string) {
	t := n.t
	t.Helper()
	dir := t.TempDir()
	writeNSD(t, dir, dnsAt, zone)
	nsd := n.bridge.command("nsd", "-d", "-c", dir+"/nsd.conf")
	nsd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := nsd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range processTree(t, nsd.Process.Pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		nsd.Wait()
		if t.Failed() {
			t.Logf("nsd.log:\n%s", readFile(t, dir+"/nsd.log"))
		}
	})
	eventually(t, "NSD", func() bool {
		c, err := n.bridge.dial(dnsAt+":53", time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// amtpDaemon is the built binary on a machine. It can be killed and started again; its log goes on.
type amtpDaemon struct {
	t    *testing.T
	on   *machine
	args []string
	dir  string
	log  string // file
	at   string // where it listens
	cmd  *exec.Cmd

	ready string // URL that says so; empty: it is when it listens
}

func (d *amtpDaemon) start() {
	t := d.t
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = d.on.command(binary, d.args...)
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = d.dir, log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, strings.Join(d.args, " "), func() bool {
		c, err := d.on.dial(d.at, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		if d.ready == "" {
			return true
		}
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			return d.on.dial(address, patience)
		}}}
		resp, err := client.Get(d.ready)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http200
	})
}

// kill is kill -9.
func (d *amtpDaemon) kill() {
	if d.cmd == nil {
		return
	}
	d.cmd.Process.Kill()
	d.cmd.Wait()
	d.cmd = nil
}

// said is how many lines of the log have all of the words.
func (d *amtpDaemon) said(words ...string) (n int) {
	b, _ := os.ReadFile(d.log)
lines:
	for line := range strings.Lines(string(b)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// says waits for a line of the log with all of the words.
func (d *amtpDaemon) says(words ...string) {
	d.t.Helper()
	eventually(d.t, d.args[0]+" to say "+strings.Join(words, " and "), func() bool { return d.said(words...) > 0 })
}

func newAMTPDaemon(t *testing.T, on *machine, at, config string, args ...string) *amtpDaemon {
	t.Helper()
	d := &amtpDaemon{t: t, on: on, dir: t.TempDir(), at: at}
	d.log = d.dir + "/log"
	d.args = append(args, "-c", d.dir+"/postern.yaml")
	writeFile(t, d.dir+"/postern.yaml", config)
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			log, _ := os.ReadFile(d.log)
			t.Logf("the log of %v:\n%s", d.args, log)
		}
	})
	return d
}

// amtpWorld is a holder at A, a proxy with Postfix at B, and a machine C that is neither's.
type amtpWorld struct {
	t             *testing.T
	a, b, c       *machine
	holder, proxy *amtpDaemon
	mta           *postfix
	certificate   string
	spool         string
}

func newAMTPWorld(t *testing.T) *amtpWorld {
	t.Helper()
	net := newNetwork(t)
	net.nameServer(amtpZone)
	w := &amtpWorld{t: t, a: net.machine("a", holderAt), b: net.machine("b", serverAt), c: net.machine("c", forgerAt)}

	w.mta = newPostfix(t)
	w.mta.on = w.b
	w.mta.start(t)

	dir := t.TempDir()
	w.certificate = dir + "/cert.pem"
	writeSelfSigned(t, w.certificate, dir+"/key.pem", x509.Certificate{Subject: pkix.Name{CommonName: "near.example"}, DNSNames: []string{"near.example"}})
	w.spool = dir + "/spool"
	users := dir + "/users"
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	passwd := exec.Command(binary, "amtp", "passwd", "--users", users, "alice", "alice@near.example")
	passwd.Stdin = strings.NewReader("correct horse\n")
	if out, err := passwd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// One connection of one client: a test that holds it keeps the other server from fetching.
	w.holder = newAMTPDaemon(t, w.a, holderAt+":26", fmt.Sprintf(`hostname: near.example
amtp:
  hold:
    addresses: ["%s:26"]
    certificates: [{certificate: %q, key: %q}]
    users: %q
    spool: %q
    smarthost: {address: "127.0.0.1:9", tls: "off"}
    retry: 1s
limits: {connections_per_client: 1}
dns: {servers: ["%s"], timeout: 15s}
`, holderAt, w.certificate, dir+"/key.pem", users, w.spool, dnsAt), "amtp", "hold")
	w.holder.start()

	w.proxy = newAMTPDaemon(t, w.b, serverAt+":26", fmt.Sprintf(`hostname: mx.example.org
listeners:
  - {name: mx, address: "%[1]s:25"}
  - {name: amtp, address: "%[1]s:26", protocol: amtp}
amtp: {domains: [example.org], call_timeout: 20s}
backends: [{name: mta, addresses: ["127.0.0.1:%[2]d"], tls: "off", identity: xclient}]
dns: {servers: ["%[3]s"], timeout: 15s}
admin: {address: "127.0.0.1:9125"}
timeouts: {backend_connect: 1m}
`, serverAt, w.mta.port, dnsAt), "serve")
	w.proxy.ready = "http://127.0.0.1:9125/readyz"
	w.proxy.start()
	return w
}

// text is a message of a kind that others spoil: dots, long lines, 8 bits, what looks like the form that it travels in.
const amtpText = "first line\r\n..\r\n.dotted\r\n</BODY>\r\n<HEAD>\r\nFrom: mallory@example.net\r\n</HEAD>\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n\tlast line \r\n"

// send has alice send a message from a machine, after STARTTLS; she hears 250.
func (w *amtpWorld) send(from *machine, to, subject string) {
	t := w.t
	t.Helper()
	d, conn := w.open(from)
	defer conn.Close()
	d.say("530", "USER") // in the clear
	d.say("220 ", "STARTTLS")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(t, w.certificate))
	secure := tls.Client(conn, &tls.Config{ServerName: "near.example", RootCAs: roots})
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	d = &dialogue{t: t, r: bufio.NewReader(secure), w: secure}
	d.say("250", "USER")
	d.say("250", "alice correct horse")
	d.say("250", "RCPT TO:"+to)
	d.say("354", "HEAD")
	d.say("250", "Subject: "+subject+"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n.")
	d.say("354", "DATA")
	d.say("250", strings.ReplaceAll("\r\n"+amtpText, "\r\n.", "\r\n..")[2:]+".")
	d.say("221", "QUIT")
}

// open connects a machine with the holder, which lets in one connection of a client at a time.
func (w *amtpWorld) open(from *machine) (d *dialogue, conn net.Conn) {
	w.t.Helper()
	eventually(w.t, "the holder's greeting", func() bool {
		var err error
		if conn, err = from.dial(w.holder.at, patience); err != nil {
			return false
		}
		conn.SetDeadline(time.Now().Add(2 * patience))
		d = &dialogue{t: w.t, r: bufio.NewReader(conn), w: conn}
		if greeting, _ := d.r.ReadString('\n'); strings.HasPrefix(greeting, "220 ") {
			return true
		}
		conn.Close()
		return false
	})
	return d, conn
}

// waiting is how many messages the spool has.
func (w *amtpWorld) waiting() int {
	states, _ := filepath.Glob(w.spool + "/*.state")
	return len(states)
}

// in makes t the test that fails.
func (w *amtpWorld) in(t *testing.T) {
	w.t, w.holder.t, w.proxy.t, w.a.t, w.b.t, w.c.t = t, t, t, t, t, t
}

// within waits longer than eventually does: for who tries again after half a minute, or a minute.
func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

// patienceAMTP is for what is fetched again, or announced again.
const patienceAMTP = 3 * time.Minute

// nothingWaits waits for an empty spool, and until Postfix has put what it took where it belongs.
func (w *amtpWorld) nothingWaits() {
	w.t.Helper()
	within(w.t, patienceAMTP, "an empty spool", func() bool { return w.waiting() == 0 })
	took, put := regexp.MustCompile(`cleanup\[\d+\]: [0-9A-F]+: message-id=`), regexp.MustCompile(`qmgr\[\d+\]: [0-9A-F]+: removed`)
	eventually(w.t, "Postfix to have put it into the mailbox", func() bool {
		log, _ := os.ReadFile(w.mta.dir + "/maillog")
		n := len(took.FindAll(log, -1))
		return n > 0 && n == len(put.FindAll(log, -1))
	})
}

// given returns a message that the MTA got, in its header section and its body, and fails where there are several.
func (w *amtpWorld) given(mailbox string) (head, body string) {
	w.t.Helper()
	head, body, ok := strings.Cut(string(w.mta.received(w.t, mailbox)), "\n\n")
	if !ok {
		w.t.Fatalf("no body: %s", head)
	}
	if want := strings.ReplaceAll(amtpText, "\r\n", "\n"); body != want {
		w.t.Errorf("the text is\n%q\nwant\n%q", body, want)
	}
	return head, body
}

// A user of A writes to somebody behind B: the mail waits at A, is announced, fetched, judged, and given to B's Postfix;
// whoever is away or killed meanwhile, once.
func TestE2EAMTP(t *testing.T) {
	w := newAMTPWorld(t)

	t.Run("fetched", func(t *testing.T) {
		w.in(t)
		w.send(w.c, "swaks@example.org", "hello")
		w.nothingWaits()
		head, _ := w.given("swaks")
		for _, want := range []string{"\nFrom: alice@near.example\n", "\nSubject: hello\n", "\nTo: swaks@example.org\n", "\nContent-Transfer-Encoding: 8bit\n", "\nReceived: "} {
			if !strings.Contains("\n"+head+"\n", want) {
				t.Errorf("%q is not in\n%s", want, head)
			}
		}
		for _, bad := range []string{"<HEAD>", "<RELAY>", "Send From", "correct horse"} {
			if strings.Contains(head, bad) {
				t.Errorf("%q is in\n%s", bad, head)
			}
		}
		w.holder.says(`"delivered"`, "swaks@example.org", `"peer":"`+serverAt+`"`, `"twice_possible":false`)
		w.holder.says(`"connection"`, `"client":"`+serverAt, `"tls":"1.3"`)
		w.proxy.says(`"transaction"`, `swaks@example.org`, `"state":"retrieved"`, `"amtp"`)
	})

	t.Run("the mail server is away for ten seconds", func(t *testing.T) {
		w.in(t)
		w.mta.kill(t)
		w.send(w.c, "late@example.org", "later")
		w.holder.says(`"announced"`, "late@example.org")
		time.Sleep(10 * time.Second) // which is what is tested
		if n := w.waiting(); n != 1 {
			t.Fatalf("%d messages wait", n)
		}
		// Whoever knows the number and is not B gets nothing.
		states, _ := filepath.Glob(w.spool + "/*.state")
		number := regexp.MustCompile(`"number":"(\d{39})"`).FindStringSubmatch(string(readFile(t, states[0])))[1]
		thief, conn := w.open(w.c)
		thief.say("555 No such mail", "SEMA late@example.org:"+number)
		thief.say("221", "QUIT")
		conn.Close()
		w.mta.start(t)
		w.nothingWaits()
		w.given("late")
	})

	t.Run("the other server is killed between SELO and SEMA", func(t *testing.T) {
		w.in(t)
		idle, only := w.open(w.b) // so that it cannot fetch
		idle.say("250", "NOOP")   // or it would have half a minute
		w.send(w.c, "kill@example.org", "killed")
		w.holder.says(`"announced"`, "kill@example.org")
		w.proxy.kill()
		only.Close()
		if n, got := w.waiting(), len(w.mta.mailbox("kill")); n != 1 || got != 0 {
			t.Fatalf("%d messages wait, %d are there", n, got)
		}
		w.proxy.start()
		w.nothingWaits()
		w.given("kill")
	})

	t.Run("the holder is killed after its 250", func(t *testing.T) {
		w.in(t)
		const many = 5
		for i := range many {
			w.send(w.c, "drain@example.org", fmt.Sprintf("killed %d", i))
			if i > 0 { // and in the middle of what comes then
				time.Sleep(time.Duration(i*i) * 5 * time.Millisecond)
			}
			w.holder.kill()
			w.holder.start()
		}
		w.nothingWaits()
		subjects := map[string]int{}
		for _, file := range w.mta.mailbox("drain") {
			subjects[regexp.MustCompile(`(?m)^Subject: .*`).FindString(string(readFile(t, file)))]++
		}
		said := w.holder.said("it may arrive twice", "drain@example.org")
		if n := len(w.mta.mailbox("drain")); len(subjects) != many || n > many+said {
			t.Errorf("%d messages (%v), and it is said %d times that one may arrive twice", n, subjects, said)
		}
	})

	// C says that mail of A's domain waits at it: nobody believes that, and nobody asks A. It says so of its own domain, and
	// is called; what it hands over then is From A's user, and is refused.
	t.Run("a forger", func(t *testing.T) {
		w.in(t)
		w.holder.kill() // and whoever calls it now is heard here
		announce := func(domain, want string) {
			t.Helper()
			conn, err := w.c.dial(w.proxy.at, patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			d := &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
			d.expect("220 ")
			d.say(want, "SELO "+domain+" 340282366920938463463374607431768211455 forged@example.org")
			d.say("221", "QUIT")
		}
		calls, wrong := w.c.listen(forgerAt+":26"), w.a.listen(holderAt+":26")
		defer calls.Close()
		defer wrong.Close()
		announce("near.example", "550 ")
		announce("mx.example.org", "550 ")
		announce("127.0.0.1", "550 ")
		announce("forger.example", "250")
		calls.SetDeadline(time.Now().Add(patience))
		conn, err := calls.Accept() // the first call, so the first three SELOs were none
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if from := conn.RemoteAddr().String(); !strings.HasPrefix(from, serverAt+":") {
			t.Errorf("called by %s", from)
		}
		heard := bufio.NewReader(conn)
		turn := func(say, want string) {
			t.Helper()
			if _, err := fmt.Fprintf(conn, "%s\r\n", say); err != nil {
				t.Fatal(err)
			}
			if line, err := heard.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
				t.Fatalf("heard %q (%v), want %s", line, err, want)
			}
		}
		turn("220 forger.example AMTP", "STARTTLS")
		turn("502 no", "SEMA forged@example.org:340282366920938463463374607431768211455")
		turn("250 Sema accepted\r\n<HEAD>\r\nFrom: alice@near.example\r\nSend From: near.example ("+holderAt+"); "+time.Now().Format(time.RFC1123Z)+"; Version: 2.0\r\nSubject: forged\r\n</HEAD>\r\n<BODY>\r\ntext\r\n</BODY>\r\n.", "550 ")
		turn("250 Noted", "QUIT")
		w.proxy.says(`"fetch"`, `"client":"`+forgerAt, `"result":"refused"`)
		wrong.SetDeadline(time.Now().Add(time.Millisecond)) // who has connected is there
		if conn, err := wrong.Accept(); err == nil {
			t.Errorf("the holder was called from %s", conn.RemoteAddr())
		}
		if n := w.proxy.said(`"fetch"`, "forged@example.org"); n != 1 {
			t.Errorf("%d fetches", n)
		}
		if got := w.mta.mailbox("forged"); len(got) > 0 {
			t.Errorf("%d messages are there", len(got))
		}
	})
}
