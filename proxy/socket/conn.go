package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a TCP connection whose reads and writes are quick calls. Its methods, deadlines and
// errors are those of net.TCPConn. One goroutine may read at a time, and one write.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is a read or a write under way.
type transfer struct {
	p    []byte
	n    int // octets so far
	err  error
	step func(fd uintptr) bool // bound once: a closure for each call would be garbage
}

// Quick returns conn, as a Conn where it is a TCP connection.
func Quick(conn net.Conn) net.Conn {
	tc, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return conn
	}
	c := &Conn{TCPConn: tc, raw: raw}
	c.in.step, c.out.step = c.in.read, c.out.write
	return c
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.in.run(p, c.raw.Read)
	return n, c.named("read", err)
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.run(p, c.raw.Write)
	return n, c.named("write", err)
}

// run makes the steps of a transfer of p; wait makes one at once, and more where the socket is ready for them.
func (t *transfer) run(p []byte, wait func(step func(fd uintptr) bool) error) (int, error) {
	t.p, t.n, t.err = p, 0, nil
	err := wait(t.step)
	t.p = nil // it is the caller's
	if err == nil {
		err = t.err
	}
	return t.n, err
}

// read is a step of a read. False: nothing is there yet.
func (t *transfer) read(fd uintptr) bool {
	t.n, t.err = ReadFD(int(fd), t.p)
	return !errors.Is(t.err, syscall.EAGAIN)
}

// write is a step of a write. False: the socket takes no more at the moment.
func (t *transfer) write(fd uintptr) bool {
	for t.n < len(t.p) {
		n, err := quickWrite(int(fd), t.p[t.n:])
		switch {
		case err == nil:
			t.n += n
		case errors.Is(err, syscall.EINTR): // once more
		case errors.Is(err, syscall.EAGAIN):
			return false
		default:
			t.err = err
			return true
		}
	}
	return true
}

// ReadFD reads from a descriptor that does not block; p is not empty. EAGAIN says that nothing is there.
func ReadFD(fd int, p []byte) (int, error) {
	for {
		n, err := quickRead(fd, p)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil || !errors.Is(err, syscall.EINTR):
			return max(n, 0), err
		}
	}
}

// named gives an error the words that it has in net: which call, between which addresses.
func (c *Conn) named(call string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) { // of the wait for the socket
		op.Op = call
		return err
	}
	return &net.OpError{Op: call, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, err)}
}
