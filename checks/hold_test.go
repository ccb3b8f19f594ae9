package checks

import (
	"testing"
	"time"

	"postern/checks/memory"
	"postern/policy"
)

func TestHold(t *testing.T) {
	clock := time.Unix(1_800_000_000, 0)
	now := func() time.Time { return clock }
	m := memory.New(memory.NewProcess(now), memory.Options{Timeout: time.Minute})
	defer m.Close()
	f := transaction("192.0.2.1", "client.example", "a@sender.example")
	f.Rcpt = policy.RcptTo{Address: "b@example.org", Domain: "example.org"}
	run := func(d Deps) policy.Hold {
		t.Helper()
		f.Hold = policy.Hold{Result: policy.Skipped}
		NewSet(d, func(name string) bool { return name == "hold" }).Run(t.Context(), policy.Rcpt, f, Message{}, nil)
		return f.Hold
	}
	with := Deps{Memory: m, Now: now}
	if got := run(with); got != (policy.Hold{Result: policy.None}) {
		t.Errorf("never held: %+v", got)
	}
	n := NoticeOf(f, &f.Recipient)
	if n.Who != "192.0.2.0/24" || n.From != "a@sender.example" || n.Rcpt != "b@example.org" {
		t.Errorf("%+v", n)
	}
	if _, err := m.Hold(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(90 * time.Second)
	want := policy.Hold{Result: policy.Pass, Age: 90, Tries: 1, Notice: n.ID}
	if got := run(with); got != want {
		t.Errorf("held once: %+v", got)
	}
	clock = clock.Add(-3 * time.Minute) // another instance's clock is ahead
	if got := run(with); got.Age != 0 {
		t.Errorf("before it came: %+v", got)
	}
	if _, err := m.Store().Release(t.Context(), []string{n.ID}); err != nil {
		t.Fatal(err)
	}
	if got := run(with); !got.Released {
		t.Errorf("released: %+v", got)
	}
	f.Identity = policy.Identity{Level: policy.LevelSPF, Domain: "sender.example"}
	if got := NoticeOf(f, &f.Recipient); got.Who != "sender.example" || got.ID == n.ID {
		t.Errorf("%+v", got)
	}
	for what, d := range map[string]Deps{"no memory": {}, "a memory that is closed": {Memory: closed()}} {
		if got := run(d); got != (policy.Hold{Result: policy.TempError}) {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// What came of a domain is told by the clock by which it was counted.
func TestRateSurge(t *testing.T) {
	clock := time.Unix(1_800_000_000, 0)
	now := func() time.Time { return clock }
	store := memory.NewProcess(now)
	m := memory.New(store, memory.Options{Timeout: time.Minute, Now: now})
	defer m.Close()
	f := transaction("192.0.2.1", "client.example", "a@sender.example")
	f.Identity = policy.Identity{Level: policy.LevelSPF, Domain: "sender.example"}
	event := func(n int64) []memory.Event {
		return []memory.Event{{Keys: MemoryKeys(f), Delivered: n, Rate: memory.Rate{Messages: n}}}
	}
	add := func(n int64) {
		t.Helper()
		if err := store.Add(t.Context(), 36*24*time.Hour, event(n)); err != nil {
			t.Fatal(err)
		}
	}
	add(100)
	clock = clock.Add(101 * time.Hour) // 100 messages in 100 hours before this one
	add(50)
	Deps{Memory: m, Now: now}.Rate().Run(t.Context(), f, Message{})
	if want := (policy.Rate{Result: policy.Pass, Messages: 50, Domain: 50, Surge: 50}); f.Rate != want {
		t.Errorf("%+v, want %+v", f.Rate, want)
	}
}

func closed() *memory.Memory {
	m := memory.New(memory.NewProcess(time.Now), memory.Options{})
	_ = m.Close()
	return m
}
