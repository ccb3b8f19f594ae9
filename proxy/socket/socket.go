// Package socket looks at what waits on the socket of a connection, and reads none of it.
package socket

import (
	"errors"
	"net"
	"syscall"
)

// Peeker looks at one socket. The zero Peeker, like that of a connection without a
// socket, sees nothing. It serves one goroutine at a time.
type Peeker struct {
	fd   syscall.RawConn
	look func(fd uintptr) // made once: a closure for each look would be garbage
	n    int
	err  error
	octs [1]byte
}

// Of makes p the Peeker of conn, without TLS: of what is on the wire.
func (p *Peeker) Of(conn net.Conn) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	fd, err := sc.SyscallConn()
	if err != nil {
		return
	}
	p.fd = fd
	p.look = func(fd uintptr) {
		p.n, _, p.err = syscall.Recvfrom(int(fd), p.octs[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
}

// Octets says whether octets wait to be read.
func (p *Peeker) Octets() bool { return p.peek() && p.err == nil && p.n > 0 }

// Quiet says whether nothing waits, neither octets nor an end nor an error. A socket
// that cannot be looked at passes for quiet; one that is closed does not.
func (p *Peeker) Quiet() bool {
	if p.fd == nil {
		return true
	}
	return p.peek() && (errors.Is(p.err, syscall.EAGAIN) || errors.Is(p.err, syscall.EWOULDBLOCK) || errors.Is(p.err, syscall.EINTR))
}

// peek looks once, and says whether it could.
func (p *Peeker) peek() bool { return p.fd != nil && p.fd.Control(p.look) == nil }
