package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"postern/configs"
)

// A hand-over replaces the running process without closing a port: the new
// process inherits the listening sockets, and with them those who wait in
// their queues. NOT: SO_REUSEPORT, where each process has a queue of its own,
// and who waits in that of the old one is reset when it goes.

// estateVariable tells the new process what the descriptors from 3 on are: the
// sockets in the order given, then a pipe to say on that it serves. NOT:
// LISTEN_FDS, which goes by names alone; the address of a name may be
// another one in the configuration that the new process reads.
const estateVariable = "HANDOVER_SOCKETS"

// firstDescriptor is the first behind the standard ones.
const firstDescriptor = 3

// handOverPatience is how long the new process may take until it serves.
const handOverPatience = 30 * time.Second

// errHandedOver ends the loop of a process whose place another has taken.
var errHandedOver = errors.New("handed over to a new process")

// socket is one of those that are handed over.
type socket struct {
	Name    string `json:"name"`
	Address string `json:"address"` // as configured
	Admin   bool   `json:"admin,omitempty"`

	ln net.Listener
}

// estate is what the process before us has left; nil: there was none.
type estate struct {
	sockets []*socket
	ready   *os.File
}

// takeEstate finds what this process was started with.
func takeEstate() (*estate, error) {
	text, ok := os.LookupEnv(estateVariable)
	if !ok {
		return nil, nil
	}
	_ = os.Unsetenv(estateVariable) // the variable is not for our children
	e := &estate{}
	if err := json.Unmarshal([]byte(text), &e.sockets); err != nil {
		return nil, fmt.Errorf("%s: %w", estateVariable, err)
	}
	for i, so := range e.sockets {
		f := os.NewFile(uintptr(firstDescriptor+i), so.Name)
		ln, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("socket %s of the process before us: %w", so.Name, err)
		}
		so.ln = ln
	}
	fd := firstDescriptor + len(e.sockets)
	syscall.CloseOnExec(fd)
	e.ready = os.NewFile(uintptr(fd), "ready")
	return e, nil
}

// listeners are the sockets that SMTP was served on, as if they were our own
// and a reload went over them.
func (e *estate) listeners() map[string]*standing {
	if e == nil {
		return nil
	}
	running := map[string]*standing{}
	for _, so := range e.sockets {
		if !so.Admin {
			running[so.Name] = &standing{config: configs.Listener{Name: so.Name, Address: so.Address}, ln: so.ln}
		}
	}
	return running
}

// admin is the socket of the admin side, as long as nobody has taken it.
func (e *estate) admin() (found []*standing) {
	if e == nil {
		return nil
	}
	for _, so := range e.sockets {
		if so.Admin && so.ln != nil {
			found = append(found, &standing{config: configs.Listener{Name: so.Name, Address: so.Address}, ln: so.ln})
		}
	}
	return found
}

// takeAdmin returns the socket of the admin side, if it was at that address.
func (e *estate) takeAdmin(address string) net.Listener {
	if e == nil {
		return nil
	}
	for _, so := range e.sockets {
		if so.Admin && so.Address == address {
			ln := so.ln
			so.ln = nil
			return ln
		}
	}
	return nil
}

// served tells the process before us that we serve. What we did not need of its
// sockets is closed.
func (e *estate) served() error {
	if e == nil {
		return nil
	}
	for _, so := range e.sockets {
		if so.ln != nil {
			_ = so.ln.Close() // listeners in use are duplicates
		}
	}
	_, err := e.ready.Write([]byte{1})
	return errors.Join(err, e.ready.Close())
}

// handOver starts the binary, the one that now lies where ours lay, on our
// sockets, and waits until it serves. Should it fail to, nothing has changed.
func (s *Service) handOver() (err error) {
	text, files, err := s.estate()
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	files = append(files, theirs)
	path, err := os.Executable()
	if err != nil {
		return err
	}

	if s.journal != nil {
		s.journal.Share(true)
		defer func() {
			if err != nil {
				s.journal.Share(false)
			}
		}()
	}
	if m := s.parts.Load().Memory; m != nil {
		// A file has one process. NOT: after the new one serves, which would be without.
		within, cancel := context.WithTimeout(context.Background(), handOverPatience)
		if err := m.LetGo(within); err != nil {
			s.Log.Error("the state store was not closed as it should be", "error", err.Error())
		}
		cancel()
		defer func() {
			if err != nil {
				m.TakeBack()
			}
		}()
	}
	heir, err := startProcess(path, append(os.Environ(), estateVariable+"="+text), files)
	if err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	_ = theirs.Close() // or its end would not be seen
	s.Log.Info("handing over", "binary", path, "process", heir.Pid)
	if err := serves(heir, ready); err != nil {
		return err
	}
	// NOT: Wait. It outlives us; systemd is told which process to watch from now on.
	tell(fmt.Sprintf("MAINPID=%d\nREADY=1", heir.Pid))
	s.Log.Info("handed over", "process", heir.Pid)
	return nil
}

// estate is what the heir gets: a text that says which sockets they are, and their files,
// which the caller closes in any case.
func (s *Service) estate() (text string, files []*os.File, err error) {
	var sockets []*socket
	add := func(so *socket, ln net.Listener) error {
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("listener %s: a %T cannot be handed over", so.Name, ln)
		}
		f, err := tcp.File()
		if err != nil {
			return fmt.Errorf("listener %s: %w", so.Name, err)
		}
		sockets, files = append(sockets, so), append(files, f)
		return nil
	}
	for _, st := range s.running {
		if err := add(&socket{Name: st.config.Name, Address: st.config.Address}, st.ln); err != nil {
			return "", files, err
		}
	}
	if so := s.adminSocket; so != nil {
		if err := add(so, so.ln); err != nil {
			return "", files, err
		}
	}
	b, err := json.Marshal(sockets)
	return string(b), files, err
}

// serves waits until the heir says by an octet that it serves, and ends one that does not.
func serves(heir *os.Process, ready *os.File) error {
	_ = ready.SetReadDeadline(time.Now().Add(handOverPatience))
	_, err := io.ReadFull(ready, make([]byte, 1))
	if err == nil {
		return nil
	}
	_ = heir.Kill()
	state, _ := heir.Wait()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the new process does not serve after %v", handOverPatience)
	}
	return fmt.Errorf("the new process does not serve, and has said why: %v", state)
}

// startProcess runs a binary with our arguments, our standard streams, and files
// behind them. NOT: os/exec, which makes what it passes on blocking, and a socket is
// blocking for all who hold it: our Accept would hang, and we with it.
func startProcess(path string, env []string, files []*os.File) (*os.Process, error) {
	passed := []uintptr{0, 1, 2}
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { passed = append(passed, fd) }); err != nil {
			return nil, err
		}
	}
	pid, _, err := syscall.StartProcess(path, os.Args, &syscall.ProcAttr{Env: env, Files: passed})
	runtime.KeepAlive(files)
	if err != nil {
		return nil, err
	}
	return os.FindProcess(pid)
}

// leave lets the sessions of a process whose place another has taken come to
// their end, for as long as timeouts.drain. NOT: 421 to those who are idle at
// once, as at a stop: they would gain nothing by coming again sooner.
func (s *Service) leave(signals <-chan os.Signal) {
	s.closePage() // those who look find the other process
	if s.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = s.admin.Shutdown(ctx)
		cancel()
		s.admin = nil
	}
	for _, st := range s.running {
		st.left.Store(true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.parts.Load().Config.Timeouts.Drain)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case sig := <-signals:
				if sig == syscall.SIGTERM || sig == syscall.SIGINT {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	// Who has announced mail to us announces it again, to the process that has our place.
	var amtpDone sync.WaitGroup
	amtpDone.Go(func() { _ = s.amtp.shutdown(ctx) })
	if err := s.smtp.Leave(ctx); err != nil {
		s.Log.Info("sessions are left after the hand-over", "cause", err.Error())
	}
	amtpDone.Wait()
	cancel()
	<-done
}
