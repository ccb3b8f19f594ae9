//go:build e2e

package main_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/checks/dnstest"
	"postern/proxy/backend/mta"
	"postern/proxy/smtptest"
)

// Who is measured: no proxy at all, HAProxy, which knows nothing of SMTP and so is what
// a proxy can hardly do better than, nginx's mail proxy, and Postern.

// site is what stands behind all peers: two MTAs that keep nothing, and the DNS.
type site struct {
	small int // port of smtp-sink, the cheapest server
	large int // port of one that takes large messages faster than smtp-sink does
	zone  *dnstest.Zone
	dns   string
}

// newSite starts what stands behind the peers.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{small: smtptest.FreePort(t)}
	var err error
	if s.zone, err = dnstest.Parse(benchZone); err != nil {
		t.Fatal(err)
	}
	var stop func()
	s.dns, stop = s.zone.Serve()
	t.Cleanup(stop)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.large = ln.Addr().(*net.TCPAddr).Port
	server := &mta.Server{Hostname: "mta.example.org", Store: smtptest.Nowhere{}, Keywords: smtptest.AllKeywords, MaxSize: 256 << 20, MaxConnections: 1 << 20}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	t.Cleanup(func() { server.Close(); <-ended })

	// Neither XCLIENT nor XFORWARD, which the other peers do not speak.
	serveProgram(t, s.small, nil, "smtp-sink", "-u", "nobody", "-C", "-F", "-a", "-m", "100000", "-h", "mta.example.org", fmt.Sprintf("127.0.0.1:%d", s.small), "4096")
	return s
}

// serveProgram starts a program that is to listen on a port, and waits until it does.
// It is ended when the test ends.
func serveProgram(t *testing.T, port int, prefix []string, name string, args ...string) (pid int) {
	t.Helper()
	needs(t, name)
	line := append(append([]string{}, prefix...), append([]string{name}, args...)...)
	cmd := exec.Command(line[0], line[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // NOT SIGKILL, which would leave nginx's workers behind
		select {
		case <-ended:
		case <-time.After(patience):
			t.Errorf("%s does not end", name)
			cmd.Process.Kill()
		}
	})
	eventually(t, name+" to listen", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended at once: %v\n%s", name, err, said.String())
		default:
		}
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd.Process.Pid
}

// served is a peer that runs.
type served struct {
	addr  string
	pid   int            // 0: there is no proxy
	ours  *postern       // nil: another's
	roots *x509.CertPool // its certificate, if it has STARTTLS
}

// peer is a way to the MTA.
type peer struct {
	name     string
	encrypts bool // has STARTTLS
	slow     bool // waits so long in every message that a quarter of them is enough
	start    func(t *testing.T, s *site, backend int, with setup) served
}

// benchPeers are all that there are on this machine, and in words which are not.
func benchPeers(old string) (peers []peer, missing []string) {
	peers = append(peers,
		peer{name: "direct", start: func(_ *testing.T, _ *site, backend int, _ setup) served {
			return served{addr: fmt.Sprintf("127.0.0.1:%d", backend)}
		}},
		peer{name: theirs, start: startHAProxy})
	const module = "/usr/lib/nginx/modules/ngx_mail_module.so"
	_, err := exec.LookPath("nginx")
	if found, _ := filepath.Glob(module); err == nil && len(found) == 1 {
		peers = append(peers, peer{name: "nginx", encrypts: true, slow: true, start: func(t *testing.T, s *site, backend int, with setup) served {
			return startNginxMail(t, module, backend, with)
		}})
	} else {
		missing = append(missing, "nginx was not measured: "+module+" is not here (Debian: apt-get install nginx-light libnginx-mod-mail)")
	}
	postern := func(name string, journal bool, change func(*setup)) {
		peers = append(peers, peer{name: name, encrypts: true, start: func(t *testing.T, s *site, backend int, with setup) served {
			change(&with)
			return startBenchPostern(t, s, backend, with, journal)
		}})
	}
	if old != "" {
		postern(oldOnes, true, func(with *setup) { with.binary = old })
	}
	postern(unchecked, false, func(with *setup) {
		with.extra += "policy: {builtin: \"off\"}\nheaders: {authentication_results: false, received_spf: false, received: false}\n"
	})
	postern(withoutJournal, false, func(*setup) {})
	postern(ours, true, func(*setup) {})
	return peers, missing
}

// The peers that are compared with others. Ours is what all of this is about.
const (
	theirs         = "HAProxy"
	oldOnes        = "Postern, old"
	unchecked      = "Postern, no checks" // neither rules nor journal nor fields on top, each of which would ask for some
	withoutJournal = "Postern, no journal"
	ours           = "Postern"
)

// startBenchPostern starts the built binary with benchSetup.
func startBenchPostern(t *testing.T, s *site, backend int, with setup, journal bool) served {
	t.Helper()
	p := startPosternAs(t, benchSetup(t, s, backend, with, journal))
	return served{addr: p.addr(), pid: p.cmd.Process.Pid, ours: p, roots: p.roots(t)}
}

// benchSetup adds to a setup: the built-in policy, all its checks, and the log in a file. Limits that would turn away a
// client who sends all there is are wide.
func benchSetup(t *testing.T, s *site, backend int, with setup, journal bool) setup {
	with.dns = s.dns
	with.backends = fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: "off", identity: none}]`, backend)
	with.extra += "limits: {message_size: 200MiB, connections: 20000, connections_per_client: 20000}\n"
	if journal {
		with.extra += fmt.Sprintf("journal: {path: %q}\n", t.TempDir())
	}
	return with
}

func startHAProxy(t *testing.T, _ *site, backend int, with setup) served {
	t.Helper()
	port, file := smtptest.FreePort(t), t.TempDir()+"/haproxy.cfg"
	writeFile(t, file, fmt.Sprintf(`global
    maxconn 6000
defaults
    mode tcp
    timeout connect 10s
    timeout client 5m
    timeout server 5m
listen smtp
    bind 127.0.0.1:%d backlog 4096
    server mta 127.0.0.1:%d
`, port, backend))
	return served{addr: fmt.Sprintf("127.0.0.1:%d", port), pid: serveProgram(t, port, with.prefix, "haproxy", "-db", "-f", file)}
}

// startNginxMail starts nginx, which asks a web server where each mail is to go; that is
// not counted for it.
func startNginxMail(t *testing.T, module string, backend int, with setup) served {
	t.Helper()
	where := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Auth-Status", "OK")
		h.Set("Auth-Server", "127.0.0.1")
		h.Set("Auth-Port", strconv.Itoa(backend))
	}))
	t.Cleanup(where.Close)
	port, dir := smtptest.FreePort(t), t.TempDir()
	writeCertificate(t, dir+"/cert.pem", dir+"/key.pem")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(t, dir+"/cert.pem"))
	writeFile(t, dir+"/nginx.conf", fmt.Sprintf(`load_module %s;
daemon off;
pid %s/pid;
error_log %s/error.log;
worker_processes auto;
worker_rlimit_nofile 12000;
events { worker_connections 10000; }
mail {
    server_name mx.example.org;
    auth_http %s/;
    proxy_pass_error_message on;
    server {
        listen 127.0.0.1:%d backlog=4096;
        protocol smtp;
        smtp_auth none;
        xclient off;
        starttls on;
        ssl_protocols TLSv1.3;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
    }
}
`, module, dir, dir, where.URL, port))
	return served{addr: fmt.Sprintf("127.0.0.1:%d", port), pid: serveProgram(t, port, with.prefix, "nginx", "-p", dir, "-c", dir+"/nginx.conf"), roots: roots}
}

// processor is what the whole process tree has used of the processors.
func (s served) processor(t *testing.T) (sum time.Duration) {
	t.Helper()
	if s.pid != 0 {
		for _, pid := range processTree(t, s.pid) {
			sum += processorTime(t, pid)
		}
	}
	return sum
}

// garbage is what Postern says of its memory.
type garbage struct{ allocations, octets float64 }

// garbage asks Postern's metrics, which leaves some garbage too.
func (s served) garbage(t *testing.T) (g garbage) {
	t.Helper()
	if s.ours != nil {
		m := s.ours.metrics(t, "go_memstats_mallocs_total", "go_memstats_alloc_bytes_total")
		g = garbage{m[0], m[1]}
	}
	return g
}

func (g garbage) less(o garbage) garbage {
	return garbage{g.allocations - o.allocations, g.octets - o.octets}
}

// memory is that of the whole process tree: VmRSS, what is resident, or VmHWM, the most that was; in octets.
func (s served) memory(t *testing.T, field string) (octets int64) {
	t.Helper()
	if s.pid == 0 {
		return 0
	}
	for _, pid := range processTree(t, s.pid) {
		octets += memory(t, pid, field)
	}
	return octets
}

// calls counts the system calls that a peer makes while work is done, which takes much
// longer meanwhile.
func (s served) calls(t *testing.T, work func()) int {
	t.Helper()
	out := t.TempDir() + "/strace"
	cmd := exec.Command("strace", "-c", "-f", "-o", out)
	for _, pid := range processTree(t, s.pid) {
		cmd.Args = append(cmd.Args, "-p", strconv.Itoa(pid))
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	eventually(t, "strace to attach", func() bool {
		status := string(readFile(t, fmt.Sprintf("/proc/%d/status", s.pid)))
		return !strings.Contains(status, "TracerPid:\t0\n")
	})
	work()
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	for line := range strings.Lines(string(readFile(t, out))) { // "100.00 0.1 4 35028 2011 total"
		if f := strings.Fields(line); len(f) >= 5 && f[len(f)-1] == "total" {
			n, err := strconv.Atoi(f[3])
			if err != nil {
				t.Fatalf("strace says %q", line)
			}
			return n
		}
	}
	t.Fatalf("strace said nothing:\n%s", readFile(t, out))
	return 0
}
