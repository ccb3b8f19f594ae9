package hold

import (
	"bytes"
	"io"
	"os"

	"postern/configs"
	"postern/proxy/reuse"
	"postern/proxy/share"
)

const (
	// spoolMemory is how much of a held message stays in memory, where there is as
	// much for all; what is larger goes to a temporary file that has no name, so
	// that nothing is left of it whatever happens.
	spoolMemory = 256 << 10
	// spoolFirst is what is taken of the memory at first; it doubles from there.
	spoolFirst = 16 << 10
	// spoolStep is in which pieces room on the disk is taken.
	spoolStep = 64 << 10
)

// Spool holds a message until its last fact is known.
type Spool struct {
	mem  []byte
	file *os.File
	size int64
	mark int64 // where the body begins
	room Room
}

// Spool begins to hold a message for a client.
func (s *Space) Spool(who share.Client, l configs.Limits) *Spool {
	return &Spool{room: s.RoomFor(who, l)}
}

// Size is how many octets there are.
func (sp *Spool) Size() int64 { return sp.size }

// Head is how many octets the header section has.
func (sp *Spool) Head() int64 { return sp.mark }

// EndHead says that what follows is the body.
func (sp *Spool) EndHead() { sp.mark = sp.size }

// Write appends to the message. It fails when the disk does, or, with ErrNoRoom, when
// there is no room for more.
func (sp *Spool) Write(p []byte) (int, error) {
	size := sp.size + int64(len(p))
	if err := sp.room.hold((size + spoolStep - 1) / spoolStep * spoolStep); err != nil {
		return 0, err
	}
	if sp.file == nil {
		if sp.remember(len(p)) {
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
		sp.room.leaveMemory()
	}
	n, err := sp.file.Write(p)
	sp.size += int64(n)
	return n, err
}

// blocks are for reading files.
var blocks reuse.Pool[[spoolStep / 2]byte]

// remember makes room in memory for n octets more, if there is any.
func (sp *Spool) remember(n int) bool {
	need, size := len(sp.mem)+n, max(cap(sp.mem), spoolFirst)
	if need > spoolMemory {
		return false
	}
	for size < need {
		size *= 2
	}
	if size > cap(sp.mem) {
		if !sp.room.InMemory(int64(size), spoolMemoryShare) {
			return false
		}
		sp.mem = append(make([]byte, 0, size), sp.mem...)
	}
	return true
}

// ReadAt reads of the message what is there.
func (sp *Spool) ReadAt(p []byte, off int64) (int, error) {
	if sp.file != nil {
		return sp.file.ReadAt(p, off)
	}
	return bytes.NewReader(sp.mem).ReadAt(p, off)
}

// BodyTo writes the message from its body on.
func (sp *Spool) BodyTo(w io.Writer) error {
	if sp.file == nil {
		_, err := w.Write(sp.mem[sp.mark:])
		return err
	}
	block := blocks.Take()
	defer blocks.Put(block)
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(sp.file, sp.mark, sp.size-sp.mark), block[:])
	return err
}

// Close forgets the message. A nil Spool holds none.
func (sp *Spool) Close() {
	if sp == nil {
		return
	}
	if sp.file != nil {
		_ = sp.file.Close()
		sp.file = nil
	}
	sp.mem = nil
	sp.room.Close()
}
