package socket

import (
	"net"
	"testing"
)

// A socket that has nothing is quiet; octets are seen and stay; an end is neither
// quiet nor octets; looking costs no allocation.
func TestPeeker(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var p Peeker
	if p.Octets() || !p.Quiet() {
		t.Error("a Peeker of nothing sees something")
	}
	p.Of(near)
	if p.Octets() || !p.Quiet() {
		t.Error("something waits, and nothing was sent")
	}
	if n := testing.AllocsPerRun(100, func() { p.Quiet() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	arrive := func(what func() error, seen func() bool) {
		t.Helper()
		if err := what(); err != nil {
			t.Fatal(err)
		}
		for !seen() { // the kernel delivers in its own time
		}
	}
	arrive(func() error { _, err := far.Write([]byte("xy")); return err }, p.Octets)
	if p.Quiet() {
		t.Error("quiet, and octets wait")
	}
	b := make([]byte, 3)
	if n, err := near.Read(b); n != 2 || err != nil {
		t.Errorf("%d octets are left, %v", n, err)
	}
	arrive(far.Close, func() bool { return !p.Quiet() })
	if p.Octets() {
		t.Error("an end passes for octets")
	}
	near.Close()
	if p.Octets() || p.Quiet() {
		t.Error("a closed socket can be looked at")
	}
	a, _ := net.Pipe()
	p = Peeker{}
	p.Of(a)
	if p.Octets() || !p.Quiet() {
		t.Error("a pipe has no socket")
	}
}
