package smtp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// readJSON reads one of the suites in testdata.
func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// octetString undoes the notation of the suites: a code point is an octet.
func octetString(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

type sample struct {
	Name string
	B64  []byte
}

// readSamples reads a .jsonl file of octet strings.
func readSamples(t testing.TB, name string) (all []sample) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var s sample
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, s)
	}
	return all
}

// reader returns a bufio.Reader of that size over b, fed in pieces of step octets.
func reader(b []byte, size, step int) *bufio.Reader {
	return bufio.NewReaderSize(&slowReader{b, step}, size)
}

// slowReader gives at most step octets a read.
type slowReader struct {
	b    []byte
	step int
}

func (r *slowReader) Read(p []byte) (int, error) {
	n := min(len(p), r.step, len(r.b))
	if n == 0 {
		return 0, io.EOF
	}
	copy(p, r.b[:n])
	r.b = r.b[n:]
	return n, nil
}
