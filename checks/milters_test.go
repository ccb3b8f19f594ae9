package checks

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/milter"
	"postern/policy"
)

// Milters are asked side by side, each with all of the body, so that a message waits for the
// slowest of them and not for one after the other.
func TestMiltersAreAskedSideBySide(t *testing.T) {
	raw := "From: a@d.example\r\n\r\n" + strings.Repeat("x\r\n", 100_000)
	synctest.Test(t, func(t *testing.T) {
		asks := func(takes time.Duration) func(context.Context, *milter.Message) (milter.Verdict, error) {
			return func(_ context.Context, m *milter.Message) (milter.Verdict, error) {
				time.Sleep(takes)
				body, err := io.ReadAll(m.Body)
				if want := raw[strings.Index(raw, "\r\n\r\n")+4:]; string(body) != want {
					t.Errorf("a body of %d octets", len(body))
				}
				return milter.Verdict{Action: milter.ActionAccept}, err
			}
		}
		set := NewSet(Deps{Resolver: records{}.zone(t), Milters: []Milter{
			{Name: "quick", Timeout: time.Minute, Size: 1 << 20, Ask: asks(2 * time.Second)},
			{Name: "slow", Timeout: time.Minute, Size: 1 << 20, Ask: asks(3 * time.Second)},
		}}, func(name string) bool { return strings.HasPrefix(name, "milter.") })
		f := transaction("192.0.2.1", "client.example", "")
		start := time.Now()
		set.Run(t.Context(), policy.Message, f, held(raw), nil)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %s", took)
		}
		for _, name := range []string{"quick", "slow"} {
			if got := f.Milter.Of(name).Action; got != "accept" {
				t.Errorf("%s says %s", name, got)
			}
		}
	})
}
