// Package roadtest has ways to a TCP server on which what comes back is late, or breaks
// off.
package roadtest

import (
	"io"
	"net"
	"testing"
)

// To makes a way to the server at an address, and returns the address at which the way
// begins; nobody comes in there once the test is over. What is sent arrives as it is. What
// comes back is up to back, which has a goroutine for each connection, the n-th from 0 on;
// the connection is over when back is.
func To(t testing.TB, server string, back func(n int, near io.Writer, far io.Reader)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for n := 0; ; n++ {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				_ = near.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(far, near)
				_ = far.Close()
			}()
			go func() {
				defer func() { _, _ = near.Close(), far.Close() }()
				back(n, near, far)
			}()
		}
	}()
	return ln.Addr().String()
}
