package proxy

import (
	"net"
	"net/netip"

	"postern/proxy/amtp"
)

// Inside begins a session for mail of that origin and returns its client's end, who speaks SMTP and must read replies
// while he writes. ErrServerClosed: nobody is let in any more.
//
// The connection itself was admitted before, or made by us: it counts against no limit of connections again, but its
// messages do.
func (srv *Server) Inside(o amtp.Origin) (net.Conn, error) {
	client, server := net.Pipe()
	s := newSession(srv, &inside{server, o.Client, o.Local}, &Listener{Name: o.Listener, TLS: "off"})
	s.origin = &o
	s.peer.from(&o)
	if o.Session != "" {
		s.id, s.wire.Session = o.Session, o.Session
	}
	if !srv.enterInside(s) {
		_ = client.Close()
		_ = server.Close()
		return nil, ErrServerClosed
	}
	srv.metrics.SessionStarted()
	srv.crew.run(func() {
		defer srv.wg.Done()
		s.run(false)
	})
	return client, nil
}

// enterInside registers a session from inside; false: the server ends, or leaves, and whoever waits for its last session must
// not wait for one that is only beginning.
func (srv *Server) enterInside(s *session) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.draining.Load() || srv.leaving.Load() {
		return false
	}
	srv.sessions[s] = struct{}{}
	srv.within++
	srv.wg.Add(1)
	return true
}

// inside is a pipe between two addresses.
type inside struct {
	net.Conn
	client, local netip.AddrPort
}

// RemoteAddr is the client's address.
func (c *inside) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.client) }

// LocalAddr is the address that it has reached.
func (c *inside) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }
