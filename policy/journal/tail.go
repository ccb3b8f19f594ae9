package journal

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxTail is how much is read of the end of a file, in octets.
const maxTail = 1 << 20

// Tail returns the last records of a journal, at most n, the newest first, for those who want
// to know what goes on now: it reads the last octets of files that are not compressed,
// and no other. What is in between and no record is passed over.
func Tail(dir string, n int) ([]Record, error) {
	files, err := listFiles(dir)
	if err != nil {
		return nil, err
	}
	var last []Record
	var stats Stats
	for _, f := range slices.Backward(files) {
		if f.compressed || len(last) >= n {
			break
		}
		text, err := readTail(filepath.Join(dir, f.name))
		if errors.Is(err, fs.ErrNotExist) {
			break // it was compressed meanwhile
		}
		if err != nil {
			return last, err
		}
		for _, line := range slices.Backward(bytes.Split(text, []byte{'\n'})) {
			var r Record
			if len(line) > 0 && len(last) < n && stats.Decode(line, &r) {
				last = append(last, r)
			}
		}
	}
	return last, nil
}

// readTail returns the end of a file, whole lines but for the last one.
func readTail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(info.Size()-maxTail, 0)
	// What is written from now on is left for another time.
	text, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if from > 0 {
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	return text, err
}
