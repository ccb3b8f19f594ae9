package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
)

// mail is a notice on mail of a network, or of a domain, for a recipient.
func mail(who, rcpt string) Notice {
	return Notice{ID: NoticeID(DomainKey(who), "ann@a.example", rcpt), Who: who, From: "ann@a.example", Rcpt: rcpt, Rule: "grey"}
}

// Whoever invents recipients fills what there is for its own network, and not what there is
// for others; none of its mail is known for that. An honest sender beside it is held, comes
// again, and passes. What was held of the flood is forgotten when it did not come again, one
// for each that comes then.
func TestAFloodOfInventedRecipients(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, move func(time.Duration)) {
		ctx := t.Context()
		const each = 20
		b := Bounds{Notices: 32 * 1000, PerSender: each}
		hold := func(n Notice, want error) Notice {
			t.Helper()
			got, err := s.Hold(ctx, n, b)
			if !errors.Is(err, want) {
				t.Fatalf("%s to %s: %v, want %v", n.Who, n.Rcpt, err, want)
			}
			return got
		}
		honest := mail("198.51.100.0/24", "bob@example.org")
		hold(honest, nil)
		flood := func(i int) Notice { return mail("203.0.113.0/24", fmt.Sprintf("u%d@example.org", i)) }
		for i := range each {
			hold(flood(i), nil)
		}
		for i := range 5 * each {
			hold(flood(each+i), ErrSenderFull)
		}
		if n, err := s.Notice(ctx, flood(each).ID); err != nil || !n.First.IsZero() {
			t.Errorf("there is a notice for which there was no room: %+v, %v", n, err)
		}
		move(time.Hour)
		if n := hold(honest, nil); n.Tries != 2 {
			t.Errorf("the honest one: %+v", n)
		}
		if n := hold(flood(3), nil); n.Tries != 2 {
			t.Errorf("one that comes again: %+v", n)
		}
		hold(mail("192.0.2.0/24", "bob@example.org"), nil) // another network
		if list := heldBy(t, s, true, 1000, nil); len(list) != each+2 {
			t.Errorf("%d wait", len(list))
		}

		// One that passes makes room, and so does one that nobody asks for any more.
		if list, err := s.Pass(ctx, []string{flood(0).ID}); err != nil || len(list) != 1 {
			t.Fatalf("%v %v", list, err)
		}
		hold(flood(1000), nil)
		hold(flood(1001), ErrSenderFull)
		move(idle - time.Hour + time.Minute)
		for i := range each - 2 { // all but the one that came again, and the one that is an hour younger
			hold(flood(2000+i), nil)
		}
		hold(flood(3000), ErrSenderFull)
		for i, there := range map[int]bool{0: true, 1: false, 3: true, 1000: true, 2000: true, 3000: false} {
			if n, err := s.Notice(ctx, flood(i).ID); err != nil || n.First.IsZero() == there {
				t.Errorf("%d: %+v, %v", i, n, err)
			}
		}
		if sizes, err := s.Sizes(ctx); err != nil || sizes.Entries["hold"] < each+2 || sizes.Entries["hold"] > each+3 {
			t.Errorf("%+v, %v", sizes, err)
		}
	})
}

// From many networks at once it is the bound for all that holds: what has passed gives way
// first, then what is idle, and where there is neither nobody is forgotten.
func TestAFloodFromEverywhere(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, move func(time.Duration)) {
		ctx := t.Context()
		const most = 10
		b := Bounds{Notices: most, PerSender: most}
		if _, ok := s.(*fleet); ok {
			b.Notices = most * len(shelves) // each shelf has its part
		}
		// All on one shelf.
		who := func(i int) string {
			for try := 0; ; try++ {
				w := fmt.Sprintf("n%d-%d.example", i, try)
				if mail(w, "").ID[0] == '7' {
					return w
				}
			}
		}
		hold := func(i int, want error) {
			t.Helper()
			if _, err := s.Hold(ctx, mail(who(i), "bob@example.org"), b); !errors.Is(err, want) {
				t.Fatalf("%d: %v, want %v", i, err, want)
			}
		}
		there := func(i int) bool {
			t.Helper()
			n, err := s.Notice(ctx, mail(who(i), "bob@example.org").ID)
			if err != nil {
				t.Fatal(err)
			}
			return !n.First.IsZero()
		}
		for i := range most {
			hold(i, nil)
			move(time.Second)
		}
		hold(100, ErrFull)
		hold(0, nil) // it is known
		for _, i := range []int{5, 4} {
			if list, err := s.Pass(ctx, []string{mail(who(i), "bob@example.org").ID}); err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			move(time.Second)
		}
		hold(5, nil) // held again: it waits, and is not of those that have passed
		if n, err := s.Notice(ctx, mail(who(5), "bob@example.org").ID); err != nil || n.Tries != 2 {
			t.Errorf("it gave way to itself: %+v, %v", n, err)
		}
		hold(101, nil)
		if there(4) || !there(5) {
			t.Error("what has passed gives way, and nothing else")
		}
		hold(102, ErrFull)
		move(idle - 10*time.Second)
		hold(103, nil) // instead of 1
		hold(1, nil)   // instead of 2
		if there(2) || !there(0) {
			t.Error("the oldest gives way")
		}
		if list := heldBy(t, s, false, 100, nil); len(list) != most {
			t.Errorf("%d wait", len(list))
		}
	})
}

// The bounds hold for what several ask for at once.
func TestBoundsHoldForAllAtOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ func(time.Duration)) {
		const each = 25
		var mu sync.Mutex
		written := 0
		var all sync.WaitGroup
		for who := range 8 {
			all.Go(func() {
				for i := range 10 {
					_, err := s.Hold(t.Context(), mail("203.0.113.0/24", fmt.Sprintf("%d.%d@example.org", who, i)), Bounds{Notices: 1 << 20, PerSender: each})
					mu.Lock()
					if err == nil {
						written++
					} else if !errors.Is(err, ErrSenderFull) {
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if list := heldBy(t, s, true, 1000, nil); written != each || len(list) != each {
			t.Errorf("%d written, %d wait, of %d", written, len(list), each)
		}
	})
}

// A mark keeps a notice for as long as a try does.
func TestAMarkRenewsANotice(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, move func(time.Duration)) {
		ctx := t.Context()
		n := mail("198.51.100.0/24", "bob@example.org")
		if _, err := s.Hold(ctx, n, wide); err != nil {
			t.Fatal(err)
		}
		const most = noticeLife - time.Hour
		for _, mark := range []func(context.Context, []string) ([]Notice, error){s.Release, s.Pass} {
			move(most)
			if list, err := mark(ctx, []string{n.ID}); err != nil || len(list) != 1 {
				t.Fatalf("%v %v", list, err)
			}
			if list, err := mark(ctx, []string{n.ID}); err != nil || len(list) != 0 {
				t.Fatalf("a second time: %v %v", list, err)
			}
		}
		move(most)
		if got, err := s.Notice(ctx, n.ID); err != nil || !got.Released || !got.Passed {
			t.Errorf("%+v, %v", got, err)
		}
		move(2 * time.Hour)
		if got, err := s.Notice(ctx, n.ID); err != nil || !got.First.IsZero() {
			t.Errorf("longer than it is kept: %+v, %v", got, err)
		}
	})
}

// Those that wait are told in the order of their last try, over all pages, and what is
// written meanwhile does no harm.
func TestAllThatWait(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, move func(time.Duration)) {
		ctx := t.Context()
		const all = 3 * pageSize
		var ids []string
		for i := range all {
			who := fmt.Sprintf("w%d.example", i%7)
			if i >= all/2 {
				who = "one.example" // on one shelf, more than a page
			}
			n := mail(who, fmt.Sprintf("u%d@example.org", i))
			if _, err := s.Hold(ctx, n, wide); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, n.ID)
			if i%50 == 49 { // fifty of one moment
				move(time.Second)
			}
		}
		idsOf := func(list []Notice) (ids []string) {
			for i, n := range list {
				if ids = append(ids, n.ID); i > 0 && n.Last.Before(list[i-1].Last) {
					t.Errorf("%d: %v after %v", i, n.Last, list[i-1].Last)
				}
			}
			slices.Sort(ids)
			return ids
		}
		newest, oldest := heldBy(t, s, true, 2*all, nil), heldBy(t, s, false, 2*all, nil)
		slices.Reverse(newest)
		slices.Sort(ids)
		if !slices.Equal(idsOf(newest), ids) || !slices.Equal(idsOf(oldest), ids) {
			t.Errorf("%d and %d of %d", len(newest), len(oldest), all)
		}
		seen := 0
		if err := s.Waiting(ctx, true, func(n Notice) bool {
			if seen++; seen%3 == 0 {
				if _, err := s.Release(ctx, []string{n.ID}); err != nil {
					t.Error(err)
				}
			}
			return true
		}); err != nil || seen != all {
			t.Errorf("%d of %d, %v", seen, all, err)
		}
		over, stop := context.WithCancel(ctx)
		stop()
		if err := s.Waiting(over, true, func(Notice) bool { return true }); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody wants them any more: %v", err)
		}
	})
}

// Who waits, and who has passed, is known again when a file is opened.
func TestWhatWaitsIsKnownAgain(t *testing.T) {
	c := &clock{at: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)}
	folder := t.TempDir()
	open := func() *local {
		t.Helper()
		s, err := OpenFile(folder, c.now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return s.(*local)
	}
	s := open()
	const all = 3000
	var ws []write
	for i := range all {
		n := mail(fmt.Sprintf("203.0.%d.0/24", i%200), fmt.Sprintf("u%d@example.org", i))
		n.First, n.Last, n.Tries, n.Passed = c.now(), c.now(), 1, i%4 == 0
		text, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		ws = append(ws, write{tableHold, n.ID, append(encode(c.now().Add(noticeLife-time.Duration(i)*time.Millisecond)), text...)})
	}
	if err := errors.Join(s.on.commit(ws), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if list := heldBy(t, s, true, all, nil); len(list) != all*3/4 || s.waiting.n != len(list) || len(s.waiting.passed) != all/4 || len(s.waiting.of) != 150 {
		t.Fatalf("%d told, %d wait, %d have passed, of %d networks", len(list), s.waiting.n, len(s.waiting.passed), len(s.waiting.of))
	}
	c.move(noticeLife + time.Second)
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.waiting.n != 0 || len(s.waiting.passed) != 0 || len(s.waiting.of) != 0 {
		t.Errorf("a week later %d wait, %d have passed", s.waiting.n, len(s.waiting.passed))
	}
}
