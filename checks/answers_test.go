package checks

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
)

// Answers are shared by all who ask: the checks that only builds get theirs by way of
// a witness, and when every test of the package has run, each answer must be what it was.
func TestMain(m *testing.M) {
	code := m.Run()
	if n, err := given.unchanged(); err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: of %d answers: %v\n", n, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// given are the answers that the tests of the package gave.
var given answers

// answers are slices that were given away, each with a copy that nobody else has.
type answers struct {
	mu     sync.Mutex
	checks []func() error
}

func (a *answers) unchanged() (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.checks {
		if err := c(); err != nil {
			return len(a.checks), err
		}
	}
	return len(a.checks), nil
}

// watch hands an answer on, without room behind it, as the resolver does.
func watch[T comparable](a *answers, name string, answer []T) []T {
	if len(answer) == 0 {
		return answer
	}
	answer = slices.Clip(answer)
	copied := slices.Clone(answer)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks = append(a.checks, func() error {
		if !slices.Equal(answer, copied) {
			return fmt.Errorf("the answer for %s was %v, and somebody made it %v", name, copied, answer)
		}
		return nil
	})
	return answer
}

// witnessed is a resolver whose answers are watched.
type witnessed struct {
	Resolver
	all *answers
}

// witnessOf is a resolver whose answers are compared when all tests have run.
func witnessOf(r Resolver) Resolver {
	switch r.(type) {
	case nil:
		return nil
	case interface{ TakesAttempts() }:
		return witnessedAttempts{witnessed{r, &given}}
	}
	return witnessed{r, &given}
}

// witnessedAttempts is one that looks into its cache first.
type witnessedAttempts struct{ witnessed }

func (witnessedAttempts) TakesAttempts() {}

func (w witnessed) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := w.Resolver.LookupTXT(ctx, name)
	return watch(w.all, name, texts), err
}

func (w witnessed) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	hosts, err := w.Resolver.LookupMX(ctx, name)
	values := make([]net.MX, 0, len(hosts))
	for _, h := range hosts {
		values = append(values, *h)
	}
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.checks = append(w.all.checks, func() error {
		if !slices.EqualFunc(hosts, values, func(h *net.MX, v net.MX) bool { return *h == v }) {
			return fmt.Errorf("the exchangers of %s were %v, and somebody changed them", name, values)
		}
		return nil
	})
	return slices.Clip(hosts), err
}

func (w witnessed) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	names, err := w.Resolver.LookupAddr(ctx, addr)
	return watch(w.all, addr, names), err
}

func (w witnessed) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, err := w.Resolver.LookupNetIP(ctx, network, host)
	return watch(w.all, host, addrs), err
}

// The witness sees what it is there for.
func TestTheWitnessOfAnswersSeesAChange(t *testing.T) {
	z := parseZone(t, "a.example TXT \"v=spf1 -all\"\na.example TXT \"2\"\na.example MX 10 b.example.\n")
	for what, change := range map[string]func(texts []string, hosts []*net.MX){
		"sorted":  func(texts []string, _ []*net.MX) { slices.Reverse(texts) },
		"another": func(texts []string, _ []*net.MX) { texts[0] = "" },
		"host":    func(_ []string, hosts []*net.MX) { hosts[0].Host = "c.example." },
		"nothing": func(texts []string, _ []*net.MX) { _ = append(texts, "more") },
	} {
		var all answers
		w := witnessed{z, &all}
		texts, err1 := w.LookupTXT(t.Context(), "a.example")
		hosts, err2 := w.LookupMX(t.Context(), "a.example")
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		change(texts, hosts)
		if n, err := all.unchanged(); n != 2 || (err == nil) != (what == "nothing") {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
}
