//go:build !linux || !(amd64 || arm64) || race

package socket

import "syscall"

func quickRead(fd int, p []byte) (int, error) { return syscall.Read(fd, p) }

func quickWrite(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }

func quickPeek(fd int, p []byte) (int, error) {
	n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n, err
}
