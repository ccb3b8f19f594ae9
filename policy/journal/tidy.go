package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"postern/policy/journal/index"
)

// tidy compresses the files that are closed and removes those that are older
// than keep. It ends early with ctx, and at once where another process is at it:
// two that compress one file would spoil it.
func tidy(ctx context.Context, dir string, keep time.Duration, now time.Time, closed func(file) bool) error {
	folder, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was written yet
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer func() { _ = folder.Close() }() // which ends the lock
	err = syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("journal: lock %s: %w", dir, err)
	}
	files, err := listFiles(dir)
	if err != nil {
		return err
	}
	faults := removeHalves(dir)
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		switch {
		case ctx.Err() != nil:
			return errors.Join(faults...)
		case keep > 0 && f.start().AddDate(0, 0, 1).Add(keep).Before(now):
			if err = os.Remove(path); err == nil && f.compressed {
				err = os.Remove(path + indexSuffix)
			}
		case !f.compressed && closed(f):
			err = compress(ctx, path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("journal: %w", err))
		}
		err = nil
	}
	if files, err = listFiles(dir); err != nil {
		return err
	}
	return errors.Join(append(faults, indexAll(ctx, dir, files)...)...)
}

// removeHalves removes what compressions left that were cut short.
func removeHalves(dir string) (faults []error) {
	halves, _ := filepath.Glob(filepath.Join(dir, "????-??-??.*jsonl.gz.tmp")) // fails for a bad pattern only
	for _, half := range halves {
		if err := os.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("journal: %w", err))
		}
	}
	return faults
}

// compress replaces a file by its gzip, with an index beside it. The plain one goes only when
// the other is on the disk as a whole; whoever reads meanwhile finds one of them.
func compress(ctx context.Context, path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // nothing was written
	if err := syscall.Flock(int(in.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil // another process is still writing to it: next time
		}
		return err
	}
	temporary := path + ".gz.tmp" // a name that readers pass by
	out, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = out.Close()
			_ = os.Remove(temporary)
		}
	}()
	// An index that cannot be written is made later: it must not keep the file from its place.
	sidecar, _ := createIndex(path + ".gz")
	rows := io.Discard
	if sidecar != nil {
		defer func() {
			sidecar.forget()
			_ = sidecar.Close() // one that is torn is made again
		}()
		rows = sidecar
	}
	buffered, indexed := bufio.NewWriterSize(out, 64<<10), bufio.NewWriterSize(rows, 64<<10)
	builder := index.NewBuilder(indexed, maxLine)
	z := newMembers(buffered, builder)
	if _, err := io.CopyBuffer(z, &interruptible{ctx, in}, make([]byte, 64<<10)); err != nil {
		return err
	}
	if err := errors.Join(z.Close(), buffered.Flush(), out.Sync()); err != nil {
		return err
	}
	of, err := index.SourceOf(out, z.at)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	whole := builder.Close(of, false) == nil && indexed.Flush() == nil
	if err := os.Rename(temporary, path+".gz"); err != nil {
		return err
	}
	if sidecar != nil && whole {
		_ = sidecar.keep() // else it is made later
	}
	return os.Remove(path)
}

// interruptible reads until a context ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

// Read reads, or returns the context's error.
func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
