package service

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"postern/configs"
)

// innerAddress is the backend that lives in this process. Nothing stands on this
// path: innerListener.dial knows it.
const innerAddress = "/postern-embedded"

// InnerBackend is the configuration of that backend.
func InnerBackend(name, identity string) configs.Backend {
	return configs.Backend{Name: name, Addresses: []string{"unix:" + innerAddress}, TLS: "off", Identity: identity}
}

// innerListener is a listener that only this process can reach: mail that is
// handed to the embedded backend by somebody else would pass by every rule.
type innerListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewInnerListener makes one that nobody serves yet.
func NewInnerListener() *innerListener {
	return &innerListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept returns the other end of a dialled connection.
func (l *innerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and dial fail from now on.
func (l *innerListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr names the listener.
func (l *innerListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: innerAddress} }

// Dial connects to the listener, and to every other address by the network.
func (l *innerListener) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if address != innerAddress {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	ours, theirs, err := SocketPair()
	if err != nil {
		return nil, err
	}
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = ours.Close()
	_ = theirs.Close()
	return nil, err
}

// SocketPair returns two connected ends. NOT: net.Pipe, which has no buffer: two
// sides that write at the same time, as pipelining has it, wait for each other.
func SocketPair() (a, b net.Conn, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, e := net.FileConn(f) // duplicates the descriptor
		_ = f.Close()
		if e != nil {
			err = fmt.Errorf("socketpair: %w", e)
			continue
		}
		ends[i] = c
	}
	if err != nil {
		for _, c := range ends {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}

// FromAddress makes a connection come from wherever one wants.
func FromAddress(conn net.Conn, from netip.AddrPort) net.Conn {
	return &acted{conn, net.TCPAddrFromAddrPort(from)}
}

type acted struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr returns the address of the client that is acted.
func (c *acted) RemoteAddr() net.Addr { return c.remote }

// LocalAddr returns what the client connected to.
func (c *acted) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }
