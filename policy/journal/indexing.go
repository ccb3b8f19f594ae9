package journal

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postern/policy/journal/index"
)

// indexSuffix is what the index of a file has behind its name. Readers of the journal pass
// such a name by.
const indexSuffix = ".index"

// staleHalf is how old the beginning of an index must be to count as left behind.
const staleHalf = time.Hour

// openIndex opens the index of a compressed file, and makes it where there is none that is
// whole and of this very file. nil: the file cannot be read, which the search has taken down.
// done closes it.
func (s *searching) openIndex(packed *os.File) (x *index.Index, done func(), err error) {
	info, err := packed.Stat()
	if err != nil {
		s.unreadable(err)
		return nil, nil, nil
	}
	of, err := index.SourceOf(packed, info.Size())
	if err != nil {
		s.unreadable(err)
		return nil, nil, nil
	}
	if x, f := readIndex(packed.Name()+indexSuffix, of); x != nil {
		if x.Torn {
			s.unreadable(fmt.Errorf("%s: it is torn, and was read as far as it goes", packed.Name()))
		}
		return x, func() { _ = f.Close() }, nil // nothing was written
	}
	s.at.Indexing = true
	before := s.at.Done
	made, err := makeIndex(s.ctx, packed, of, func(done int64) {
		s.at.Done = min(before+done, s.at.Total)
		s.tell(s.at)
	})
	if err != nil {
		return nil, nil, err
	}
	s.found.Indexed++
	if made.faulty != nil {
		s.unreadable(made.faulty)
	}
	if made.keep() == nil {
		s.found.Kept++
	}
	made.forget() // the name; what is open stays readable
	size, err := made.Seek(0, io.SeekEnd)
	if err == nil {
		x, err = index.Open(made.File, size)
	}
	if err != nil {
		_ = made.Close()
		return nil, nil, fmt.Errorf("journal: the index of %s: %w", packed.Name(), err)
	}
	return x, func() { _ = made.Close() }, nil
}

// readIndex opens an index that is whole and of that file; else nil.
func readIndex(path string, of index.Source) (*index.Index, *os.File) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil
	}
	if info, err := f.Stat(); err == nil {
		if x, err := index.Open(f, info.Size()); err == nil && x.Source == of {
			return x, f
		}
	}
	_ = f.Close() // nothing was written
	return nil, nil
}

// newIndex is an index that is written under a name of its own until it is whole.
type newIndex struct {
	*os.File
	of     string // the path of the file that it is of
	beside bool   // it stands in the same folder
	faulty error  // why it is not of the whole file
}

// createIndex creates the index of a file beside it, or in the folder for temporary files
// where that one is not writable.
func createIndex(path string) (*newIndex, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+indexSuffix+".*.tmp")
	if err == nil {
		return &newIndex{File: f, of: path, beside: true}, nil
	}
	f, err = os.CreateTemp("", "postern-index-*")
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &newIndex{File: f, of: path}, nil
}

// keep gives the index its place, the owner and the mode of its file.
func (n *newIndex) keep() error {
	switch {
	case !n.beside:
		return fs.ErrPermission
	case n.faulty != nil && !torn(n.faulty):
		return n.faulty // it may be read another time
	}
	if info, err := os.Stat(n.of); err == nil {
		_ = n.Chmod(info.Mode().Perm()) // who may not keeps it to himself
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			_ = n.Chown(int(owner.Uid), int(owner.Gid))
		}
	}
	return os.Rename(n.Name(), n.of+indexSuffix)
}

// torn says whether a file ended too early, or is not what it should be: that stays so.
func torn(err error) bool {
	var corrupt flate.CorruptInputError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, &corrupt)
}

// forget removes the name under which it was written, if it is there still.
func (n *newIndex) forget() { _ = os.Remove(n.Name()) }

// makeIndex reads a compressed file through and writes its index, which has no place yet. tell
// hears of the octets that were read. A file that cannot be read to its end has an index of what
// could be read. The error is that of writing, or ctx's.
func makeIndex(ctx context.Context, packed *os.File, of index.Source, tell func(done int64)) (made *newIndex, err error) {
	if made, err = createIndex(packed.Name()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			made.forget()
			_ = made.Close()
		}
	}()
	out := bufio.NewWriterSize(made, 64<<10)
	b := index.NewBuilder(out, maxLine)
	faulty := eachMember(ctx, packed, b, tell)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if faulty != nil {
		made.faulty = fmt.Errorf("%s: %w", packed.Name(), faulty)
	}
	if err := errors.Join(b.Close(of, faulty != nil), out.Flush()); err != nil {
		return nil, fmt.Errorf("journal: the index of %s: %w", packed.Name(), err)
	}
	return made, nil
}

// eachMember shows a builder the text of a compressed file, one gzip member after the other.
func eachMember(ctx context.Context, packed *os.File, b *index.Builder, tell func(done int64)) error {
	counted := &counter{r: io.NewSectionReader(packed, 0, 1<<62), tell: tell}
	in := bufio.NewReaderSize(&interruptible{ctx, counted}, 64<<10)
	buf := make([]byte, 64<<10)
	var z gzip.Reader
	for {
		if _, err := in.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		at := counted.n - int64(in.Buffered())
		if err := z.Reset(in); err != nil {
			return err
		}
		z.Multistream(false)
		b.Member(at)
		for {
			n, err := z.Read(buf)
			for text := buf[:n]; len(text) > 0; {
				taken, _ := b.Take(text)
				text = text[taken:]
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
}

// counter counts the octets that were read, and tells of them now and then.
type counter struct {
	r       io.Reader
	n, told int64
	tell    func(octets int64)
}

// Read reads.
func (c *counter) Read(p []byte) (int, error) {
	const often = 1 << 20
	n, err := c.r.Read(p)
	if c.n += int64(n); c.n >= c.told+often {
		c.told = c.n
		c.tell(c.n)
	}
	return n, err
}

// members writes a file as gzip, a member for each block of its index.
type members struct {
	out   *bufio.Writer
	at    int64 // octets that went to out
	z     *gzip.Writer
	index *index.Builder
	whole bool // the last member is
}

// newMembers compresses to out, and tells b what goes by.
func newMembers(out *bufio.Writer, b *index.Builder) *members {
	m := &members{out: out, index: b}
	// The fastest: lines of JSON shrink to a seventh even so, and mail wants the CPU.
	m.z, _ = gzip.NewWriterLevel(&counting{out, &m.at}, gzip.BestSpeed) // the level is a good one
	b.Member(0)
	return m
}

// counting counts the octets that are written.
type counting struct {
	w io.Writer
	n *int64
}

// Write writes.
func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	*c.n += int64(n)
	return n, err
}

// Write compresses p.
func (m *members) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if m.whole {
			m.z.Reset(&counting{m.out, &m.at})
			m.index.Member(m.at)
			m.whole = false
		}
		n, ended := m.index.Take(p[done:])
		if _, err := m.z.Write(p[done : done+n]); err != nil {
			return done, err
		}
		done += n
		if ended {
			if err := m.z.Close(); err != nil {
				return done, err
			}
			m.whole = true
		}
	}
	return done, nil
}

// Close ends the last member.
func (m *members) Close() error {
	if m.whole {
		return nil
	}
	return m.z.Close()
}

// indexAll makes the indexes that are missing, so that nobody who searches has to wait for
// them, and removes those of files that are gone. It ends early with ctx.
func indexAll(ctx context.Context, dir string, files []file) (faults []error) {
	there := map[string]bool{}
	for _, f := range files {
		there[f.name] = true
	}
	names, _ := filepath.Glob(filepath.Join(dir, "????-??-??*.jsonl.gz"+indexSuffix+"*")) // fails for a bad pattern only
	for _, path := range names {
		name, half, _ := strings.Cut(filepath.Base(path), indexSuffix)
		info, err := os.Lstat(path)
		if err != nil || half == "" && there[name] || half != "" && time.Since(info.ModTime()) < staleHalf {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("journal: %w", err))
		}
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return faults
		}
		if !f.compressed {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, f.name+indexSuffix)); err == nil {
			continue // whether it is whole sees who reads it
		}
		if err := indexOne(ctx, filepath.Join(dir, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
			faults = append(faults, err)
		}
	}
	return faults
}

// indexOne makes the index of one compressed file. One that cannot be read now has none.
func indexOne(ctx context.Context, path string) error {
	packed, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer func() { _ = packed.Close() }() // nothing was written
	info, err := packed.Stat()
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	of, err := index.SourceOf(packed, info.Size())
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	made, err := makeIndex(ctx, packed, of, func(int64) {})
	if err != nil {
		return err
	}
	defer func() {
		made.forget()
		_ = made.Close() // it was written, and flushed by nobody: one that is torn is made again
	}()
	if err := made.keep(); !errors.Is(err, made.faulty) {
		return err
	}
	return nil // readers of the journal are told what is wrong with the file
}
