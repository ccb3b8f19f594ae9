package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens a socket for a listener. Where sockets of ours that are about to be closed
// are in the way, since the address of a listener is changed from all of this machine's to
// one of them or back, it is opened beside those, so that no connection is refused between the
// one and the other; and if it cannot be opened, nothing has changed. The error says what
// to do; staying are those of ours that are not closed.
func listen(address string, leaving, staying []*standing) (net.Listener, error) {
	ln, err := listenConfig.Listen(context.Background(), "tcp", address)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, listenError(address, err)
	}
	for _, st := range staying {
		if overlap(st.ln.Addr(), address) {
			return nil, fmt.Errorf("%s is in use by our own listener %s on %s", address, st.config.Name, st.config.Address)
		}
	}
	inTheWay := slices.DeleteFunc(slices.Clone(leaving), func(st *standing) bool { return !overlap(st.ln.Addr(), address) })
	if len(inTheWay) == 0 {
		return nil, listenError(address, err)
	}
	defer func() {
		for _, st := range inTheWay {
			_ = share(st.ln, false) // if nothing comes of it, nothing has changed
		}
	}()
	for _, st := range inTheWay {
		if err := share(st.ln, true); err != nil {
			return nil, ours(address, st, err)
		}
	}
	shared := listenConfig
	shared.Control = func(_, _ string, c syscall.RawConn) error { return setShared(c, true) }
	if ln, err = shared.Listen(context.Background(), "tcp", address); err != nil {
		return nil, ours(address, inTheWay[0], err)
	}
	_ = share(ln, false) // the socket is one like all others
	return ln, nil
}

// ours is the error where a listener that is about to be closed is in the way all the same: the
// socket is another user's, as one that systemd holds.
func ours(address string, st *standing, err error) error {
	return fmt.Errorf("%s is in use by our own listener %s on %s, and cannot be opened beside it (%w): restart, which takes it after that", address, st.config.Name, st.config.Address, err)
}

// overlap says whether a socket that listens at bound takes a part of what one at address would:
// their ports are the same, and their hosts too, or one of them is all of this machine's.
func overlap(bound net.Addr, address string) bool {
	tcp, ok := bound.(*net.TCPAddr)
	if !ok {
		return false
	}
	wanted, err := net.ResolveTCPAddr("tcp", address)
	if err != nil || wanted.Port != tcp.Port {
		return false
	}
	has, wants := tcp.AddrPort().Addr().Unmap(), wanted.AddrPort().Addr().Unmap()
	all := func(ip netip.Addr) bool { return !ip.IsValid() || ip.IsUnspecified() } // of this machine's
	return all(has) || all(wants) || has == wants
}

// share lets another socket of this user be bound beside that of a listener, or no more.
func share(ln net.Listener, yes bool) error {
	c, ok := ln.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a %T cannot be shared", ln)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return setShared(raw, yes)
}

// setShared sets SO_REUSEPORT. Linux compares it at the moment of a bind, of the socket that is
// bound and of those that listen: that they had none when they were bound is no matter.
func setShared(c syscall.RawConn, yes bool) error {
	value := 0
	if yes {
		value = 1
	}
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
	})
	return errors.Join(err, failed)
}
