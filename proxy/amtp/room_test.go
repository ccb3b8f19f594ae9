package amtp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/amtp"
	"postern/proxy/smtp"
)

var at = netip.MustParseAddrPort("193.1.124.54:26")

// caller calls the house.
func (h *house) caller(t testing.TB) *amtp.Caller {
	return &amtp.Caller{Timeout: time.Minute, Dial: func(context.Context, string, string) (net.Conn, error) { return h.call(t, "192.0.2.54:4000"), nil }}
}

// A message goes from one server to another as it was, over TLS where there is a certificate, and the server hears
// what became of it.
func TestFetch(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		h := newHouse()
		if encrypted {
			h.tls = certificate(t)
		}
		const body = "text\r\n.dot\r\n..\r\n</BODY>\r\n<HEAD>\r\n.\r\n\xfcber\r\n"
		h.parcels["SEMA bob@rcpt.example:77"] = "Date: Mon, 30 Nov 2026 08:00:00 +0000\r\nFrom: alice@master.com\r\nMessage-ID: <1@master.com>\r\nX: </HEAD>\r\n y\r\n\r\n" + body
		c := h.caller(t)
		call, err := c.Open(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if (call.TLS() != nil) != encrypted {
			t.Errorf("TLS is %v", call.TLS())
		}
		claim := amtp.Claim{Recipient: smtp.Path{Local: "bob", Domain: "rcpt.example"}, Number: "77"}
		noted, err := call.Fetch(claim, "master.com", func(m *amtp.Message, err error) smtp.Reply {
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(m.Body)
			if err != nil || string(got) != body {
				t.Errorf("%q, %v", got, err)
			}
			if m.From.String() != "alice@master.com" {
				t.Errorf("from %s", m.From)
			}
			head := string(m.Head)
			for _, want := range []string{"From: alice@master.com\r\n", "Received: by master.com ([193.1.124.54]) with AMTP;", "Message-ID: <1@master.com>\r\n", "X: </HEAD>\r\n y\r\n\r\n"} {
				if !strings.Contains(head, want) {
					t.Errorf("no %q in %q", want, head)
				}
			}
			return smtp.Reply{Code: 250, Enhanced: "2.0.0", Text: "queued"}
		})
		if err != nil || noted.Code != 250 {
			t.Errorf("%v, %v", noted, err)
		}
		_, err = call.Fetch(amtp.Claim{Recipient: claim.Recipient, Number: "78"}, "master.com", nil)
		var refused *amtp.Refusal
		if !errors.As(err, &refused) || refused.Reply.Code != 555 {
			t.Errorf("another number: %v", err)
		}
		call.Close()
		r, err := c.Announce(t.Context(), at, amtp.Announcement{Domain: "sender.example", Number: "1", Recipient: smtp.Path{Local: "b", Domain: "master.com"}})
		if err != nil || r.Code != 250 {
			t.Errorf("%v, %v", r, err)
		}
	}
}

// A message that breaks off at the server's, or in its form, is none; the server learns of the second.
func TestFetchBroken(t *testing.T) {
	for name, tt := range map[string]struct {
		message string
		broken  error
		size    int64
		word    string // the last; empty: none
	}{
		"the disk fails":        {message: "From: a@master.com\r\n\r\nhalf", broken: errors.New("disk")},
		"no From":               {message: "Subject: x\r\n\r\ntext\r\n", word: "555"},
		"two From":              {message: "From: a@master.com\r\nFrom: b@master.com\r\n\r\ntext\r\n", word: "555"},
		"From with a name":      {message: "From: Bob <a@master.com>\r\n\r\ntext\r\n", word: "555"},
		"larger than is read":   {message: "From: a@master.com\r\n\r\n" + strings.Repeat("text\r\n", 1000), size: 4096, word: "552"},
		"far larger":            {message: "From: a@master.com\r\n\r\n" + strings.Repeat("text\r\n", 100_000), size: 4096},
		"a Send From of theirs": {message: "From: a@master.com\r\nSend-From: x\r\n\r\ntext\r\n", word: "250"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse()
			h.parcels["SEMA b@rcpt.example:1"], h.broken = tt.message, tt.broken
			c := h.caller(t)
			c.Size = tt.size
			call, err := c.Open(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			_, err = call.Fetch(amtp.Claim{Recipient: smtp.Path{Local: "b", Domain: "rcpt.example"}, Number: "1"}, "master.com", func(m *amtp.Message, err error) smtp.Reply {
				if err == nil {
					_, err = io.Copy(io.Discard, m.Body)
				}
				if err != nil {
					return smtp.Reply{Code: 555, Text: "Mail error"}
				}
				return smtp.Reply{Code: 250, Text: "OK"}
			})
			if (err == nil) != (tt.word != "") {
				t.Errorf("%v", err)
			}
			call.Close()
			h.sessions.Wait()
			if len(h.answers) != 1 || !strings.HasPrefix(h.answers[0], tt.word) || tt.word == "" && h.answers[0] != "" {
				t.Errorf("the last word is %q, want %q", h.answers, tt.word)
			}
		})
	}
}

// What the drafts' own example says can be read, and what only looks like it cannot.
func TestDecode(t *testing.T) {
	const example = "<RELAY>\r\n</RELAY>\r\n<HEAD>\r\nFrom: bcrouzet@master.com\r\nSend From: master.com (193.1.124.54); 09 April 2003 08:56:50 o'clock\r\n IST; Version: 2.0\r\n" +
		"Date: 09 April 2003 08:56:50 o'clock IST\r\nMessage id: 1049998467218\r\nTo: jdoody@master.com\r\nSubject: AMTP Procedure 1\r\n</HEAD>\r\n<BODY>\r\nIt is a simple AMTP procedure.\r\n</BODY>\r\n"
	m, err := amtp.Decode(strings.NewReader(example), "master.com")
	if err != nil {
		t.Fatal(err)
	}
	const want = "Received: by master.com ([193.1.124.54]) with AMTP;\r\n\tWed, 09 Apr 2003 08:56:50 +0000\r\nFrom: bcrouzet@master.com\r\nDate: Wed, 09 Apr 2003 08:56:50 +0000\r\n" +
		"Message-ID: <1049998467218@master.com>\r\nTo: jdoody@master.com\r\nSubject: AMTP Procedure 1\r\n\r\n"
	if string(m.Head) != want {
		t.Errorf("got %q\nwant %q", m.Head, want)
	}
	if b, err := io.ReadAll(m.Body); err != nil || string(b) != "It is a simple AMTP procedure.\r\n" {
		t.Errorf("%q, %v", b, err)
	}
	for name, tt := range map[string]struct {
		old, new string
		err      error
	}{
		"a relay":               {"<RELAY>\r\n", "<RELAY>\r\nRelay from: <a (192.0.2.1)> TO <b (192.0.2.2)>\r\n", amtp.ErrRelayed},
		"no head":               {"<HEAD>\r\n", "", amtp.ErrForm},
		"no end of the head":    {"</HEAD>\r\n", "", amtp.ErrForm},
		"a body in the head":    {"Subject: AMTP Procedure 1\r\n", "\r\nFrom: other@master.com\r\n", amtp.ErrForm},
		"a line that is none":   {"Subject: AMTP", "AMTP", amtp.ErrForm},
		"a bare LF":             {"Subject: AMTP", "Subject:\nBcc: AMTP", smtp.ErrBareLF},
		"no end of the body":    {"</BODY>\r\n", "", amtp.ErrForm},
		"text behind the body":  {"</BODY>\r\n", "</BODY>\r\n\r\n", amtp.ErrForm},
		"the end within a line": {"\r\n</BODY>\r\n", "</BODY>\r\n", amtp.ErrForm},
		"far within a line":     {"procedure.\r\n</BODY>\r\n", strings.Repeat("x", 32<<10) + "</BODY>\r\n", amtp.ErrForm},
		"Send From of nowhere":  {"193.1.124.54", "everywhere", amtp.ErrForm},
		"a field in Send From":  {"master.com (193", "x\r\n\ty (193", amtp.ErrForm},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(example, tt.old, tt.new, 1)
			if changed == example {
				t.Fatal("nothing was changed")
			}
			m, err := amtp.Decode(strings.NewReader(changed), "master.com")
			if err == nil {
				_, err = io.Copy(io.Discard, m.Body)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
		})
	}
}

// What goes on the wire comes out of it: the body octet for octet, and each field once, whatever they look like.
func FuzzForm(f *testing.F) {
	f.Add("Subject: x\r\nX-Y: </HEAD>\r\n", "</BODY>\r\n.\r\n<BODY>\r\n")
	f.Add("To: b@rcpt.example\r\nSend-From: a\r\nMessage-id: 7\r\n", "")
	f.Add("</HEAD>: x\r\nMIME-Version: 1.0\r\nDate: 06 June 2003 15:55:12 o'clock IST\r\n", "\r\n\r\n")
	f.Fuzz(func(t *testing.T, fields, body string) {
		section := "From: a@master.com\r\n" + fields
		h, bad := smtp.ParseHeader([]byte(section))
		if end, _ := smtp.HeaderEnd([]byte(section)); bad > 0 || end >= 0 || !isText(section) || !isText(body) || len(section) > 4096 || smtp.FirstLineContinues([]byte(fields)) {
			return
		}
		var form bytes.Buffer
		w := smtp.NewDotWriter(&form)
		if err := amtp.Encode(w, strings.NewReader(section+"\r\n"+body), "master.com", at.Addr(), time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var un smtp.Unstuffer
		stuffed := bytes.TrimSuffix(form.Bytes(), []byte(".\r\n"))
		m, err := amtp.Decode(bytes.NewReader(un.Append(nil, stuffed)), "master.com")
		if err != nil {
			for _, f := range h[1:] {
				if strings.EqualFold(f.Name, "From") {
					return // two of them are refused
				}
			}
			t.Fatalf("%v of %q", err, form.Bytes())
		}
		got, err := io.ReadAll(m.Body)
		if err != nil || string(got) != body {
			t.Fatalf("%q, %v; want %q", got, err, body)
		}
		back, bad := smtp.ParseHeader(m.Head)
		if bad > 0 || len(back) != len(h)+1 {
			t.Fatalf("%d fields of %d, %d bad: %q", len(back), len(h), bad, m.Head)
		}
	})
}

// isText says whether s is lines that a server takes.
func isText(s string) bool {
	var sc smtp.TextScanner
	return sc.Scan([]byte(s)) == nil && sc.Close() == nil && (s == "" || strings.HasSuffix(s, "\r\n"))
}

// Whatever comes as a command is read, and what is read says the same again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"USER", "RCPT TO:a@b.example,<c@d.example>", `more to:"x,y"@b.example`, "SELO b.example 1 a@c.example", "SELO [::ffff:127.0.0.1] 1 a@c.example",
		"SEMA a@b.example:12", `SEMA "a:1"@b.example:2`, "HELP data", "RCPT TO:,", "SEMA :", "SELO  ",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		c, err := amtp.Parse(line)
		var bad *smtp.SyntaxError
		if err != nil {
			if !errors.As(err, &bad) || !bad.Reply.Permanent() {
				t.Fatalf("%v", err)
			}
			return
		}
		again := ""
		switch c.Verb {
		case amtp.Selo:
			again = c.Announced.String()
		case amtp.Sema:
			again = c.Claimed.String()
		default:
			return
		}
		d, err := amtp.Parse([]byte(again))
		if err != nil || d.Announced != c.Announced || d.Claimed != c.Claimed {
			t.Fatalf("%q is %+v, and %q is %+v, %v", line, c, again, d, err)
		}
	})
}

// Numbers are all different and of one length, and are numbers.
func TestNewNumber(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		n := amtp.NewNumber()
		if _, err := amtp.ParseSema("a@b.example:" + n); err != nil || len(n) != 39 || seen[n] {
			t.Fatalf("%q: %v", n, err)
		}
		seen[n] = true
	}
}

// No address is called where no server of a stranger can be, however it is written.
func TestCallable(t *testing.T) {
	for _, s := range strings.Fields("127.0.0.1 ::1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.100.100.200 0.0.0.0 :: 224.0.0.1 255.255.255.255 " +
		"fe80::1 fe80::1%eth0 fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::1 2001:0:1::1 192.0.2.1 2001:db8::1") {
		if amtp.Callable(netip.MustParseAddr(s), nil) == nil {
			t.Errorf("%s may be called", s)
		}
	}
	if amtp.Callable(netip.Addr{}, nil) == nil {
		t.Error("nobody may be called")
	}
	for _, s := range strings.Fields("193.1.124.54 2a00::1 ::ffff:193.1.124.54 8.8.8.8") {
		if err := amtp.Callable(netip.MustParseAddr(s), nil); err != nil {
			t.Error(err)
		}
	}
	allow := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if err := amtp.Callable(netip.MustParseAddr("::ffff:10.0.0.1"), allow); err != nil {
		t.Error(err)
	}
	if amtp.Callable(netip.MustParseAddr("127.0.0.1"), allow) == nil {
		t.Error("what is not listed may be called")
	}
}

// A client that says nothing, stops within a command, or stops within a message is told so and let go.
func TestTimeouts(t *testing.T) {
	for name, said := range map[string]string{
		"nothing":             "",
		"half a command":      "USE",
		"half a message":      "USER\r\nbct 123\r\nRCPT TO:a@master.com\r\nDATA\r\nhalf",
		"no word on its mail": "SEMA b@rcpt.example:1\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse()
				h.parcels["SEMA b@rcpt.example:1"] = "From: a@master.com\r\n\r\ntext\r\n"
				client := h.call(t, "127.0.0.1:4000")
				if said != "" { // no octets at all would be read as such
					go func() { _, _ = io.WriteString(client, said) }()
				}
				got, err := io.ReadAll(client)
				if err != nil || !strings.HasSuffix(string(got), "421 Timeout, closing connection\r\n") == (name != "no word on its mail") {
					t.Errorf("%q, %v", got, err)
				}
				synctest.Wait()
				if h.ended != 1 || len(h.got) > 0 {
					t.Errorf("%d ended, got %q", h.ended, h.got)
				}
				_ = client.Close()
			})
		})
	}
}

// Trouble of ours costs no try, and no mail.
func TestTrouble(t *testing.T) {
	h := newHouse()
	h.trouble = errors.New("the file is away")
	h.parcels["SEMA b@rcpt.example:1"], h.answered = "From: a@master.com\r\n\r\ntext\r\n", errors.New("the disk is full")
	client := h.call(t, "127.0.0.1:4000")
	br := bufio.NewReader(client)
	say := func(line, want string) {
		t.Helper()
		if line != "" {
			if _, err := io.WriteString(client, line+"\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := smtp.ReadReply(br); err != nil || !strings.HasPrefix(r.String(), want) {
			t.Fatalf("%s: %v, %v; want %s", line, r, err, want)
		}
	}
	say("", "220")
	for range 2 * amtp.Tries {
		say("USER", "250")
		say("bct 123", "451")
	}
	say("SEMA b@rcpt.example:1", "250")
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == ".\r\n" {
			break
		}
	}
	say("250 queued", "451")
	say("QUIT", "221")
	h.sessions.Wait()
	if log := h.log.String(); strings.Contains(log, "123 ") || strings.Contains(log, "bct") {
		t.Errorf("the log has credentials: %s", log)
	}
}

// A server that ends tells those who are idle, and waits for those who are not.
func TestShutdown(t *testing.T) {
	h := newHouse()
	idle := h.call(t, "127.0.0.1:4000")
	if r, err := smtp.ReadReply(bufio.NewReader(idle)); err != nil || r.Code != 220 {
		t.Fatal(r, err)
	}
	done := make(chan error)
	go func() { done <- h.server.Shutdown(t.Context()) }()
	if r, err := smtp.ReadReply(bufio.NewReader(idle)); err != nil || r.Code != 421 {
		t.Errorf("%v, %v", r, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	late := h.call(t, "127.0.0.1:4000")
	if r, err := smtp.ReadReply(bufio.NewReader(late)); err != nil || r.Code != 421 {
		t.Errorf("%v, %v", r, err)
	}
}
