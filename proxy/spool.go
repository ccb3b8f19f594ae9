package proxy

import (
	"bytes"
	"io"
	"os"
)

// spoolMemory is how much of a held message stays in memory; the rest goes to
// a temporary file that has no name, so that nothing is left of it whatever
// happens.
const spoolMemory = 256 << 10

// spool holds a message until its last fact is known.
type spool struct {
	mem  []byte
	file *os.File
	size int64
	mark int64 // where the body begins
}

// Write appends to the message. It fails when the disk does.
func (sp *spool) Write(p []byte) (int, error) {
	if sp.file == nil {
		if len(sp.mem)+len(p) <= spoolMemory {
			sp.mem = append(sp.mem, p...)
			sp.size += int64(len(p))
			return len(p), nil
		}
		f, err := os.CreateTemp("", "postern-")
		if err != nil {
			return 0, err
		}
		if err := os.Remove(f.Name()); err != nil {
			_ = f.Close()
			return 0, err
		}
		sp.file = f
		if _, err := f.Write(sp.mem); err != nil {
			return 0, err
		}
		sp.mem = nil
	}
	n, err := sp.file.Write(p)
	sp.size += int64(n)
	return n, err
}

// ReadAt reads of the message what is there.
func (sp *spool) ReadAt(p []byte, off int64) (int, error) {
	if sp.file != nil {
		return sp.file.ReadAt(p, off)
	}
	return bytes.NewReader(sp.mem).ReadAt(p, off)
}

// bodyTo writes the message from its body on.
func (sp *spool) bodyTo(w io.Writer) error {
	if sp.file == nil {
		_, err := w.Write(sp.mem[sp.mark:])
		return err
	}
	block := blocks.Get().(*[blockSize]byte)
	defer blocks.Put(block)
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(sp.file, sp.mark, sp.size-sp.mark), block[:])
	return err
}

// close forgets the message. A nil spool holds none.
func (sp *spool) close() {
	if sp != nil && sp.file != nil {
		_ = sp.file.Close()
		sp.file = nil
	}
}
