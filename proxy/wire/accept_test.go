package wire

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"postern/checks/logtest"
)

// listener answers Accept with what is put before it, one after the other.
type listener struct {
	net.Listener
	answers []error // nil: a connection
}

func (l *listener) Accept() (net.Conn, error) {
	err := l.answers[0]
	l.answers = l.answers[1:]
	if err != nil {
		return nil, err
	}
	conn, _ := net.Pipe()
	return conn, nil
}

// A listener that is out of descriptors for a while lives on, after pauses that grow and begin anew behind a connection;
// one that is closed ends it, as an error, unless that was wanted.
func TestAccept(t *testing.T) {
	full := &net.OpError{Op: "accept", Err: errors.New("too many open files")}
	for name, wanted := range map[string]bool{"wanted": true, "for good": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := &net.OpError{Op: "accept", Err: net.ErrClosed}
				ln := &listener{answers: []error{nil, full, full, nil, full, closed}}
				var log logtest.Log
				began, conns := time.Now(), 0
				err := Accept(t.Context(), ln, "mx", slog.New(slog.NewTextHandler(&log, nil)), func() bool { return wanted && len(ln.answers) == 0 }, func(net.Conn) { conns++ })
				if wanted != (err == nil) || !wanted && !errors.Is(err, net.ErrClosed) {
					t.Errorf("ended with %v", err)
				}
				if took := time.Since(began); conns != 2 || took != 20*time.Millisecond {
					t.Errorf("%d connections in %v", conns, took)
				}
			})
		})
	}
}

// An id is what the log, the journal and explain know a session by.
func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewID()
		if len(id) != 12 || seen[id] {
			t.Fatalf("%q", id)
		}
		seen[id] = true
	}
}
