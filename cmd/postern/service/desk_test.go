package service

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"postern/checks/leaktest"
	"postern/checks/memory"
	"postern/cmd/postern/control"
)

// All that is held is told over the control socket, however much it is, and all of a domain
// is released, also what comes again meanwhile.
func TestMuchIsHeld(t *testing.T) {
	defer leaktest.None(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "postern.yaml")
	write(t, file, quiet+`control: {socket: control}
policy: {builtin: off, rules: [{name: all, when: "true", do: hold}]}
`)
	s := started(t, file)
	defer s.Stop(nil)
	store := s.parts.Load().Memory.Store()
	const networks, each = 25, 500
	hold := func(who, rcpt string) {
		t.Helper()
		if _, err := store.Hold(t.Context(), memory.Notice{
			ID: memory.NoticeID(memory.DomainKey(who), "ann@a.example", rcpt), Who: who, From: "ann@a.example", Rcpt: rcpt, Rule: "all",
		}, memory.Bounds{Notices: networks * each, PerSender: each}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range networks {
		for j := range each {
			hold(fmt.Sprintf("192.0.%d.0/24", i), fmt.Sprintf("u%d@example.org", j))
		}
	}
	c := control.Client{Path: filepath.Join(folder, "control")}
	count := func(f control.Filter) (n int) {
		t.Helper()
		ids := map[string]bool{}
		if err := c.Held(t.Context(), f, func(n memory.Notice) error { ids[n.ID] = true; return nil }); err != nil {
			t.Fatal(err)
		}
		return len(ids)
	}
	for _, x := range []struct {
		f    control.Filter
		want int
	}{
		{control.Filter{}, networks * each},
		{control.Filter{Who: "192.0.7.99"}, each},
		{control.Filter{Rcpt: "u499@example.org"}, networks},
		{control.Filter{Since: time.Now().Add(time.Hour)}, 0},
		{control.Filter{Since: time.Now().Add(-time.Hour)}, networks * each},
	} {
		if n := count(x.f); n != x.want {
			t.Errorf("%+v: %d, want %d", x.f, n, x.want)
		}
	}
	enough := errors.New("enough")
	told := 0
	if err := c.Held(t.Context(), control.Filter{}, func(memory.Notice) error {
		if told++; told == 3 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) || told != 3 {
		t.Errorf("who wants no more: %d, %v", told, err)
	}

	again := 0
	released := 0
	err := releaseAll(t.Context(), store, "a.example", func(ids []string) (int, error) {
		if again++; again <= 3 {
			hold("192.0.24.0/24", "u0@example.org") // it comes again, and stands elsewhere now
			hold("192.0.0.0/24", "u0@example.org")
		}
		list, err := store.Release(context.Background(), ids)
		released += len(list)
		return len(list), err
	})
	if err != nil || released != networks*each {
		t.Errorf("%d released of %d, %v", released, networks*each, err)
	}
	if _, err := c.Release(t.Context(), nil, "a.example", func(n memory.Notice) error { t.Errorf("released twice: %+v", n); return nil }); err != nil {
		t.Error(err)
	}
}
