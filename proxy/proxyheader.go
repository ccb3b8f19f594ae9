package proxy

import (
	"errors"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"postern/proxy/smtp"
)

// readProxyHeader learns the true client's address where a load balancer tells
// it (PROXY protocol v1 or v2). Only listed peers are asked for a header, they
// must send one, and nothing is said before it is complete: guessing whether
// one is there would let any client choose its address.
func (s *session) readProxyHeader() bool {
	if len(s.listener.ProxyProtocol) == 0 || !listed(s.listener.ProxyProtocol, s.addr.Addr()) {
		return true
	}
	if err := s.in.wait(); err != nil {
		s.result = "proxy_header"
		s.logProxyHeader(err)
		return false
	}
	h, err := proxyproto.Read(s.in.br)
	if err != nil {
		s.result = "proxy_header"
		s.logProxyHeader(err)
		return false
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		// A health check of the balancer itself: the socket's own address, which
		// may come as often as it likes.
		s.unrationed = true
		return true
	}
	a, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		s.result = "proxy_header"
		s.logProxyHeader(errors.New("not a TCP address"))
		return false
	}
	s.client.Proxy = s.addr.Addr().String()
	ap := a.AddrPort()
	s.addr = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	return true
}

func (s *session) logProxyHeader(err error) {
	s.srv.log.Info("no usable PROXY header", "session", s.id, "peer", s.conn.RemoteAddr().String(),
		"listener", s.listener.Name, "error", err.Error())
}

func listed(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// proxySignature begins a PROXY header of version 2. As lines they would be two
// empty ones, one with a NUL, and one that ends in a bare LF.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// errProxyHeader is one of version 2 in place of the first command.
var errProxyHeader = errors.New("proxy: PROXY header in place of a command")

// proxySigned says whether a PROXY header of version 2 is what comes next. It waits
// for more only within what is no line yet, and behind the NUL, which is in no
// command: whoever said an empty line must be answered. Call input.wait before.
func (s *session) proxySigned() bool {
	b, _ := s.in.br.Peek(1)
	if len(b) == 0 || b[0] != proxySignature[0] {
		return false
	}
	_, _ = s.in.br.Peek(2) // brings what else is there
	const nul = len("\r\n\r\n\x00")
	n := min(s.in.br.Buffered(), len(proxySignature))
	if b, _ = s.in.br.Peek(n); n < nul || string(b) != proxySignature[:n] {
		return false
	}
	b, _ = s.in.br.Peek(len(proxySignature)) // an error comes again with the line
	return string(b) == proxySignature
}

// unexpectedProxyHeader is a PROXY header from somebody who is not on the list: a
// balancer that was forgotten there, or a client that tries to choose its address.
// Its next words would be for the server that it believes to have reached.
func (s *session) unexpectedProxyHeader(string) smtp.Reply {
	s.closing = true
	s.result = "proxy_header"
	s.logProxyHeader(errors.New("unexpected: the peer is not in proxy_protocol"))
	return s.refuse(554, "7.1", "PROXY header not expected from here, closing connection")
}
