package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// disk is all that is done with files. What it promises is what POSIX does and no more: the content of a file
// lasts once it was synced, a name that was made, changed or removed once its folder was.
type disk interface {
	create(name string) (file, error) // a new one; an error where it is there
	open(name string) (io.ReadCloser, int64, error)
	rename(from, to string) error
	remove(name string) error
	sync() error // of the folder
	list() ([]string, error)
	close() error
}

// file is one that is being written.
type file interface {
	io.Writer
	sync() error
	close() error
}

// folder is a folder of this machine.
type folder struct {
	path string
	dir  *os.File // for its lock, and to sync it
}

// openFolder opens a folder, and makes it where there is none. Two that work in one folder would hand over the same
// mail: it is locked.
func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o027 != 0 {
		return nil, fmt.Errorf("%s may be read or changed by others (mode %#o), and holds mail: chmod 700 %s", path, info.Mode().Perm(), path)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = dir.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is the spool of another process that runs", path)
		}
		return nil, fmt.Errorf("%s cannot be locked: %w", path, err)
	}
	// The folder itself has to be there after a power cut: the one above has its name.
	if above, err := os.Open(filepath.Dir(path)); err == nil {
		_ = above.Sync()
		_ = above.Close()
	}
	return &folder{path, dir}, nil
}

func (f *folder) at(name string) string { return filepath.Join(f.path, name) }

func (f *folder) create(name string) (file, error) {
	w, err := os.OpenFile(f.at(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return written{w}, nil
}

func (f *folder) open(name string) (io.ReadCloser, int64, error) {
	r, err := os.Open(f.at(name))
	if err != nil {
		return nil, 0, err
	}
	info, err := r.Stat()
	if err != nil {
		_ = r.Close()
		return nil, 0, err
	}
	return r, info.Size(), nil
}

func (f *folder) rename(from, to string) error { return os.Rename(f.at(from), f.at(to)) }
func (f *folder) remove(name string) error     { return os.Remove(f.at(name)) }
func (f *folder) sync() error                  { return f.dir.Sync() }
func (f *folder) close() error                 { return f.dir.Close() }

func (f *folder) list() (names []string, err error) {
	entries, err := os.ReadDir(f.path)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

type written struct{ f *os.File }

func (w written) Write(p []byte) (int, error) { return w.f.Write(p) }
func (w written) sync() error                 { return w.f.Sync() }
func (w written) close() error                { return w.f.Close() }
