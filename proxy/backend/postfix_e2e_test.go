//go:build e2e

package backend

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/proxy/smtp"
)

// postfix is a private instance of the real thing, with a listener for each
// way in which it can be told who the client is. It needs root, as Postfix does.
type postfix struct {
	dir, ca                   string
	plain, proxy, screen, old string // addresses
}

// lastPort is the last that freePort gave.
var lastPort = os.Getpid() * 37

// freePort returns an address of 127.0.0.1 that stays free until Postfix has
// started. NOT: one with a port that the system gives for port 0, as it may give it to
// any client's connection the next moment; those below 32768 it does not.
func freePort(t *testing.T) string {
	const first, many = 20000, 12000
	for range many {
		lastPort++
		addr := fmt.Sprintf("127.0.0.1:%d", first+lastPort%many)
		if ln, err := net.Listen("tcp", addr); err == nil {
			_ = ln.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// newPostfix starts one; more are lines for its main.cf.
func newPostfix(t *testing.T, more ...string) *postfix {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-postfix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &postfix{dir: dir, plain: freePort(t), proxy: freePort(t), screen: freePort(t), old: freePort(t)}
	etc := filepath.Join(dir, "etc")
	for _, d := range []string{etc, filepath.Join(dir, "spool"), filepath.Join(dir, "data")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root := newAuthority(t)
	p.ca = root.file(t)
	cert := root.server(t, "127.0.0.1").Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})...)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("chain.pem", string(chain))
	write("main.cf", strings.NewReplacer("DIR", dir, "ETC", etc).Replace(`compatibility_level = 3.6
queue_directory = DIR/spool
data_directory = DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
maillog_file = DIR/mail.log
maillog_file_prefixes = /tmp, DIR
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.test
mydestination =
mynetworks = 192.0.2.99/32
inet_interfaces = 127.0.0.1
inet_protocols = all
relay_domains = example.org
default_transport = discard
relay_transport = discard
alias_maps =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions =
smtpd_delay_reject = yes
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_authorized_xforward_hosts = 127.0.0.1
smtpd_tls_security_level = may
smtpd_tls_chain_files = ETC/chain.pem
postscreen_greet_action = enforce
postscreen_access_list = permit_mynetworks
postscreen_cache_map = btree:DIR/data/postscreen_cache
`)+strings.Join(more, "\n")+"\n")
	port := func(a string) string { _, n, _ := net.SplitHostPort(a); return "127.0.0.1:" + n }
	write("master.cf", fmt.Sprintf(`%s inet n - n - - smtpd
%s inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
%s inet n - n - 1 postscreen
  -o postscreen_upstream_proxy_protocol=haproxy
%s inet n - n - - smtpd
  -o smtpd_discard_ehlo_keywords=pipelining,chunking,xforward,xclient
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
discard unix - - n - - discard
postlog unix-dgram n - n - 1 postlogd
`, port(p.plain), port(p.proxy), port(p.screen), port(p.old)))
	_ = exec.Command("postfix", "-c", etc, "check").Run()
	cmd := exec.Command("/usr/lib/postfix/sbin/master", "-c", etc, "-d")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = exec.Command("postfix", "-c", etc, "stop").Run()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", p.plain)
		if err == nil {
			_ = c.Close()
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("Postfix does not come up: %v\n%s", err, p.log(""))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// log returns the lines of the log that match.
func (p *postfix) log(pattern string) []string {
	text, _ := os.ReadFile(filepath.Join(p.dir, "mail.log"))
	var lines []string
	re := regexp.MustCompile(pattern)
	for line := range strings.Lines(string(text)) {
		if re.MatchString(line) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// wait waits until the log has n lines that match.
func (p *postfix) wait(t *testing.T, n int, pattern string) []string {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		lines := p.log(pattern)
		if len(lines) >= n {
			return lines
		}
		if time.Now().After(end) {
			t.Fatalf("%d lines with %s, want %d\n%s", len(lines), pattern, n, strings.Join(p.log(""), "\n"))
		}
	}
}

func TestPostfix(t *testing.T) {
	p := newPostfix(t)
	six := Client{Addr: netip.MustParseAddrPort("[2001:db8::7]:4712"), Local: netip.MustParseAddrPort("[2001:db8::1]:25"), Helo: "six.example", ESMTP: true}
	odd := Client{Addr: netip.MustParseAddrPort("192.0.2.8:4713"), Local: alice.Local, Helo: "a b=c\u00fc", NameTemporary: true}
	open := func(t *testing.T, b configs.Backend) *Set {
		b.Name = "postfix"
		s, err := New([]configs.Backend{b}, nil, Options{Hostname: "mx.test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	transaction := func(t *testing.T, s *Set, client Client) *Conn {
		t.Helper()
		c, err := s.pools[0].Open(context.Background(), client)
		if err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(p.log(""), "\n"))
		}
		c.QueueMail(sender, nil)
		c.QueueRcpt(recipient, nil)
		c.QueueRcpt(smtp.Path{Local: "x", Domain: "elsewhere.example"}, nil)
		want(t, c, 250)
		want(t, c, 250)
		want(t, c, 554) // relay denied
		if c.Capabilities().Chunking {
			c.QueueBdat(8, false)
			_, _ = c.Write([]byte("A: b\r\n\r\n"))
			c.QueueBdat(3, true)
			_, _ = c.Write([]byte("x\r\n"))
			want(t, c, 250)
			want(t, c, 250)
		} else {
			c.QueueData()
			want(t, c, 354)
			_, _ = c.Write([]byte("A: b\r\n\r\nx\r\n.\r\n"))
			if r, err := c.FinalReply(); err != nil || r.Code != 250 {
				t.Fatal(r, err)
			}
		}
		c.Release()
		return c
	}
	// Postfix takes one XCLIENT a connection, unless the client that it is told
	// of may say XCLIENT itself.
	t.Run("XCLIENT", func(t *testing.T) {
		s := open(t, backendAt(identityXClient, p.plain))
		for _, c := range []Client{alice, six, odd, alice} {
			transaction(t, s, c)
		}
		if n := idleOf(s); n != 0 {
			t.Errorf("%d idle", n)
		}
		p.wait(t, 2, `client=mail\.example\.com\[192\.0\.2\.7\]`)
		p.wait(t, 1, `client=unknown\[2001:db8::7\]`)
		p.wait(t, 1, `client=unknown\[192\.0\.2\.8\]`)
		p.wait(t, 1, `from=<a@example\.com>.*helo=<six\.example>`)
		p.wait(t, 4, `disconnect from .* ehlo=2 xclient=0/1 mail=1 rcpt=1/2 bdat=2 quit=1`)
	})
	t.Run("XCLIENT again and again", func(t *testing.T) {
		s := open(t, backendAt(identityXClient, p.plain))
		self := Client{Addr: netip.MustParseAddrPort("127.0.0.1:4714"), Name: "localhost", Helo: "self.example", ESMTP: true}
		for range 3 {
			transaction(t, s, self)
		}
		if n := idleOf(s); n != 1 {
			t.Errorf("%d idle", n)
		}
		s.Close()
		p.wait(t, 1, `disconnect from localhost.* ehlo=4 xclient=0/3 mail=3 rcpt=3/6 bdat=6 quit=1`)
	})
	t.Run("XFORWARD", func(t *testing.T) {
		s := open(t, backendAt(identityXForward, p.plain))
		for range 2 {
			transaction(t, s, alice)
		}
		s.Close()
		p.wait(t, 2, `client=localhost\[127\.0\.0\.1\], orig_client=mail\.example\.com\[192\.0\.2\.7\]`)
	})
	t.Run("PROXY v2", func(t *testing.T) {
		s := open(t, backendAt(identityProxyV2, p.proxy))
		if err := s.pools[0].addrs[0].probe(context.Background()); err != nil {
			t.Errorf("a probe with LOCAL: %v", err)
		}
		tls := alice
		tls.TLS, tls.TLSVersion, tls.TLSCipher = true, "TLSv1.3", "TLS_AES_128_GCM_SHA256"
		tls.Addr = netip.MustParseAddrPort("192.0.2.17:4711")
		transaction(t, s, tls)
		transaction(t, s, six)
		p.wait(t, 1, `client=unknown\[192\.0\.2\.17\]`)
		p.wait(t, 2, `client=unknown\[2001:db8::7\]`)
	})
	t.Run("PROXY v2 to postscreen", func(t *testing.T) {
		s := open(t, backendAt(identityProxyV2, p.screen))
		client := alice
		client.Addr = netip.MustParseAddrPort("192.0.2.99:4711")
		transaction(t, s, client)
		p.wait(t, 1, `postscreen.*CONNECT from \[192\.0\.2\.99\]:4711 to \[198\.51\.100\.1\]:25`)
		p.wait(t, 1, `client=unknown\[192\.0\.2\.99\]`)
	})
	t.Run("verified TLS", func(t *testing.T) {
		b := backendAt(identityXClient, p.plain)
		b.TLS, b.CA = tlsVerify, p.ca
		s := open(t, b)
		for range 3 {
			if c := transaction(t, s, alice); !c.Capabilities().Verified {
				t.Errorf("%+v", c.Capabilities())
			}
		}
		b.CA = newAuthority(t).file(t)
		if e := failure(t, open(t, b), alice); e.Kind != KindTLS {
			t.Error(e)
		}
	})
	t.Run("no PIPELINING, no CHUNKING", func(t *testing.T) {
		s := open(t, backendAt(identityNone, p.old))
		for range 2 {
			transaction(t, s, alice)
		}
		if e := failure(t, open(t, backendAt(identityXClient, p.old)), alice); e.Kind != KindIdentity {
			t.Error(e)
		}
	})
	if testing.Verbose() {
		t.Log("\n" + strings.Join(p.log(""), "\n"))
	}
}
