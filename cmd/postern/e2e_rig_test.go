//go:build e2e

package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/checks/dnstest"

	"postern/proxy/smtptest"
)

// The rig of the e2e tests: the built binary, a private Postfix behind it, a
// private DNS. Everything lives in a temporary folder and on 127.0.0.1; no
// service of the machine is touched, and only processes started here are ended.

var builtBinary = flag.String("e2e.postern", "", "the postern binary to test; empty: build one")

// patience is how long an outside program may take for what it does at once
// on an idle machine.
const patience = 30 * time.Second

// needs fails the test when a program that it stands on is missing. NOT a
// skip: a suite that skips where Postfix is missing proves nothing, and green
// does not tell.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("Postfix's master starts as root only: run `make e2e` as root, or with sudo at hand (AS_ROOT in the Makefile)")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%v; on Debian: apt-get install postfix swaks libnet-ssleay-perl openssl python3 nsd unbound iproute2 redis-server haproxy fetchmail prometheus nginx-light curl jq iproute2", err)
		}
	}
}

// eventually waits for what another process is about to do.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// lastPort is the last that freePort gave.
func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ---- Postfix

type postfix struct {
	dir  string
	port int
	on   *machine // nil: ours
	cmd  *exec.Cmd
}

// guidesService is the master.cf entry that deploy/README.md tells a
// postmaster to write; the tests use that very text, so that it stays right.
func guidesService(t *testing.T) string {
	t.Helper()
	guide := string(readFile(t, "../../deploy/README.md"))
	entry := regexp.MustCompile(`(?m)^127\.0\.0\.1:10025 inet .*\n(?:    .*\n)+`).FindString(guide)
	if entry == "" {
		t.Fatal("deploy/README.md has no master.cf entry for 127.0.0.1:10025")
	}
	return entry
}

// newPostfix lays out an instance, which is not started yet.
func newPostfix(t *testing.T) *postfix {
	t.Helper()
	needs(t, "postfix")
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	// NOT t.TempDir: the Postfix user must be able to enter every folder of the path.
	dir, err := os.MkdirTemp("", "postern-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &postfix{dir: dir, port: smtptest.FreePort(t)}

	fill := strings.NewReplacer("@dir@", dir, "@uid@", nobody.Uid, "@gid@", nobody.Gid)
	writeFile(t, dir+"/etc/main.cf", fill.Replace(string(readFile(t, "testdata/e2e/main.cf"))))
	service := strings.Replace(guidesService(t), "127.0.0.1:10025", fmt.Sprintf("127.0.0.1:%d", p.port), 1)
	writeFile(t, dir+"/etc/master.cf", service+string(readFile(t, "testdata/e2e/master.cf")))
	writeFile(t, dir+"/etc/mailboxes", string(readFile(t, "testdata/e2e/mailboxes")))
	for sub, who := range map[string]*user.User{"spool": nil, "data": owner, "mail": nobody} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		if who != nil {
			uid, _ := strconv.Atoi(who.Uid)
			gid, _ := strconv.Atoi(who.Gid)
			if err := os.Chown(filepath.Join(dir, sub), uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out, err := exec.Command("postfix", "-c", dir+"/etc", "check").CombinedOutput(); err != nil {
		t.Fatalf("postfix check: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/maillog")
			t.Logf("Postfix's log:\n%s", log)
		}
	})
	return p
}

func startPostfix(t *testing.T) *postfix {
	t.Helper()
	p := newPostfix(t)
	p.start(t)
	return p
}

func (p *postfix) start(t *testing.T) {
	t.Helper()
	os.Remove(p.dir + "/spool/pid/master.pid") // left behind by a kill
	p.cmd = p.on.command("/usr/lib/postfix/sbin/master", "-c", p.dir+"/etc", "-d")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Postfix's greeting", func() bool {
		c, err := p.on.dial(fmt.Sprintf("127.0.0.1:%d", p.port), time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		greeting := make([]byte, 3)
		_, err = io.ReadFull(c, greeting)
		return err == nil && string(greeting) == "220"
	})
}

// kill is kill -9 of master and of all that it started: a power cut.
func (p *postfix) kill(t *testing.T) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	tree := processTree(t, p.cmd.Process.Pid)
	for _, pid := range tree { // the parent first, so that it starts no new child
		syscall.Kill(pid, syscall.SIGKILL)
	}
	p.cmd.Wait()
	p.cmd = nil
	for _, pid := range tree {
		eventually(t, "the end of process "+strconv.Itoa(pid), func() bool { return !running(pid) })
	}
}

// mailbox returns the files of a Maildir, oldest first.
func (p *postfix) mailbox(name string) []string {
	files, _ := filepath.Glob(filepath.Join(p.dir, "mail", name, "new", "*"))
	return files
}

// received waits for the one message that mailbox name must get and returns it.
func (p *postfix) received(t *testing.T, name string) []byte {
	t.Helper()
	eventually(t, "mail in "+name, func() bool { return len(p.mailbox(name)) > 0 })
	files := p.mailbox(name)
	if len(files) != 1 {
		t.Fatalf("%d messages in %s, want 1", len(files), name)
	}
	return readFile(t, files[0])
}

// logged waits for a line of Postfix's log that matches.
func (p *postfix) logged(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(t, "Postfix to log "+pattern, func() bool {
		log, _ := os.ReadFile(p.dir + "/maillog")
		return re.Match(log)
	})
}

// processTree returns root and its descendants, parents before children.
func processTree(t *testing.T, root int) []int {
	t.Helper()
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		parent, _ := strconv.Atoi(rest[1])
		children[parent] = append(children[parent], pid)
	}
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree
}

// running says whether pid is there and no zombie. (A child of ours that was
// killed may wait for init to collect it.)
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// ---- Postern

type postern struct {
	binary, config, dir string
	prefix, env         []string
	ca, key             string // files
	port, admin         int
	extraPort           int // of a further listener; 0: there is none
	backendDown         bool
	cmd                 *exec.Cmd
	log                 string // file
	exited              chan error
}

// build is the binary under test, made once for all tests. It is built without
// the race detector, whose bookkeeping would drown the memory that is measured.
var build = sync.OnceValues(func() (string, error) {
	if *builtBinary != "" {
		return *builtBinary, nil
	}
	dir, err := os.MkdirTemp("", "postern-e2e-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "postern")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// startPostern runs `postern serve` before a backend on the given port, with
// the built-in policy and the DNS of testdata/e2e/zone.txt.
func startPostern(t *testing.T, backendPort int) *postern {
	t.Helper()
	return startPosternOn(t, smtptest.FreePort(t), backendPort)
}

// startPosternOn is startPostern on a given port, with more sections at the
// end of the configuration.
func startPosternOn(t *testing.T, port, backendPort int, sections ...string) *postern {
	t.Helper()
	return startPosternAs(t, setup{port: port, backends: fmt.Sprintf(
		`[{name: mta, addresses: ["127.0.0.1:%d"], tls: off, identity: xclient}]`, backendPort), extra: strings.Join(sections, "")})
}

// setup is what is particular to one Postern.
type setup struct {
	port      int    // of the listener mx; 0: a free one
	backends  string // YAML; empty: none, so that mail goes into a Maildir
	listeners string // YAML of further ones: "  - {...}" lines
	timeouts  string // YAML, behind that which waits for an MTA with a hundred to greet: ", drain: 4s"
	extra     string // further keys of the top level
	down      bool   // the backend is not there yet

	binary string   // empty: the one under test
	dns    string   // host:port of a name server; empty: one that answers for testdata/e2e/zone.txt
	prefix []string // a program and its arguments that runs the binary: taskset
	env    []string // on top of ours
}

// startPosternAs is startPostern for those who need another configuration.
func startPosternAs(t *testing.T, own setup) *postern {
	t.Helper()
	p := configurePostern(t, own)
	p.serve(t)
	return p
}

// configurePostern writes the configuration of one that is not started yet.
func configurePostern(t *testing.T, own setup) *postern {
	t.Helper()
	needs(t)
	if own.binary == "" {
		var err error
		if own.binary, err = build(); err != nil {
			t.Fatal(err)
		}
	}
	if own.dns == "" {
		zone, err := dnstest.Parse(string(readFile(t, "testdata/e2e/zone.txt")))
		if err != nil {
			t.Fatal(err)
		}
		addr, closeDNS := zone.Serve()
		t.Cleanup(closeDNS)
		own.dns = addr
	}
	dir := t.TempDir()
	if own.port == 0 {
		own.port = smtptest.FreePort(t)
	}
	if own.backends == "" {
		own.backends = "[]"
	}
	p := &postern{
		binary: own.binary, prefix: own.prefix, env: own.env, config: dir + "/postern.yaml", ca: dir + "/cert.pem", key: dir + "/key.pem", dir: dir,
		log:  t.TempDir() + "/log", // NOT beside the configuration, whose folder Postern watches
		port: own.port, admin: smtptest.FreePort(t), backendDown: own.down, exited: make(chan error, 1),
	}
	writeCertificate(t, p.ca, p.key)
	writeFile(t, p.config, fmt.Sprintf(`hostname: mx.example.org
listeners:
  - {name: mx, address: "127.0.0.1:%d", tls: starttls}
%stls:
  certificates: [{certificate: %q, key: %q}]
backends: %s
dns: {servers: [%q], timeout: 15s}
admin: {address: "127.0.0.1:%d"}
log: {level: info, format: json}
timeouts: {backend_connect: 1m%s}
%s`, p.port, own.listeners, p.ca, p.key, own.backends, own.dns, p.admin, own.timeouts, own.extra))
	return p
}

// serve runs the binary with the configuration that p has, until the test ends.
func (p *postern) serve(t *testing.T) {
	t.Helper()
	p.launch(t)
	eventually(t, "Postern to be ready", func() bool {
		select {
		case err := <-p.exited:
			p.exited <- err
			t.Fatalf("postern ended at once: %v", err)
		default:
		}
		if !p.backendDown {
			// Not before it knows what the backend offers, which it announces in its turn.
			status, _ := p.get("/readyz")
			return status == http200
		}
		c, err := net.DialTimeout("tcp", p.addr(), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// launch starts the binary. What it puts down without being told where lands beside the
// configuration.
func (p *postern) launch(t *testing.T) {
	t.Helper()
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	line := append(slices.Clone(p.prefix), p.binary, "serve", "-c", p.config)
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Dir = filepath.Dir(p.config)
	p.cmd.Stderr = log
	p.cmd.Stdout = log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log.Close()
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		select {
		case err := <-p.exited:
			p.exited <- err // one that was started several times is waited for as often
		case <-time.After(patience):
			t.Error("postern outlives kill -9")
		}
		if t.Failed() {
			t.Logf("Postern's log:\n%s", readFile(t, p.log))
		}
	})
}

func (p *postern) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }

// get asks the admin address, with "" for a server that does not answer.
func (p *postern) get(path string) (status int, body string) {
	resp, err := (&http.Client{Timeout: patience}).Get(fmt.Sprintf("http://127.0.0.1:%d%s", p.admin, path))
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

// transaction waits for the transaction's line in the log that mentions mark,
// which is an id or an address that only this transaction has.
func (p *postern) transaction(t *testing.T, mark string) map[string]any {
	t.Helper()
	return p.logged(t, "a transaction with "+mark, func(line string, entry map[string]any) bool {
		return entry["disposition"] != nil && strings.Contains(line, mark)
	})
}

// logged waits for a line of the log.
func (p *postern) logged(t *testing.T, what string, is func(line string, entry map[string]any) bool) map[string]any {
	t.Helper()
	var found map[string]any
	eventually(t, "a log line: "+what, func() bool {
		for line := range strings.Lines(string(readFile(t, p.log))) {
			if !strings.HasSuffix(line, "\n") {
				continue // being written
			}
			var entry map[string]any
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("a line of the log is no JSON: %v\n%s", err, line)
			}
			if is(line, entry) {
				found = entry
				return true
			}
		}
		return false
	})
	return found
}

// peakMemory returns the highest resident set so far, in octets.
func (p *postern) peakMemory(t *testing.T) int64 { return memory(t, p.cmd.Process.Pid, "VmHWM") }

// memory is what /proc says of a process, in octets: VmRSS, its resident set, or VmHWM,
// the highest that it had.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	status := readFile(t, fmt.Sprintf("/proc/%d/status", pid))
	m := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no %s in /proc:\n%s", field, status)
	}
	kib, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kib << 10
}

// metrics asks the admin address for metrics without labels.
func (p *postern) metrics(t *testing.T, families ...string) (values []float64) {
	t.Helper()
	_, body := p.get("/metrics")
	for _, family := range families {
		m := regexp.MustCompile(`(?m)^` + family + ` (\S+)$`).FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("no %s in\n%s", family, body)
		}
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatalf("%s: %v", family, err)
		}
		values = append(values, v)
	}
	return values
}

// writeCertificate makes a self-signed certificate for mx.example.org, which
// clients can therefore verify with itself as the root.
func writeCertificate(t *testing.T, cert, key string) {
	t.Helper()
	writeSelfSigned(t, cert, key, x509.Certificate{Subject: pkix.Name{CommonName: "mx.example.org"}, DNSNames: []string{"mx.example.org"}})
}

// writeSelfSigned makes the certificate and its key: for a day, and for the names
// of the template.
func writeSelfSigned(t *testing.T, cert, key string, template x509.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}
