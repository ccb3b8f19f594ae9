package filter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"postern/metrics"
	"postern/proxy/share"
)

func client(n int) share.Client { return share.Of(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})) }

// asker asks a peer again and again, in the name of clients.
type asker struct {
	t       *testing.T
	peer    *Peer
	metrics *metrics.Metrics
}

// patient is for how long a question waits in these tests.
const patient = 5 * time.Second

func newAsker(t *testing.T) *asker {
	t.Helper()
	m := metrics.New()
	return &asker{t, New(Options{Name: "milter.m", Address: "127.0.0.1:1", Metrics: m}), m}
}

// asks has the nth client ask, and the filter come so far and answer so; it returns what
// changed, or why it was not asked.
func (a *asker) asks(n int, reached bool, answer error) (Change, error) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patient)
	defer cancel()
	turn, err := a.peer.Begin(ctx, client(n))
	if err != nil {
		return Same, err
	}
	if reached {
		turn.Reached()
	}
	return turn.End(ctx, answer), nil
}

// wants is asks where the question is asked.
func (a *asker) wants(n int, reached bool, answer error, want Change) {
	a.t.Helper()
	if got, err := a.asks(n, reached, answer); err != nil || got != want {
		a.t.Errorf("change %d and %v, want %d", got, err, want)
	}
}

// isAlone says that the filter is left alone, and why.
func (a *asker) isAlone(why string) {
	a.t.Helper()
	if _, err := a.asks(99, true, nil); !errors.Is(err, ErrAlone) || !strings.Contains(err.Error(), why) {
		a.t.Errorf("got %v, want it to be left alone because of %q", err, why)
	}
}

var errGone, errHangs = errors.New("no connection"), errors.New("no answer within 5s")

// A filter that cannot be reached is left alone after three attempts, by whomever. One question
// each ten seconds tries, and when it answers it is asked by all.
func TestAFilterThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		a.wants(1, false, errGone, Failed)
		a.wants(1, false, errGone, Same)
		a.wants(1, false, errGone, Left)
		a.isAlone("no connection")
		a.isAlone("no connection")
		time.Sleep(Rest)
		a.wants(1, false, errGone, Same)
		a.isAlone("no connection")
		time.Sleep(Rest)
		a.wants(1, false, nil, Back)
		a.wants(2, false, nil, Same)
		a.wants(2, false, errGone, Failed) // all is forgotten
		w := httptest.NewRecorder()
		a.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		page := w.Body.String()
		if !strings.Contains(page, `postern_filter_not_asked_total{filter="milter.m"} 3`) {
			t.Errorf("the metrics say %s", page)
		}
	})
}

// What one client sends, or two, and what the filter cannot cope with, has nobody else's mail go
// without it. Where it answers to nobody any more it is left alone.
func TestAFilterThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		a.wants(1, true, errHangs, Failed)
		for i := range 50 {
			a.wants(1+i%2, true, errHangs, Same)
		}
		for i := range 50 { // of one network
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			turn, err := a.peer.Begin(ctx, share.Of(netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", i))))
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			turn.Reached()
			if i == 0 {
				turn.End(t.Context(), nil)
				continue
			}
			if got := turn.End(t.Context(), errHangs); got == Left {
				t.Fatalf("after %d", i)
			}
		}
		a.wants(1, true, errHangs, Same)
		a.wants(3, true, errHangs, Left)
		a.isAlone("no answer")
		time.Sleep(Rest)
		a.wants(3, true, nil, Back)
		for i := range 50 { // in a row is in a row
			a.wants(1+i, true, errHangs, Failed)
			a.wants(1+i, true, nil, Back)
		}
	})
}

// While one tries, which may take long, the others leave it alone, and after another ten seconds
// the next one tries.
func TestOnlyOneTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		for range mostUnreached {
			_, _ = a.asks(1, false, errGone)
		}
		time.Sleep(Rest)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		turn, err := a.peer.Begin(ctx, client(1))
		if err != nil {
			t.Fatal(err)
		}
		a.isAlone("no connection")
		time.Sleep(Rest)
		a.wants(2, true, nil, Back)
		if got := turn.End(ctx, errHangs); got != Failed {
			t.Errorf("change %d", got)
		}
	})
}

// That nobody waited any more, and what is our own trouble, is no fault of the filter's.
func TestWhatIsNotItsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			gone, err := a.peer.Begin(ctx, client(1))
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if got := gone.End(ctx, errGone); got != Same {
				t.Errorf("change %d", got)
			}
			ctx, cancel = context.WithTimeout(t.Context(), patient)
			ours, err := a.peer.Begin(ctx, client(1))
			if err != nil {
				t.Fatal(err)
			}
			ours.Excuse()
			if got := ours.End(ctx, errHangs); got != Same {
				t.Errorf("change %d", got)
			}
			cancel()
		}
		a.wants(1, true, nil, Same)
	})
}

// One client has a half of what there is, and waits for more, while others are asked. Who waits
// when the filter proves to be down is told at once that it is left alone, also who is given the very turn that
// proved it.
func TestTurnsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		begin := func(n int) *Turn {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			defer cancel()
			turn, err := a.peer.Begin(ctx, client(n))
			if err != nil {
				t.Fatal(n, err)
			}
			return turn
		}
		var turns []*Turn
		for range MaxQuestions / 2 {
			turns = append(turns, begin(1))
		}
		start := time.Now()
		if _, err := a.asks(1, true, nil); err == nil || !strings.Contains(err.Error(), "no room in time") || time.Since(start) != patient {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		a.wants(2, true, nil, Same)
		// Another client keeps the room so small that nobody who waits has a turn before the filter is down.
		var others []*Turn
		for range mostUnreached {
			others = append(others, begin(2))
		}
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() {
				if _, err := a.asks(1, true, nil); !errors.Is(err, ErrAlone) {
					t.Errorf("of those who waited: %v", err)
				}
			})
		}
		synctest.Wait()
		for _, turn := range others[1:] {
			turn.End(t.Context(), errGone)
		}
		if got := turns[0].End(t.Context(), errGone); got != Left {
			t.Errorf("change %d, want it to be left alone", got)
		}
		for _, turn := range append(turns[1:], others[0]) {
			turn.End(t.Context(), errGone)
		}
		wait.Wait()
		if n := a.peer.turns.Used(); n != 0 {
			t.Errorf("%d turns were not given back", n)
		}
	})
}

// Who is given a turn knows how the question before ended: it is noted first.
func TestATurnIsGivenBackLast(t *testing.T) {
	a := newAsker(t)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	turn, err := a.peer.Begin(ctx, client(1))
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	turn.End(ctx, noted{func() {
		asked = true
		if n := a.peer.turns.Used(); n != 1 {
			t.Errorf("%d turns are taken while the outcome of one is noted", n)
		}
	}})
	if n := a.peer.turns.Used(); !asked || n != 0 {
		t.Errorf("noted: %t, and %d turns are taken behind it", asked, n)
	}
}

// noted is an error that tells when its text is asked for, which is when an outcome is noted.
type noted struct{ tell func() }

func (n noted) Error() string {
	n.tell()
	return "no connection"
}

// What fails in the time that waiting for a turn has left over tells nothing about the filter.
func TestWhoHadToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		for range 2 * mostUnreached {
			var turns []*Turn
			for range MaxQuestions / 2 {
				turn, err := a.peer.Begin(t.Context(), client(1))
				if err != nil {
					t.Fatal(err)
				}
				turns = append(turns, turn)
			}
			done := make(chan Change)
			go func() {
				change, err := a.asks(1, false, errHangs)
				if err != nil {
					t.Error(err)
				}
				done <- change
			}()
			time.Sleep(patient - time.Millisecond)
			turns[0].End(t.Context(), nil)
			if got := <-done; got != Same {
				t.Errorf("change %d", got)
			}
			for _, turn := range turns[1:] {
				turn.Excuse()
				turn.End(t.Context(), errGone)
			}
		}
		a.wants(2, true, nil, Same)
	})
}

// A filter that answers is not down, whatever it answers: an answer may repeat what a sender wrote. And one that is slow
// to take a connection has perhaps one client to thank for it.
func TestNonsenseAndSlownessAreNotTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t)
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			turn, err := a.peer.Begin(ctx, client(i))
			if err != nil {
				t.Fatal(err)
			}
			turn.Reached()
			turn.Answered()
			want := Same
			if i == 0 {
				want = Failed
			}
			if got := turn.End(ctx, errors.New("a field with a bare CR")); got != want {
				t.Errorf("change %d, want %d", got, want)
			}
			cancel()
		}
		a.wants(1, true, nil, Back)
		for i, slow := range []error{Late("no connection within %s", "5s"), fmt.Errorf("no connection: %w", syscall.EAGAIN), Late("none"), Late("none"), Late("none"), Late("none")} {
			want := Same
			if i == 0 {
				want = Failed
			}
			a.wants(1, false, slow, want)
		}
		a.wants(2, false, Late("none"), Same)
		a.wants(3, false, Late("none"), Left) // of three clients
	})
}

func TestTheWayToIt(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1:11332": "tcp 127.0.0.1:11332", "[::1]:1": "tcp [::1]:1", "unix:/run/m": "unix /run/m"} {
		p := New(Options{Address: address, Dial: func(_ context.Context, network, at string) (net.Conn, error) {
			return nil, fmt.Errorf("%s %s", network, at)
		}})
		if _, err := p.Connect(t.Context()); err == nil || err.Error() != "no connection: "+want {
			t.Errorf("%s: %v", address, err)
		}
	}
}
