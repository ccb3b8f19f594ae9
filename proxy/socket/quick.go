//go:build linux && (amd64 || arm64) && !race

package socket

import (
	"syscall"
	"unsafe"
)

// A quick call is one that Go's scheduler is not told of. It wants to be told, since a call may take
// long: then another thread runs the other goroutines. A socket of Go's does not block, and a call to
// it takes some microseconds. But on a busy machine the kernel may have something else to do in the middle of one.
// The scheduler's watchdog sees a long call then, has another thread take over, and goes on looking
// every 20 microseconds for more of them. That was a tenth of the processor time of a message.
//
// NOT: for files. Their calls may be long indeed. Where a control group is throttled for its memory (MemoryHigh),
// the kernel may put a thread to sleep in any call and at any page, and one that is in a quick call holds up
// the collector with it: the bound for memory that counts is the program's own (GOMEMLIMIT), below that.
//
// The race detector learns from the calls that are told what happens before what: its builds have them.

func quickRead(fd int, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return result(n, e)
}

func quickWrite(fd int, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return result(n, e)
}

// quickPeek reads what waits and leaves it there.
func quickPeek(fd int, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return result(n, e)
}

func result(n uintptr, e syscall.Errno) (int, error) {
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
