package proxy

import (
	"context"
	"net"
	"testing"

	"postern/checks"
	"postern/checks/dnscache"
	"postern/metrics"
)

// The checks of a message ask on behalf of its client: one whose domains have no
// name servers that answer leaves questions to another.
func TestOneClientLeavesQuestionsToAnother(t *testing.T) {
	m := metrics.New()
	started, silent := make(chan struct{}, 100), make(chan struct{})
	resolver, err := dnscache.New(dnscache.Options{
		Servers: []string{"192.0.2.53"}, MaxInFlight: 9, Metrics: m,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			started <- struct{}{}
			select {
			case <-silent:
			case <-ctx.Done():
			}
			return nil, context.Canceled
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	set := rigSettings(t, rigOptions{})
	set.Checks = checks.NewSet(checks.Deps{Hostname: "mx.test", Resolver: resolver, Metrics: m}, func(name string) bool { return name == "mx" || name == "spf" })
	r := newRig(t, rigOptions{settings: set})
	greedy, other := r.connect("203.0.113.1"), r.connect("203.0.113.2")
	for i, c := range []*client{greedy, other} {
		c.ehlo()
		c.send("MAIL FROM:<a@" + []string{"one", "two"}[i] + ".example>\r\n")
		// TXT and MX. With a third one it would leave less than twice as many.
		for range 2 {
			<-started
		}
	}
	again := r.connect("203.0.113.1")
	again.ehlo()
	again.cmd("MAIL FROM:<a@three.example>", "") // it hears at once that nobody could tell
	got := map[string]float64{}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "postern_dns_refused_total" {
			for _, s := range f.GetMetric() {
				got[s.GetLabel()[0].GetValue()] = s.GetCounter().GetValue()
			}
		}
	}
	if got["client"] == 0 || got["all"] != 0 {
		t.Errorf("refused: %v", got)
	}
	close(silent)
	greedy.reply()
	other.reply()
}
