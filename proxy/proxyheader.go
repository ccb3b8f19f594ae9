package proxy

import (
	"errors"
	"net"
	"net/netip"

	"postern/proxy/smtp"
	"postern/proxy/wire"
)

// readProxyHeader learns the true client's address where a load balancer tells
// it (PROXY protocol v1 or v2). Only listed peers are asked for a header, they
// must send one, and nothing is said before it is complete: guessing whether
// one is there would let any client choose its address.
func (p *peer) readProxyHeader(c *wire.Conn, from []netip.Prefix) error {
	if len(from) == 0 || !listed(from, p.addr.Addr()) {
		return nil
	}
	h, err := c.ReadProxyHeader()
	if err != nil {
		return err
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		// A health check of the balancer itself: the socket's own address, which
		// may come as often as it likes.
		p.unrationed = true
		return nil
	}
	a, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return errors.New("not a TCP address")
	}
	p.client.Proxy = p.addr.Addr().String()
	ap := a.AddrPort()
	p.addr = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	return nil
}

// badProxyHeader notes that the session ends for a PROXY header.
func (s *session) badProxyHeader(err error) {
	s.result = endedProxyHeader
	advice := "the peer sent something else: is it the load balancer that listeners[].proxy_protocol names?"
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		// It waits for our greeting, as who sends no header does.
		advice = "the peer is in listeners[].proxy_protocol and sent no PROXY header: switch it on there (HAProxy: send-proxy-v2), or take the peer out of the list"
	}
	s.srv.log.Warn("no usable PROXY header", "session", s.id, "peer", s.wire.Raw().RemoteAddr().String(),
		"listener", s.listener.Name, "error", err.Error(), "advice", advice)
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
func unexpectedProxyHeader(s *session, _ string) smtp.Reply {
	s.closing = true
	s.badProxyHeader(errors.New("unexpected: the peer is not in proxy_protocol"))
	return s.refuse(554, "7.1", "PROXY header not expected from here, closing connection")
}
