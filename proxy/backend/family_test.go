package backend

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/proxy/smtptest"
)

// A backend that cannot be told of IPv6 clients is found out before the first of them
// comes, and again when it can.
func TestABackendThatKnowsNoIPv6(t *testing.T) {
	var only4 atomic.Bool
	only4.Store(true)
	six := alice
	six.Addr, six.Local = netip.MustParseAddrPort("[2001:db8::7]:4711"), netip.MustParseAddrPort("[2001:db8::25]:25")
	for _, identity := range []string{identityXClient, identityXForward} {
		only4.Store(true)
		sink := newSink(t, smtptest.SinkOptions{Script: func(st smtptest.Step) smtptest.Action {
			if strings.HasPrefix(st.Verb, "X") && strings.Contains(st.Line, "IPV6:") && only4.Load() {
				return smtptest.Action{Reply: "501 5.5.4 Bad ADDR syntax\r\n"}
			}
			return smtptest.Action{}
		}})
		s := newSet(t, Options{}, backendAt(identity, sink.Addr()))
		if !s.TakesIPv6() {
			t.Error("nobody knows yet")
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		wait := func(takes bool) {
			t.Helper()
			for end := time.Now().Add(time.Minute); s.TakesIPv6() != takes; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: IPv6 is taken: %t", identity, !takes)
				}
			}
		}
		wait(false)
		if !s.Up() {
			t.Error("it is up for all others")
		}
		// It learns: asked again it is told, and the next clients are let in.
		only4.Store(false)
		a := s.pools[0].addrs[0]
		a.learnFamily(ctx)
		wait(true)
		// One that fails for who it is has it asked again.
		only4.Store(true)
		if identity == identityXClient {
			var e *Error
			if _, err := s.pools[0].Open(ctx, six); !errors.As(err, &e) || e.Kind != KindIdentity {
				t.Error(err)
			}
			wait(false)
		}
		cancel()
		<-done
	}
}

// What is wrong with IPv4 as well is no lack of IPv6, and a client that the MTA's own
// rules turn away is known to it.
func TestOtherTroubleIsNoLackOfIPv6(t *testing.T) {
	for name, does := range map[string]smtptest.Action{
		"nobody's identity is taken": {Reply: "550 5.7.0 No\r\n"},
		"turned away":                {Reply: "554 5.7.1 Go away\r\n"},
		"cut":                        {Close: true},
	} {
		sink := newSink(t, smtptest.SinkOptions{Script: script("XCLIENT", does)})
		a := newSet(t, Options{}, backendAt(identityXClient, sink.Addr())).pools[0].addrs[0]
		if no, err := a.noIPv6(context.Background()); no {
			t.Errorf("%s: %v", name, err)
		}
	}
}
