//go:build e2e

package main_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	guides "postern/cmd/postern"

	"postern/proxy/smtptest"
)

// Each extension with each backend that Debian has: what was announced through
// Postern, and what became of a message that used it.

var mtaFolder = flag.String("e2e.mtas", "", "the folder that .ci/mtas has filled")

// backendMTA is an MTA behind Postern.
type backendMTA struct {
	name     string
	backends string // YAML
	own      string // its own EHLO reply; empty: it cannot be asked
	clear    string // why the leg to it is not encrypted; empty: it is, verified
	find     func(mark string) []byte
	log      func() string
}

// authority makes a certificate for 127.0.0.1, which is its own root.
func authority(t *testing.T, cert, key string) {
	t.Helper()
	writeSelfSigned(t, cert, key, x509.Certificate{Subject: pkix.Name{CommonName: "mail.example.org"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
}

// finder looks for the message with a mark in the files that match any of the patterns.
func finder(patterns ...string) func(string) []byte {
	return func(mark string) []byte {
		for _, pattern := range patterns {
			files, _ := filepath.Glob(pattern)
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte("<"+mark+"@sender.example>")) {
					return b
				}
			}
		}
		return nil
	}
}

// proxyLocal is the PROXY header, version 2, of somebody who speaks for himself.
const proxyLocal = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// introduction is how the MTA behind greets us.
func introduction(t *testing.T, port int, header string) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	var reply string
	eventually(t, "a greeting on "+addr, func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, header)
		s := &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
		if b, err := s.r.Peek(3); err != nil || string(b) != "220" {
			return false
		}
		s.reply()
		reply = s.say("250", "EHLO mx.example.org")
		return true
	})
	return reply
}

func postfixBackend(t *testing.T) *backendMTA {
	mta := newPostfix(t)
	authority(t, mta.dir+"/etc/cert.pem", mta.dir+"/etc/key.pem")
	master := mta.dir + "/etc/master.cf"
	writeFile(t, master, strings.Replace(string(readFile(t, master)), "smtpd_tls_security_level=none", "smtpd_tls_security_level=may", 1))
	main := mta.dir + "/etc/main.cf"
	writeFile(t, main, string(readFile(t, main))+"smtpd_tls_cert_file = "+mta.dir+"/etc/cert.pem\nsmtpd_tls_key_file = "+mta.dir+"/etc/key.pem\nsmtpd_tls_received_header = yes\n")
	mta.start(t)
	return &backendMTA{
		name: "Postfix", own: introduction(t, mta.port, ""),
		backends: fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: verify, ca: %q, identity: xclient}]`, mta.port, mta.dir+"/etc/cert.pem"),
		find:     finder(mta.dir + "/mail/raw/new/*"),
		log:      func() string { b, _ := os.ReadFile(mta.dir + "/maillog"); return string(b) },
	}
}

// unpacked copies the folder of .ci/mtas for an MTA of our own, with accounts
// and a mailbox, to be run by chroot: as packages Exim and OpenSMTPD
// conflict with Postfix, and what is compiled into them are fixed paths.
func unpacked(t *testing.T) string {
	t.Helper()
	needs(t, "cp", "chroot")
	if *mtaFolder == "" {
		t.Fatal("Exim and OpenSMTPD are not here: run `.ci/mtas DIR` and give -e2e.mtas DIR; `make e2e` does both")
	}
	dir, err := os.MkdirTemp("", "postern-mta-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tool(t, nil, "cp", "-a", *mtaFolder+"/.", dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/etc/passwd", "root:x:0:0::/root:/bin/sh\nDebian-exim:x:5100:5100::/nonexistent:/bin/sh\n"+
		"opensmtpd:x:5101:5101::/var/lib/opensmtpd/empty:/bin/sh\nopensmtpq:x:5102:5102::/nonexistent:/bin/sh\nmailbox:x:5103:5103::/var/mailbox:/bin/sh\n")
	writeFile(t, dir+"/etc/group", "root:x:0:\nDebian-exim:x:5100:\nopensmtpd:x:5101:\nopensmtpq:x:5102:\nmailbox:x:5103:\n")
	writeFile(t, dir+"/etc/hosts", "127.0.0.1 localhost\n")
	writeFile(t, dir+"/etc/mailname", "mail.example.org\n")
	for _, sub := range []struct {
		path  string
		owner int
		mode  os.FileMode
	}{
		{"/dev", 0, 0o755}, {"/tmp", 0, 0o1777}, {"/run", 0, 0o755}, {"/var/run", 0, 0o755}, {"/var/mailbox", 5103, 0o700},
		{"/var/spool/exim4", 5100, 0o750}, {"/var/log/exim4", 5100, 0o750}, {"/var/spool/smtpd", 0, 0o711}, {"/run/exim4", 5100, 0o750},
	} {
		if err := os.MkdirAll(dir+sub.path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir+sub.path, sub.owner, sub.owner); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir+sub.path, sub.mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, minor := range map[string]int{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
		if err := syscall.Mknod(dir+"/dev/"+name, syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
			t.Fatalf("mknod /dev/%s: %v", name, err)
		}
		if err := os.Chmod(dir+"/dev/"+name, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runIn starts a server in a folder of its own and ends it, and all that it
// started, with the test.
func runIn(t *testing.T, dir string, argv ...string) (log func() string) {
	t.Helper()
	out, err := os.Create(dir + "/output")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range processTree(t, cmd.Process.Pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Wait()
	})
	return func() string {
		b, _ := os.ReadFile(dir + "/output")
		logs, _ := filepath.Glob(dir + "/var/log/exim4/*")
		for _, l := range logs {
			more, _ := os.ReadFile(l)
			b = append(b, more...)
		}
		return string(b)
	}
}

func eximBackend(t *testing.T) *backendMTA {
	dir, port := unpacked(t), smtptest.FreePort(t)
	authority(t, dir+"/etc/exim4/cert.pem", dir+"/etc/exim4/key.pem")
	for _, f := range []string{"/etc/exim4/cert.pem", "/etc/exim4/key.pem"} {
		if err := os.Chown(dir+f, 5100, 5100); err != nil {
			t.Fatal(err)
		}
	}
	// Port 25 of the guide is a port that nobody connects to.
	said := strings.NewReplacer("25 : 10025", fmt.Sprintf("%d : %d", smtptest.FreePort(t), port), "10025", strconv.Itoa(port)).Replace(guides.BlockOf(t, deployGuide, "daemon_smtp_ports"))
	writeFile(t, dir+"/etc/exim4/exim4.conf", fmt.Sprintf(string(readFile(t, "testdata/e2e/exim4.conf")), said))
	log := runIn(t, dir, "/usr/sbin/exim4", "-bdf", "-q1h")
	return &backendMTA{
		name: "Exim", own: introduction(t, port, proxyLocal),
		backends: fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: verify, ca: %q, identity: proxy-v2}]`, port, dir+"/etc/exim4/cert.pem"),
		find:     finder(dir + "/var/mailbox/Maildir/new/*"), log: log,
	}
}

func openSMTPDBackend(t *testing.T) *backendMTA {
	dir, port := unpacked(t), smtptest.FreePort(t)
	authority(t, dir+"/etc/smtpd.crt", dir+"/etc/smtpd.key")
	said := strings.Replace(guides.BlockOf(t, deployGuide, "listen on 127.0.0.1 port 10025"), "port 10025", fmt.Sprintf("port %d tls pki mail", port), 1)
	writeFile(t, dir+"/etc/smtpd.conf", fmt.Sprintf(string(readFile(t, "testdata/e2e/smtpd.conf")), said))
	log := runIn(t, dir, "/usr/sbin/smtpd", "-d")
	return &backendMTA{
		name: "OpenSMTPD", own: introduction(t, port, proxyLocal),
		backends: fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: off, identity: proxy-v2}]`, port),
		clear:    "6.8.0p2 of Debian 12, with OpenSSL 3, fails each handshake, openssl's too: EVP lib",
		find:     finder(dir + "/var/mailbox/Maildir/new/*"), log: log,
	}
}

// session opens one with the listener, with TLS or without, and says EHLO.
func (p *postern) session(t *testing.T, encrypted bool) (s *dialogue, ehlo string) {
	t.Helper()
	s, conn := dial(t, p.addr(), honest)
	ehlo = s.say("250", "EHLO mx.sender.example")
	if encrypted {
		s.say("220 ", "STARTTLS")
		tc := tls.Client(conn, &tls.Config{ServerName: "mx.example.org", RootCAs: p.roots(t)})
		s.r, s.w = bufio.NewReader(tc), tc
		ehlo = s.say("250", "EHLO mx.sender.example")
	}
	return s, ehlo
}

// keyword returns an EHLO keyword with its parameters, or nothing.
func keyword(ehlo, name string) string {
	line := regexp.MustCompile(`(?m)^250[- ]` + name + `\b.*$`).FindString(ehlo)
	return strings.TrimSpace(strings.TrimLeft(strings.TrimPrefix(line, "250"), "- "))
}

// usage is a message that makes use of an extension.
type usage struct {
	extension string
	tls       bool
	from      string // empty: alice@sender.example
	mail      string // parameters
	rcpt      string
	body      string
	chunks    bool
	pipelined bool
	always    bool // Postern announces it whatever the backend can do
}

func TestE2EExtensionsByBackend(t *testing.T) {
	usages := []usage{
		{extension: "SIZE", mail: " SIZE=700", always: true},
		{extension: "8BITMIME", mail: " BODY=8BITMIME", body: "gr\xc3\xbc\xc3\x9fe\r\n"},
		{extension: "SMTPUTF8", from: "j\xc3\xb6rg@plain.example", mail: " SMTPUTF8 BODY=8BITMIME"},
		{extension: "DSN", mail: " RET=HDRS ENVID=QQ314159", rcpt: " NOTIFY=NEVER ORCPT=rfc822;raw@example.org"},
		{extension: "CHUNKING", chunks: true, body: ".\r\n..\r\nlast line without its end", always: true},
		{extension: "BINARYMIME", chunks: true, mail: " BODY=BINARYMIME", body: "bare \n and \r and \x00\r\n"},
		{extension: "PIPELINING", pipelined: true, always: true},
		{extension: "REQUIRETLS", tls: true, mail: " REQUIRETLS"},
		{extension: "LIMITS", always: true},
		{extension: "SUBMITTER", mail: " SUBMITTER=alice@sender.example", always: true},
		{extension: "STARTTLS", tls: true, always: true},
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nextension\tbackend\tbackend offers\tPostern announces\ta message that uses it")
	for _, start := range []func(*testing.T) *backendMTA{
		postfixBackend, eximBackend, openSMTPDBackend,
		func(*testing.T) *backendMTA { return &backendMTA{name: "embedded", clear: "in the same process"} },
	} {
		b := start(t)
		t.Run(b.name, func(t *testing.T) {
			p := startPosternAs(t, setup{backends: b.backends})
			if b.find == nil {
				b.find = finder(p.dir + "/Maildir/new/*")
			}
			t.Cleanup(func() {
				if t.Failed() && b.log != nil {
					t.Logf("%s's log:\n%s", b.name, b.log())
				}
			})
			for _, u := range usages {
				announced, became := p.use(t, b, u)
				offers := "?"
				if b.own != "" {
					if offers = keyword(b.own, u.extension); offers == "" {
						offers = "-"
					}
				}
				if announced == "" {
					announced = "-"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.extension, b.name, offers, announced, became)
			}
			// The other side of SIZE: more than was announced.
			s, ehlo := p.session(t, false)
			announced := keyword(ehlo, "SIZE")
			s.say("552 5.3.4 ", "MAIL FROM:<alice@sender.example> SIZE=%s0", strings.TrimPrefix(announced, "SIZE "))
			fmt.Fprintf(w, "SIZE, ten times\t%s\t\t%s\t552 5.3.4 at MAIL\n", b.name, announced)
		})
	}
	w.Flush()
	t.Log(table.String())
}

// use sends a message. What is announced must be kept, and what is not must be
// refused at MAIL.
func (p *postern) use(t *testing.T, b *backendMTA, u usage) (announced, became string) {
	t.Helper()
	s, ehlo := p.session(t, u.tls)
	announced = keyword(ehlo, u.extension)
	if u.extension == "STARTTLS" {
		// Inside TLS it is not listed; that it was before is shown by its being on.
		announced = "STARTTLS"
	}
	if u.always && announced == "" {
		t.Errorf("%s: not announced", u.extension)
	}
	if u.from == "" {
		u.from = "alice@sender.example"
	}
	mark := strings.ToLower(u.extension)
	message := "From: alice@sender.example\r\nTo: raw@example.org\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@sender.example>\r\n\r\n" + u.body
	if u.body == "" {
		message += "hello\r\n"
	}
	mail, rcpt := "MAIL FROM:<"+u.from+">"+u.mail, "RCPT TO:<raw@example.org>"+u.rcpt
	if u.pipelined {
		s.send("%s\r\n%s\r\nDATA", mail, rcpt)
		s.expect("250 ")
		s.expect("250 ")
		s.expect("354 ")
	} else {
		s.send("%s", mail)
		if r := s.reply(); r[0] != '2' {
			if announced != "" {
				t.Errorf("%s: announced and %q", u.extension, r)
			} else if !regexp.MustCompile(`^5(01|55|50|53) `).MatchString(r) {
				t.Errorf("%s: not announced and %q", u.extension, r)
			}
			return announced, r
		}
		if announced == "" {
			t.Errorf("%s: not announced and taken", u.extension)
		}
		s.say("250 ", "%s", rcpt)
	}
	if u.chunks {
		half := len(message) / 2
		fmt.Fprintf(s.w, "BDAT %d\r\n%s", half, message[:half])
		s.expect("250 ")
		fmt.Fprintf(s.w, "BDAT %d LAST\r\n%s", len(message)-half, message[half:])
	} else {
		if !u.pipelined {
			s.say("354 ", "DATA")
		}
		if _, err := s.w.Write(onWire([]byte(message))); err != nil {
			t.Fatal(err)
		}
	}
	reply := s.reply()
	if reply[0] != '2' {
		t.Errorf("%s: %q", u.extension, reply)
		return announced, reply
	}
	var got []byte
	eventually(t, "the message for "+u.extension+" in "+b.name, func() bool { got = b.find(mark); return got != nil })
	became = reply[:3] + ", delivered"
	want := onDisk([]byte(message))
	switch {
	case bytes.HasSuffix(bytes.TrimSuffix(got, []byte("\n")), bytes.TrimSuffix(want, []byte("\n"))):
		became += " as sent"
	default:
		t.Errorf("%s: changed on its way to %s:\n%q\nwant\n%q", u.extension, b.name, got, want)
	}
	switch {
	case u.extension != "STARTTLS":
	case b.clear != "":
		became += "; in the clear behind: " + b.clear
	default:
		if regexp.MustCompile(`(?i)esmtps|TLSv?1`).Match(firstReceived(got)) {
			became += ", by verified TLS behind"
		} else {
			t.Errorf("not encrypted behind: %s", firstReceived(got))
		}
	}
	return announced, became
}

// firstReceived is the field that the backend itself has put on top.
func firstReceived(message []byte) []byte {
	return regexp.MustCompile(`(?m)^Received: .*\n(?:[ \t].*\n)*`).Find(message)
}
