package configs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a folder must be quiet before its files are read: whoever
	// renews a certificate writes two files, and not in one moment.
	settle = 300 * time.Millisecond
	// unsettled is where files are read although the folder is not quiet: somebody
	// may write a log beside them all day.
	unsettled = 2 * time.Second
	// recheck finds changes that no event told of: network file systems, and folders
	// that were replaced as a whole.
	recheck = time.Minute
)

// Watch calls changed after the content of one of the files has changed, until
// ctx ends. A file may be a pattern (filepath.Match): then those that fit it count,
// new ones too. It watches their folders, since editors and those who renew
// certificates replace files rather than write into them, and Kubernetes replaces a
// link beside them. A file that is gone or not there yet is no error: it has changed
// when it is there. The error is that of a folder that cannot be watched; recheck
// by time goes on nevertheless, so it may be logged and forgotten.
func Watch(ctx context.Context, files []string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("configs: watch: %w", err)
	}
	folders := map[string]bool{}
	var faults []error
	for _, f := range files {
		if dir := filepath.Dir(f); !folders[dir] {
			folders[dir] = true
			if err := w.Add(dir); err != nil {
				faults = append(faults, fmt.Errorf("configs: watch %s: %w", dir, err))
			}
		}
	}
	before := fingerprint(files)
	go func() {
		defer func() { _ = w.Close() }()
		quiet := time.NewTimer(recheck)
		defer quiet.Stop()
		var since time.Time // of the first event not looked at yet
		event := func() {
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(max(0, min(settle, time.Until(since.Add(unsettled)))))
		}
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-w.Events:
				if !ok {
					return
				}
				event()
				continue
			case _, ok := <-w.Errors: // events were lost: a look at the files makes up for them
				if !ok {
					return
				}
				event()
				continue
			case <-quiet.C:
				since = time.Time{}
				quiet.Reset(recheck)
			}
			if now := fingerprint(files); now != before {
				before = now
				changed()
			}
		}
	}()
	return errors.Join(faults...)
}

// fingerprint sums up the content of files. Times and sizes do not tell a key that
// was replaced by another of the same length in the same second.
func fingerprint(files []string) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range expand(files) {
		size, err := addContent(h, f)
		_, _ = fmt.Fprintf(h, "%s %d %v\n", f, size, err == nil) // a hash takes everything
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// addContent writes a file into a hash, without having it in memory: there are large ones.
func addContent(h io.Writer, file string) (size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	return io.Copy(h, f)
}

// expand puts the files that fit a pattern in its place.
func expand(patterns []string) []string {
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil || len(found) == 0 {
			found = []string{p} // a name with a bracket in it, or not there yet
		}
		files = append(files, found...)
	}
	return files
}
