package journal

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"postern/policy"
)

// Query says which records are wanted.
type Query struct {
	Since time.Time // zero: from the first on
	Until time.Time // zero: to the last; that moment excluded

	// Progress hears from time to time, in the goroutine that reads, how far it has come;
	// nil: nobody wants to know.
	Progress func(Progress)
}

// Progress is how far the reading has come.
type Progress struct {
	Done, Total int64  // octets of the files that may have what is wanted
	File        string // the one that is read
	Indexing    bool   // its index is being made
}

// Wants says whether a record of that time is wanted.
func (q Query) Wants(t time.Time) bool {
	return (q.Since.IsZero() || !t.Before(q.Since)) && (q.Until.IsZero() || t.Before(q.Until))
}

// wantsFile says whether a file may have records that are wanted. A record is in
// the file of the day on which its transaction ended, and it bears the time at
// which that began; no transaction takes a day.
func (q Query) wantsFile(f file) bool {
	return (q.Since.IsZero() || f.start().AddDate(0, 0, 1).After(q.Since)) && (q.Until.IsZero() || f.start().Before(q.Until.AddDate(0, 0, 1)))
}

// Stats says what was found in a journal besides records.
type Stats struct {
	Files int   `json:"files"`
	Lines int64 `json:"lines"`
	// Bad lines are no record: torn, too long, or not ours. Newer ones have a
	// version that we do not know.
	Bad   int64 `json:"bad,omitempty"`
	Newer int64 `json:"newer,omitempty"`
	// Unreadable are files that ended in an error, by name, with the error.
	Unreadable []string `json:"unreadable,omitempty"`
}

// ErrNotFound is what Find returns for an id that is not in the journal.
var ErrNotFound = errors.New("journal: there is no such record")

// Lines calls fn with each line of the files that may have records that the
// query wants, the oldest first, until fn fails. A line is good until fn returns.
// Files are read as a stream, compressed ones too; one that is torn is read as
// far as it goes.
func Lines(dir string, q Query, fn func(line []byte) error) (Stats, error) {
	var stats Stats
	files, err := listFiles(dir)
	if err != nil {
		return stats, err
	}
	files, at := q.begin(dir, files)
	for _, f := range files {
		stats.Files++
		at.File = f.name
		before := at.Done
		err := stats.readFile(filepath.Join(dir, f.name), f.compressed, func(octets int64) {
			at.Done = min(before+octets, at.Total)
			q.tell(at)
		}, fn)
		if err != nil {
			return stats, err
		}
	}
	at.Done = at.Total
	q.tell(at)
	return stats, nil
}

// begin returns those of the files that may have what is wanted, and that nothing of them was
// read yet.
func (q Query) begin(dir string, files []file) ([]file, Progress) {
	var at Progress
	files = slices.DeleteFunc(files, func(f file) bool {
		if !q.wantsFile(f) {
			return true
		}
		if info, err := os.Stat(filepath.Join(dir, f.name)); err == nil {
			at.Total += info.Size()
		}
		return false
	})
	return files, at
}

func (q Query) tell(at Progress) {
	if q.Progress != nil {
		q.Progress(at)
	}
}

// errStop ends the reading of a file, and is no failure.
var errStop = errors.New("stop")

// readFile reads one file to its end. What is wrong with the file goes into the
// stats; the error is fn's. tell hears of the octets that were read.
func (s *Stats) readFile(path string, compressed bool, tell func(octets int64), fn func(line []byte) error) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !compressed {
		// It was compressed since the folder was read.
		path, compressed = path+".gz", true
		f, err = os.Open(path)
	}
	if err != nil {
		s.Unreadable = append(s.Unreadable, err.Error())
		return nil
	}
	defer func() { _ = f.Close() }() // nothing was written
	counted := &counter{r: f, tell: tell}
	var r io.Reader = counted
	if compressed {
		z, err := gzip.NewReader(bufio.NewReaderSize(counted, 64<<10))
		if err != nil {
			s.Unreadable = append(s.Unreadable, fmt.Sprintf("%s: %v", path, err))
			return nil
		}
		r = z
	}
	failed, err := s.readLines(r, fn)
	if failed != nil {
		s.Unreadable = append(s.Unreadable, fmt.Sprintf("%s: %v", path, failed))
	}
	return err
}

// readLines reads lines to the end of r. failed is what ended that too early.
// Memory is bounded: what follows the first octets of a line that is too long is
// skipped.
func (s *Stats) readLines(r io.Reader, fn func(line []byte) error) (failed, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) || len(long) > 0 {
			if len(long) <= maxLine {
				long = append(long, line...)
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			line = long
			long = long[:0]
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err, nil
		}
		ended := err != nil
		switch whole := bytes.HasSuffix(line, []byte{'\n'}); {
		case len(line) == 0, len(line) == 1 && whole:
			// NOT: bad. A writer ends what looks like a torn line, and it looks so
			// while another process is in the middle of writing it.
		case len(line) > maxLine:
			s.Lines++
			s.Bad++
		case !whole && !json.Valid(line):
			// Torn, or just being written.
			s.Lines++
			s.Bad++
		default:
			s.Lines++
			if err := fn(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
				return nil, err
			}
		}
		if ended {
			return nil, nil
		}
	}
}

// Decode reads a line into r, whose former content is lost. ok is false, and the
// stats know why, where it is no record of a version that we know. Fields that we
// do not know are passed over.
func (s *Stats) Decode(line []byte, r *Record) (ok bool) {
	with := struct {
		V int `json:"v"`
		*Record
	}{0, r}
	*r = Record{}
	err := json.Unmarshal(line, &with)
	if with.V == 1 {
		r.fromFirst()
	}
	return s.good(err, with.V, r)
}

// fromFirst makes of a record of version 1 what it would be now. Where it ended is
// told by how, as far as that goes: a record knew how far it was judged.
func (r *Record) fromFirst() {
	r.RuleStage = r.Stage
	switch {
	case r.Outcome == OutcomeDelivered:
		r.Stage = policy.Message.String()
	case r.Outcome == OutcomeRefused && r.Disposition.Refuses():
	case r.Outcome == OutcomeRefused && r.Reached == policy.Helo.String():
		// A limit, before the policy was asked about MAIL.
		r.Stage, r.Disposition, r.RuleStage = policy.Mail.String(), NotAsked, ""
	default:
		r.Stage = r.Reached
	}
}

func (s *Stats) good(err error, v int, r *Record) bool {
	switch {
	case err == nil && v > Version:
		s.Newer++
	case err != nil || v < 1 || r.ID == "":
		s.Bad++
	default:
		return true
	}
	return false
}

// Add adds up what two readers of parts found.
func (s *Stats) Add(t Stats) {
	s.Files += t.Files
	s.Lines += t.Lines
	s.Bad += t.Bad
	s.Newer += t.Newer
	s.Unreadable = append(s.Unreadable, t.Unreadable...)
}

// Records calls fn with each record that the query wants, the oldest file first.
// The record is good until fn returns.
func Records(dir string, q Query, fn func(*Record) error) (Stats, error) {
	var found Stats
	var r Record
	stats, err := Lines(dir, q, func(line []byte) error {
		if !found.Decode(line, &r) || !q.Wants(r.Time) {
			return nil
		}
		return fn(&r)
	})
	stats.Add(found)
	return stats, err
}
