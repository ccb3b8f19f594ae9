package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lastPart stands for the part of a day that has no number: the last one.
const lastPart = 1 << 30

// file is one file of the journal. A day's records are in files whose names sort as they were written:
//
//	2026-11-21.0001.jsonl.gz   full, and compressed
//	2026-11-21.0002.jsonl      full, about to be compressed
//	2026-11-21.jsonl           written to now
//
// Days are of UTC, so that no hour is there twice.
type file struct {
	name       string // in the folder
	day        string
	part       int
	compressed bool
}

// parseFileName reads a name that a file of the journal may have; other files may be in its folder.
func parseFileName(name string) (f file, ok bool) {
	plain, compressed := strings.CutSuffix(name, ".gz")
	stem, ok := strings.CutSuffix(plain, ".jsonl")
	day, part, numbered := strings.Cut(stem, ".")
	if _, err := time.Parse(time.DateOnly, day); !ok || err != nil {
		return file{}, false
	}
	f = file{name: name, day: day, part: lastPart, compressed: compressed}
	if numbered {
		if len(part) < 4 || len(part) > 9 || strings.Trim(part, "0123456789") != "" {
			return file{}, false
		}
		f.part, _ = strconv.Atoi(part) // nine digits at the most
	}
	return f, true
}

func (f file) order(g file) int {
	return cmp.Or(cmp.Compare(f.day, g.day), cmp.Compare(f.part, g.part))
}

// start is when the file's day begins.
func (f file) start() time.Time {
	day, _ := time.Parse(time.DateOnly, f.day)
	return day
}

// listFiles returns the files of a journal in the order in which they were
// written. Of a file that is there twice, since a compression was cut short, the
// plain one counts.
func listFiles(dir string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var files []file
	for _, e := range entries {
		if f, ok := parseFileName(e.Name()); ok && e.Type().IsRegular() {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(f, g file) int {
		if c := f.order(g); c != 0 {
			return c
		}
		if f.compressed {
			return 1
		}
		return -1
	})
	return slices.CompactFunc(files, func(f, g file) bool { return f.order(g) == 0 }), nil
}

func dayOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// openFile opens the file of a day to append to, and makes the folder for it.
// Records hold who writes to whom: others of this machine may not read them. A
// last line that was torn gets its end, so that the next record is one.
func openFile(dir, day string) (f *os.File, size int64, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, 0, err
	}
	f, err = openShared(filepath.Join(dir, day+".jsonl"))
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if size = info.Size(); size == 0 {
		return f, 0, nil
	}
	last := make([]byte, 1)
	if _, err = f.ReadAt(last, size-1); err != nil {
		return nil, 0, err
	}
	if last[0] != '\n' {
		if _, err = f.Write([]byte{'\n'}); err != nil {
			return nil, 0, err
		}
		size++
	}
	return f, size, nil
}

// openShared opens a file to append to, and locks it against being compressed:
// another process may set it aside between our open and our write. The lock ends
// with the file.
func openShared(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return nil, err
		}
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
			there, err1 := os.Stat(path)
			ours, err2 := f.Stat()
			if err1 == nil && err2 == nil && os.SameFile(there, ours) {
				return f, nil
			}
		} else if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, err
		}
		_ = f.Close() // it was set aside meanwhile: the name is another file's now
	}
}

// setAside gives the day's file its number, as it is full.
func setAside(dir, day string) error {
	files, err := listFiles(dir)
	if err != nil {
		return err
	}
	next := 1
	for _, f := range files {
		if f.day == day && f.part < lastPart {
			next = f.part + 1
		}
	}
	from := filepath.Join(dir, day+".jsonl")
	if err := os.Rename(from, filepath.Join(dir, fmt.Sprintf("%s.%04d.jsonl", day, next))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
