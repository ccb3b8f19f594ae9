//go:build e2e

package backend

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// believed is what a Postfix has told others of a client: a policy service, by its
// attributes, and a milter, by the macros and the arguments of its connect event.
type believed struct {
	mu     sync.Mutex
	policy map[string]string
	milter map[string]string
}

// policyService answers dunno and keeps the attributes (Postfix's SMTPD_POLICY_README).
func (b *believed) policyService(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	attrs := map[string]string{}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			attrs[name] = value
			continue
		}
		b.mu.Lock()
		b.policy, attrs = attrs, map[string]string{}
		b.mu.Unlock()
		_, _ = io.WriteString(conn, "action=dunno\n\n")
	}
}

// milterService says continue to everything and keeps what it is told at connect and HELO.
func (b *believed) milterService(conn net.Conn) {
	defer conn.Close()
	say := func(command byte, data []byte) {
		p := binary.BigEndian.AppendUint32(nil, uint32(1+len(data)))
		_, _ = conn.Write(append(append(p, command), data...))
	}
	told := map[string]string{}
	for {
		var size [4]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		p := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(conn, p); err != nil || len(p) == 0 {
			return
		}
		args := bytes.Split(bytes.TrimSuffix(p[1:], []byte{0}), []byte{0})
		switch p[0] {
		case 'O': // version 6, no changes, every event
			say('O', []byte{0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0})
			continue
		case 'D': // macros: one octet of command, then names and values
			if len(args[0]) > 0 {
				args[0] = args[0][1:]
			}
			for i := 0; i+1 < len(args); i += 2 {
				told[string(args[i])] = string(args[i+1])
			}
			continue
		case 'C': // name, family and port, address
			told["connect name"] = string(args[0])
			if len(args) > 1 && len(args[1]) > 3 {
				told["connect address"] = string(args[1][3:])
			}
		case 'H':
			told["helo"] = string(args[0])
		case 'M':
			b.mu.Lock()
			b.milter = told
			b.mu.Unlock()
		case 'A', 'Q':
			if p[0] == 'Q' {
				return
			}
			continue
		}
		say('c', nil)
	}
}

// listen serves on a port of its own until the test ends.
func (b *believed) listen(t *testing.T, serve func(net.Conn)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn) // ends with Postfix
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// TestWhatPostfixBelieves asks a Postfix, through a policy service and a milter, who
// the client is, for each way of telling it and each state of the reverse zone.
func TestWhatPostfixBelieves(t *testing.T) {
	b := &believed{}
	p := newPostfix(t, "smtpd_sender_restrictions = check_policy_service inet:"+b.listen(t, b.policyService),
		"smtpd_milters = inet:"+b.listen(t, b.milterService), "milter_default_action = tempfail", "milter_protocol = 6",
		"milter_connect_macros = j {daemon_name} {client_name} {client_ptr} {client_addr} {client_port} {client_resolve}")
	four, six := netip.MustParseAddrPort("192.0.2.7:4711"), netip.MustParseAddrPort("[2001:db8::7]:4711")
	confirmed := Client{Name: "mail.example.com", ReverseName: "mail.example.com"}
	clients := []struct {
		name   string
		client Client
		// what XCLIENT must have made it believe: name, reverse name, {client_resolve}
		want [3]string
	}{
		{"confirmed", confirmed, [3]string{"mail.example.com", "mail.example.com", "OK"}},
		{"unconfirmed", Client{ReverseName: "liar.example.com"}, [3]string{"unknown", "liar.example.com", "FAIL"}},
		{"missing", Client{}, [3]string{"unknown", "unknown", "FAIL"}},
		{"broken", Client{NameTemporary: true, ReverseTemporary: true}, [3]string{"unknown", "unknown", "TEMP"}},
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\ntold by\treverse name\tclient_address\tclient_name\treverse_client_name\thelo_name\tmilter connect\t{client_name}\t{client_ptr}\t{client_resolve}")
	for _, how := range []struct{ identity, address string }{{identityXClient, p.plain}, {identityXForward, p.plain}, {identityProxyV2, p.proxy}} {
		s := newSet(t, Options{}, backendAt(how.identity, how.address))
		for _, tc := range clients {
			for _, addr := range []netip.AddrPort{four, six} {
				client := tc.client
				client.Addr, client.Local = addr, netip.AddrPortFrom(netip.MustParseAddr(map[bool]string{true: "198.51.100.1", false: "2001:db8::1"}[addr.Addr().Is4()]), 25)
				client.Helo, client.ESMTP = "helo.example.com", true
				c, err := s.pools[0].Open(context.Background(), client)
				if err != nil {
					t.Fatalf("%v\n%s", err, strings.Join(p.log(""), "\n"))
				}
				c.QueueMail(sender, nil)
				c.QueueRcpt(recipient, nil)
				want(t, c, 250)
				want(t, c, 250)
				c.Release()
				b.mu.Lock()
				pol, mil := b.policy, b.milter
				b.mu.Unlock()
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s [%s]\t%s\t%s\t%s\n", how.identity, tc.name, pol["client_address"], pol["client_name"], pol["reverse_client_name"],
					pol["helo_name"], mil["connect name"], mil["connect address"], mil["{client_name}"], mil["{client_ptr}"], mil["{client_resolve}"])
				if how.identity == identityXForward {
					// XFORWARD is for what Postfix logs and hands on, not for whom it judges.
					if pol["client_address"] != "127.0.0.1" {
						t.Errorf("%s: %v", how.identity, pol)
					}
					continue
				}
				if pol["client_address"] != addr.Addr().String() {
					t.Errorf("%s, %s: client_address %q", how.identity, tc.name, pol["client_address"])
				}
				if got := [3]string{pol["client_name"], pol["reverse_client_name"], mil["{client_resolve}"]}; how.identity == identityXClient && got != tc.want {
					t.Errorf("%s, %s, %s: %v, want %v", how.identity, tc.name, addr, got, tc.want)
				}
			}
		}
	}
	_ = w.Flush()
	t.Log(table.String())
}

// transacts sees MAIL and RCPT taken for a client.
func transacts(t *testing.T, s *Set, c Client) {
	t.Helper()
	conn, err := s.pools[0].Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	conn.QueueMail(sender, nil)
	conn.QueueRcpt(recipient, nil)
	want(t, conn, 250)
	want(t, conn, 250)
	conn.Release()
}

// One that speaks IPv4 only cannot be told of a client of IPv6. That is found out,
// whichever way of telling it is.
func TestPostfixThatSpeaksIPv4Only(t *testing.T) {
	p, both := newPostfix(t, "inet_protocols = ipv4"), newPostfix(t)
	six := alice
	six.Addr, six.Local = netip.MustParseAddrPort("[2001:db8::7]:4711"), netip.MustParseAddrPort("[2001:db8::1]:25")
	for _, how := range []struct{ identity, address string }{{identityXClient, p.plain}, {identityXForward, p.plain}, {identityProxyV2, p.proxy}} {
		s := newSet(t, Options{}, backendAt(how.identity, how.address))
		a := s.pools[0].addrs[0]
		no, err := a.noIPv6(context.Background())
		t.Logf("%s: %v", how.identity, err)
		if !no {
			t.Errorf("%s: it is not seen", how.identity)
		}
		a.learnFamily(context.Background())
		if s.TakesIPv6() {
			t.Errorf("%s: IPv6 clients are let in", how.identity)
		}
		transacts(t, s, alice)
	}
	for _, how := range []struct{ identity, address string }{{identityXClient, both.plain}, {identityXForward, both.plain}, {identityProxyV2, both.proxy}} {
		s := newSet(t, Options{}, backendAt(how.identity, how.address))
		s.pools[0].addrs[0].learnFamily(context.Background())
		if !s.TakesIPv6() {
			t.Errorf("%s: IPv6 clients are refused by one that takes them", how.identity)
		}
		transacts(t, s, six)
	}
}
