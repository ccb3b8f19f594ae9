package proxy

import (
	"os"
	"sync"
	"syscall"
	"time"
)

// canPark says whether sessions can be parked on this system.
const canPark = true

// parking is where a session waits whose client says nothing for a while: as an
// entry in a table. A goroutine that has been through a command holds a stack of
// 4 to 8 KiB, which is more than all the rest of an idle connection. One
// goroutine watches the sockets of all that are parked, while there are any.
//
// NOT: at once, whenever a session waits. To park one and to take it up again
// costs some ten microseconds, and a client at work is never silent for long.
type parking struct {
	mu     sync.Mutex
	parked map[int32]*session // by descriptor
	ep     *os.File           // the epoll instance; nil while nobody is parked
	fd     int                // its descriptor
}

// parkedAt is what a session knows of its place.
type parkedAt struct {
	fd    int32
	alarm *time.Timer // at its deadline
}

// park takes over the session, until its client is heard, its deadline has
// come, or unpark is called. The session then runs on in a goroutine of its own;
// it may do so before park returns. False: it was not taken over.
func (p *parking) park(s *session) bool {
	sc, ok := s.wire.Raw().(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Shutdown sets draining, and makeRoom givesWay, before it looks here for those it has to wake.
	if s.idle.mustEnd() || !p.open(s.srv) {
		return false
	}
	fault := raw.Control(func(fd uintptr) {
		s.idle.place.fd = int32(fd)
		err = syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, int(fd),
			&syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd)})
	})
	if fault != nil || err != nil {
		p.closeIfEmpty()
		return false
	}
	p.parked[s.idle.place.fd] = s
	s.idle.place.alarm = time.AfterFunc(time.Until(s.idle.deadline), func() { p.unpark(s) })
	return true
}

// unpark makes the session run on, if it is parked.
func (p *parking) unpark(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resume(s.idle.place.fd, s)
}

// resume makes the session run on that is parked with that descriptor: s, or any
// if s is nil.
func (p *parking) resume(fd int32, s *session) {
	at := p.parked[fd]
	if at == nil || s != nil && s != at {
		return
	}
	delete(p.parked, fd)
	at.idle.place.alarm.Stop()
	_ = syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_DEL, int(fd), nil)
	p.closeIfEmpty()
	at.srv.crew.run(func() { at.run(true) })
}

// open makes the epoll instance and starts its watcher, if there is none.
func (p *parking) open(srv *Server) bool {
	if p.ep != nil {
		return true
	}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	// An epoll instance can be polled itself: with O_NONBLOCK set, the runtime
	// waits for it as for a socket, and no thread is held.
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return false
	}
	ep := os.NewFile(uintptr(fd), "epoll")
	raw, err := ep.SyscallConn()
	if err != nil {
		_ = ep.Close()
		return false
	}
	p.ep, p.fd, p.parked = ep, fd, make(map[int32]*session)
	srv.wg.Go(func() { p.watch(ep, raw) })
	return true
}

// closeIfEmpty ends the watcher when nobody is parked any more.
func (p *parking) closeIfEmpty() {
	if len(p.parked) == 0 {
		_ = p.ep.Close()
		p.ep, p.parked = nil, nil
	}
}

// watch takes up the sessions whose clients are heard, until ep is closed.
func (p *parking) watch(ep *os.File, raw syscall.RawConn) {
	events := make([]syscall.EpollEvent, 64)
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return
		}
		p.mu.Lock()
		for _, e := range events[:n] {
			if p.ep == ep { // NOT: afterwards; then these are descriptors of others
				p.resume(e.Fd, nil)
			}
		}
		p.mu.Unlock()
	}
}
