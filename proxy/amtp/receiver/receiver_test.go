package receiver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"postern/policy"
	"postern/policy/journal"
	"postern/proxy/amtp/users"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

const letter = `From: alice@sender.example
Date: Mon, 30 Nov 2026 08:00:00 +0000
Message-ID: <1@sender.example>
To: bob@rcpt.example
Subject: hello

text
</BODY>
.
`

// word is the next last word that the holder hears.
func (r *rig) word() smtp.Reply {
	r.t.Helper()
	select {
	case w := <-r.holder.said:
		return w
	case <-time.After(24 * time.Hour):
		r.t.Fatal("no last word comes")
		return smtp.Reply{}
	}
}

// Mail that is announced is fetched from the very address, judged, and delivered as it was; the backend's answer is the
// last word, and the record says how the mail came.
func TestFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.holder.keep("bob@rcpt.example", "77", letter)
		if got := r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250"); got.Text != "Selo accepted" {
			t.Errorf("%v", got)
		}
		if got := r.word(); got.Code != 250 {
			t.Errorf("the last word is %v", got)
		}
		synctest.Wait()
		messages := r.sink.Messages()
		if len(messages) != 1 {
			t.Fatalf("%d messages; %s", len(messages), r.log.String())
		}
		head, body, _ := strings.Cut(string(messages[0].Text), "\r\n\r\n")
		if body != "text\r\n</BODY>\r\n.\r\n" {
			t.Errorf("the body is %q", body)
		}
		for _, want := range []string{"Received: from sender.example ([192.0.2.54])\r\n\tby mx.test with AMTP id ", "for <bob@rcpt.example>", "spf=pass", "Received: by sender.example ([192.0.2.54]) with AMTP;", "Subject: hello"} {
			if !strings.Contains(head, want) {
				t.Errorf("no %q in %q", want, head)
			}
		}
		if strings.Contains(head, "<HEAD>") || strings.Contains(head, "Send From") {
			t.Errorf("a pseudo-tag: %q", head)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.records) != 1 {
			t.Fatalf("%d records", len(r.records))
		}
		rec := r.records[0]
		if f := &rec.Facts; rec.State != journal.StateRetrieved || rec.Outcome != journal.OutcomeDelivered || f.Client.Fetched != "sender.example" || f.Client.IP != peer {
			t.Errorf("%+v", rec)
		}
		if !slices.Equal(r.dialled, []string{peer + ":26"}) {
			t.Errorf("dialled %v", r.dialled)
		}
	})
}

// Without SPF the connection back is what proves the domain.
func TestIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.holder.keep("bob@rcpt.example", "77", strings.ReplaceAll(letter, "sender.example", "both.example"))
		r.announce(peer, "both.example", "77", "bob@rcpt.example", "250")
		r.word()
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.records) != 1 || r.records[0].Facts.Identity != (policy.Identity{Level: policy.LevelAMTP, Domain: "both.example"}) {
			t.Errorf("%+v", r.records)
		}
		if !slices.Equal(r.dialled, []string{peer + ":26"}) {
			t.Errorf("the domain has two addresses, and %v was dialled", r.dialled)
		}
	})
}

// Whoever names a place to call, nobody is called but the address that the announcement came from, and that only where the domain
// has it and a stranger's server can be there.
func TestForgers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, tt := range []struct{ from, domain, code string }{
			{"192.0.2.66", "sender.example", "550"},        // a forger with somebody's domain
			{peer, "other.example", "550"},                 // a third party's address
			{peer, "local.example", "550"},                 // names of loopback, and so on
			{peer, "link.example", "550"},                  //
			{peer, "metadata.example", "550"},              //
			{peer, "private.example", "550"},               //
			{peer, "mapped.example", "550"},                //
			{peer, "nowhere.example", "550"},               // of nobody
			{peer, "trouble.example", "451"},               // of whom nothing is known
			{peer, "127.0.0.1", "550"},                     // addresses prove no domain
			{peer, "[::ffff:127.0.0.1]", "550"},            //
			{peer, peer, "550"},                            //
			{"127.0.0.1", "local.example", "550"},          // who is there, and says so
			{"169.254.1.1", "link.example", "550"},         //
			{"169.254.169.254", "metadata.example", "550"}, //
			{"10.1.2.3", "private.example", "550"},         //
			{"::ffff:127.0.0.1", "local.example", "550"},   //
			{"fe80::1", "linklocal6.example", "550"},       //
			{"9.9.9.9", "own.example", "550"},              // our own address
			{"127.0.0.1", "both.example", "550"},           // a name of two
		} {
			r.announce(tt.from, tt.domain, "1", "bob@rcpt.example", tt.code)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := r.calls(); len(got) > 0 {
			t.Errorf("dialled %v", got)
		}
		// An address of the Internet is called where it is not our own, and where a backend takes its mail.
		r.announce("2a00::1", "six.example", "1", "bob@rcpt.example", "451 4.3.5")
		r.announce("9.9.9.8", "public.example", "1", "bob@rcpt.example", "250")
		synctest.Wait()
		if got := r.calls(); !slices.Equal(got, []string{"9.9.9.8:26"}) {
			t.Errorf("dialled %v", got)
		}
	})
}

// changing is a DNS in which a name is another one the second time.
type changing struct {
	mu    sync.Mutex
	asked int
}

func (c *changing) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked++; c.asked == 1 {
		return []netip.Addr{netip.MustParseAddr(peer)}, nil
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// A name that changes between two look-ups leads nowhere.
func TestRebinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.set.Resolver = &changing{}
		r.announce(peer, "sender.example", "1", "bob@rcpt.example", "250")
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := r.calls(); len(got) > 0 || !strings.Contains(r.log.String(), "does not resolve to 192.0.2.54 any more") {
			t.Errorf("dialled %v; %s", got, r.log.String())
		}
	})
}

// Neither the answer nor its time tells a stranger, or anybody, whether a recipient exists: nobody is asked.
func TestNoOracle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s smtptest.Step) smtptest.Action { return smtptest.Action{} })
		var said []string
		for _, from := range []string{peer, "192.0.2.66"} {
			for i, rcpt := range []string{"bob@rcpt.example", "nobody@rcpt.example", "postmaster@rcpt.example"} {
				began := time.Now()
				c := r.call(from)
				code := "250"
				if from != peer {
					code = "550"
				}
				said = append(said, c.say(fmt.Sprintf("SELO sender.example %d %s", i, rcpt), code).String())
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %v", took)
				}
				_ = c.conn.Close()
			}
		}
		if said[0] != said[1] || said[1] != said[2] || said[3] != said[4] || said[4] != said[5] {
			t.Errorf("%q", said)
		}
		// A stranger does not learn either which domains are served.
		if got := r.announce("192.0.2.66", "sender.example", "9", "bob@elsewhere.example", "550").String(); got != said[3] {
			t.Errorf("%q and %q", got, said[3])
		}
	})
}

// A thousand announcements of one peer are a bounded number of notices and one call at a time, and the same one again is no
// new one.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.mu.Lock()
		r.up = false // nothing is fetched meanwhile
		r.mu.Unlock()
		c := r.call(peer)
		taken, refused := 0, 0
		for i := range 1000 {
			number := fmt.Sprint(i)
			if _, err := io.WriteString(c.conn, "SELO sender.example "+number+" bob@rcpt.example\r\n"); err != nil {
				t.Fatal(err)
			}
			switch got := c.want(""); got.Code {
			case 250:
				taken++
				r.holder.keep("bob@rcpt.example", number, letter)
			case 452:
				refused++
			default:
				t.Fatalf("%v", got)
			}
		}
		c.say("SELO sender.example 1 bob@rcpt.example", "250")
		c.bye()
		if taken != 200 || refused != 800 {
			t.Errorf("%d taken, %d refused", taken, refused)
		}
		r.mu.Lock()
		r.up = true
		r.mu.Unlock()
		for range taken {
			if w := r.word(); w.Code != 250 {
				t.Fatalf("%v", w)
			}
		}
		synctest.Wait()
		if got := len(r.sink.Messages()); got != taken {
			t.Errorf("%d messages", got)
		}
		r.holder.mu.Lock()
		defer r.holder.mu.Unlock()
		if r.holder.most != 1 {
			t.Errorf("%d calls at a time", r.holder.most)
		}
	})
}

// Mail that the backend does not take now is fetched again; the last word is the backend's each time.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		busy := 3
		r := newRig(t, func(s smtptest.Step) smtptest.Action {
			mu.Lock()
			defer mu.Unlock()
			if s.Verb == "RCPT" && busy > 0 {
				busy--
				return smtptest.Action{Reply: "451 4.2.0 Busy\r\n"}
			}
			return smtptest.Action{}
		})
		r.holder.keep("bob@rcpt.example", "77", letter)
		r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250")
		for _, want := range []int{451, 451, 451, 250} {
			if got := r.word(); got.Code != want {
				t.Errorf("%v, want %d", got, want)
			}
		}
		synctest.Wait()
		if n := len(r.sink.Messages()); n != 1 {
			t.Errorf("%d messages", n)
		}
	})
}

// What no backend ever takes is tried until the lifetime is over, and no longer.
func TestLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up = false
		r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250")
		time.Sleep(r.set.Lifetime + 2*time.Hour)
		synctest.Wait()
		if log := r.log.String(); strings.Count(log, "result=expired") != 1 || strings.Count(log, "result=deferred") < 100 {
			t.Errorf("%d expired, %d deferred", strings.Count(log, "result=expired"), strings.Count(log, "result=deferred"))
		}
		if got := r.calls(); len(got) > 0 {
			t.Errorf("dialled %d times although nothing could be delivered", len(got))
		}
	})
}

// What is not the mail of the domain's own server, or no mail, is refused for good, and nobody gets it.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		text, number string
		word         int // 0: none is said
	}{
		"somebody else's From":    {text: strings.ReplaceAll(letter, "alice@sender.example", "alice@other.example"), word: 550},
		"From of a domain below":  {text: strings.ReplaceAll(letter, "alice@sender.example", "alice@x.sender.example"), word: 550},
		"no From":                 {text: strings.Replace(letter, "From:", "X-From:", 1), word: 555},
		"larger than it may be":   {text: letter + strings.Repeat("text text text text text\n", 60_000), word: 552},
		"a number that was guess": {text: letter, number: "78"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.holder.keep("bob@rcpt.example", "77", tt.text)
				number := "77"
				if tt.number != "" {
					number = tt.number
				}
				r.announce(peer, "sender.example", number, "bob@rcpt.example", "250")
				if tt.word != 0 {
					if got := r.word(); got.Code != tt.word {
						t.Errorf("%v, want %d", got, tt.word)
					}
				}
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				if n := len(r.sink.Messages()); n != 0 {
					t.Errorf("%d messages", n)
				}
				if n := len(r.calls()); n != 1 {
					t.Errorf("%d calls", n)
				}
			})
		})
	}
}

// endless never ends.
type endless struct{ first io.Reader }

func (e *endless) Read(p []byte) (int, error) {
	if n, err := e.first.Read(p); err == nil {
		return n, nil
	}
	return copy(p, "and so on, and so on, and so on, and so on, and so on\r\n"), nil
}

// A message without end is cut off, and costs what two of the largest cost.
func TestEndless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.set.Lifetime, r.set.Size = time.Minute, 64<<10
		read := 0
		r.holder.mail["bob@rcpt.example:77"] = func() io.Reader {
			return &counted{&endless{strings.NewReader(strings.ReplaceAll(letter, "\n", "\r\n"))}, &read}
		}
		r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250")
		if w := r.word(); !w.IsZero() {
			t.Errorf("%v", w)
		}
		synctest.Wait()
		if n := len(r.sink.Messages()); n != 0 || int64(read) > 9*r.set.Size {
			t.Errorf("%d messages, %d octets", n, read)
		}
	})
}

type counted struct {
	io.Reader
	n *int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.n += n
	return n, err
}

// Nothing is handed over here, whoever asks.
func TestSema(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.call(peer)
		first := c.say("SEMA bob@rcpt.example:77", "555").String()
		if again := c.say("SEMA alice@sender.example:1", "555").String(); again != first {
			t.Errorf("%q and %q", first, again)
		}
		c.bye()
	})
}

// The limits of connections are those of SMTP: a client has its share once, however it comes.
func TestSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var all []*client
		for range r.limits.ConnectionsPerClient {
			all = append(all, r.call(peer))
		}
		conn, server := net.Pipe()
		r.done.Go(func() {
			r.server.Handle(&placed{server, netip.MustParseAddrPort(peer + ":4000"), netip.MustParseAddrPort("198.51.100.1:26")})
		})
		if b, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(b), "421 ") {
			t.Errorf("%q, %v", b, err)
		}
		all[0].bye()
		synctest.Wait()
		r.call(peer).bye()
		for _, c := range all[1:] {
			_ = c.conn.Close()
		}
	})
}

// A user's mail goes through the same session, with From written by the server; what the host of the user is, nobody asks, and what
// the user's password is, nobody writes down.
func TestUser(t *testing.T) {
	known, err := users.Open(usersFile(t))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(s smtptest.Step) smtptest.Action {
		if s.Verb == "RCPT" && strings.Contains(s.Line, "nobody@") {
			return smtptest.Action{Reply: "550 5.1.1 No such user\r\n"}
		}
		return smtptest.Action{}
	})
	r.set.Users = known
	c := r.call("127.0.0.1")
	r.endInside(c, password)
	c.bye()
	c = r.call("127.0.0.1")
	c.say("USER", "250")
	c.say("al wrong password", "401")
	c.say("al "+password, "250")
	c.say("RCPT TO:x@elsewhere.example", "551")
	c.say("RCPT TO:nobody@rcpt.example", "550 5.1.1 No such user")
	c.say("RCPT TO:<bob@rcpt.example>", "250")
	c.say("MORE TO:carol@rcpt.example", "250")
	c.say("RSET", "250")
	c.say("DATA", "503")
	c.say("RCPT TO:bob@rcpt.example", "250")
	c.say("HEAD", "354")
	c.say("From: the.boss@rcpt.example\nSubject: hi\nMIME-Version: 1.0\n.", "250")
	c.say("DATA", "354")
	c.say("text\n..\n.", "250")
	c.say("RCPT TO:bob@rcpt.example", "250")
	c.say("DATA", "354")
	c.say("Subject: second\n\none more\n.", "250")
	c.bye()
	r.close()
	messages := r.sink.Messages()
	if len(messages) != 2 {
		t.Fatalf("%d messages; %s", len(messages), r.log.String())
	}
	text := string(messages[0].Text)
	if !strings.Contains(text, "\r\nFrom: alice@rcpt.example\r\n") || strings.Contains(text, "the.boss") || !strings.HasSuffix(text, "\r\n\r\ntext\r\n.\r\n") {
		t.Errorf("%q", text)
	}
	if strings.Contains(text, "X-Postern-Tag") {
		t.Errorf("tagged for what nobody has asked: %q", text)
	}
	for _, rec := range r.records {
		if rec.Outcome == journal.OutcomeAbandoned {
			continue // the one that was reset
		}
		if f := &rec.Facts; rec.State != journal.StateEmail || f.Client.User != "alice@rcpt.example" || f.Identity != (policy.Identity{Level: policy.LevelAMTP, Domain: "rcpt.example"}) ||
			f.SPF.Result != policy.Skipped || f.Mail.From != "alice@rcpt.example" {
			t.Errorf("%+v", rec)
		}
	}
	if log := r.log.String(); strings.Contains(log, "staple") || strings.Contains(log, "wrong password") {
		t.Errorf("the log has a password: %s", log)
	}
}

// A mail server that takes its time does so on our own time: the peer is not taken for slow, and its message is not fetched
// twice.
func TestSlowBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s smtptest.Step) smtptest.Action {
			switch s.Verb {
			case "RCPT":
				return smtptest.Action{Wait: 4 * time.Minute}
			case ".":
				return smtptest.Action{Wait: 7 * time.Minute}
			}
			return smtptest.Action{}
		})
		r.holder.keep("bob@rcpt.example", "77", letter+strings.Repeat("more\n", 100_000))
		r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250")
		if got := r.word(); got.Code != 250 {
			t.Errorf("%v; %s", got, r.log.String())
		}
		synctest.Wait()
		if n, calls := len(r.sink.Messages()), len(r.calls()); n != 1 || calls != 1 {
			t.Errorf("%d messages, %d calls", n, calls)
		}
	})
}

// A number may be another message's once the last word on the first was noted. Before, it may not be that of another one:
// that is asked for again, and delivered.
func TestNumberUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, text := range []string{letter, strings.Replace(letter, "hello", "hello again", 1)} {
			r.holder.keep("bob@rcpt.example", "77", text)
			r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250")
			if got := r.word(); got.Code != 250 {
				t.Errorf("%v", got)
			}
			synctest.Wait()
		}
		if n := len(r.sink.Messages()); n != 2 {
			t.Errorf("%d messages", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.holder.keep("bob@rcpt.example", "77", letter)
		r.holder.wrap = func(c net.Conn) net.Conn { // the last word is not heard, once
			r.holder.wrap = nil
			r.holder.mu.Lock()
			defer r.holder.mu.Unlock()
			return &mute{Conn: c}
		}
		r.announce(peer, "sender.example", "77", "bob@rcpt.example", "250")
		if w := r.word(); !w.IsZero() {
			t.Errorf("%v", w)
		}
		r.holder.keep("bob@rcpt.example", "77", strings.Replace(letter, "hello", "hello again", 1))
		for _, want := range []int{451, 250} {
			if w := r.word(); w.Code != want {
				t.Errorf("%v, want %d", w, want)
			}
		}
		synctest.Wait()
		if n := len(r.sink.Messages()); n != 2 {
			t.Errorf("%d messages", n)
		}
	})
}

// mute is a connection that breaks where a reply should be said.
type mute struct{ net.Conn }

func (m *mute) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] >= '0' && p[0] <= '9' {
		_ = m.Close()
		return 0, io.ErrClosedPipe
	}
	return m.Conn.Write(p)
}

// A proxy that ends lets a call come to its last word while there is time, begins no other, and waits for nobody longer than it may.
func TestShutdown(t *testing.T) {
	for name, patience := range map[string]time.Duration{"time enough": time.Hour, "no time": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(s smtptest.Step) smtptest.Action {
					if s.Verb == "." {
						return smtptest.Action{Wait: 5 * time.Minute}
					}
					return smtptest.Action{}
				})
				for _, n := range []string{"1", "2"} {
					r.holder.keep("bob@rcpt.example", n, letter)
					r.announce(peer, "sender.example", n, "bob@rcpt.example", "250")
				}
				time.Sleep(time.Minute)
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				err := r.recv.Shutdown(ctx)
				took := time.Since(began)
				if patience == time.Hour && (err != nil || took > 5*time.Minute) || patience == time.Second && (err == nil || took > 2*time.Second) {
					t.Errorf("%v after %v", err, took)
				}
				r.close()
				r.holder.mu.Lock()
				defer r.holder.mu.Unlock()
				if words := r.holder.words["bob@rcpt.example:1"]; patience == time.Hour && (len(words) != 1 || words[0].Code != 250) {
					t.Errorf("%v", words)
				}
				if words := r.holder.words["bob@rcpt.example:2"]; len(words) > 0 {
					t.Errorf("another one was fetched: %v", words)
				}
			})
		})
	}
}

const password = "staple horse"

// usersFile is a file of one user: al, who is alice@rcpt.example.
func usersFile(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), 10)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("al alice@rcpt.example "+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A user's message that is at the backend when the proxy ends is brought to its end as well, and he hears what became of it.
func TestShutdownBesideAUser(t *testing.T) {
	known, err := users.Open(usersFile(t))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s smtptest.Step) smtptest.Action {
			if s.Verb == "." {
				return smtptest.Action{Wait: 5 * time.Minute}
			}
			return smtptest.Action{}
		})
		r.set.Users = known
		c := r.call("127.0.0.1")
		c.say("USER", "250")
		c.say("al "+password, "250")
		c.say("RCPT TO:bob@rcpt.example", "250")
		c.say("DATA", "354")
		ended := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() {
			time.Sleep(time.Minute)
			ended <- r.recv.Shutdown(ctx)
		}()
		c.say("Subject: last\n\ntext\n.", "250")
		if err := <-ended; err != nil {
			t.Error(err)
		}
		c.bye()
		r.close()
	})
}

// endInside lets the session within end behind a user's back, between two messages: the next one gets another.
func (r *rig) endInside(c *client, password string) {
	c.say("USER", "250")
	c.say("al "+password, "250")
	c.say("RCPT TO:bob@rcpt.example", "250")
	c.say("RSET", "250")
	r.mu.Lock()
	inner := r.inner
	r.mu.Unlock()
	_ = inner.Close()
	c.say("RCPT TO:bob@rcpt.example", "451") // it shows now
	c.say("RCPT TO:bob@rcpt.example", "250")
	c.say("RSET", "250")
}
