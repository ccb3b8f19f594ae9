package checks

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/dnstest"
	"postern/checks/memory"
	"postern/policy"
)

// The strongest proof that was found says who the sender is.
func TestIdentity(t *testing.T) {
	proofs := []struct {
		level, domain string
		prove         func(f *policy.Facts)
	}{
		{"none", "", func(f *policy.Facts) { f.SPF.Result, f.Iprev.Result = policy.TempError, policy.Fail }},
		{"iprev", "mail.sender.example", func(f *policy.Facts) { f.Iprev = policy.Iprev{Result: policy.Pass, Name: "mail.sender.example"} }},
		{"spf", "sender.example", func(f *policy.Facts) { f.SPF.Result, f.SPF.Domain = policy.Pass, "sender.example" }},
		{"submitter", "list.example", func(f *policy.Facts) { f.Submitter.Result, f.Submitter.Domain = policy.Pass, "list.example" }},
		{"tls", "mx.partner.example", func(f *policy.Facts) {
			f.TLS.Peer.Verified, f.TLS.Peer.Names = true, []string{"*.mx.partner.example", "other.example"}
		}},
	}
	f := transaction("192.0.2.1", "client.example", "a@sender.example")
	for _, p := range proofs { // each beside those that are weaker
		p.prove(f)
		if got := strongest(f); got.Level != p.level || got.Domain != p.domain {
			t.Errorf("%+v, want %s by %s", got, p.domain, p.level)
		}
	}
	f.TLS.Peer.Names = nil
	if got := strongest(f); got.Level != "tls" || got.Domain != "" {
		t.Errorf("a certificate without names: %+v", got)
	}
}

const memoryZone = `
sender.example. TXT "v=spf1 ip4:192.0.2.0/25 -all"
`

// asked runs the checks of stage mail with a memory for those facts.
func asked(t *testing.T, m *memory.Memory, client string, facts ...string) *policy.Facts {
	t.Helper()
	zone, err := dnstest.Parse(memoryZone)
	if err != nil {
		t.Fatal(err)
	}
	reads := func(name string) bool {
		for _, fact := range facts {
			if name == fact {
				return true
			}
		}
		return false
	}
	f := transaction(client, "client.example", "a@sender.example")
	NewSet(Deps{Resolver: zone, Memory: m, Uses: Journal, Reads: reads}, reads).Run(context.Background(), policy.Mail, f, Message{}, nil)
	return f
}

// A sender that has proven its domain is known by it, wherever it comes from; one that
// has not, by its network, and is counted by its address.
func TestPastAndRate(t *testing.T) {
	m := memory.New(memory.NewProcess(time.Now), memory.Options{Timeout: time.Minute})
	defer func() { _ = m.Close() }()
	f := asked(t, m, "192.0.2.1", "past", "rate", "rate.domain")
	if f.Past != (policy.Past{Result: policy.None}) || f.Rate != (policy.Rate{Result: policy.None}) || !f.State.Healthy {
		t.Errorf("nobody is known: %+v %+v %+v", f.Past, f.Rate, f.State)
	}
	count := func(client string, e memory.Event) {
		f := asked(t, m, client)
		e.Keys = MemoryKeys(f)
		m.Count(e)
	}
	count("192.0.2.1", memory.Event{Delivered: 1, Rate: memory.Rate{Messages: 1}})
	count("192.0.2.2", memory.Event{Rate: memory.Rate{Messages: 1, Refused: 1}})
	count("192.0.2.200", memory.Event{Delivered: 3, Rate: memory.Rate{Messages: 4, Unknown: 7}}) // fails SPF
	if err := m.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string]struct {
		past policy.Past
		rate policy.Rate
	}{
		"192.0.2.2":    {policy.Past{Result: policy.Pass, Delivered: 1, Refused: 1}, policy.Rate{Result: policy.Pass, Messages: 1, Refused: 1, Domain: 2}},
		"192.0.2.3":    {policy.Past{Result: policy.Pass, Delivered: 1, Refused: 1}, policy.Rate{Result: policy.Pass, Domain: 2}},
		"192.0.2.200":  {policy.Past{Result: policy.Pass, Delivered: 3}, policy.Rate{Result: policy.Pass, Messages: 4, Unknown: 7}},
		"192.0.2.201":  {policy.Past{Result: policy.Pass, Delivered: 3}, policy.Rate{Result: policy.None}}, // a neighbour
		"198.51.100.1": {policy.Past{Result: policy.None}, policy.Rate{Result: policy.None}},
	} {
		if f := asked(t, m, client, "past", "rate", "rate.domain"); f.Past != want.past || f.Rate != want.rate {
			t.Errorf("%s: %+v %+v, want %+v", client, f.Past, f.Rate, want)
		}
	}
}

// counting is a store that notes what it is asked for.
type counting struct {
	memory.Store
	mu    sync.Mutex // the checks of a stage ask side by side
	asked []memory.Keys
	err   error
	delay time.Duration
}

func (c *counting) Recall(_ context.Context, k memory.Keys) (memory.Recalled, error) {
	c.mu.Lock()
	c.asked = append(c.asked, k)
	c.mu.Unlock()
	time.Sleep(c.delay)
	return memory.Recalled{}, c.err
}

// The memory is asked for what rules read, and not for the journal's sake.
func TestTheMemoryIsNotAskedForNothing(t *testing.T) {
	for _, x := range []struct {
		reads []string
		want  int
	}{{nil, 0}, {[]string{"spf"}, 0}, {[]string{"past"}, 1}, {[]string{"rate"}, 1}, {[]string{"past", "rate", "rate.domain"}, 2}} {
		store := &counting{Store: memory.NewProcess(time.Now)}
		m := memory.New(store, memory.Options{Timeout: time.Minute})
		f := asked(t, m, "192.0.2.1", x.reads...)
		if len(store.asked) != x.want {
			t.Errorf("%q: %d questions", x.reads, len(store.asked))
		}
		for _, k := range store.asked {
			if !k.Domain.IsZero() && len(x.reads) < 3 {
				t.Errorf("%q: the domain's rate is asked for", x.reads)
			}
		}
		if x.want == 0 && (f.Past.Result != policy.Skipped || f.Rate.Result != policy.Skipped || f.Identity.Level != "spf") {
			t.Errorf("%q: %+v %+v %+v", x.reads, f.Past, f.Rate, f.Identity)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A store that fails, or is slow, leaves its facts unmeasured, and costs mail its
// time-out: nothing once it is left alone.
func TestAStoreThatDoesNotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, store := range []*counting{
			{Store: memory.NewProcess(time.Now), err: errors.New("broken")},
			{Store: memory.NewProcess(time.Now), delay: time.Hour},
		} {
			const timeout = 50 * time.Millisecond
			m := memory.New(store, memory.Options{Timeout: timeout})
			for i := range 6 {
				began := time.Now()
				f := asked(t, m, "192.0.2.1", "past", "rate")
				if f.Past != (policy.Past{Result: policy.TempError}) || f.Rate != (policy.Rate{Result: policy.TempError}) || f.State.Healthy {
					t.Errorf("%+v %+v %+v", f.Past, f.Rate, f.State)
				}
				most := timeout
				if i > 2 {
					most = 0 // it is left alone
				}
				if took := time.Since(began); took > most {
					t.Errorf("question %d took %v", i, took)
				}
			}
			time.Sleep(2 * time.Hour)
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
