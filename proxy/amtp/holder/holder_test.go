package holder_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/checks/dnstest"
	"postern/checks/leaktest"
	"postern/checks/logtest"
	"postern/configs"
	"postern/proxy/amtp"
	"postern/proxy/amtp/holder"
	"postern/proxy/amtp/spool"
	"postern/proxy/amtp/users"
	"postern/proxy/backend"
	"postern/proxy/smtp"
	"postern/proxy/smtptest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// aliceHash is that of "correct horse", of the least cost: to make one takes time.
const aliceHash = "$2a$10$vHwU1KjImftW0Jon7RT3auEH6YF6lrY91IYKmRc1/kw56j.BlC.jG"

const world = `
$ORIGIN .
far.example.     MX 10 mx.far.example.
mx.far.example.  A  127.0.0.2
bare.example.    A  127.0.0.2
null.example.    MX 0 .
two.example.     MX 10 mx.far.example.
two.example.     MX 20 old.two.example.
old.two.example. A 127.0.0.3
private.example. MX 10 host.private.example.
host.private.example. A 10.9.9.9
`

// pair is a holder at 127.0.0.1, and a server at 127.0.0.2 that mail is announced to, as the proxy is one; a smarthost
// takes what comes by SMTP.
type pair struct {
	t       *testing.T
	dir     string
	log     logtest.Log
	spool   *spool.Spool
	holder  *holder.Holder
	at      string // of the holder
	sink    *smtptest.Sink
	options holder.Options
	end     func()

	peer *peer
}

// peer notes what is announced to it, and fetches when it is told to.
type peer struct {
	net.Listener
	answer    func(amtp.Announcement) smtp.Reply // to SELO; nil: 250
	mu        sync.Mutex
	announced []amtp.Announcement
	deaf      bool // no server of AMTP is there
}

func (p *peer) Begin(*amtp.Session) amtp.Guest { return visit{p} }

type visit struct{ p *peer }

func (v visit) Login(context.Context, string, string) (smtp.Path, error) {
	return smtp.Path{}, amtp.ErrCredentials
}
func (v visit) Recipient(context.Context, smtp.Path) smtp.Reply { return amtp.NotLocal }
func (v visit) Message(context.Context, *amtp.Submission) smtp.Reply {
	return smtp.Reply{Code: 451}
}
func (v visit) Reset() {}
func (v visit) End()   {}
func (v visit) Sema(context.Context, amtp.Claim) (amtp.Parcel, smtp.Reply) {
	return nil, amtp.NoMail
}

func (v visit) Selo(_ context.Context, a amtp.Announcement) smtp.Reply {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	v.p.announced = append(v.p.announced, a)
	if v.p.answer != nil {
		return v.p.answer(a)
	}
	return amtp.SeloAccepted
}

// start makes a pair; change may be nil.
func start(t *testing.T, change func(*holder.Options, *pair)) *pair {
	t.Helper()
	p := &pair{t: t, dir: t.TempDir(), sink: smtptest.NewSink(smtptest.SinkOptions{})}
	t.Cleanup(p.sink.Close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	log := slog.New(slog.NewTextHandler(&p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	file := filepath.Join(p.dir, "users")
	if err := os.WriteFile(file, []byte("alice alice@near.example "+aliceHash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	who, err := users.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	zone, err := dnstest.Parse(world)
	if err != nil {
		t.Fatal(err)
	}
	smarthost, err := backend.New([]configs.Backend{{Name: "smarthost", Addresses: []string{p.sink.Addr()}, TLS: "off", Identity: "none"}}, nil, backend.Options{Hostname: "near.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(smarthost.Close)

	// The other server.
	p.peer = &peer{}
	if p.peer.Listener, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Fatal(err)
	}
	d := configs.Default()
	settings := &amtp.Settings{Hostname: "test.example", Limits: d.Limits, Timeouts: d.Timeouts}
	settings.Limits.HeaderFields = 100
	admit := func(netip.Addr) (func(), string) { return func() {}, "" }
	other := &amtp.Server{Name: "far", Handler: p.peer, Settings: func() *amtp.Settings { return settings }, Admit: admit, Log: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() { served <- other.Serve(p.peer.Listener) }()
	t.Cleanup(func() {
		_ = other.Shutdown(context.Background())
		<-served
	})

	p.options = holder.Options{
		Hostname: "near.example", Users: who, Resolver: zone, Smarthost: smarthost.Route(smtp.Path{}), Fallback: true,
		Port: netip.MustParseAddrPort(p.peer.Addr().String()).Port(), Lifetime: time.Hour, Retry: 50 * time.Millisecond, Timeout: 30 * time.Second,
		Callable: func(a netip.Addr) error {
			return amtp.Callable(a, []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")})
		},
		Log: log, Connections: 100, ConnectionsPerClient: 100,
	}
	p.options.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		p.peer.mu.Lock()
		defer p.peer.mu.Unlock()
		switch {
		case address == "127.0.0.2:25":
			address = p.sink.Addr()
		case p.peer.deaf:
			return nil, errors.New("connection refused")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	if change != nil {
		change(&p.options, p)
	}
	p.run()
	t.Cleanup(func() { p.end() })
	return p
}

// run starts the holder on its spool; end stops it.
func (p *pair) run() {
	t := p.t
	var err error
	if p.spool, err = spool.Open(filepath.Join(p.dir, "spool"), spool.Limits{Octets: 1 << 20, OctetsPerUser: 1 << 20, Entries: 100, EntriesPerUser: 100}, p.options.Log); err != nil {
		t.Fatal(err)
	}
	o := p.options
	o.Spool = p.spool
	p.holder = holder.New(o)
	d := configs.Default()
	settings := &amtp.Settings{Hostname: "near.example", Limits: d.Limits, Timeouts: d.Timeouts}
	server := &amtp.Server{Name: "near", Handler: p.holder, Settings: func() *amtp.Settings { return settings }, Admit: p.holder.Admit, Log: o.Log}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.at = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	ctx, cancel := context.WithCancel(context.Background())
	worked := make(chan struct{})
	h := p.holder
	go func() {
		defer close(worked)
		h.Run(ctx, context.Background())
	}()
	var once sync.Once
	p.end = func() {
		once.Do(func() {
			cancel()
			_ = server.Shutdown(context.Background())
			<-served
			<-worked
			if err := p.spool.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// say is a conversation with the holder, a line each; what is answered comes back, a reply each, the greeting first.
func (p *pair) say(lines ...string) (replies []string) {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.at)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	br := bufio.NewReaderSize(conn, 4096)
	read := func() {
		r, err := smtp.ReadReply(br)
		if err != nil {
			p.t.Fatalf("%v, behind %q", err, replies)
		}
		replies = append(replies, r.String())
	}
	read()
	for _, l := range lines {
		if _, err := io.WriteString(conn, l+"\r\n"); err != nil {
			p.t.Fatal(err)
		}
		if !strings.HasSuffix(l, "\\") {
			read()
		}
	}
	return replies
}

// send has alice send a message to a recipient.
func (p *pair) send(to string) {
	p.t.Helper()
	got := p.say("USER", "alice correct horse", "RCPT TO:"+to, "HEAD", "Subject: hello\r\nTo: "+to+"\r\n.", "DATA", "first line\r\n..dotted\r\n</BODY>\r\nlast line\r\n.", "QUIT")
	if len(got) != 9 || !strings.HasPrefix(got[7], "250 ") {
		p.t.Fatalf("%q", got)
	}
}

// eventually waits for what must come, however busy the machine is.
func (p *pair) eventually(what string, is func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

func (p *pair) entries() int {
	_, n := p.spool.Used()
	return n
}

// announcement waits for the nth SELO.
func (p *pair) announcement(n int) (a amtp.Announcement) {
	p.t.Helper()
	p.eventually(fmt.Sprintf("SELO %d", n), func() bool {
		p.peer.mu.Lock()
		defer p.peer.mu.Unlock()
		if len(p.peer.announced) >= n {
			a = p.peer.announced[n-1]
			return true
		}
		return false
	})
	return a
}

// fetch asks for a message from an address, and says what became of it; nil: the connection is cut.
func (p *pair) fetch(from string, c amtp.Claim, word *smtp.Reply) (text string, noted smtp.Reply, err error) {
	var conn net.Conn
	caller := &amtp.Caller{Dial: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
		conn, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, network, address)
		return conn, err
	}}
	call, err := caller.Open(context.Background(), netip.MustParseAddrPort(p.at))
	if err != nil {
		return "", smtp.Reply{}, err
	}
	defer call.Close()
	noted, err = call.Fetch(c, "near.example", func(m *amtp.Message, err error) smtp.Reply {
		if err != nil {
			p.t.Errorf("the message: %v", err)
			return smtp.Reply{Code: 550}
		}
		body, err := io.ReadAll(m.Body)
		if err != nil {
			p.t.Errorf("the body: %v", err)
		}
		text = string(m.Head) + string(body)
		if word == nil {
			_ = conn.Close()
			return smtp.Reply{Code: 451}
		}
		return *word
	})
	return text, noted, err
}

var (
	delivered = smtp.Reply{Code: 250, Enhanced: "2.0.0", Text: "Ok"}
	bob       = "bob@far.example"
)

func claimOf(a amtp.Announcement) amtp.Claim {
	return amtp.Claim{Recipient: a.Recipient, Number: a.Number}
}

// A user's mail is announced to the server of its recipient, fetched by it, and forgotten when that says 250.
func TestMailIsFetched(t *testing.T) {
	p := start(t, nil)
	p.send(bob)
	a := p.announcement(1)
	if a.Domain != "near.example" || a.Recipient.String() != bob || len(a.Number) != 39 {
		t.Errorf("%+v", a)
	}
	text, noted, err := p.fetch("127.0.0.2", claimOf(a), &delivered)
	if err != nil || noted.Code != 250 {
		t.Fatalf("%v, %v", noted, err)
	}
	for _, want := range []string{"From: alice@near.example\r\n", "Subject: hello\r\n", "To: bob@far.example\r\n", "\r\n\r\nfirst line\r\n.dotted\r\n</BODY>\r\nlast line\r\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	if log := p.log.String(); strings.Contains(log, "horse") || !strings.Contains(log, "msg=delivered") {
		t.Error("the log has the password, or no delivery")
	}
	if _, _, err := p.fetch("127.0.0.2", claimOf(a), &delivered); err == nil {
		t.Error("it was given away twice")
	}
}

// Whoever asks with a number that is not his hears the same, whatever is wrong; and not for ever.
func TestMailOfOthers(t *testing.T) {
	p := start(t, func(o *holder.Options, _ *pair) { o.Guesses = 10 })
	p.send(bob)
	a := p.announcement(1)
	p.eventually("announced", func() bool { return strings.Contains(p.log.String(), "msg=announced") })
	wrong := a.Number[:38] + string('0'+('9'-a.Number[38]))
	if wrong == a.Number {
		t.Fatal("the number is the same")
	}
	refusals := map[string]bool{}
	for _, c := range []struct {
		from  string
		claim amtp.Claim
	}{
		{"127.0.0.1", claimOf(a)},
		{"127.0.0.3", claimOf(a)},
		{"127.0.0.2", amtp.Claim{Recipient: a.Recipient, Number: wrong}},
		{"127.0.0.2", amtp.Claim{Recipient: smtp.Path{Local: "Bob", Domain: "far.example"}, Number: a.Number}},
		{"127.0.0.2", amtp.Claim{Recipient: smtp.Path{Local: "bob", Domain: "bare.example"}, Number: a.Number}},
	} {
		_, _, err := p.fetch(c.from, c.claim, &delivered)
		var r *amtp.Refusal
		if !errors.As(err, &r) || r.Reply.Code != 555 {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		refusals[r.Reply.String()] = true
	}
	if len(refusals) != 1 {
		t.Errorf("the answers tell something: %v", refusals)
	}
	// Other clients of loopback guess on and on, and are turned away.
	turned := false
	for range 100 {
		if _, _, err := p.fetch("127.0.0.4", amtp.Claim{Recipient: a.Recipient, Number: wrong}, &delivered); err != nil && strings.Contains(err.Error(), "421") {
			turned = true
			break
		}
	}
	if !turned {
		t.Error("a hundred guesses were answered")
	}
	if text, _, err := p.fetch("127.0.0.2", claimOf(a), &delivered); err != nil || text == "" {
		t.Errorf("its own server: %v", err)
	}
	if got := p.say("SELO far.example 1 alice@near.example")[1]; !strings.HasPrefix(got, "550 ") {
		t.Errorf("SELO to a holder: %s", got)
	}
}

// A mail server that is away, and a connection that breaks behind the message: it is fetched again, and where nobody
// knows whether it arrived, that is said.
func TestMailIsFetchedAgain(t *testing.T) {
	p := start(t, nil)
	p.send(bob)
	a := p.announcement(1)
	away := smtp.Reply{Code: 451, Enhanced: "4.4.1", Text: "The mail server is away"}
	if _, noted, err := p.fetch("127.0.0.2", claimOf(a), &away); err != nil || noted != away {
		t.Fatalf("%v, %v", noted, err)
	}
	if _, _, err := p.fetch("127.0.0.2", claimOf(a), nil); err == nil {
		t.Fatal("the last word was said")
	}
	p.eventually("it is said that it may come twice", func() bool { return strings.Contains(p.log.String(), "it may arrive twice") })

	// And once more behind a restart, which says so again; the number is the same.
	p.end()
	p.run()
	if n := strings.Count(p.log.String(), "it may arrive twice"); n != 2 {
		t.Errorf("said %d times", n)
	}
	p.peer.mu.Lock()
	n := len(p.peer.announced)
	p.peer.mu.Unlock()
	if again := p.announcement(n + 1); again != a {
		t.Errorf("%+v, and then %+v", a, again)
	}
	if text, noted, err := p.fetch("127.0.0.2", claimOf(a), &delivered); err != nil || noted.Code != 250 || text == "" {
		t.Fatalf("%v, %v", noted, err)
	}
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	if !strings.Contains(p.log.String(), "twice_possible=true") {
		t.Error("nothing is said of it in the end")
	}
}

// What cannot arrive comes back to its sender, with the null reverse-path (RFC 3464).
func TestReports(t *testing.T) {
	refused := smtp.Reply{Code: 550, Enhanced: "7.1", Text: "We do not want\u202e it"}
	for name, c := range map[string]struct {
		to     string
		change func(*holder.Options, *pair)
		word   *smtp.Reply
		status string
		why    string
	}{
		"the chain refuses it": {to: bob, word: &refused, status: "5.7.1", why: "550 5.7.1 We do not want"},
		"SELO is refused": {to: bob, change: func(_ *holder.Options, p *pair) {
			p.peer.answer = func(amtp.Announcement) smtp.Reply { return amtp.NoSelo }
		}, status: "5.0.0", why: "said to SELO: 550"},
		"no domain":           {to: "bob@nowhere.example", status: "5.1.2", why: "has no host that takes mail"},
		"null MX":             {to: "bob@null.example", status: "5.1.10", why: "takes no mail"},
		"a private address":   {to: "bob@private.example", status: "5.4.4", why: "10.9.9.9"},
		"nobody fetches it":   {to: bob, change: func(o *holder.Options, _ *pair) { o.Lifetime = 300 * time.Millisecond }, status: "5.4.7", why: "not fetched in time"},
		"no AMTP and no SMTP": {to: bob, change: func(o *holder.Options, p *pair) { o.Fallback, p.peer.deaf = false, true }, status: "5.4.1", why: "no server of AMTP"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, c.change)
			p.send(c.to)
			if c.word != nil {
				if _, _, err := p.fetch("127.0.0.2", claimOf(p.announcement(1)), c.word); err != nil {
					t.Fatal(err)
				}
			}
			p.eventually("nothing waits", func() bool { return p.entries() == 0 })
			got := p.sink.Messages()
			if len(got) != 1 || !got[0].From.IsNull() || len(got[0].To) != 1 || got[0].To[0].Path.String() != "alice@near.example" {
				t.Fatalf("%+v", got)
			}
			for _, want := range []string{
				"\r\nTo: alice@near.example\r\n", "report-type=delivery-status", "\r\nReporting-MTA: dns; near.example\r\n",
				"\r\nFinal-Recipient: rfc822; " + c.to + "\r\nAction: failed\r\nStatus: " + c.status + "\r\n", "\r\nSubject: hello\r\n", "\r\nAuto-Submitted: auto-replied\r\n",
			} {
				if !strings.Contains(string(got[0].Text), want) {
					t.Errorf("%q is not in\n%s", want, got[0].Text)
				}
			}
			if folded := strings.Join(strings.Fields(string(got[0].Text)), " "); !strings.Contains(folded, c.why) {
				t.Errorf("%q is not in\n%s", c.why, got[0].Text)
			}
			for _, bad := range []string{"first line", "may have arrived"} {
				if strings.Contains(string(got[0].Text), bad) {
					t.Errorf("the report says %q", bad)
				}
			}
		})
	}
}

// Where no server of AMTP is and one of SMTP is, the smarthost takes it; where both are away it is tried again.
func TestFallback(t *testing.T) {
	p := start(t, func(_ *holder.Options, p *pair) { p.peer.deaf = true })
	p.send(bob)
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	got := p.sink.Messages()
	if len(got) != 1 || got[0].From.String() != "alice@near.example" || got[0].To[0].Path.String() != bob {
		t.Fatalf("%+v", got)
	}
	text := string(got[0].Text)
	if !strings.HasPrefix(text, "Received: by near.example with AMTP id ") || !strings.Contains(text, "\r\nFrom: alice@near.example\r\n") || !strings.HasSuffix(text, "\r\n\r\nfirst line\r\n.dotted\r\n</BODY>\r\nlast line\r\n") {
		t.Errorf("%s", text)
	}
}

func TestFallbackWaitsForTheSmarthost(t *testing.T) {
	var mu sync.Mutex
	// What is said of the sender, of us, or of relaying is no word on the recipient; nor is a 250 to DATA one on the message.
	answers := map[string][]string{
		"MAIL": {"550 5.1.8 We do not know you\r\n"},
		"RCPT": {"451 4.3.0 Later\r\n", "554 5.7.1 Relay access denied\r\n", "530 5.7.0 Authentication required\r\n"},
		"DATA": {"250 2.0.0 Ok\r\n", "299 Fine\r\n", "334 Go on\r\n", "554 5.5.1 Not now\r\n"},
	}
	nobody := "550 5.1.1 Nobody\r\n" // behind all that, to RCPT
	p := start(t, func(o *holder.Options, p *pair) {
		p.peer.deaf = true
		p.smarthost(o, func(s smtptest.Step) (a smtptest.Action) {
			mu.Lock()
			defer mu.Unlock()
			if list := answers[s.Verb]; len(list) > 0 {
				a.Reply, answers[s.Verb] = list[0], list[1:]
			} else if s.Verb == "RCPT" && len(answers["DATA"]) == 0 && nobody != "" {
				a.Reply, nobody = nobody, ""
			}
			return a
		})
	})
	p.send(bob)
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	got := p.sink.Messages()
	if len(got) != 1 || !got[0].From.IsNull() || !strings.Contains(string(got[0].Text), "Status: 5.1.1\r\n") {
		t.Errorf("%+v", got)
	}
	if log := p.log.String(); !strings.Contains(log, "not given to the smarthost") {
		t.Error("the log does not tell of the first attempt")
	}
}

// A domain that has spoken AMTP is not left for SMTP when its server is being started again.
func TestServerThatIsAwayForAWhile(t *testing.T) {
	p := start(t, nil)
	p.send(bob)
	a := p.announcement(1)
	p.eventually("announced", func() bool { return strings.Contains(p.log.String(), "msg=announced") })
	p.peer.mu.Lock()
	p.peer.deaf = true
	n := len(p.peer.announced)
	p.peer.mu.Unlock()
	p.eventually("tried in vain", func() bool { return strings.Contains(p.log.String(), "msg=\"not announced\"") })
	p.peer.mu.Lock()
	p.peer.deaf = false
	p.peer.mu.Unlock()
	p.announcement(n + 1)
	if _, _, err := p.fetch("127.0.0.2", claimOf(a), &delivered); err != nil {
		t.Fatal(err)
	}
	if len(p.sink.Messages()) > 0 {
		t.Error("it went to the smarthost")
	}
}

// Who may log in, and what hears 250.
func TestUsersOfTheHolder(t *testing.T) {
	p := start(t, nil)
	got := p.say("USER", "alice wrong password", "bob correct horse", "alice battery")
	if want := []string{"401", "401", "555"}; len(got) != 5 {
		t.Fatalf("%q", got)
	} else {
		for i, w := range want {
			if !strings.HasPrefix(got[i+2], w) {
				t.Errorf("%q, want %s", got[i+2], w)
			}
		}
	}
	if log := p.log.String(); strings.Contains(log, "horse") || strings.Contains(log, "battery") || strings.Contains(log, "wrong password") {
		t.Errorf("the log has a password:\n%s", log)
	}
	got = p.say("USER", "alice correct horse", "RCPT TO:bob@[192.0.2.1]", "RCPT TO:"+bob+","+bob, "DATA", "Subject: twice\r\ntext\r\n.", "QUIT")
	if !strings.HasPrefix(got[3], "501") || !strings.HasPrefix(got[6], "250") {
		t.Errorf("%q", got)
	}
	a := p.announcement(1)
	text, _, err := p.fetch("127.0.0.2", claimOf(a), &delivered)
	if err != nil || !strings.Contains(text, "Subject: twice\r\n") {
		t.Errorf("%q, %v", text, err)
	}
	p.eventually("one entry for one recipient", func() bool { return p.entries() == 0 })
}

// Whoever guesses passwords is turned away for a while, however few tries a connection has.
func TestGuessesOfPasswords(t *testing.T) {
	p := start(t, func(o *holder.Options, _ *pair) { o.Guesses = 1 }) // it comes back in a minute
	p.say("USER", "alice wrong password")
	conn, err := net.Dial("tcp", p.at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if r, err := smtp.ReadReply(bufio.NewReaderSize(conn, 4096)); err != nil || r.Code != 421 {
		t.Errorf("%v, %v", r, err)
	}
	if release, why := p.holder.Admit(netip.MustParseAddr("127.0.0.5")); why != "" {
		t.Errorf("somebody else: %s", why)
	} else {
		release()
	}
}

// Where it cannot be told whether an address may be called it is not, and the mail waits.
func TestTroubleOfOursLosesNothing(t *testing.T) {
	var mu sync.Mutex
	trouble := true
	p := start(t, func(o *holder.Options, _ *pair) {
		o.Callable = func(netip.Addr) error {
			mu.Lock()
			defer mu.Unlock()
			if trouble {
				return fmt.Errorf("%w: no netlink", holder.ErrTrouble)
			}
			return nil
		}
	})
	p.send(bob)
	p.eventually("it is said why", func() bool { return strings.Contains(p.log.String(), "no netlink") })
	mu.Lock()
	trouble = false
	mu.Unlock()
	if _, _, err := p.fetch("127.0.0.2", claimOf(p.announcement(1)), &delivered); err != nil {
		t.Fatal(err)
	}
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	if len(p.sink.Messages()) > 0 {
		t.Error("its sender was told something")
	}
}

// A report says that the mail may have arrived where nobody knows, and nowhere else. One that the smarthost does not want
// is tried again.
func TestReportOfWhatMayHaveArrived(t *testing.T) {
	var mu sync.Mutex
	refusals := 3
	p := start(t, func(o *holder.Options, p *pair) {
		p.smarthost(o, func(s smtptest.Step) (a smtptest.Action) {
			mu.Lock()
			defer mu.Unlock()
			if s.Verb == "MAIL" && refusals > 0 {
				refusals--
				a.Reply = "550 5.7.1 No null reverse-path here\r\n"
			}
			return a
		})
	})
	p.expired(spool.Entry{Handed: 1})
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	got := p.sink.Messages()
	if len(got) != 1 || !strings.Contains(string(got[0].Text), "it may have arrived") {
		t.Errorf("%+v", got)
	}
	if n := strings.Count(p.log.String(), "its sender was not told yet"); n != 3 {
		t.Errorf("refused %d times", n)
	}
}

// smarthost puts another one in place, with a script.
func (p *pair) smarthost(o *holder.Options, script func(smtptest.Step) smtptest.Action) {
	p.t.Helper()
	sink := smtptest.NewSink(smtptest.SinkOptions{Script: script})
	p.t.Cleanup(sink.Close)
	set, err := backend.New([]configs.Backend{{Name: "smarthost", Addresses: []string{sink.Addr()}, TLS: "off", Identity: "none"}}, nil, backend.Options{Hostname: "near.example"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(set.Close)
	p.sink, o.Smarthost = sink, set.Route(smtp.Path{})
}

// expired puts a message of the past into the spool, and starts the holder anew.
func (p *pair) expired(e spool.Entry) {
	p.t.Helper()
	p.end()
	p.run()
	d, err := p.spool.Begin("alice")
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := d.Write([]byte("Subject: old\r\n\r\ntext\r\n")); err != nil {
		p.t.Fatal(err)
	}
	now := time.Now()
	e.Number, e.Stage, e.Next = amtp.NewNumber(), spool.Waiting, now
	e.To = smtp.Path{Local: "bob", Domain: "far.example"}
	if err := d.Commit(spool.Of{From: smtp.Path{Local: "alice", Domain: "near.example"}, Arrived: now, Expires: now.Add(-time.Second)}, []spool.Entry{e}); err != nil {
		p.t.Fatal(err)
	}
	p.end()
	p.run()
}

// Mail whose file is damaged is told of, and keeps no other mail from its way.
func TestDamagedMail(t *testing.T) {
	p := start(t, nil)
	p.send(bob)
	a := p.announcement(1)
	p.end()
	texts, err := filepath.Glob(filepath.Join(p.dir, "spool", "*.message"))
	if err != nil || len(texts) != 1 {
		t.Fatalf("%v, %v", texts, err)
	}
	if err := os.Truncate(texts[0], 10); err != nil {
		t.Fatal(err)
	}
	p.run()
	if n := p.entries(); n != 0 || !strings.Contains(p.log.String(), "mail is damaged") {
		t.Errorf("%d entries", n)
	}
	if _, _, err := p.fetch("127.0.0.2", claimOf(a), &delivered); err == nil {
		t.Error("half of it was given away")
	}
	p.peer.mu.Lock()
	n := len(p.peer.announced)
	p.peer.mu.Unlock()
	p.send(bob)
	b := p.announcement(n + 1)

	// One that is damaged while we run comes back to its sender in the end, without its header section.
	texts, err = filepath.Glob(filepath.Join(p.dir, "spool", "*.message"))
	if err != nil || len(texts) != 2 {
		t.Fatalf("%v, %v", texts, err)
	}
	for _, text := range texts {
		if err := os.Remove(text); err != nil {
			t.Fatal(err)
		}
	}
	var r *amtp.Refusal
	if _, _, err := p.fetch("127.0.0.2", claimOf(b), &delivered); !errors.As(err, &r) || !r.Reply.Transient() {
		t.Errorf("what cannot be read: %v", err)
	}
	if _, err := p.spool.Update(b.Number, func(e *spool.Entry) {
		e.Stage, e.Peer, e.Status, e.Last, e.Next = spool.Failed, netip.Addr{}, "5.4.7", "late", time.Now()
	}); err != nil {
		t.Fatal(err)
	}
	p.eventually("its sender is told", func() bool { return len(p.sink.Messages()) == 1 && p.entries() == 0 })
}

// Where a host has no AMTP is remembered: other mail for it does not ask again.
func TestAbsenceIsRemembered(t *testing.T) {
	var mu sync.Mutex
	dials := 0
	p := start(t, func(o *holder.Options, p *pair) {
		p.peer.deaf = true
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			if !strings.HasSuffix(address, ":25") {
				dials++
			}
			mu.Unlock()
			return dial(ctx, network, address)
		}
	})
	for range 3 {
		p.send(bob)
		p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	}
	mu.Lock()
	defer mu.Unlock()
	if n := len(p.sink.Messages()); n != 3 || dials != 1 {
		t.Errorf("%d messages by %d calls", n, dials)
	}
}

// What breaks behind the greeting of a server is no reason to send mail another way: whoever can break a connection
// could choose that way.
func TestNoDowngrade(t *testing.T) {
	var mu sync.Mutex
	breaks := []string{"220 mx.far.example AMTP\r\n", "", "220 mx.far.example AMTP\r\n220 Go ahead\r\nno TLS", "421 Later\r\n"}
	p := start(t, func(o *holder.Options, _ *pair) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasSuffix(address, ":25") || len(breaks) == 0 {
				return dial(ctx, network, address)
			}
			near, far := net.Pipe()
			says := breaks[0]
			breaks = breaks[1:]
			go func() {
				defer func() { _ = far.Close() }()
				lines := strings.SplitAfter(says, "\n")
				for i, l := range lines {
					if _, err := io.WriteString(far, l); err != nil {
						return
					}
					if i+1 < len(lines) { // what is said to it
						if _, err := bufio.NewReader(far).ReadString('\n'); err != nil {
							return
						}
					}
				}
			}()
			return near, nil
		}
	})
	p.send(bob)
	if _, _, err := p.fetch("127.0.0.2", claimOf(p.announcement(1)), &delivered); err != nil {
		t.Fatal(err)
	}
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	if got := p.sink.Messages(); len(got) > 0 {
		t.Errorf("it went by SMTP: %+v", got)
	}
}

// Nor is it where another host of the domain has SMTP alone: the one that is preferred has begun to talk.
func TestNoDowngradeByAnotherHost(t *testing.T) {
	var mu sync.Mutex
	breaks := 3
	p := start(t, func(o *holder.Options, p *pair) {
		o.Callable = func(netip.Addr) error { return nil }
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case address == "127.0.0.3:25":
				return dial(ctx, network, p.sink.Addr())
			case strings.HasPrefix(address, "127.0.0.3:"):
				return nil, errors.New("connection refused")
			case breaks == 0:
				return dial(ctx, network, address)
			}
			breaks--
			near, far := net.Pipe()
			go func() {
				_, _ = io.WriteString(far, "220 mx.far.example AMTP\r\n")
				_ = far.Close()
			}()
			return near, nil
		}
	})
	p.send("bob@two.example")
	if _, _, err := p.fetch("127.0.0.2", claimOf(p.announcement(1)), &delivered); err != nil {
		t.Fatal(err)
	}
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	if got := p.sink.Messages(); len(got) > 0 {
		t.Errorf("it went by SMTP: %+v", got)
	}
}

// An address that does not answer at all is called last from then on, and does not use up the time of the others.
func TestSilentAddressesComeLast(t *testing.T) {
	var mu sync.Mutex
	var called []string
	p := start(t, func(o *holder.Options, p *pair) {
		o.Timeout = 2 * time.Second
		o.Callable = func(netip.Addr) error { return nil }
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			mu.Lock()
			called = append(called, host)
			mu.Unlock()
			if host == "127.0.0.2" { // the preferred one
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return dial(ctx, network, p.peer.Addr().String())
		}
	})
	p.send("bob@two.example")
	p.announcement(1)
	p.eventually("announced", func() bool { return strings.Contains(p.log.String(), "msg=announced") })
	mu.Lock()
	defer mu.Unlock()
	if last := len(called) - 1; called[0] != "127.0.0.2" || called[last] != "127.0.0.3" || last < 2 {
		t.Errorf("called were %q", called)
	}
}

// A server that fetches before it has answered, and does not want what it got: that decides, and not the answer.
func TestFetchedBeforeTheAnswer(t *testing.T) {
	refused := smtp.Reply{Code: 550, Enhanced: "7.1", Text: "Not wanted"}
	var p *pair
	ready := make(chan struct{})
	p = start(t, func(_ *holder.Options, made *pair) {
		made.peer.answer = func(a amtp.Announcement) smtp.Reply {
			<-ready
			if _, _, err := p.fetch("127.0.0.2", claimOf(a), &refused); err != nil {
				p.t.Error(err)
			}
			return amtp.SeloAccepted
		}
	})
	close(ready)
	p.send(bob)
	p.eventually("nothing waits", func() bool { return p.entries() == 0 })
	if got := p.sink.Messages(); len(got) != 1 || !strings.Contains(string(got[0].Text), "Status: 5.7.1\r\n") {
		t.Errorf("%+v", got)
	}
}
