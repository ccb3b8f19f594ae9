package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

const keep = 36 * 24 * time.Hour

// wide is room enough.
var wide = Bounds{Notices: 1 << 20, PerSender: 1 << 20}

// heldBy lists the notices of a store that wait, at most limit; match may be nil.
func heldBy(t *testing.T, s Store, newest bool, limit int, match func(Notice) bool) (list []Notice) {
	t.Helper()
	if err := s.Waiting(t.Context(), newest, func(n Notice) bool {
		if match == nil || match(n) {
			list = append(list, n)
		}
		return len(list) < limit
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// stores are the stores there are, each with a clock that stands at the beginning
// of an hour, and what else has to be moved with it.
func stores(t *testing.T) map[string]func(*testing.T) (Store, func(time.Duration)) {
	t.Helper()
	begin := func() *clock { return &clock{at: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)} }
	return map[string]func(*testing.T) (Store, func(time.Duration)){
		"process": func(*testing.T) (Store, func(time.Duration)) {
			c := begin()
			return NewProcess(c.now), c.move
		},
		"file": func(t *testing.T) (Store, func(time.Duration)) {
			c := begin()
			s, err := OpenFile(t.TempDir(), c.now, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			return s, c.move
		},
		"fleet": func(t *testing.T) (Store, func(time.Duration)) {
			c := begin()
			m := miniredis.RunT(t)
			s := NewFleet(Fleet{Servers: []string{m.Addr()}, Prefix: "postern:", Timeout: 5 * time.Second, Now: c.now})
			return s, func(d time.Duration) { c.move(d); m.FastForward(d) }
		},
	}
}

func eachStore(t *testing.T, f func(t *testing.T, s Store, move func(time.Duration))) {
	t.Helper()
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) {
			s, move := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			f(t, s, move)
		})
	}
}

var (
	client = netip.MustParseAddr("192.0.2.77")
	other  = netip.MustParseAddr("192.0.2.78")
)

func TestWhatASenderIsRememberedBy(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, move func(time.Duration)) {
		ctx := t.Context()
		k := Keys{Who: DomainKey("good.example"), Client: ClientKey(client), Domain: DomainKey("good.example")}
		recall := func(k Keys) Recalled {
			t.Helper()
			r, err := s.Recall(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := recall(k); r != (Recalled{}) {
			t.Errorf("a stranger: %+v", r)
		}
		if r := recall(Keys{}); r != (Recalled{}) {
			t.Errorf("nobody: %+v", r)
		}
		add := func(e ...Event) {
			t.Helper()
			if err := s.Add(ctx, keep, e); err != nil {
				t.Fatal(err)
			}
		}
		add(Event{Keys: k, Delivered: 1, Rate: Rate{Messages: 1}}, Event{Keys: k, Rate: Rate{Messages: 1, Refused: 1, Unknown: 3}})
		add(Event{Keys: k, Delivered: 2, Rate: Rate{Messages: 2}})
		r := recall(k)
		if r.Past.Delivered != 3 || r.Past.Refused != 1 || r.Client != (Rate{4, 1, 3}) || r.Domain != 4 {
			t.Errorf("%+v", r)
		}
		// Another client of the domain has the domain's past and a rate of its own.
		r = recall(Keys{Who: k.Who, Client: ClientKey(other), Domain: k.Domain})
		if r.Past.Delivered != 3 || r.Client != (Rate{}) || r.Domain != 4 {
			t.Errorf("%+v", r)
		}
		move(90 * time.Minute) // half of the first hour is within the last one
		if r = recall(k); r.Client != (Rate{2, 1, 2}) || r.Domain != 2 {
			t.Errorf("after 90 minutes: %+v", r)
		}
		add(Event{Keys: k, Rate: Rate{Messages: 1}})
		if r = recall(k); r.Client.Messages != 3 {
			t.Errorf("and one more: %+v", r)
		}
		move(3 * time.Hour)
		if r = recall(k); r.Client != (Rate{}) || r.Domain != 0 || r.Past.Delivered != 3 {
			t.Errorf("hours later: %+v", r)
		}
		move(35 * 24 * time.Hour)
		if r = recall(k); r.Past.Days(r.Past.First.Add(35*24*time.Hour)) != 35 || r.Past.Delivered != 3 {
			t.Errorf("weeks later: %+v", r)
		}
		move(2 * 24 * time.Hour)
		if r = recall(k); r != (Recalled{}) {
			t.Errorf("longer than is kept: %+v", r)
		}
	})
}

func TestNotices(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, move func(time.Duration)) {
		ctx := t.Context()
		id := NoticeID(NetworkKey(client), "a@d.example", "u@example.org")
		n := Notice{ID: id, Who: Network(client), From: "a@d.example", Rcpt: "u@example.org", Rule: "first-contact"}
		if got, err := s.Notice(ctx, id); err != nil || !got.First.IsZero() {
			t.Errorf("before: %+v, %v", got, err)
		}
		first, err := s.Hold(ctx, n, wide)
		if err != nil || first.Tries != 1 || first.Released {
			t.Fatalf("%+v, %v", first, err)
		}
		move(10 * time.Minute)
		second, err := s.Hold(ctx, n, wide)
		if err != nil || second.Tries != 2 || !second.First.Equal(first.First) || second.Last.Sub(first.First) != 10*time.Minute {
			t.Fatalf("%+v, %v", second, err)
		}
		if got, err := s.Notice(ctx, id); err != nil || got.Who != n.Who || got.Tries != 2 || !got.First.Equal(first.First) || got.Released {
			t.Errorf("%+v, %v", got, err)
		}
		for i := range 3 {
			if _, err := s.Hold(ctx, Notice{ID: NoticeID(NetworkKey(client), "b@d.example", fmt.Sprint(i)), From: "b@d.example"}, wide); err != nil {
				t.Fatal(err)
			}
		}
		held := func(limit int, match func(Notice) bool) int {
			t.Helper()
			return len(heldBy(t, s, true, limit, match))
		}
		if n := held(100, nil); n != 4 {
			t.Errorf("%d held", n)
		}
		if n := held(2, nil); n != 2 {
			t.Errorf("%d of two", n)
		}
		if n := held(100, func(n Notice) bool { return n.From == "a@d.example" }); n != 1 {
			t.Errorf("%d of a", n)
		}
		if list, err := s.Release(ctx, []string{id, "0000000000000000"}); err != nil || len(list) != 1 || list[0].ID != id || !list[0].Released {
			t.Errorf("%+v, %v", list, err)
		}
		if list, err := s.Release(ctx, []string{id}); err != nil || len(list) != 0 {
			t.Errorf("once more: %+v, %v", list, err)
		}
		if got, err := s.Hold(ctx, n, wide); err != nil || !got.Released || got.Tries != 3 {
			t.Errorf("a try after the release: %+v, %v", got, err)
		}
		sizes, err := s.Sizes(ctx)
		if err != nil || sizes.Entries["hold"] != 4 {
			t.Errorf("%+v, %v", sizes, err)
		}
		if list, err := s.Pass(ctx, []string{id, "0000000000000000"}); err != nil || len(list) != 1 || list[0].ID != id || !list[0].Released {
			t.Errorf("%+v, %v", list, err)
		}
		if list, err := s.Pass(ctx, []string{id}); err != nil || len(list) != 0 {
			t.Errorf("once more: %+v, %v", list, err)
		}
		if n := held(100, nil); n != 3 {
			t.Errorf("%d, one of which has passed", n)
		}
		if got, err := s.Notice(ctx, id); err != nil || !got.Passed || got.Tries != 3 {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := s.Hold(ctx, n, wide); err != nil || held(100, nil) != 4 {
			t.Errorf("it is held again: %v", err)
		}
		move(noticeLife + time.Second)
		if n := held(100, nil); n != 0 {
			t.Errorf("%d a week later", n)
		}
		if err := s.Ping(ctx); err != nil {
			t.Error(err)
		}
	})
}

// A file has what was told of when the process has gone without a word.
func TestANoticeSurvives(t *testing.T) {
	folder := t.TempDir()
	c := &clock{at: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)}
	s, err := OpenFile(folder, c.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	id := NoticeID(NetworkKey(client), "a@d.example", "u@example.org")
	if _, err := s.Hold(t.Context(), Notice{ID: id, From: "a@d.example"}, wide); err != nil {
		t.Fatal(err)
	}
	// What a kill leaves: the file as it is at this moment.
	data, err := os.ReadFile(filepath.Join(folder, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after := t.TempDir()
	if err := os.WriteFile(filepath.Join(after, fileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFile(after, c.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n, err := again.Notice(t.Context(), id); err != nil || n.Tries != 1 || n.From != "a@d.example" {
		t.Errorf("%+v, %v", n, err)
	}
}

// A file that is torn is moved aside, one that is newer is left alone, and one
// that another process has is no reason to begin anew.
func TestFilesThatCannotBeUsed(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)}
	var log strings.Builder
	open := func(folder string) (Store, error) {
		return OpenFile(folder, c.now, slog.New(slog.NewTextHandler(&log, nil)))
	}
	for name, damage := range map[string]func([]byte) []byte{
		"rubbish": func([]byte) []byte { return []byte("rubbish, and some more of it") },
		"cut": func(b []byte) []byte {
			written := bytes.TrimRight(b, "\x00")
			return written[:len(written)/3]
		},
		"zeroes": func(b []byte) []byte { clear(b[8<<10 : 16<<10]); return b },
		"noise": func(b []byte) []byte {
			for i := range b {
				b[i] ^= byte(i)
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			s, err := open(folder)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if _, err := s.Hold(t.Context(), Notice{ID: NoticeID(Key{}, "", fmt.Sprint(i))}, wide); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(folder, fileName)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			log.Reset()
			if s, err = open(folder); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Hold(t.Context(), Notice{ID: "0000000000000000"}, wide); err != nil {
				t.Error(err)
			}
			if aside, _ := filepath.Glob(path + ".torn-*"); len(aside) != 1 || !strings.Contains(log.String(), "moved aside") {
				t.Errorf("%v; %s", aside, log.String())
			}
		})
	}
	t.Run("newer", func(t *testing.T) {
		folder := t.TempDir()
		db, err := openBolt(filepath.Join(folder, fileName))
		if err != nil {
			t.Fatal(err)
		}
		if err := putSchema(db, schema+1); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := open(folder); !errors.Is(err, ErrNewer) {
			t.Errorf("%v", err)
		}
	})
}

func TestWhatIsForgottenGoes(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)}
	for _, on := range []medium{newProcess(1 << 20), nil} {
		var l *local
		if on != nil {
			l = &local{on: on, now: c.now}
		} else {
			s, err := OpenFile(t.TempDir(), c.now, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			l = s.(*local)
		}
		events := make([]Event, 3*sweepSome)
		for i := range events {
			events[i] = Event{Keys: Keys{Who: keyOf(fmt.Sprint(i)), Client: keyOf("c", fmt.Sprint(i))}, Delivered: 1, Rate: Rate{Messages: 1}}
		}
		if err := l.Add(t.Context(), keep, events); err != nil {
			t.Fatal(err)
		}
		c.move(3 * time.Hour)
		if err := l.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := l.Sizes(t.Context())
		if err != nil || s.Entries["past"] != int64(len(events)) || s.Entries["rate"] != 0 || s.Bytes == 0 {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

// Without a file the newest are kept, and never more than there is room for.
func TestTheProcessForgetsTheOldest(t *testing.T) {
	p := newProcess(100)
	for i := range 1000 {
		if err := p.commit([]write{{tableRate, fmt.Sprintf("%04d", i), []byte{1}}}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := p.sizes()
	if n := s.Entries["rate"]; err != nil || n < 50 || n > 100 {
		t.Errorf("%d, %v", n, err)
	}
	if v, _ := p.get(tableRate, "0999"); v == nil {
		t.Error("the newest is gone")
	}
	var keys []string
	if err := p.each(tableRate, "0990", func(k string, _ []byte) bool { keys = append(keys, k); return len(keys) < 3 }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(keys, []string{"0991", "0992", "0993"}) {
		t.Errorf("%v", keys)
	}
}

func TestKeys(t *testing.T) {
	ip := netip.MustParseAddr
	same := func(a, b Key) bool { return a == b && !a.IsZero() }
	for what, ok := range map[string]bool{
		"letter case":            same(DomainKey("A.example"), DomainKey("a.example")),
		"a network is a /24":     same(NetworkKey(ip("192.0.2.1")), NetworkKey(ip("192.0.2.254"))),
		"a client is an address": ClientKey(ip("192.0.2.1")) != ClientKey(ip("192.0.2.2")),
		"an IPv6 client is /64":  same(ClientKey(ip("2001:db8::1")), ClientKey(ip("2001:db8::ffff:1"))),
		"a mapped address":       same(ClientKey(ip("::ffff:192.0.2.1")), ClientKey(ip("192.0.2.1"))),
		"kinds differ":           ClientKey(ip("2001:db8::1")) != NetworkKey(ip("2001:db8::1")),
		"no domain":              DomainKey("").IsZero(),
		"no address":             ClientKey(netip.Addr{}).IsZero(),
		"parts are apart":        NoticeID(Key{}, "a", "bc") != NoticeID(Key{}, "ab", "c"),
		"an id":                  IsNoticeID(NoticeID(Key{1}, "a\x00\r\n", strings.Repeat("x", 10000))),
		"no id":                  !IsNoticeID("") && !IsNoticeID("0000000000000O00"),
		"for people":             Network(ip("192.0.2.9")) == "192.0.2.0/24" && Network(ip("2001:db8::9")) == "2001:db8::/64",
	} {
		if !ok {
			t.Error(what)
		}
	}
}

// A server that is away is an error, and one that comes back is used again.
func TestAServerThatGoesAndComes(t *testing.T) {
	m := miniredis.RunT(t)
	c := &clock{at: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)}
	s := NewFleet(Fleet{Servers: []string{m.Addr()}, Prefix: "p:", Timeout: time.Second, Now: c.now})
	defer s.Close()
	ctx := context.Background()
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if err := s.Ping(ctx); err == nil {
		t.Fatal("nobody is there")
	}
	if err := m.Restart(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for s.Ping(ctx) != nil {
		if time.Now().After(deadline) {
			t.Fatal("it is not used again")
		}
	}
	m.FlushAll()
	if r, err := s.Recall(ctx, Keys{Who: DomainKey("a.example")}); err != nil || r != (Recalled{}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// A file that grows while somebody reads all of it is written and read meanwhile.
func TestAFileGrowsWhileItIsRead(t *testing.T) {
	s, err := OpenFile(t.TempDir(), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	on := s.(*local).on
	grown := make(chan error, 1)
	read := on.each(tableRate, "", func(string, []byte) bool {
		go func() {
			var err error
			for i := 0; i < 40 && err == nil; i++ {
				err = on.commit([]write{{tablePast, strconv.Itoa(i), make([]byte, 1<<20)}})
			}
			if err == nil {
				_, err = on.get(tablePast, "39")
			}
			grown <- err
		}()
		select {
		case err := <-grown:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("whoever writes waits for whoever reads")
		}
		return false
	})
	if read != nil {
		t.Error(read)
	}
}
