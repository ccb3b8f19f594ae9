package dnscache

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/checks/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// answerer is a name server in a test: what it returns is sent, as one datagram
// or stream message each. network is "udp" or "tcp".
type answerer func(network string, query []byte) [][]byte

// listenBoth stands on one port, with TCP and UDP. One that is free for the
// first may be taken for the second.
func listenBoth(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	var err error
	for range 16 {
		ln, e := net.Listen("tcp", "127.0.0.1:0")
		if e != nil {
			t.Fatal(e)
		}
		pc, e := net.ListenPacket("udp", ln.Addr().String())
		if e == nil {
			return ln, pc
		}
		err = e
		_ = ln.Close()
	}
	t.Fatal(err)
	return nil, nil
}

// serve runs a name server on loopback, until the test ends.
func serve(t testing.TB, answer answerer) (address string) {
	t.Helper()
	ln, pc := listenBoth(t)
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, m := range answer("udp", append([]byte(nil), buf[:n]...)) {
				_, _ = pc.WriteTo(m, from)
			}
		}
	})
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { defer c.Close(); serveStream(c, answer) })
		}
	})
	t.Cleanup(func() { ln.Close(); pc.Close(); running.Wait() })
	return ln.Addr().String()
}

func serveStream(c net.Conn, answer answerer) {
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		for _, m := range answer("tcp", query) {
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
				return
			}
		}
	}
}

// pipe is the Dial of a resolver whose servers are the answerer, without a
// network, for stories under synctest. A nil slice of answers is silence.
func pipe(answer func(address, network string, query []byte) [][]byte) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(_ context.Context, network, address string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			if network == "tcp" {
				serveStream(there, func(network string, q []byte) [][]byte { return answer(address, network, q) })
				return
			}
			buf := make([]byte, 4096)
			n, err := there.Read(buf)
			if err != nil {
				return
			}
			for _, m := range answer(address, network, buf[:n]) {
				if _, err := there.Write(m); err != nil {
					return
				}
			}
			_, _ = there.Read(buf) // silence, until the other side closes
		}()
		return here, nil
	}
}

// refuse is a Dial for a host on which nothing listens.
func refuse(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "udp", Err: errors.New("connection refused")}
}

// newTest makes a resolver that is closed with the test. Unless told otherwise it
// has a patience that no busy machine wears out: who asks a real socket, in real
// time, must say so where a test is to run out of it.
func newTest(t testing.TB, o Options) *Resolver {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout, o.Total = time.Minute, 2*time.Minute
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// underWay counts the questions that are under way.
func underWay(r *Resolver) int {
	return int(r.places.Used())
}

// clock is a clock that a test moves.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1700000000, c.offset.Load()) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// response builds an answer to a query; the zero one is NODATA without SOA.
type response struct {
	rcode   byte
	records []record // answer section
	soa     *record  // authority; its rdata ends with the minimum
	flags   byte     // of octet 2, besides QR and RD: 0x02 is TC
}

type record struct {
	name   string // "": the name of the question
	rrtype rrtype
	ttl    uint32
	rdata  []byte
}

// soa is a SOA of the root.
func soa(ttl, minimum uint32) *record {
	data := []byte{0, 0} // MNAME and RNAME are the root
	for _, n := range []uint32{1, 7200, 3600, 86400, minimum} {
		data = binary.BigEndian.AppendUint32(data, n)
	}
	return &record{name: ".", rrtype: 6, ttl: ttl, rdata: data}
}

func a(ttl uint32, ip ...byte) record { return record{rrtype: typeA, ttl: ttl, rdata: ip} }
func txt(ttl uint32, s string) record {
	return record{rrtype: typeTXT, ttl: ttl, rdata: append([]byte{byte(len(s))}, s...)}
}
func cname(owner string, ttl uint32, target string) record {
	return record{name: owner, rrtype: 5, ttl: ttl, rdata: wireName(target)}
}

// pack is newQuery for names that can be packed.
func pack(q question, mixCase, edns bool) *query {
	p, err := newQuery(q, mixCase, edns)
	if err != nil {
		panic(err)
	}
	return p
}

func wireName(name string) []byte {
	if name == "" { // the root, which nobody asks for
		return []byte{0}
	}
	q := pack(question{name: name}, false, false)
	return q.wire[headerSize : q.end-4]
}

func (r response) to(query []byte) []byte {
	end := headerSize
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5
	m := append([]byte{query[0], query[1], 0x81 | r.flags, 0x80 | r.rcode, 0, 1, 0, byte(len(r.records)), 0, 0, 0, 0}, query[headerSize:end]...)
	all := r.records
	if r.soa != nil {
		m[9] = 1
		all = append(all[:len(all):len(all)], *r.soa)
	}
	for _, rec := range all {
		switch rec.name {
		case "":
			m = append(m, 0xc0, headerSize)
		case ".":
			m = append(m, 0)
		default:
			m = append(m, wireName(rec.name)...)
		}
		m = binary.BigEndian.AppendUint16(m, uint16(rec.rrtype))
		m = append(m, 0, 1)
		m = binary.BigEndian.AppendUint32(m, rec.ttl)
		m = binary.BigEndian.AppendUint16(m, uint16(len(rec.rdata)))
		m = append(m, rec.rdata...)
	}
	return m
}

// asked reads the question of a query.
func asked(query []byte) question {
	var name []byte
	i := headerSize
	for query[i] != 0 {
		n := int(query[i])
		if len(name) > 0 {
			name = append(name, '.')
		}
		for _, b := range query[i+1 : i+1+n] {
			name = append(name, lower(b))
		}
		i += n + 1
	}
	return question{string(name), rrtype(binary.BigEndian.Uint16(query[i+1:]))}
}

// hasEDNS tells whether a query carries an OPT record.
func hasEDNS(query []byte) bool { return query[11] == 1 }

// class names the kind of an error: it must be a bare *net.DNSError with a flag.
func class(err error) string {
	if err == nil {
		return "ok"
	}
	de, ok := err.(*net.DNSError) // bare is what is asked for
	switch {
	case !ok:
		return "not a bare DNSError: " + err.Error()
	case de.IsNotFound && (de.IsTemporary || de.IsTimeout):
		return "two flags"
	case IsNXDomain(err):
		return "NXDOMAIN"
	case de.IsNotFound:
		return "NODATA"
	case de.IsTimeout && de.IsTemporary:
		return "timeout"
	case de.IsTemporary:
		return "temporary"
	}
	return "no flag"
}
