package backend

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"postern/proxy/smtptest"
)

// script answers one verb, in its own way.
func script(verb string, a smtptest.Action) func(smtptest.Step) smtptest.Action {
	return func(st smtptest.Step) smtptest.Action {
		if st.Verb == verb {
			return a
		}
		return smtptest.Action{}
	}
}

// secondEHLO answers the EHLO that is said in the client's name.
func secondEHLO(reply string) func(smtptest.Step) smtptest.Action {
	told := false
	return func(st smtptest.Step) smtptest.Action {
		told = told || st.Verb == "XCLIENT"
		if told && st.Verb == "EHLO" {
			return smtptest.Action{Reply: reply}
		}
		return smtptest.Action{}
	}
}

// Every way in which a connection does not come about, and the kind it counts as.
func TestEveryFailureHasItsKind(t *testing.T) {
	root := newAuthority(t)
	good := root.server(t, "127.0.0.1")
	for _, tc := range []struct {
		name     string
		sink     smtptest.SinkOptions
		tls      string
		ca       string
		identity string
		client   Client
		away     bool
		kind     Kind
		code     int
	}{
		{name: "greeting 554", sink: smtptest.SinkOptions{Script: script("CONNECT", smtptest.Action{Reply: "554 5.3.2 No\r\n"})}, kind: KindRefused, code: 554},
		{name: "greeting 421", sink: smtptest.SinkOptions{Script: script("CONNECT", smtptest.Action{Reply: "421 4.3.2 No\r\n", Close: true})}, kind: KindLost, code: 421},
		{name: "no greeting", sink: smtptest.SinkOptions{Script: script("CONNECT", smtptest.Action{Close: true})}, kind: KindLost},
		{name: "not SMTP", sink: smtptest.SinkOptions{Script: script("CONNECT", smtptest.Action{Reply: "SSH-2.0-OpenSSH_9.2\r\n"})}, kind: KindProtocol},
		{name: "EHLO refused", sink: smtptest.SinkOptions{Script: script("EHLO", smtptest.Action{Reply: "502 5.5.1 What?\r\n"})}, kind: KindRefused, code: 502},
		{name: "cut at EHLO", sink: smtptest.SinkOptions{Script: script("EHLO", smtptest.Action{Close: true})}, kind: KindLost},

		{name: "STARTTLS not offered", tls: tlsVerify, kind: KindTLS},
		{name: "STARTTLS refused", tls: tlsVerify, sink: smtptest.SinkOptions{TLS: good, Script: script("STARTTLS", smtptest.Action{Reply: "454 4.7.0 Later\r\n"})}, kind: KindTLS, code: 454},
		{name: "unknown root", tls: tlsVerify, sink: smtptest.SinkOptions{TLS: newAuthority(t).server(t, "127.0.0.1")}, kind: KindTLS},
		{name: "wrong name", tls: tlsVerify, sink: smtptest.SinkOptions{TLS: root.server(t, "mta.example.org")}, kind: KindTLS},
		{name: "handshake cut", tls: tlsVerify, sink: smtptest.SinkOptions{TLS: good, Script: script("STARTTLS", smtptest.Action{Reply: "220 Go\r\n", Close: true})}, kind: KindTLS},
		{name: "plaintext behind 220", tls: tlsVerify, sink: smtptest.SinkOptions{TLS: good, Script: script("STARTTLS", smtptest.Action{Reply: "220 Go\r\n250 injected\r\n", Do: true})}, kind: KindTLS},

		{name: "XCLIENT not offered", identity: identityXClient, sink: smtptest.SinkOptions{Without: []string{"XCLIENT"}}, kind: KindIdentity},
		{name: "XCLIENT not allowed", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "550 5.7.0 No\r\n"})}, kind: KindIdentity, code: 550},
		{name: "XCLIENT syntax", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "501 5.5.4 No\r\n"})}, kind: KindIdentity, code: 501},
		{name: "XCLIENT without effect", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "250 2.0.0 Ok\r\n"})}, kind: KindIdentity, code: 250},
		{name: "client refused by the MTA", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "554 5.7.1 Go away\r\n"})}, kind: KindRefused, code: 554, away: true},
		{name: "client refused for now by the MTA", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "450 4.7.1 Later\r\n"})}, kind: KindRefused, code: 450, away: true},
		{name: "XCLIENT unknown", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("XCLIENT", smtptest.Action{Reply: "500 5.5.2 What?\r\n"})}, kind: KindRefused, code: 500},
		{name: "HELO name refused by the MTA", identity: identityXClient, sink: smtptest.SinkOptions{Script: secondEHLO("504 5.5.2 <mail>: Helo command rejected: need fully-qualified hostname\r\n")}, kind: KindRefused, code: 504, away: true},
		{name: "HELO name refused for now by the MTA", identity: identityXClient, sink: smtptest.SinkOptions{Script: secondEHLO("450 4.7.1 Host not found\r\n")}, kind: KindRefused, code: 450, away: true},
		{name: "EHLO unknown after XCLIENT", identity: identityXClient, sink: smtptest.SinkOptions{Script: secondEHLO("503 5.5.1 What?\r\n")}, kind: KindRefused, code: 503},
		{name: "our own EHLO refused", identity: identityXClient, sink: smtptest.SinkOptions{Script: script("EHLO", smtptest.Action{Reply: "550 5.7.1 Not you\r\n"})}, kind: KindRefused, code: 550},
		{name: "XFORWARD not offered", identity: identityXForward, sink: smtptest.SinkOptions{Without: []string{"XCLIENT"}}, kind: KindIdentity},
		{name: "PROXY without an address", identity: identityProxyV2, sink: smtptest.SinkOptions{Proxy: true}, client: Client{Helo: "x"}, kind: KindIdentity},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := newSink(t, tc.sink)
			b := backendAt(tc.identity, sink.Addr())
			if b.Identity == "" {
				b.Identity = identityNone
			}
			if tc.tls != "" {
				b.TLS, b.CA = tc.tls, root.file(t)
			}
			client := tc.client
			if client.Helo == "" {
				client = alice
			}
			e := failure(t, newSet(t, Options{}, b), client)
			if e.Kind != tc.kind || e.Reply.Code != tc.code || e.TurnsAway != tc.away {
				t.Errorf("%v, turns the client away: %t; want %s %d, %t", e, e.TurnsAway, tc.kind, tc.code, tc.away)
			}
			if e.Backend != "mta" || e.Address != sink.Addr() {
				t.Errorf("%+v", e)
			}
			// Nothing may be said in the clear, or as ourselves, after that.
			for _, line := range sink.Commands() {
				if strings.HasPrefix(line, "MAIL") {
					t.Error("MAIL all the same")
				}
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	// NOT: a port that was free a moment ago. By now it may be that of another test.
	s := newSet(t, Options{}, backendAt(identityNone, "127.0.0.1:1"))
	if e := failure(t, s, alice); e.Kind != KindDial {
		t.Error(e)
	}
	if s.Up() {
		t.Error("up")
	}
}

func TestVerifiedTLS(t *testing.T) {
	root := newAuthority(t)
	sink := newSink(t, smtptest.SinkOptions{TLS: root.server(t, "127.0.0.1")})
	b := backendAt(identityXClient, sink.Addr())
	b.TLS, b.CA = tlsVerify, root.file(t)
	s := newSet(t, Options{}, b)
	c := open(t, s, alice)
	if k := c.Capabilities(); !k.TLS || !k.Verified || k.StartTLS || !k.RequireTLS {
		t.Errorf("%+v", k)
	}
	big := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 200)
	send(t, c, big)
	c.Release()
	if m := sink.Messages(); len(m) != 1 || !m[0].TLS || m[0].XClient["ADDR"] != "192.0.2.7" || string(m[0].Text) != big {
		t.Errorf("%d messages", len(m))
	}
	// EHLO, STARTTLS, EHLO: what was offered in the clear is asked for again.
	if got := sink.Commands()[:3]; !slices.Equal(got, []string{"EHLO mx.test", "STARTTLS", "EHLO mx.test"}) {
		t.Errorf("%q", got)
	}
}

// Opportunistic: a certificate of nobody's is good enough, no TLS too, and a
// handshake that fails is followed by plaintext, on another connection.
func TestOpportunisticTLS(t *testing.T) {
	for _, tc := range []struct {
		name   string
		sink   smtptest.SinkOptions
		secure bool
		conns  int
	}{
		{"encrypted", smtptest.SinkOptions{TLS: newAuthority(t).server(t, "other.example")}, true, 1},
		{"not offered", smtptest.SinkOptions{}, false, 1},
		{"454", smtptest.SinkOptions{TLS: newAuthority(t).server(t, "x"), Script: script("STARTTLS", smtptest.Action{Reply: "454 4.7.0 Later\r\n"})}, false, 1},
		{"broken", smtptest.SinkOptions{TLS: newAuthority(t).server(t, "x"), Script: script("STARTTLS", smtptest.Action{Reply: "220 Go\r\n", Close: true})}, false, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := newSink(t, tc.sink)
			b := backendAt(identityNone, sink.Addr())
			b.TLS = tlsOpportunistic
			c := open(t, newSet(t, Options{}, b), alice)
			defer c.Release()
			if k := c.Capabilities(); k.TLS != tc.secure || k.Verified {
				t.Errorf("%+v", k)
			}
			send(t, c, "x\r\n")
			if sink.Messages()[0].TLS != tc.secure || sink.Connections() != tc.conns {
				t.Errorf("%d connections", sink.Connections())
			}
		})
	}
}

// A backend is told by which name we know it, be its certificate checked or not:
// one address may have several (RFC 6066 §3). An address literal is no name.
func TestServerNameIndication(t *testing.T) {
	root := newAuthority(t)
	for _, tc := range []struct{ address, mode, want string }{
		{"mx.inside.example:25", tlsVerify, "mx.inside.example"},
		{"mx.inside.example:25", tlsOpportunistic, "mx.inside.example"},
		{"127.0.0.1:25", tlsVerify, ""},
		{"127.0.0.1:25", tlsOpportunistic, ""},
		{"[::1]:25", tlsOpportunistic, ""},
	} {
		var heard []string
		cert := root.server(t, "mx.inside.example", "127.0.0.1")
		cert.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			heard = append(heard, h.ServerName)
			return nil, nil
		}
		sink := newSink(t, smtptest.SinkOptions{TLS: cert})
		b := backendAt(identityNone, tc.address)
		b.TLS, b.CA = tc.mode, root.file(t)
		c := open(t, newSet(t, Options{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, sink.Addr())
		}}, b), alice)
		if k := c.Capabilities(); !k.TLS || k.Verified != (tc.mode == tlsVerify) || !slices.Equal(heard, []string{tc.want}) {
			t.Errorf("%s, %s: heard %q, %+v", tc.address, tc.mode, heard, k)
		}
		c.Release()
	}
}

// The session may lose its client, or its patience, while we still knock.
func TestOpenHeedsItsContext(t *testing.T) {
	for _, verb := range []string{"CONNECT", "EHLO", "XCLIENT"} {
		synctest.Test(t, func(t *testing.T) {
			sink := smtptest.NewSink(smtptest.SinkOptions{Script: script(verb, smtptest.Action{Stall: true})})
			defer sink.Close()
			s := newSet(t, Options{Dial: sink.Dial}, backendAt(identityXClient, "one:25", "two:25"))
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := s.pools[0].Open(ctx, alice)
			if err == nil || time.Since(start) != time.Second {
				t.Errorf("%s: %v after %v", verb, err, time.Since(start))
			}
			if sink.Connections() != 1 {
				t.Errorf("%s: %d connections", verb, sink.Connections())
			}
			s.pools[0].mu.Lock()
			defer s.pools[0].mu.Unlock()
			for _, a := range s.pools[0].addrs {
				if a.failed || a.inUse != 0 {
					t.Errorf("%s: %s is blamed, or leaks", verb, a.name)
				}
			}
		})
	}
}

// What the backend is told of its client, by whichever way.
func TestIdentity(t *testing.T) {
	six := Client{
		Addr: netip.MustParseAddrPort("[2001:db8::7]:4711"), Local: netip.MustParseAddrPort("[2001:db8::1]:25"),
		Helo: "[IPv6:2001:db8::7]", NameTemporary: true, ReverseTemporary: true,
	}
	odd := Client{Addr: netip.MustParseAddrPort("[::ffff:192.0.2.9]:1"), Helo: "a+b =\x01ü", ESMTP: true, ReverseName: "liar.example"}
	long := alice
	long.Helo = strings.Repeat("é", 300)
	for _, tc := range []struct {
		name   string
		client Client
		lines  []string
		helo   string
	}{
		{"plain", alice, []string{
			"XCLIENT NAME=mail.example.com REVERSE_NAME=mail.example.com ADDR=192.0.2.7 PORT=4711 DESTADDR=198.51.100.1 DESTPORT=25 PROTO=ESMTP HELO=mail.example.com",
		}, "EHLO mail.example.com"},
		{"IPv6, HELO, DNS out of order", six, []string{
			"XCLIENT NAME=[TEMPUNAVAIL] REVERSE_NAME=[TEMPUNAVAIL] ADDR=IPV6:2001:db8::7 PORT=4711 DESTADDR=IPV6:2001:db8::1 DESTPORT=25 PROTO=SMTP HELO=[IPv6:2001:db8::7]",
		}, "EHLO [IPv6:2001:db8::7]"},
		{"a name that is none", odd, []string{
			"XCLIENT NAME=[UNAVAILABLE] REVERSE_NAME=liar.example ADDR=192.0.2.9 PORT=1 DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE] PROTO=ESMTP HELO=a+2Bb+20+3D?+C3+BC",
		}, "EHLO [192.0.2.9]"},
		{"nothing known", Client{}, []string{
			"XCLIENT NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE] PROTO=SMTP HELO=[UNAVAILABLE]",
		}, "EHLO mx.test"},
		{"longer than a line", long, []string{
			"XCLIENT NAME=mail.example.com REVERSE_NAME=mail.example.com ADDR=192.0.2.7 PORT=4711 DESTADDR=198.51.100.1 DESTPORT=25 PROTO=ESMTP",
			"XCLIENT HELO=" + strings.Repeat("+C3+A9", 80),
		}, "EHLO [192.0.2.7]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := newSink(t, smtptest.SinkOptions{})
			c := open(t, newSet(t, Options{}, backendAt(identityXClient, sink.Addr())), tc.client)
			defer c.Release()
			got := sink.Commands()
			wanted := append(append([]string{"EHLO mx.test"}, tc.lines...), tc.helo)
			if !slices.Equal(got, wanted) {
				t.Errorf("got  %q\nwant %q", got, wanted)
			}
			for _, l := range got {
				if len(l) > 510 {
					t.Errorf("line of %d octets", len(l))
				}
			}
		})
	}
}

// Only what is listed is sent, and ADDR is what it is about.
func TestXClientSendsOnlyWhatIsOffered(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Script: script("EHLO", smtptest.Action{Reply: "250-mta\r\n250 XCLIENT addr name\r\n", Do: true})})
	c := open(t, newSet(t, Options{}, backendAt(identityXClient, sink.Addr())), alice)
	c.Release()
	if got := sink.Commands()[1]; got != "XCLIENT NAME=mail.example.com ADDR=192.0.2.7" {
		t.Errorf("%q", got)
	}
	sink = newSink(t, smtptest.SinkOptions{Script: script("EHLO", smtptest.Action{Reply: "250-mta\r\n250 XCLIENT NAME\r\n", Do: true})})
	if e := failure(t, newSet(t, Options{}, backendAt(identityXClient, sink.Addr())), alice); e.Kind != KindIdentity {
		t.Error(e)
	}
}

func TestXForwardIsSaidBeforeEachMail(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{})
	c := open(t, newSet(t, Options{}, backendAt(identityXForward, sink.Addr())), alice)
	send(t, c, "one\r\n")
	send(t, c, "two\r\n")
	c.Release()
	for _, m := range sink.Messages() {
		if m.XForward["ADDR"] != "192.0.2.7" || m.XForward["NAME"] != "mail.example.com" || m.XForward["SOURCE"] != "REMOTE" {
			t.Errorf("%+v", m.XForward)
		}
	}
	if got := sink.Commands()[1]; got != "XFORWARD NAME=mail.example.com ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=mail.example.com SOURCE=REMOTE" {
		t.Errorf("%q", got)
	}
}

func TestXForwardRefusedInTheMiddle(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Script: script("XFORWARD", smtptest.Action{Reply: "550 5.7.0 No\r\n"})})
	c := open(t, newSet(t, Options{}, backendAt(identityXForward, sink.Addr())), alice)
	defer c.Abort()
	c.QueueMail(sender, nil)
	_, err := c.Reply()
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindIdentity || e.Reply.Code != 550 {
		t.Errorf("%v", err)
	}
}

// What the client's TLS was, and which name it asked for, is in the header; what
// is no name is not.
func TestProxyHeaderTellsOfTLS(t *testing.T) {
	for asked, want := range map[string]string{"MX.example.org": "mx.example.org", "": "", "a b\r\n": "", strings.Repeat("x.", 40000): ""} {
		c := alice
		c.TLS, c.TLSVersion, c.TLSCipher, c.ServerName = true, "TLSv1.3", "TLS_AES_128_GCM_SHA256", asked
		b, err := proxyHeader(&c, nil)
		if err != nil {
			t.Fatal(err)
		}
		h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		tlvs, err := h.TLVs()
		if err != nil {
			t.Fatal(err)
		}
		ssl, found := tlvparse.FindSSL(tlvs)
		if version, _ := ssl.SSLVersion(); !found || version != "TLSv1.3" {
			t.Errorf("%q: %v", asked, tlvs)
		}
		got := ""
		for _, tlv := range tlvs {
			if tlv.Type == proxyproto.PP2_TYPE_AUTHORITY {
				got += string(tlv.Value)
			}
		}
		if got != want {
			t.Errorf("asked for %.20q, told %.20q", asked, got)
		}
	}
}

func TestProxyHeader(t *testing.T) {
	sink := newSink(t, smtptest.SinkOptions{Proxy: true})
	s := newSet(t, Options{}, backendAt(identityProxyV2, sink.Addr()))
	tlsClient := alice
	tlsClient.TLS, tlsClient.TLSVersion, tlsClient.TLSCipher = true, "TLSv1.3", "TLS_AES_128_GCM_SHA256"
	six := Client{Addr: netip.MustParseAddrPort("[2001:db8::7]:4711"), Helo: "six"} // our own end unknown
	for i, client := range []Client{alice, tlsClient, six} {
		c := open(t, s, client)
		send(t, c, "x\r\n")
		c.Release()
		m := sink.Messages()[i]
		if m.Proxy != client.Addr || m.Helo != client.Helo {
			t.Errorf("%+v", m.Envelope)
		}
	}
	// One connection is one client.
	if sink.Connections() != 3 {
		t.Errorf("%d connections", sink.Connections())
	}
	// A probe is LOCAL: nobody's.
	if err := s.pools[0].addrs[0].probe(context.Background()); err != nil {
		t.Error(err)
	}
}
