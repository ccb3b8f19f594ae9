package dnstest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Serve answers for the zone by UDP and TCP on a port of 127.0.0.1, until close
// is called, which waits for the last answer. Like httptest.NewServer it panics
// if loopback has no port to give; Listen returns that as an error.
func (z *Zone) Serve() (addr string, close func()) {
	addr, close, err := z.Listen("127.0.0.1:0")
	if err != nil {
		panic(err.Error())
	}
	return addr, close
}

// Listen is Serve on an address of one's choice; port 0 is any that is free.
func (z *Zone) Listen(address string) (addr string, close func(), err error) {
	// UDP and TCP want the same number, so a free one may be taken in the other.
	for range 16 {
		var ln net.Listener
		if ln, err = net.Listen("tcp", address); err != nil {
			break
		}
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", ln.Addr().String()); err == nil {
			return ln.Addr().String(), z.serve(ln, pc), nil
		}
		ln.Close()
	}
	return "", nil, fmt.Errorf("dnstest: %w", err)
}

func (z *Zone) serve(ln net.Listener, pc net.PacketConn) (close func()) {
	ctx, cancel := context.WithCancel(context.Background())
	h := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { z.handle(ctx, w, m) })
	// Any case of a name is the same name; the mux of the package is not used.
	servers := []*dns.Server{{Listener: ln, Handler: h}, {PacketConn: pc, Handler: h}}
	var running, started sync.WaitGroup
	for _, s := range servers {
		started.Add(1)
		s.NotifyStartedFunc = started.Done
		running.Go(func() { _ = s.ActivateAndServe() }) // ends with Shutdown
	}
	started.Wait()
	return func() {
		cancel()
		for _, s := range servers {
			_ = s.Shutdown() // waits for the handlers; a second call is no harm
		}
		running.Wait()
	}
}

// handle answers one query, or does not.
func (z *Zone) handle(ctx context.Context, w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg).SetReply(query)
	m.RecursionAvailable = true
	m.AuthenticatedData = z.authentic.Load() && query.AuthenticatedData
	if z.wait(ctx) != nil || len(query.Question) != 1 {
		return
	}
	q := query.Question[0]
	name, err := unescape(q.Name)
	if err != nil || q.Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeRefused
		_ = w.WriteMsg(m)
		return
	}
	r := z.resolve(key(name), q.Qtype)
	switch r.mark {
	case markTimeout:
		return
	case markServFail:
		m.Rcode = dns.RcodeServerFailure
	case markRefused:
		m.Rcode = dns.RcodeRefused
	default:
		m.Rcode, m.Answer = r.rcode, r.answer
		if r.soa != nil {
			m.Ns = []dns.RR{r.soa}
		}
	}
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
		size = max(size, int(opt.UDPSize()))
	}
	m.Compress = true
	if strings.HasPrefix(w.LocalAddr().Network(), "udp") {
		m.Truncate(size)
	}
	// A client that is gone wants no answer; one that cannot be packed (a label
	// of more than 63 octets in a suite's zone) is a failure of the zone.
	if packed, err := m.Pack(); err == nil {
		_, _ = w.Write(packed)
	} else {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(query, dns.RcodeServerFailure))
	}
}
