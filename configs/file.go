package configs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxFile bounds a configuration, and each file that it includes.
const maxFile = 16 << 20

// ReadFile reads a file that an operator has named, of at most limit octets. NOT: os.ReadFile.
// A pipe that nobody writes to would hold up a reload, and with it SIGTERM, and a
// log in the wrong place would take the memory away.
func ReadFile(file string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK it is the opening of a pipe that waits.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file, but %s", file, kindOf(info.Mode()))
	}
	var content bytes.Buffer
	content.Grow(int(min(info.Size(), limit)) + bytes.MinRead) // or a large one would be copied a dozen times
	_, err = content.ReadFrom(io.LimitReader(f, limit+1))
	if int64(content.Len()) > limit {
		return nil, fmt.Errorf("%s is larger than %d MiB", file, limit>>20)
	}
	return content.Bytes(), err
}

// kindOf names what is no file.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	}
	return "a device"
}
