package proxy

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A cable is a TCP connection in memory: a socket buffer in each direction,
// deadlines, half-close and reset. It works within a synctest bubble, where
// net.Pipe does as well; but on a pipe a writer waits for its reader, and two
// peers that speak at the same time wait for each other for ever.
//
// Each direction can be given one fault, which strikes when so many octets
// have been written to it.
type cable struct {
	client, server *end
}

// socketBuffer is small, so that big messages meet a full one.
const socketBuffer = 64 << 10

func newCable(clientAddr, serverAddr netip.AddrPort) cable {
	up, down := newHalf(), newHalf()
	up.other, down.other = down, up
	a, b := net.TCPAddrFromAddrPort(clientAddr), net.TCPAddrFromAddrPort(serverAddr)
	return cable{
		client: &end{in: down, out: up, local: a, remote: b},
		server: &end{in: up, out: down, local: b, remote: a},
	}
}

// faultKind is what may happen to one direction of a cable.
type faultKind int

const (
	faultNone   faultKind = iota
	faultCut              // the connection ends for both, what was sent before arrives
	faultReset            // the same, and what was under way is lost
	faultHalf             // the reader sees the end; the other direction lives on
	faultStall            // nothing arrives any more, and nobody is told
	faultDrip             // from here on one octet every two seconds
	faultSplit            // from here on one octet with each read
	faultGather           // from here on what is written arrives a moment later, together
	faultKinds
)

func (k faultKind) String() string {
	return [...]string{"none", "cut", "reset", "half-close", "stall", "drip", "split", "gather"}[k]
}

// half is one direction.
type half struct {
	other *half

	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	written int64 // octets that the writer got rid of before the fault swallowed any

	fault faultKind
	at    int64 // strikes when so many octets were written
	fired bool

	hungry  bool // a reader waits, and there is nothing to read
	eof     bool // the writer closed: no more will come
	reset   bool
	deaf    bool // the reader closed
	swallow int  // octets that vanish from now on; negative: all
	piece   int  // octets that one read may have; 0: any number
	pause   time.Duration
	since   time.Time // when what is in buf may be read

	readBy, writeBy time.Time
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// strike sets the fault of a direction.
func (h *half) strike(k faultKind, at int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault, h.at = k, at
}

// wait waits for a change, until the earlier of the times that are not zero.
func (h *half) wait(times ...time.Time) {
	var until time.Time
	for _, t := range times {
		if !t.IsZero() && (until.IsZero() || t.Before(until)) {
			until = t
		}
	}
	if !until.IsZero() {
		t := time.AfterFunc(time.Until(until), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
		defer t.Stop()
	}
	h.changed.Wait()
}

func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.reset:
			return 0, syscall.ECONNRESET
		case h.deaf:
			return 0, net.ErrClosed
		case passed(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(h.buf) > 0 && !time.Now().Before(h.since):
			if h.piece > 0 && len(p) > h.piece {
				p = p[:h.piece]
			}
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			if h.fired && h.fault == faultDrip {
				h.since = time.Now().Add(h.pause)
			}
			h.changed.Broadcast()
			return n, nil
		case len(h.buf) == 0 && h.eof:
			return 0, io.EOF
		case len(h.buf) > 0:
			h.wait(h.readBy, h.since)
		default:
			h.hungry = true
			h.changed.Broadcast()
			h.wait(h.readBy)
			h.hungry = false
		}
	}
}

// rest waits until the reader has read everything and waits for more, or will
// never read again.
func (h *half) rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for (!h.hungry || len(h.buf) > 0) && !h.deaf && !h.reset {
		h.wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	for len(p) > 0 {
		switch {
		case h.reset:
			err = syscall.ECONNRESET
		case h.eof && h.swallow == 0:
			err = net.ErrClosed
		case h.deaf:
			err = syscall.EPIPE
		case passed(h.writeBy):
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			break
		}
		if h.swallow < 0 {
			n += len(p)
			break
		}
		room := socketBuffer - len(h.buf)
		if h.swallow > 0 {
			room = h.swallow - 1
		}
		if room <= 0 {
			h.wait(h.writeBy)
			continue
		}
		k := min(room, len(p))
		if h.swallow > 0 {
			h.swallow -= k
		} else {
			if h.fault != faultNone && !h.fired && h.written+int64(k) >= h.at {
				k = int(max(h.at-h.written, 0))
			}
			h.buf = append(h.buf, p[:k]...)
			h.written += int64(k)
			if h.fired && h.fault == faultGather {
				h.since = time.Now().Add(h.pause)
			}
			if h.fault != faultNone && !h.fired && h.written >= h.at {
				h.fire()
			}
			h.changed.Broadcast()
		}
		n, p = n+k, p[k:]
	}
	h.mu.Unlock()
	return n, err
}

// fire makes the fault happen; h is locked. The other direction is dealt with
// by a goroutine of its own, since it may be locked and wait for us.
func (h *half) fire() {
	h.fired = true
	other := func(f func(*half)) {
		o := h.other
		go func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			f(o)
			o.changed.Broadcast()
		}()
	}
	switch h.fault {
	case faultCut:
		h.eof = true
		other(func(o *half) { o.eof = true })
	case faultReset:
		h.reset, h.buf = true, nil
		other(func(o *half) { o.reset, o.buf = true, nil })
	case faultHalf:
		h.eof, h.swallow = true, -1
	case faultStall:
		h.swallow = socketBuffer
	case faultDrip:
		h.piece, h.pause = 1, 2*time.Second
	case faultSplit:
		h.piece = 1
	case faultGather:
		h.pause = 50 * time.Millisecond
	}
}

func (h *half) close(eof bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if eof {
		h.eof = true
	} else {
		h.deaf = true
		h.buf = nil
	}
	h.changed.Broadcast()
}

// end is one end of a cable, a net.Conn.
type end struct {
	in, out       *half
	local, remote net.Addr

	once      sync.Once
	onClose   func() // called before the end is closed
	attempted int64  // octets given to Write; for the goroutine that writes
}

func (e *end) Read(p []byte) (int, error) { return e.in.read(p) }
func (e *end) LocalAddr() net.Addr        { return e.local }
func (e *end) RemoteAddr() net.Addr       { return e.remote }

func (e *end) Write(p []byte) (int, error) {
	e.attempted += int64(len(p))
	return e.out.write(p)
}

// whole says whether all that was given to Write is on its way, or arrived.
func (e *end) whole() bool {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	return e.out.written == e.attempted
}

// passed is how many octets are on their way, or arrived.
func (h *half) passed() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.written
}

func (e *end) Close() error {
	e.once.Do(func() {
		if e.onClose != nil {
			e.onClose()
		}
		e.out.close(true)
		e.in.close(false)
	})
	return nil
}

// CloseWrite says that nothing more will be written.
func (e *end) CloseWrite() error { e.out.close(true); return nil }

func (e *end) SetDeadline(t time.Time) error {
	_ = e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.readBy = t
	e.in.changed.Broadcast()
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	e.out.writeBy = t
	e.out.changed.Broadcast()
	return nil
}
