package proxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// lateListener has a connection that was accepted when the listener was closed,
// and that its owner hears of only a moment later.
type lateListener struct {
	conn   net.Conn
	closed chan struct{}
	late   bool
}

func (l *lateListener) Accept() (net.Conn, error) {
	<-l.closed
	if l.late {
		return nil, net.ErrClosed
	}
	l.late = true
	time.Sleep(time.Second)
	return l.conn, nil
}

func (l *lateListener) Close() error   { close(l.closed); return nil }
func (l *lateListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(rigAddr) }

// TestShutdownWaitsForTheLastAccepted: who was accepted while the server was
// told to stop hears 421, and the server has not ended before.
func TestShutdownWaitsForTheLastAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigOptions{policy: &streamPolicy})
		w := newCable(netip.MustParseAddrPort("192.0.2.1:40000"), rigAddr)
		l := &lateListener{conn: w.server, closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- r.srv.Serve(l, Listener{Name: "mx"}) }()
		synctest.Wait()
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case err := <-served:
			if !errors.Is(err, ErrServerClosed) {
				t.Error(err)
			}
		default:
			t.Error("Shutdown returned before Serve")
		}
		c := &client{t: t, conn: w.client, br: bufio.NewReader(w.client)}
		c.expect("421 4.3.2 ")
		_ = w.client.Close()
		r.close()
	})
}
