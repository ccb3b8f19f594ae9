package journal

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"postern/policy/journal/index"
)

// Found is what became of a search besides the records that it found.
type Found struct {
	Stats
	// Indexed is how many indexes were made, since there were none; Kept, how many of them
	// could be written beside their files.
	Indexed int `json:"indexed,omitempty"`
	Kept    int `json:"kept,omitempty"`
}

// maxBatch is how many blocks of an index are looked through before their lines are read.
const maxBatch = 32

// Search calls fn with each record that the filter wants, the one that was written last first,
// until fn fails. The record is good until fn returns. Memory is bounded: tens of mebibytes.
//
// Files that are closed are read where their index says so; an index that is missing
// is made.
func Search(ctx context.Context, dir string, f Filter, fn func(*Record) error) (Found, error) {
	s := &searching{search: newSearch(&f), ctx: ctx, dir: dir, fn: fn}
	files, err := listFiles(dir)
	if err != nil {
		return s.found, err
	}
	files, s.at = s.begin(dir, files)
	for _, f := range slices.Backward(files) {
		before := s.at.Done
		s.at.File = f.name
		if err := s.file(f); err != nil {
			return s.found, err
		}
		if info, err := os.Stat(filepath.Join(dir, f.name)); err == nil {
			s.at.Done = min(before+info.Size(), s.at.Total)
		}
		s.at.Indexing = false
		s.tell(s.at)
	}
	return s.found, nil
}

// searching is a search that goes on.
type searching struct {
	*search
	ctx    context.Context
	dir    string
	fn     func(*Record) error
	at     Progress
	found  Found
	record Record
	lines  [][]byte // of a batch
}

// file searches one file, its end first.
func (s *searching) file(f file) error {
	s.found.Files++
	path := filepath.Join(s.dir, f.name)
	if !f.compressed {
		plain, err := os.Open(path)
		if err == nil {
			defer func() { _ = plain.Close() }() // nothing was written
			return s.backwards(plain)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			s.unreadable(err)
			return nil
		}
		path += ".gz" // it was compressed since the folder was read
	}
	packed, err := os.Open(path)
	if err != nil {
		s.unreadable(err)
		return nil
	}
	defer func() { _ = packed.Close() }() // nothing was written
	return s.indexed(packed)
}

func (s *searching) unreadable(err error) {
	s.found.Unreadable = append(s.found.Unreadable, err.Error())
}

// try hands a line to fn where it is a record that is wanted.
func (s *searching) try(line []byte) error {
	s.found.Lines++
	if !s.found.Decode(line, &s.record) || !s.matches(&s.record) {
		return nil
	}
	return s.fn(&s.record)
}

// window is how much is read at once of a file that is not compressed, in octets.
const window = 1 << 20

// backwards searches a file that has no index, since it is written to. What comes while it
// is read is left for another time.
func (s *searching) backwards(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		s.unreadable(err)
		return nil
	}
	wanted := index.Lines{Want: s.want}
	before := s.at.Done
	long := false // the line before end was too long, and its beginning has not come
	buf := make([]byte, 0, 2*window)
	for end, size := info.Size(), int64(window); end > 0; {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		from := max(end-size, 0)
		buf = slices.Grow(buf[:0], int(end-from))[:end-from]
		if _, err := io.ReadFull(io.NewSectionReader(f, from, end-from), buf); err != nil {
			s.unreadable(&fs.PathError{Op: "read", Path: f.Name(), Err: err})
			return nil
		}
		text, first := buf, from
		if from > 0 {
			cut := bytes.IndexByte(buf, '\n') + 1
			if cut == 0 || cut == len(buf) && !long {
				// One line and no other: its beginning is further on.
				if size < 2*maxLine {
					size *= 2
				} else {
					long, end = true, from
				}
				continue
			}
			text, first = buf[cut:], from+int64(cut)
		}
		pieces := bytes.Split(text, []byte{'\n'})
		for i, line := range slices.Backward(pieces) {
			last := i == len(pieces)-1
			switch {
			case len(line) == 0:
			case last && long, len(line) >= maxLine:
			case last && end == info.Size() && !json.Valid(line): // torn, or just being written
			case wanted.Wanted(line):
				if err := s.try(line); err != nil {
					return err
				}
			}
		}
		long = false
		end, size = first, window
		s.at.Done = min(before+info.Size()-end, s.at.Total)
		s.tell(s.at)
	}
	return nil
}

// indexed searches a compressed file by its index, a batch of blocks at a time.
func (s *searching) indexed(packed *os.File) error {
	before := s.at.Done
	x, done, err := s.openIndex(packed)
	if err != nil {
		return err
	}
	if x == nil {
		return nil
	}
	defer done()
	s.at.Indexing, s.at.Done = false, before
	info, err := packed.Stat()
	if err != nil {
		s.unreadable(err)
		return nil
	}
	var rows []int
	from := newFetcher(packed)
	size := 1
	for at := x.Blocks(); at > 0; {
		var batch []fetch
		for ; at > 0 && len(batch) < size; at-- {
			if err := s.ctx.Err(); err != nil {
				return err
			}
			place, found, err := x.Rows(at-1, &s.want, rows[:0])
			if err != nil {
				s.unreadable(err)
				return nil
			}
			if rows = found; len(rows) > 0 {
				batch = append(batch, fetch{place, slices.Clone(rows)})
			}
		}
		slices.Reverse(batch)
		if s.lines, err = from.lines(batch, s.lines[:0]); err != nil {
			s.unreadable(&fs.PathError{Op: "read", Path: packed.Name(), Err: err})
		}
		for _, line := range slices.Backward(s.lines) {
			if err := s.try(line); err != nil {
				return err
			}
		}
		// Who wants few has them soon, and a file that is one gzip member is not begun too often.
		size = min(2*size, maxBatch)
		s.at.Done = min(before+info.Size()*int64(x.Blocks()-at)/int64(x.Blocks()), s.at.Total)
		s.tell(s.at)
	}
	return nil
}

// fetch is lines of a block that are to be read.
type fetch struct {
	index.Place
	rows []int
}

// fetcher reads lines of a compressed file.
type fetcher struct {
	file *os.File
	in   *bufio.Reader
	z    *gzip.Reader
	text *bufio.Reader
}

func newFetcher(f *os.File) *fetcher {
	return &fetcher{file: f, z: new(gzip.Reader), in: bufio.NewReaderSize(nil, 64<<10), text: bufio.NewReaderSize(nil, 64<<10)}
}

// lines appends the lines of a batch, whose blocks are in the order of the file. Where reading
// fails, those until then.
func (f *fetcher) lines(batch []fetch, lines [][]byte) ([][]byte, error) {
	member, at := int64(-1), int64(0)
	for _, b := range batch {
		if b.Member != member || b.Skip < at {
			if _, err := f.file.Seek(b.Member, io.SeekStart); err != nil {
				return lines, err
			}
			f.in.Reset(f.file)
			if err := f.z.Reset(f.in); err != nil {
				return lines, err
			}
			member, at = b.Member, 0
		}
		if _, err := io.CopyN(io.Discard, f.z, b.Skip-at); err != nil {
			return lines, err
		}
		f.text.Reset(io.LimitReader(f.z, b.Length))
		var err error
		if lines, err = f.pick(b.rows, lines); err != nil {
			return lines, err
		}
		// What is left of the block, the reader before may hold.
		at = b.Skip + b.Length
		if _, err := io.Copy(io.Discard, f.text); err != nil {
			return lines, err
		}
	}
	return lines, nil
}

// pick appends those lines of a block that are asked for.
func (f *fetcher) pick(rows []int, lines [][]byte) ([][]byte, error) {
	for n := 0; len(rows) > 0; n++ {
		var kept []byte
		for {
			part, err := f.text.ReadSlice('\n')
			if n == rows[0] {
				if kept = append(kept, part...); len(kept) > maxLine {
					return lines, errTooLong // NOT: a line of a record; the index is of another text
				}
			}
			if err == nil || errors.Is(err, io.EOF) && len(kept) > 0 {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return lines, err
			}
		}
		if n == rows[0] {
			lines = append(lines, bytes.TrimSuffix(kept, []byte{'\n'}))
			rows = rows[1:]
		}
	}
	return lines, nil
}

// Find returns the record of a transaction, or ErrNotFound.
func Find(ctx context.Context, dir, id string) (*Record, error) {
	return Last(ctx, dir, Filter{ID: id})
}

// Last returns the record that was written last of those that the filter wants, or
// ErrNotFound.
func Last(ctx context.Context, dir string, f Filter) (*Record, error) {
	var last *Record
	found, err := Search(ctx, dir, f, func(r *Record) error {
		record := *r
		last = &record
		return errStop
	})
	switch {
	case last != nil:
		return last, nil
	case err != nil:
		return nil, err
	case len(found.Unreadable) > 0:
		return nil, &notFoundError{found.Unreadable[0]}
	}
	return nil, ErrNotFound
}

// notFoundError is ErrNotFound where not all was read.
type notFoundError struct{ unreadable string }

func (e *notFoundError) Error() string {
	return ErrNotFound.Error() + "; not all files could be read: " + e.unreadable
}

func (e *notFoundError) Unwrap() error { return ErrNotFound }
