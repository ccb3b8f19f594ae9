package service

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/configs"
)

// writes keeps what was written, each write for itself.
type writes struct {
	mu  sync.Mutex
	all []string
	err error
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	return len(p), w.err
}

func (w *writes) take() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, w.all = w.all, nil
	return all
}

// Lines leave together, in their order: after a moment, when many octets are there, with
// a warning, and at the end.
func TestLinesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		g := newGathering(&w)
		want := func(what string, lines ...string) {
			t.Helper()
			if got := w.take(); !slices.Equal(got, lines) {
				t.Errorf("%s: %.60q, want %.60q", what, got, lines)
			}
		}
		write := func(line string) {
			t.Helper()
			if n, err := g.Write([]byte(line)); n != len(line) || err != nil {
				t.Errorf("%d %v", n, err)
			}
		}
		longer := strings.Repeat("x", 3*gatherMost) + "\n"
		write(longer)
		want("a first line that is long", longer)

		write("a\n")
		time.Sleep(gatherFor / 2)
		write("b\n")
		synctest.Wait()
		want("too early")
		time.Sleep(gatherFor/2 + 1)
		synctest.Wait()
		want("after a moment", "a\nb\n")

		long := strings.Repeat("x", gatherMost/2) + "\n"
		write(long)
		write(long)
		want("many octets", long)
		write("c\n")
		g.Flush()
		want("the end", long+"c\n")
		time.Sleep(time.Second)
		want("nothing is left")

		write("d\n")
		write(longer)
		want("more than there is room for", "d\n", longer)

		log := slog.New(urgent{NewLogger(configs.Log{Format: "logfmt", Level: "info"}, g).Handler(), g}).With("a", 1).WithGroup("g")
		log.Info("one")
		want("an information waits")
		log.Warn("two")
		if got := w.take(); len(got) != 1 || strings.Count(got[0], "\n") != 2 || !strings.Contains(got[0], "two") {
			t.Errorf("a warning: %q", got)
		}

		w.err = errors.New("no space")
		write("e\n")
		g.Flush()
		if _, err := g.Write([]byte("f\n")); err == nil {
			t.Error("nobody hears that lines are lost")
		}
		g.Flush()
	})
}
