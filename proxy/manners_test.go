package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"postern/configs"
	"postern/proxy/smtptest"
)

// atOnce sends text in one piece, in a session of its own, and returns the codes of
// all that is heard, and the connection's result.
func (r *rig) atOnce(text string) (codes []string, messages int) {
	before := len(r.sink.Messages())
	c := r.connect("192.0.2.1")
	c.say(text)
	for {
		got := c.hear()
		if got == "close" {
			break
		}
		codes = append(codes, code(got))
		if got[:3] == "221" {
			break
		}
	}
	_ = c.conn.Close()
	<-c.done
	return codes, len(r.sink.Messages()) - before
}

const post = "POST / HTTP/1.1\r\nHost: mx.test:25\r\nContent-Type: text/plain\r\n\r\n" +
	"EHLO client.example\r\nMAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nBDAT 14 LAST\r\nFrom: a@b\r\n\r\nxQUIT\r\n"

// A client of another protocol is closed at its first line: nothing that a browser
// was made to post is read as commands.
func TestAnotherProtocolEndsAtItsFirstLine(t *testing.T) {
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	for _, tc := range []struct{ name, text, codes string }{
		{"a browser's POST with a session in it", post, "421"},
		{"in small letters", strings.Replace(post, "POST", "post", 1), "421"},
		{"behind an empty line", "\r\n" + post, "500 421"},
		{"behind a command that is none", "FOO\r\n" + post, "500 421"},
		{"a line longer than ours", "GET /" + strings.Repeat("x", 4096) + " HTTP/1.1\r\nHost: mx.test\r\nEHLO c\r\n", "421"},
		{"with a NUL in it", "GET /\x00 HTTP/1.1\r\nHost: mx.test\r\nEHLO c\r\n", "421"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "421"},
		{"a method of its own", "PROPFIND /dav HTTP/1.1\r\nEHLO c\r\n", "421"},
		{"in the middle of a session", "NOOP\r\nGET / HTTP/1.0\r\nEHLO c\r\n", "250 421"},
		{"a TLS handshake", hello + "\r\nEHLO c\r\n", "421"},
		{"its first octet", "\x16", "421"},
		{"commands that look like it", "HELP\r\nQUIT\r\n", "214 221"},
		{"a mailbox that looks like it", "HELO c\r\nMAIL FROM:<a@good.example> HTTP/1.1\r\nQUIT\r\n", "250 501 221"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: &openPolicy})
			codes, messages := r.atOnce(tc.text)
			if strings.Join(codes, " ") != tc.codes || messages != 0 {
				t.Errorf("%v, %d messages; want %s", codes, messages, tc.codes)
			}
		})
	}
}

// Faults before a first good command weigh double.
func TestFaultsBeforeAGoodCommandWeighDouble(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, config: func(c *configs.Config) { c.Limits.Errors = 4 }})
	codes, _ := r.atOnce("FOO\r\nFOO\r\nFOO\r\n")
	if got := strings.Join(codes, " "); got != "500 500 421" {
		t.Error(got)
	}
	codes, _ = r.atOnce("NOOP\r\nFOO\r\nFOO\r\nFOO\r\nFOO\r\nFOO\r\n")
	if got := strings.Join(codes, " "); got != "250 500 500 500 500 421" {
		t.Error(got)
	}
}

// Who does not wait for the answer to EHLO or DATA hears 503 and is closed, whatever
// the answer would have been. BDAT, and commands behind the final dot, may be pipelined.
func TestAClientThatDoesNotWait(t *testing.T) {
	const (
		ehlo     = "EHLO client.example\r\n"
		envelope = "MAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\n"
		text     = "From: a@good.example\r\n\r\nx\r\n"
	)
	for _, tc := range []struct {
		name       string
		pieces     []string
		codes      string
		noted      string // where it is only noted
		messages   int
		notedMails int
	}{
		{"the message behind DATA", []string{ehlo, envelope + "DATA\r\n" + text + ".\r\nQUIT\r\n"}, "250 250 250 503", "250 250 250 354 250 221", 0, 1},
		{"one octet behind DATA", []string{ehlo, envelope, "DATA\r\nx"}, "250 250 250 503", "250 250 250 354", 0, 0},
		{"DATA that would have been refused", []string{ehlo, "DATA\r\n" + text + ".\r\nQUIT\r\n"}, "250 503", "250 503 500 500 500 500 221", 0, 0},
		{"MAIL behind EHLO", []string{ehlo + envelope, "QUIT\r\n"}, "503", "250 250 250 221", 0, 0},
		{"a group that ends with DATA", []string{ehlo, envelope + "DATA\r\n", text + ".\r\n", "QUIT\r\n"}, "250 250 250 354 250 221", "", 1, 1},
		{"commands behind the final dot", []string{ehlo, envelope + "DATA\r\n", text + ".\r\n" + envelope + "RSET\r\nQUIT\r\n"}, "250 250 250 354 250 250 250 250 221", "", 1, 1},
		{"BDAT in one piece with all else", []string{ehlo, envelope + "BDAT 27 LAST\r\n" + text + "QUIT\r\n"}, "250 250 250 250 221", "", 1, 1},
		{"HELO, which offers no PIPELINING", []string{"HELO client.example\r\nQUIT\r\n"}, "250 221", "", 0, 0},
	} {
		for _, note := range []bool{false, true} {
			want, messages := tc.codes, tc.messages
			o := rigOptions{policy: &openPolicy, config: func(*configs.Config) {}}
			if note {
				if messages = tc.notedMails; tc.noted != "" {
					want = tc.noted
				}
				o.config = func(c *configs.Config) { c.Limits.Unsynchronized = "note" }
			}
			r := newRig(t, o)
			c := r.connect("192.0.2.1")
			var codes []string
			for _, piece := range tc.pieces {
				c.say(piece)
				for c.idle(); ; {
					got := c.hear()
					if got == "close" {
						break
					}
					codes = append(codes, code(got))
					if c.br.Buffered() == 0 || got[:3] == "221" {
						break
					}
				}
			}
			_ = c.conn.Close()
			<-c.done
			if got := strings.Join(codes, " "); got != want || len(r.sink.Messages()) != messages {
				t.Errorf("%s, note %t: %s, %d messages; want %s, %d", tc.name, note, got, len(r.sink.Messages()), want, messages)
			}
			rec := r.last()
			switch {
			case note && tc.noted != "" && messages > 0 && !rec.Facts.Client.Unsynchronized:
				t.Errorf("%s: it is not noted", tc.name)
			case !note && tc.noted != "" && strings.HasPrefix(want, "250 250") && (rec == nil || !rec.Facts.Client.Unsynchronized || !strings.HasPrefix(rec.Reply, "503 5.5.0 ")):
				t.Errorf("%s: the record is %+v", tc.name, rec)
			}
		}
	}
}

// idle waits until the session has nothing to say until it hears more.
func (c *client) idle() bool { c.heard.rest(); return true }

// A rule can read it.
func TestAClientThatDoesNotWaitIsAFact(t *testing.T) {
	p := openPolicy
	p.Rules = []configs.Rule{{Name: "hasty", When: "client.unsynchronized", Do: "reject"}}
	r := newRig(t, rigOptions{policy: &p, config: func(c *configs.Config) { c.Limits.Unsynchronized = "note" }})
	codes, messages := r.atOnce("NOOP\r\nEHLO c\r\nMAIL FROM:<a@good.example>\r\nRCPT TO:<b@local.example>\r\nDATA\r\nA: b\r\n\r\nx\r\n.\r\nQUIT\r\n")
	if got := strings.Join(codes, " "); got != "250 250 250 250 354 550 221" || messages != 0 {
		t.Error(got, messages)
	}
}

// On a socket: what arrives while the backend thinks, in the clear and inside TLS, is
// seen, and so is what comes before the greeting.
func TestWhatIsOnTheSocketIsSeen(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		arrived := make(chan struct{})
		r := newRig(t, rigOptions{policy: &openPolicy, sink: smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
			if st.Verb == "RCPT" {
				<-arrived
			}
			return smtptest.Action{}
		}}})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- r.srv.Serve(ln, Listener{Name: "mx", TLS: "starttls"}) }()
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		br := bufio.NewReader(conn)
		say := func(text, code string) {
			t.Helper()
			if text != "" {
				if _, err := io.WriteString(conn, text); err != nil {
					t.Fatal(err)
				}
			}
			for code != "" {
				line, err := br.ReadString('\n')
				if err != nil || line[:3] != code {
					t.Fatalf("%q, %v; want %s", line, err, code)
				}
				if line[3] == ' ' {
					return
				}
			}
		}
		say("", "220")
		say("EHLO c\r\n", "250")
		if encrypted {
			say("STARTTLS\r\n", "220")
			tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			if err := tc.Handshake(); err != nil {
				t.Fatal(err)
			}
			conn, br = tc, bufio.NewReader(tc)
			say("EHLO c\r\n", "250")
		}
		say("MAIL FROM:<a@good.example>\r\n", "250")
		say("RCPT TO:<b@local.example>\r\nDATA\r\n", "")
		say("A: b\r\n\r\nx\r\n.\r\n", "")
		close(arrived)
		say("", "250")
		say("", "503")
		_ = conn.Close()
		if n := len(r.sink.Messages()); n != 0 {
			t.Errorf("encrypted %t: %d messages", encrypted, n)
		}
		r.close()
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Error(err)
		}
	}
}

// What had come when the greeting was written tells of a client that did not wait for it.
func TestTalkBeforeTheGreetingIsSeenWithoutWaiting(t *testing.T) {
	p := openPolicy
	p.Rules = []configs.Rule{{Name: "hasty", When: "client.pregreet", Do: "reject"}}
	r := newRig(t, rigOptions{policy: &p})
	for _, hasty := range []bool{true, false} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		want := "220"
		if hasty {
			want = "554"
			if _, err := io.WriteString(conn, "EHLO c\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { r.srv.Handle(server, Listener{Name: "mx", TLS: "starttls"}); close(done) }()
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || line[:3] != want {
			t.Errorf("hasty %t: %q, %v", hasty, line, err)
		}
		_ = conn.Close()
		<-done
		_ = ln.Close()
	}
}

// TestPublishedInjections retells smtpsmug (github.com/hannob/smtpsmug) and
// command-injection-tester (github.com/Email-Analysis-Toolkit), as they speak: none
// of the look-alikes ends a message, what has one in it is refused, and so are a
// second message in the pipe behind the first and a command behind STARTTLS.
func TestPublishedInjections(t *testing.T) {
	const head = "From: alice@good.example\r\nTo: bob@local.example\r\nSubject: Hello World\r\n\r\n"
	for name, ending := range map[string]string{
		"lflf": "\n.\n", "crcr": "\r.\r", "crlf": "\r.\n", "lfcr": "\n.\r", "lfcrlf": "\n.\r\n", "crlflf": "\r\n.\n",
		"crcrlf": "\r.\r\n", "crlfcr": "\r\n.\r", "nullbefore": "\r\n\x00.\r\n", "nullafter": "\r\n.\x00\r\n",
	} {
		t.Run("smtpsmug "+name, func(t *testing.T) {
			r := newRig(t, rigOptions{policy: &openPolicy})
			c := r.connect("192.0.2.1")
			c.ehlo()
			c.cmd("MAIL FROM:<alice@good.example>", "250")
			c.cmd("RCPT TO:<bob@local.example>", "250")
			c.cmd("DATA", "354")
			c.send(head + "This is a test mail\r\n" + ending)
			if c.heard.rest(); c.br.Buffered() > 0 {
				t.Error("it is answered before the true end")
			}
			c.send("This is after a bad mail ending.\r\n\r\n.\r\n")
			c.expect("550 5.6.0 ")
			c.cmd("QUIT", "221")
			if n := len(r.sink.Messages()); n != 0 {
				t.Errorf("%d messages", n)
			}
		})
	}
	t.Run("smtpsmug pipelining", func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &openPolicy})
		c := r.connect("192.0.2.1")
		c.ehlo()
		c.cmd("MAIL FROM:<alice@good.example>", "250")
		c.cmd("RCPT TO:<bob@local.example>", "250")
		c.cmd("DATA", "354")
		c.send(head + "This is mail 1/2 to test pipelining\r\n\r\n.\r\n" +
			"MAIL FROM:<alice@good.example>\r\nRCPT TO:<bob@local.example>\r\nDATA\r\n" + head + "This is mail 2/2 to test pipelining\r\n\r\n.\r\n")
		c.expect("250 ")
		c.expect("250 ")
		c.expect("250 ")
		c.expect("503 5.5.0 ")
		c.closed()
		if n := len(r.sink.Messages()); n != 1 {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("command-injection-tester", func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &openPolicy})
		c := r.connect("192.0.2.1")
		c.cmd("EHLO commandinjectiontester", "250")
		c.send("STARTTLS\r\nEHLO commandinjectiontester\r\n")
		c.expect("503 5.5.0 ")
		c.closed()
		// And its check that STARTTLS works at all.
		c = r.connect("192.0.2.1")
		c.cmd("EHLO commandinjectiontester", "250")
		c.cmd("NOOP", "250")
		c.cmd("STARTTLS", "220")
		if err := c.tls(); err != nil {
			t.Fatal(err)
		}
		c.cmd("QUIT", "221")
	})
}

// What the MTA behind would have taken, and can be read in one way only, goes on in
// its canonical form.
func TestLenientSyntaxGoesOnInCanonicalForm(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, identity: "xclient"})
	c := r.connect("192.0.2.1")
	c.cmd("HELO\twin(pc)", "250")
	for _, tc := range []struct{ mail, rcpt, heardMail, heardRcpt string }{
		{"MAIL FROM:a@good.example SIZE=10", "RCPT TO:root", "MAIL FROM:<a@good.example> SIZE=", "RCPT TO:<root>"},
		{"MAIL\tFROM: < a@good.example. > AUTH=<>", "RCPT TO:< b@local.example. >", "MAIL FROM:<a@good.example>", "RCPT TO:<b@local.example>"},
		{"MAIL FROM:<a..b@good.example>", "RCPT TO:<.c@local.example>", `MAIL FROM:<"a..b"@good.example>`, `RCPT TO:<".c"@local.example>`},
	} {
		c.cmd(tc.mail, "250")
		c.cmd(tc.rcpt, "250")
		c.cmd("DATA", "354")
		c.send("A: b\r\n\r\nx\r\n.\r\n")
		c.expect("250")
		heard := strings.Join(r.sink.Commands(), "\n") + "\n"
		if !strings.Contains(heard, tc.heardMail) || !strings.Contains(heard, tc.heardRcpt+"\n") || strings.Contains(heard, "AUTH") {
			t.Errorf("%s, %s: the MTA heard\n%s", tc.mail, tc.rcpt, heard)
		}
	}
	m := r.sink.Messages()
	if got := m[len(m)-1].XClient["HELO"]; got != "win?pc?" {
		t.Errorf("HELO %q", got)
	}
	if got := string(m[len(m)-1].Text); !strings.HasPrefix(got, "Received: from win?pc? (") {
		t.Errorf("%.60q", got)
	}
	c.cmd("MAIL FROM:<a@good.example> AUTH=a@good.example", "555")
	c.cmd("MAIL FROM:<root>", "501")
	c.cmd("QUIT", "221")
}

// Where no backend can be told of IPv6 clients, they are refused at the connection,
// so that they come again by IPv4.
func TestIPv6ThatNoBackendTakesIsRefusedAtTheConnection(t *testing.T) {
	r := newRig(t, rigOptions{policy: &openPolicy, identity: "xclient", sink: smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
		if strings.Contains(st.Line, "ADDR=IPV6:") {
			return smtptest.Action{Reply: "501 5.5.4 Bad ADDR syntax\r\n"}
		}
		return smtptest.Action{}
	}}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.set.Backends.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	for end := time.Now().Add(time.Minute); r.set.Backends.TakesIPv6(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is not found out")
		}
	}
	c := r.dialFrom("2001:db8::7", Listener{Name: "mx"})
	c.expect("421 4.3.5 No mail by IPv6 here")
	c.closed()
	c = r.connect("192.0.2.1")
	c.cmd("QUIT", "221")
}
