// Package socket reads and writes sockets, and looks at what waits on them, by system calls that take as
// little as they can: see quick.go.
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
		p.n, p.err = quickPeek(int(fd), p.octs[:])
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
