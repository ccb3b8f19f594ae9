//go:build e2e

package main_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/proxy/smtptest"
)

// recorder is a milter that wants to be told everything, agrees to everything, and writes
// down what it is told.
type recorder struct {
	address string
	// steps are the steps that it does without (SMFIP), and wants its macros (SMFIM), as it negotiates.
	steps uint32

	mu    sync.Mutex
	heard [][]string // of each conversation that came to the end of a message
}

// newRecorder serves one until the test ends.
func newRecorder(t *testing.T) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{address: ln.Addr().String()}
	var conversations sync.WaitGroup
	t.Cleanup(func() { ln.Close(); conversations.Wait() })
	conversations.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { c.Close() })
			conversations.Go(func() {
				defer stop()
				defer c.Close()
				r.converse(c)
			})
		}
	})
	return r
}

// converse writes down one connection.
func (r *recorder) converse(c net.Conn) {
	in := bufio.NewReader(c)
	var heard []string
	var body strings.Builder
	reply := func(code byte, data []byte) bool {
		_, err := c.Write(append(append(binary.BigEndian.AppendUint32(nil, uint32(1+len(data))), code), data...))
		return err == nil
	}
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		data := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(in, data); err != nil {
			return
		}
		texts := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		switch code := head[4]; code {
		case 'O':
			b := binary.BigEndian.AppendUint32(nil, 6)
			b = append(b, data[4:8]...)
			if !reply('O', binary.BigEndian.AppendUint32(b, r.steps)) {
				return
			}
			continue
		case 'D':
			for i := 1; i < len(texts); i += 2 {
				name := texts[i-1]
				if i == 1 {
					name = name[1:]
				}
				heard = append(heard, fmt.Sprintf("macro for %c: %s=%s", data[0], strings.Trim(name, "{}"), texts[i]))
			}
			continue
		case 'A': // no message: the connection stays
			heard = slices.DeleteFunc(heard, func(line string) bool { return line[0] != 'C' && !strings.HasPrefix(line, "macro for C") })
			body = strings.Builder{}
			continue
		case 'Q':
			return
		case 'B':
			body.Write(data)
		case 'C':
			// The name; the family and the port, which differs each time; the address.
			name, rest, _ := strings.Cut(string(data), "\x00")
			heard = append(heard, fmt.Sprintf("C %s %c %s", name, rest[0], strings.TrimSuffix(rest[3:], "\x00")))
		case 'E':
			heard = append(heard, "body: "+body.String(), "E")
			r.mu.Lock()
			r.heard = append(r.heard, heard)
			r.mu.Unlock()
			heard, body = nil, strings.Builder{}
		default:
			heard = append(heard, strings.TrimSuffix(string(code)+" "+strings.Join(texts, " "), " "))
		}
		if !reply('c', nil) {
			return
		}
	}
}

// last waits for the nth conversation about a message, from 0.
func (r *recorder) last(t *testing.T, n int) []string {
	t.Helper()
	eventually(t, "a milter to be told of a message", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.heard) == n+1
	})
	return r.heard[n]
}

// seen is a command, with the macros that a milter sees then: those of all stages so far.
type seen struct {
	command string
	macros  map[string]string
}

// sight makes of what a milter was told what it sees.
func sight(told []string) (all []seen) {
	macros := map[string]string{}
	for _, line := range told {
		if of, macro, ok := strings.Cut(line, ": "); ok && strings.HasPrefix(of, "macro for ") {
			name, value, _ := strings.Cut(macro, "=")
			macros[name] = value
			continue
		}
		all = append(all, seen{line, maps.Clone(macros)})
	}
	return all
}

// compare compares what Postfix told with what we did. What differs is what the reference lists.
func compare(t *testing.T, theirs, ours []string) {
	t.Helper()
	a, b := sight(theirs), sight(ours)
	if len(a) != len(b) {
		t.Fatalf("Postfix tells\n%s\nand Postern\n%s", strings.Join(theirs, "\n"), strings.Join(ours, "\n"))
	}
	// What Postfix does with the mail next is nothing that we know; versions and ids are each one's own.
	apart := []string{"mail_host", "mail_mailer", "rcpt_host", "rcpt_mailer"}
	own := []string{"v", "i"}
	sawID := false
	for i := range a {
		if a[i].command != b[i].command {
			t.Errorf("Postfix tells %q, and Postern %q", a[i].command, b[i].command)
		}
		for name, value := range a[i].macros {
			switch said, ok := b[i].macros[name]; {
			case slices.Contains(apart, name):
				if ok {
					t.Errorf("at %.20q we do say %s=%s", a[i].command, name, said)
				}
			case !ok, said != value && !slices.Contains(own, name):
				t.Errorf("at %.20q Postfix says %s=%s, and Postern %q", a[i].command, name, value, said)
			}
			sawID = sawID || name == "i"
		}
		for name, value := range b[i].macros {
			// Our id is there from MAIL on, Postfix's from the first recipient that it takes.
			if _, ok := a[i].macros[name]; !ok && (name != "i" || sawID) {
				t.Errorf("at %.20q Postern says %s=%s, and Postfix nothing", a[i].command, name, value)
			}
		}
	}
	if !sawID {
		t.Error("Postfix said no id")
	}
}

// The same messages by Postfix, which asks a milter that wants to know everything, and by Postern,
// which asks another one: what the two were told is the same, but for what the reference lists.
func TestE2EMilterIsToldAsByPostfix(t *testing.T) {
	theirs, ours := newRecorder(t), newRecorder(t)
	postfix := newPostfix(t)
	balanced := smtptest.FreePort(t)
	behind := startPostfix(t)
	p := startPosternAs(t, setup{
		backends:  fmt.Sprintf(`[{name: mta, addresses: ["127.0.0.1:%d"], tls: off, identity: none}]`, behind.port),
		listeners: fmt.Sprintf("  - {name: balanced, address: \"127.0.0.1:%d\", tls: starttls, proxy_protocol: [\"127.0.0.1\"]}\n", balanced),
		extra: fmt.Sprintf(`milters: [{name: recorder, address: %q, timeout: 1m}]
policy:
  builtin: off
  rules: [{name: away, when: 'milter.recorder.action == "temperror"', do: defer}]
`, ours.address)})
	master := postfix.dir + "/etc/master.cf"
	writeFile(t, master, strings.Replace(string(readFile(t, master)), "    -o smtpd_tls_security_level=none\n", fmt.Sprintf(
		"    -o smtpd_milters=inet:%s\n    -o myhostname=mx.example.org\n    -o milter_macro_daemon_name=balanced\n    -o inet_protocols=all\n"+
			"    -o {milter_connect_macros=j {daemon_name} {daemon_addr} v _ {client_addr} {client_name} {client_port} {client_ptr}}\n"+
			"    -o smtpd_tls_security_level=may\n    -o smtpd_tls_cert_file=%s\n    -o smtpd_tls_key_file=%s\n", theirs.address, p.ca, p.key), 1))
	postfix.start(t)

	for n, c := range []struct {
		name, xclient, proxy string
		tls                  bool
	}{
		{"a client with a name", "NAME=mx.sender.example REVERSE_NAME=mx.sender.example ADDR=127.0.0.7", "TCP4 127.0.0.7 127.0.0.1", false},
		{"one without", "NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] ADDR=192.0.2.66", "TCP4 192.0.2.66 127.0.0.1", true},
		{"one whose name leads elsewhere", "NAME=[UNAVAILABLE] REVERSE_NAME=mx.sender.example ADDR=192.0.2.77", "TCP4 192.0.2.77 127.0.0.1", true},
		{"one of IPv6", "NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7", "TCP6 2001:db8::7 ::1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			send := func(s *dialogue, conn net.Conn) {
				s.say("250", "EHLO mx.sender.example")
				if c.tls {
					s.say("220 ", "STARTTLS")
					secure := tls.Client(conn, &tls.Config{ServerName: "mx.example.org", RootCAs: p.roots(t), MaxVersion: tls.VersionTLS13})
					s.r, s.w = bufio.NewReader(secure), secure
					s.say("250", "EHLO mx.sender.example")
				}
				s.say("250 ", "MAIL FROM:<ann@sender.example> SIZE=20000 BODY=8BITMIME")
				s.say("250 ", "RCPT TO:<raw@example.org> NOTIFY=NEVER")
				s.say("550 ", "RCPT TO:<nobody@example.org>")
				s.say("250 ", "RCPT TO:<someone@example.org>")
				s.say("354 ", "DATA")
				if _, err := s.w.Write(onWire(message("ann@sender.example", "told"))); err != nil {
					t.Fatal(err)
				}
				s.expect("250 ")
				s.say("221 ", "QUIT")
			}
			s, conn := dial(t, fmt.Sprintf("127.0.0.1:%d", postfix.port), "127.0.0.1")
			s.say("250", "EHLO localhost")
			s.say("220 ", "XCLIENT %s PORT=25000", c.xclient)
			send(s, conn)
			conn = dialProxied(t, fmt.Sprintf("127.0.0.1:%d", balanced), c.proxy)
			s = &dialogue{t: t, r: bufio.NewReader(conn), w: conn}
			s.expect("220 ")
			send(s, conn)
			compare(t, theirs.last(t, n), ours.last(t, n))
		})
	}
}

// dialProxied connects as a balancer does, in the name of a client: "TCP4 CLIENT SERVER".
func dialProxied(t *testing.T, addr, who string) net.Conn {
	t.Helper()
	tcp, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	conn := patientConn{tcp}
	if _, err := fmt.Fprintf(conn, "PROXY %s 25000 25\r\n", who); err != nil {
		t.Fatal(err)
	}
	return conn
}
