package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	group = "postern"
	mode  = 0o660
	// maxPath is what the kernel takes for the path of a socket, less what the name
	// has behind it until the socket is ready.
	maxPath = 107 - len(unready)
	unready = ".new"
)

// Verify says what is wrong with the place of a socket, and opens nothing. A socket
// there may be that of a proxy which runs, or of one that was killed; but nobody else's:
// who listens on it would answer the commands.
func Verify(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("control.socket: the path has %d octets, and the system takes %d", len(path), maxPath)
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("control.socket: %w: the unit's RuntimeDirectory=postern makes /run/postern", err)
	}
	if !folder.IsDir() {
		return fmt.Errorf("control.socket: %s is no folder", filepath.Dir(path))
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control.socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control.socket: %s is there, and is no socket", path)
	}
	if owner := ownerOf(info); owner != os.Geteuid() && owner != ownerOf(folder) && owner != 0 {
		return fmt.Errorf("control.socket: %s belongs to %s: others own it. Remove it, or name a folder that is Postern's alone", path, userName(owner))
	}
	return nil
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "the user " + strconv.Itoa(uid)
}

// Server answers on a socket.
type Server struct {
	path string
	ln   *net.UnixListener
	own  fs.FileInfo // of the socket's file
	desk Desk
	log  *slog.Logger

	room chan struct{} // one for each conversation
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Listen opens the socket, on which Serve answers. takeOver says that a proxy
// which answers there is one that hands over to this one; else it is a fault.
func Listen(path string, takeOver bool, d Desk, log *slog.Logger) (*Server, error) {
	if err := Verify(path); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		if !takeOver {
			return nil, fmt.Errorf("control.socket: another process answers at %s: give each proxy a socket of its own", path)
		}
	}
	s := &Server{path: path, desk: d, log: log, room: make(chan struct{}, maxAtOnce)}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// open makes the socket beside its place, gives it its mode and group, and only then
// moves it there: nobody can connect before, and a proxy that hands over is never
// without one.
func (s *Server) open() (err error) {
	beside := s.path + unready
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: beside, Net: "unix"}); err != nil {
		return err
	}
	s.ln.SetUnlinkOnClose(false) // another may stand in its place by then
	defer func() {
		if err != nil {
			_ = s.ln.Close()
			_ = os.Remove(beside)
		}
	}()
	if err := os.Chmod(beside, mode); err != nil {
		return err
	}
	if err := giveGroup(beside); err != nil {
		s.log.Warn("the control socket stays with this process's own group", "socket", s.path, "group", group, "error", err.Error())
	}
	if err := os.Rename(beside, s.path); err != nil {
		return err
	}
	s.own, err = os.Lstat(s.path)
	return err
}

// giveGroup gives a file to the group postern, where the machine has one.
func giveGroup(path string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil // NOT: a fault. In a container there is none
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil || gid == os.Getegid() {
		return err
	}
	return os.Chown(path, -1, gid)
}

// Serve answers from now on, until Close.
func (s *Server) Serve() { s.wg.Go(s.accept) }

// Path is where the socket is.
func (s *Server) Path() string { return s.path }

// Close ends the conversations, and removes the socket unless another process has put
// its own in its place.
func (s *Server) Close() {
	s.stop()
	_ = s.ln.Close()
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.own) {
		_ = os.Remove(s.path)
	}
	s.wg.Wait()
}

func (s *Server) accept() {
	for {
		c, err := s.ln.AcceptUnix()
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.log.Error("the control socket cannot be listened on", "error", err.Error())
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(time.Second): // out of descriptors, perhaps: not for ever
			}
			continue
		}
		select {
		case s.room <- struct{}{}:
			s.wg.Go(func() {
				defer func() { <-s.room }()
				s.converse(c)
			})
		default:
			_ = write(c, answer{Error: "the proxy is busy with other commands", End: true})
			_ = c.Close()
		}
	}
}

// converse answers one request.
func (s *Server) converse(c net.Conn) {
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(s.ctx, commandTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a control command failed", "panic", fmt.Sprint(p))
			_ = write(c, answer{Error: "the proxy failed at it: see its log", End: true})
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(requestTime))
	lines := bufio.NewScanner(c)
	lines.Buffer(nil, maxRequest)
	if !lines.Scan() {
		if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
			_ = write(c, answer{Error: "the request is too long", End: true})
		}
		return
	}
	var r request
	if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
		_ = write(c, answer{Error: "the request is no JSON", End: true})
		return
	}
	s.log.Info("control", "do", r.Do, "ids", len(r.IDs), "domain", r.Domain)
	_ = serve(ctx, s.desk, r, func(a answer) error { return write(c, a) })
}

// write says one line.
func write(c net.Conn, a answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(lineTime)); err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}
