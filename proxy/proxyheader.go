package proxy

import (
	"errors"
	"net"
	"net/netip"

	"postern/proxy/smtp"
)

// readProxyHeader learns the true client's address where a load balancer tells
// it (PROXY protocol v1 or v2). Only listed peers are asked for a header, they
// must send one, and nothing is said before it is complete: guessing whether
// one is there would let any client choose its address.
func (s *session) readProxyHeader() bool {
	if len(s.listener.ProxyProtocol) == 0 || !listed(s.listener.ProxyProtocol, s.peer.addr.Addr()) {
		return true
	}
	h, err := s.wire.ReadProxyHeader()
	if err != nil {
		s.result = endedProxyHeader
		s.logProxyHeader(err)
		return false
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		// A health check of the balancer itself: the socket's own address, which
		// may come as often as it likes.
		s.peer.unrationed = true
		return true
	}
	a, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		s.result = endedProxyHeader
		s.logProxyHeader(errors.New("not a TCP address"))
		return false
	}
	s.peer.client.Proxy = s.peer.addr.Addr().String()
	ap := a.AddrPort()
	s.peer.addr = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	return true
}

func (s *session) logProxyHeader(err error) {
	s.srv.log.Info("no usable PROXY header", "session", s.id, "peer", s.wire.Raw().RemoteAddr().String(),
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

// unexpectedProxyHeader is a PROXY header from somebody who is not on the list: a
// balancer that was forgotten there, or a client that tries to choose its address.
// Its next words would be for the server that it believes to have reached.
func (s *session) unexpectedProxyHeader(string) smtp.Reply {
	s.closing = true
	s.result = endedProxyHeader
	s.logProxyHeader(errors.New("unexpected: the peer is not in proxy_protocol"))
	return s.refuse(554, "7.1", "PROXY header not expected from here, closing connection")
}
