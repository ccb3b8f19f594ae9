package holder_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/logtest"
	"postern/configs"
	"postern/proxy/amtp"
	"postern/proxy/amtp/holder"
	"postern/proxy/amtp/spool"
	"postern/proxy/smtp"
)

var errCut = errors.New("the connection was cut")

// cut is a connection that breaks after so many octets, whoever sends them.
type cut struct {
	net.Conn
	remote net.Addr
	local  net.Addr

	mu   sync.Mutex
	left int // negative: it does not break
	used int
}

func (c *cut) RemoteAddr() net.Addr { return c.remote }
func (c *cut) LocalAddr() net.Addr  { return c.local }

// spend takes up to n octets of what is left.
func (c *cut) spend(n int) (got int, broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left >= 0 {
		n = min(n, c.left)
		c.left -= n
		broken = c.left == 0
	}
	c.used += n
	return n, broken
}

func (c *cut) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	got, broken := c.spend(n)
	if broken {
		_ = c.Conn.Close()
		if got < n || got == 0 {
			return got, errCut
		}
	}
	return got, err
}

func (c *cut) Write(p []byte) (int, error) {
	c.mu.Lock()
	n := len(p)
	if c.left >= 0 {
		n = min(n, c.left)
	}
	c.mu.Unlock()
	n, err := c.Conn.Write(p[:n])
	if _, broken := c.spend(n); broken || n < len(p) {
		_ = c.Conn.Close()
		return n, errors.Join(err, errCut)
	}
	return n, err
}

// line is the two connections of a message: its announcement and its fetching. One of them breaks.
type line struct {
	t        *testing.T
	holder   *amtp.Server
	other    *amtp.Server
	mu       sync.Mutex
	fault    string // "SELO", "SEMA"
	after    int    // octets of its first connection
	seen     map[string]int
	used     map[string]int // of the last connection that did not break
	texts    []string       // what was delivered
	asked    map[string]bool
	fetching sync.WaitGroup
}

var (
	nearAt = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 26}
	farAt  = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 26}
)

// open makes a connection to a server that sees it come from an address.
func (l *line) open(kind string, to *amtp.Server, from, at net.Addr) net.Conn {
	near, far := net.Pipe()
	l.mu.Lock()
	left := -1
	if kind == l.fault && l.seen[kind] == 0 {
		left = l.after
	}
	l.seen[kind]++
	l.mu.Unlock()
	c := &cut{Conn: near, remote: at, local: from, left: left}
	l.fetching.Go(func() {
		served := &cut{Conn: far, remote: from, local: at, left: -1}
		to.Handle(served)
		l.mu.Lock()
		if left < 0 {
			l.used[kind] = served.used
		}
		l.mu.Unlock()
	})
	if left == 0 {
		_ = near.Close()
	}
	return c
}

func (l *line) Begin(*amtp.Session) amtp.Guest { return pulls{visit{&peer{}}, l} }

// pulls is a server that fetches what is announced to it, until it is told that there is nothing; it does not remember
// what it had already, as one that was killed.
type pulls struct {
	visit
	l *line
}

func (p pulls) Selo(_ context.Context, a amtp.Announcement) smtp.Reply {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	if !p.l.asked[a.Number] {
		p.l.asked[a.Number] = true
		p.l.fetching.Go(func() { p.l.fetch(a) })
	}
	return amtp.SeloAccepted
}

// fetch asks for a message, again and again.
func (l *line) fetch(a amtp.Announcement) {
	caller := &amtp.Caller{Dial: func(context.Context, string, string) (net.Conn, error) {
		return l.open("SEMA", l.holder, farAt, nearAt), nil
	}}
	for {
		err := func() error {
			call, err := caller.Open(context.Background(), netip.MustParseAddrPort("127.0.0.1:26"))
			if err != nil {
				return err
			}
			defer call.Close()
			_, err = call.Fetch(amtp.Claim{Recipient: a.Recipient, Number: a.Number}, "near.example", func(m *amtp.Message, err error) smtp.Reply {
				if err != nil {
					return smtp.Reply{Code: 451}
				}
				var body []byte
				if body, err = io.ReadAll(m.Body); err != nil {
					return smtp.Reply{Code: 451}
				}
				l.mu.Lock()
				l.texts = append(l.texts, string(m.Head)+string(body))
				l.mu.Unlock()
				return delivered
			})
			return err
		}()
		var refused *amtp.Refusal
		if err == nil || errors.As(err, &refused) && refused.Reply.Permanent() {
			l.mu.Lock()
			delete(l.asked, a.Number)
			l.mu.Unlock()
			return
		}
		time.Sleep(time.Second)
	}
}

// Either connection breaks off at each of its octets. The message arrives, and where it does so twice, the holder has
// said that it may.
func TestEveryOctet(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "postern-") // where a sync costs nothing
	if err != nil {
		dir = t.TempDir()
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		sp, err := spool.Open(dir, spool.Limits{Octets: 1 << 20, OctetsPerUser: 1 << 20, Entries: 100, EntriesPerUser: 100}, logger)
		if err != nil {
			t.Fatal(err)
		}
		l := &line{t: t, seen: map[string]int{}, used: map[string]int{}, asked: map[string]bool{}}
		zone := fixedResolver{}
		h := holder.New(holder.Options{
			Hostname: "near.example", Spool: sp, Resolver: zone, Fallback: true, Port: 26, Lifetime: 24 * time.Hour, Retry: time.Minute, Timeout: 10 * time.Second,
			Callable: func(netip.Addr) error { return nil }, Log: logger, Connections: 100, ConnectionsPerClient: 100, Guesses: 1 << 30,
			Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				if strings.HasSuffix(address, ":25") {
					return nil, errors.New("connection refused") // it is away, and has not gone over to SMTP
				}
				return l.open("SELO", l.other, nearAt, farAt), nil
			},
		})
		d := configs.Default()
		settings := &amtp.Settings{Hostname: "near.example", Limits: d.Limits, Timeouts: d.Timeouts}
		admit := func(netip.Addr) (func(), string) { return func() {}, "" }
		get := func() *amtp.Settings { return settings }
		l.holder = &amtp.Server{Name: "near", Handler: h, Settings: get, Admit: admit, Log: slog.New(slog.DiscardHandler)}
		l.other = &amtp.Server{Name: "far", Handler: l, Settings: get, Admit: admit, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { h.Run(ctx, context.Background()) })
		defer running.Wait()
		defer cancel()

		// deliver sends a message over a line that breaks where it is told to, and waits until nothing is left of it.
		twice := 0
		deliver := func(fault string, after int) {
			l.mu.Lock()
			l.fault, l.after, l.texts = fault, after, nil
			clear(l.seen)
			l.mu.Unlock()
			_ = log.Take()
			r := h.Begin(&amtp.Session{}).Message(context.Background(), &amtp.Submission{
				From: smtp.Path{Local: "alice", Domain: "near.example"}, To: []smtp.Path{{Local: "bob", Domain: "far.example"}},
				Head: []byte("From: alice@near.example\r\nSubject: hello\r\n\r\n"), Body: strings.NewReader("first\r\n.second\r\n"),
			})
			if r.Code != 250 {
				t.Fatal(r)
			}
			for waited := time.Duration(0); ; waited += time.Second {
				if _, n := sp.Used(); n == 0 {
					break
				}
				if waited > 12*time.Hour {
					t.Fatalf("%s, octet %d: it waits for ever\n%s", fault, after, log.String())
				}
				time.Sleep(time.Second)
			}
			l.fetching.Wait()
			what := fmt.Sprintf("%s, octet %d", fault, after)
			l.mu.Lock()
			defer l.mu.Unlock()
			n := len(l.texts)
			if n == 0 {
				t.Errorf("%s: it is lost", what)
				return
			}
			if n > 1+strings.Count(log.String(), "it may arrive twice") {
				t.Errorf("%s: it came %d times, and nothing is said of that\n%s", what, n, log.String())
			}
			if n > 1 {
				twice++
			}
			for _, got := range l.texts {
				_, body, _ := strings.Cut(got, "\r\n\r\n")
				if body != "first\r\n.second\r\n" {
					t.Errorf("%s: %q", what, got)
				}
			}
		}
		deliver("", 0)
		l.mu.Lock()
		octets := map[string]int{"SELO": l.used["SELO"], "SEMA": l.used["SEMA"]}
		l.mu.Unlock()
		if octets["SELO"] < 100 || octets["SEMA"] < 300 {
			t.Fatalf("the connections have %v octets", octets)
		}
		for kind, n := range octets {
			for k := range n {
				deliver(kind, k)
			}
		}
		t.Logf("%v octets, %d times twice", octets, twice)
		if twice == 0 {
			t.Error("no octet makes a second delivery: the test sees none where one must be, behind the lone dot and before the last word")
		}
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%v is left (%v)", left, err)
		}
	})
}

// fixedResolver has one host for every domain.
type fixedResolver struct{}

func (fixedResolver) LookupMX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: "mx.far.example.", Pref: 10}}, nil
}

func (fixedResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
}
