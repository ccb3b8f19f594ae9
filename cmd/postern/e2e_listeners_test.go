//go:build e2e

package main_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// Listeners with settings of their own in one process, by the built binary.
func TestE2EListeners(t *testing.T) {
	implicit, early, balanced := smtptest.FreePort(t), smtptest.FreePort(t), smtptest.FreePort(t)
	p := startPosternAs(t, setup{
		listeners: fmt.Sprintf(`  - {name: implicit, address: "127.0.0.1:%d", tls: implicit}
  - {name: early, address: "127.0.0.1:%d", tls: "off", pregreet: 8s}
  - {name: balanced, address: "127.0.0.1:%d", tls: starttls, proxy_protocol: ["127.0.0.11"]}
`, implicit, early, balanced),
		extra: "limits: {connection_rate: 6, tarpit: 300ms, errors: 6}\npolicy: {rules: [{name: talker, when: client.pregreet, do: reject}, {name: forged, when: 'spf.result == \"fail\"', do: reject}]}\n",
	})
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

	t.Run("implicit TLS", func(t *testing.T) {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", at(implicit), &tls.Config{ServerName: "mx.example.org", RootCAs: p.roots(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		s := &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
		s.expect("220 ")
		if ehlo := s.say("250", "EHLO mx.sender.example"); strings.Contains(ehlo, "STARTTLS") {
			t.Errorf("STARTTLS within TLS:\n%s", ehlo)
		}
	})
	t.Run("early talker", func(t *testing.T) {
		for _, talks := range []bool{false, true} {
			conn, err := (&net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.12")}}).Dial("tcp", at(early))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			s := &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
			if talks {
				s.send("EHLO mx.sender.example")
				s.expect("554 ")
				s.expect("503 ")
				continue
			}
			s.expect("220 ")
			if ehlo := s.say("250", "EHLO mx.sender.example"); strings.Contains(ehlo, "STARTTLS") {
				t.Errorf("STARTTLS where tls is off:\n%s", ehlo)
			}
		}
	})
	t.Run("PROXY header", func(t *testing.T) {
		open := func(source, first string) *dialogue {
			conn, err := (&net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}).Dial("tcp", at(balanced))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, first); err != nil {
				t.Fatal(err)
			}
			return &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
		}
		header := "PROXY TCP4 127.0.0.66 192.0.2.25 4711 25\r\n"
		s := open("127.0.0.11", header)
		s.expect("220 ")
		s.say("250", "EHLO mx.sender.example")
		s.say("550 5.7.23 ", "MAIL FROM:<alice@sender.example>") // which 127.0.0.66 may not say
		s.say("221 ", "QUIT")
		p.logged(t, "the client behind the balancer", func(_ string, entry map[string]any) bool {
			return entry["msg"] == "connection" && entry["client"] == "127.0.0.66:4711" && entry["listener"] == "balanced"
		})
		s = open("127.0.0.13", "") // NOT: with the header before the greeting, which would be for the rule to refuse
		s.expect("220 ")
		s.send(strings.TrimSuffix(header, "\r\n"))
		s.expect("554 5.7.1 ")
		s = open("127.0.0.11", "EHLO mx.sender.example\r\n") // a listed peer must send one
		if b, err := s.r.ReadByte(); err == nil {
			t.Errorf("answered %q without a header", b)
		}
	})
	t.Run("tarpit and errors", func(t *testing.T) {
		// The first three cost nothing. A busy machine may take its time for them all the
		// same, but hardly in each of five sessions.
		free := time.Hour
		for i := 0; i < 5 && free >= 900*time.Millisecond; i++ {
			s, _ := dial(t, p.addr(), fmt.Sprintf("127.0.0.%d", 20+i))
			s.say("250 ", "NOOP") // before a first good command they count double
			three := func() time.Duration {
				began := time.Now()
				for range 3 {
					s.say("500 5.5.2 ", "NONSENSE")
				}
				return time.Since(began)
			}
			free = min(free, three())
			if slow := three(); slow < 900*time.Millisecond {
				t.Errorf("errors four to six took %v", slow)
			}
			s.expect("421 4.7.0 ")
		}
		if free >= 900*time.Millisecond {
			t.Errorf("the first three errors took %v", free)
		}
	})
	t.Run("connection rate", func(t *testing.T) {
		for i := range 7 { // which have ten seconds for it: one is forgotten after that
			conn, err := (&net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.15")}}).Dial("tcp", p.addr())
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(patience))
			got, err := bufio.NewReader(conn).ReadString('\n')
			conn.Close()
			if want := map[bool]string{true: "220 ", false: "421 4.7.0 "}[i < 6]; err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("connection %d hears %q, %v; want %s", i+1, got, err, want)
			}
		}
		s, _ := dial(t, p.addr(), "127.0.0.16") // others are not concerned
		s.say("221 ", "QUIT")
	})
	t.Run("SNI", func(t *testing.T) {
		config := strings.Replace(string(readFile(t, p.config)), "certificates: [", fmt.Sprintf("certificates: [{certificate: %q, key: %q}, ", p.dir+"/other.pem", p.dir+"/other-key.pem"), 1)
		authority(t, p.dir+"/other.pem", p.dir+"/other-key.pem")
		writeFile(t, p.config, config)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.logged(t, "the reload", func(_ string, entry map[string]any) bool { return entry["msg"] == "configuration reloaded" })
		for name, want := range map[string]string{"mx.example.org": "mx.example.org", "unknown.example": "mail.example.org", "": "mail.example.org"} {
			conn, err := tls.Dial("tcp", at(implicit), &tls.Config{ServerName: name, InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(errors.Join(errors.New(name), err))
			}
			if got := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want {
				t.Errorf("asked for %q: the certificate of %s, want %s", name, got, want)
			}
			conn.Close()
		}
	})
}
