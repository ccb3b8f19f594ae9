package dnscache

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var someTXT = response{records: []record{txt(60, "x")}}

// These stories need sockets: a server on loopback.

func TestForgedAnswersArePassedOver(t *testing.T) {
	address := serve(t, func(_ string, query []byte) [][]byte {
		forged := func(change func(m []byte)) []byte {
			m := response{records: []record{txt(60, "forged")}}.to(query)
			change(m)
			return m
		}
		junk := [][]byte{
			{}, {0}, bytes.Repeat([]byte{0xff}, 700), query, // the last: QR is 0
			forged(func(m []byte) { m[0] ^= 1 }),                              // ID
			forged(func(m []byte) { m[2] |= 0x08 }),                           // opcode
			forged(func(m []byte) { m[headerSize+1] ^= 1 }),                   // name
			forged(func(m []byte) { m[bytes.IndexByte(m[12:], 0)+12+2]++ }),   // type
			forged(func(m []byte) { m[bytes.IndexByte(m[12:], 0)+12+4] = 3 }), // class
			forged(func(m []byte) { m[5] = 2 }),                               // two questions
			forged(func(m []byte) { m[5] = 0 }),                               // none, but an answer
		}
		return append(junk, someTXT.to(query))
	})
	r := newTest(t, Options{Servers: []string{address}})
	wantTXT(t, r, "host.example", "x")
}

// Over a pipe, as a socket's buffer may be too small for a flood.
func TestFloodOfForgedAnswersEnds(t *testing.T) {
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: pipe(func(_, _ string, query []byte) [][]byte {
		query[2] |= 0x80
		query[0]++
		return slices.Repeat([][]byte{query}, 2*maxJunk)
	})})
	wantError(t, r, "a.example", "temporary")
}

// A server that answers in lower case: TCP decides whether that is forgery.
func TestServerThatDoesNotKeepTheCase(t *testing.T) {
	var udp, tcp, mixed atomic.Int32
	lowercase := func(network string, query []byte) [][]byte {
		if network == "udp" {
			udp.Add(1)
		} else {
			tcp.Add(1)
		}
		m := someTXT.to(query)
		// The name alone: all that is counted below is in its letters.
		end := headerSize + bytes.IndexByte(m[headerSize:], 0)
		if !bytes.Equal(m[headerSize:end], bytes.ToLower(m[headerSize:end])) {
			mixed.Add(1)
		}
		copy(m[headerSize:], bytes.ToLower(m[headerSize:end]))
		return [][]byte{m}
	}
	// Long enough that no toss of its letters' case leaves them all small.
	name := strings.Repeat("quite.a.long.name.", 8) + "example"
	r := newTest(t, Options{Servers: []string{serve(t, lowercase)}})
	wantTXT(t, r, name, "x")
	if udp.Load() != 1 || tcp.Load() != 1 || mixed.Load() != 2 {
		t.Errorf("%d by UDP, %d by TCP, %d in mixed case", udp.Load(), tcp.Load(), mixed.Load())
	}
	wantTXT(t, r, "other."+name, "x")
	if udp.Load() != 2 || tcp.Load() != 1 || mixed.Load() != 2 {
		t.Errorf("not remembered: %d by UDP, %d by TCP, %d in mixed case", udp.Load(), tcp.Load(), mixed.Load())
	}

	// Without TCP it is asked in lower case.
	noTCP := func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "tcp" {
			return refuse(ctx, network, address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	r = newTest(t, Options{Servers: []string{serve(t, lowercase)}, Dial: noTCP})
	wantTXT(t, r, name, "x")
}

func TestServerFromBeforeEDNS(t *testing.T) {
	for name, refusal := range map[string]func(query []byte) []byte{
		"FORMERR":     func(query []byte) []byte { return response{rcode: 1}.to(query) },
		"NOTIMP":      func(query []byte) []byte { return response{rcode: 4}.to(query) },
		"bare header": func(query []byte) []byte { return append([]byte{query[0], query[1], 0x81, 0x81}, make([]byte, 8)...) },
		"BADVERS": func(query []byte) []byte {
			m := response{}.to(query)
			m[11] = 1
			return append(m, 0, 0, 41, 2, 0, 1, 0, 0, 0, 0, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var queries atomic.Int32
			r := newTest(t, Options{Servers: []string{serve(t, func(_ string, query []byte) [][]byte {
				queries.Add(1)
				if hasEDNS(query) {
					return [][]byte{refusal(query)}
				}
				return [][]byte{someTXT.to(query)}
			})}})
			wantTXT(t, r, "a.example", "x")
			wantTXT(t, r, "b.example", "x")
			if n := queries.Load(); n != 3 {
				t.Errorf("%d queries, want 3: the second name without EDNS at once", n)
			}
		})
	}
}

// Behind a box that swallows queries with EDNS the second try gets through.
func TestEDNSSwallowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: pipe(func(_, _ string, query []byte) [][]byte {
			if hasEDNS(query) {
				return nil
			}
			return [][]byte{someTXT.to(query)}
		})})
		wantTXT(t, r, "a.example", "x")
	})
}

func TestTruncatedAnswersComeByTCP(t *testing.T) {
	var conns atomic.Int32
	address := serve(t, func(network string, query []byte) [][]byte {
		if network == "udp" {
			return [][]byte{response{flags: 0x02}.to(query)}
		}
		return [][]byte{someTXT.to(query)}
	})
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "tcp" {
			conns.Add(1)
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	r := newTest(t, Options{Servers: []string{address}, Dial: dial})
	for i := range 10 {
		wantTXT(t, r, fmt.Sprintf("n%d.example", i), "x")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for ten queries in turn, want 1", n)
	}
	// A crowd shares a bounded number, and waits for its turn.
	var crowd sync.WaitGroup
	for i := range 200 {
		crowd.Go(func() { wantTXT(t, r, fmt.Sprintf("crowd%d.example", i), "x") })
	}
	crowd.Wait()
	(*r.servers.Load())[0].pool.mu.Lock()
	idle, taken := len((*r.servers.Load())[0].pool.idle), (*r.servers.Load())[0].pool.turnstile.Used()
	(*r.servers.Load())[0].pool.mu.Unlock()
	if idle > maxIdle || taken != 0 {
		t.Errorf("%d connections idle, %d places taken", idle, taken)
	}
}

// A stream takes whatever a message holds. An answer that is cut there as well is
// none, whatever it says: the next server is asked.
func TestTruncatedByStreamIsNoAnswer(t *testing.T) {
	cut := func(address, _ string, query []byte) [][]byte {
		if address == "192.0.2.2:53" {
			return [][]byte{response{records: []record{txt(60, "whole")}}.to(query)}
		}
		name := asked(query).name
		r := response{flags: 0x02, records: []record{txt(60, "half")}}
		if strings.HasPrefix(name, "gone.") {
			r = response{flags: 0x02, rcode: 3, soa: soa(60, 60)}
		}
		return [][]byte{r.to(query)}
	}
	for servers, want := range map[int]string{1: "temporary", 2: "ok"} {
		r := newTest(t, Options{Servers: []string{"192.0.2.1", "192.0.2.2"}[:servers], Dial: pipe(cut)})
		for _, name := range []string{"a.example", "gone.example"} {
			got, err := r.LookupTXT(t.Context(), name)
			if class(err) != want || err == nil && !slices.Equal(got, []string{"whole"}) {
				t.Errorf("%d servers: %s: %q, %v", servers, name, got, err)
			}
		}
		if !r.Healthy() || (*r.servers.Load())[0].failures.Load() != 0 {
			t.Error("it was taken for a silent server")
		}
	}
}

func TestIdleConnectionClosedByTheServer(t *testing.T) {
	var streams atomic.Int32
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			streams.Add(1)
			// One answer, then the connection is closed.
			buf := make([]byte, 512)
			n, _ := c.Read(buf)
			m := someTXT.to(buf[2:n])
			_, _ = c.Write(append([]byte{byte(len(m) >> 8), byte(len(m))}, m...))
			c.Close()
		}
	})
	defer running.Wait()
	defer ln.Close()
	r := newTest(t, Options{Servers: []string{"192.0.2.1"}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "tcp" {
			return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
		}
		return pipe(func(_, _ string, query []byte) [][]byte { return [][]byte{response{flags: 0x02}.to(query)} })(ctx, network, address)
	}})
	wantTXT(t, r, "a.example", "x")
	wantTXT(t, r, "b.example", "x")
	if n := streams.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// authority makes a certificate for a name, and the roots to verify it by.
func authority(t testing.TB, name string, ip net.IP) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
	}
	if ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// serveTLS is DNS over TLS on loopback.
func serveTLS(t testing.TB, cert tls.Certificate, answer answerer) (address string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { defer c.Close(); serveStream(c, answer) })
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

func TestDNSOverTLS(t *testing.T) {
	cert, roots := authority(t, "dns.example", net.IPv4(127, 0, 0, 1))
	address := serveTLS(t, cert, func(_ string, query []byte) [][]byte { return [][]byte{someTXT.to(query)} })
	for server, want := range map[string]string{
		"tls://" + address + "#dns.example":   "ok",
		"tls://" + address + "#other.example": "temporary", // the certificate is somebody else's
		"tls://" + address:                    "ok",        // it names the address
	} {
		r := newTest(t, Options{Servers: []string{server}, RootCAs: roots})
		_, err := r.LookupTXT(context.Background(), "a.example")
		if class(err) != want {
			t.Errorf("%s: %v, want %s", server, err, want)
		}
	}
	// Without our roots nobody is trusted, NOT: in clear text then.
	r := newTest(t, Options{Servers: []string{"tls://" + address + "#dns.example"}, RootCAs: x509.NewCertPool()})
	wantError(t, r, "a.example", "temporary")
}

func TestConcurrentLookups(t *testing.T) {
	r := newTest(t, Options{Servers: []string{serve(t, func(_ string, query []byte) [][]byte { return [][]byte{someTXT.to(query)} })}})
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for j := range 100 {
				wantTXT(t, r, fmt.Sprintf("n%d.example", (i+j)%40), "x")
			}
		})
	}
	callers.Wait()
	if n := underWay(r); n != 0 {
		t.Errorf("%d queries still under way", n)
	}
}
