package smtptest

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

var lastPort atomic.Int32

// FreePort returns a port of 127.0.0.1 that nobody has, by TCP or by UDP, and that
// stays free until the program that it is for has started. NOT: one that the system
// gives for port 0. It may give that to any client's connection the next moment; those
// below 32768 it gives to nobody who does not ask for them.
func FreePort(t interface {
	Fatalf(format string, args ...any)
}) int {
	const first, many = 20000, 12000
	lastPort.CompareAndSwap(0, int32(os.Getpid()*37%many+1)) // others may test at the same time
	for range many {
		port := first + int(lastPort.Add(1))%many
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = ln.Close()
		if conn, err := net.ListenPacket("udp", addr); err == nil {
			_ = conn.Close()
			return port
		}
	}
	t.Fatalf("no port is free")
	return 0
}
