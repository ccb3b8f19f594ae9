package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
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
		s.result = endedProxyHeader
		s.logProxyHeader(err)
		return false
	}
	h, err := readHeader(s.in.br)
	if err != nil {
		s.result = endedProxyHeader
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
		s.result = endedProxyHeader
		s.logProxyHeader(errors.New("not a TCP address"))
		return false
	}
	s.client.Proxy = s.addr.Addr().String()
	ap := a.AddrPort()
	s.addr = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	return true
}

// readHeader reads a PROXY header of either version and nothing behind it. One of
// version 2 has at most proxyproto.MaxV2HeaderSize octets behind the first 16.
// It is read as a whole, since its checksum is one of all its octets.
func readHeader(br *bufio.Reader) (*proxyproto.Header, error) {
	const fixed = 16
	b, err := br.Peek(1)
	if err != nil || b[0] != proxyproto.SIGV2[0] {
		return proxyproto.Read(br)
	}
	if b, err = br.Peek(fixed); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(b[fixed-2:])
	if !bytes.HasPrefix(b, proxyproto.SIGV2) || n > proxyproto.MaxV2HeaderSize {
		return nil, proxyproto.ErrInvalidLength
	}
	raw := make([]byte, fixed+int(n))
	if _, err := io.ReadFull(br, raw); err != nil {
		return nil, err
	}
	said := [2]byte{raw[12], raw[13]}
	if raw[12] == 0x21 && withoutFamily(raw) {
		raw[12], raw[13] = 0x20, 0 // LOCAL, which the parser knows
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(raw), 64))
	if err != nil {
		return nil, err
	}
	raw[12], raw[13] = said[0], said[1] // the checksum is of these
	if !soundHeader(raw) {
		return nil, errUnsound
	}
	return h, nil
}

// withoutFamily says whether a header of version 2 is of no family. Its addresses, if
// it has any, mean nothing, and the peer is to be taken for who it is (2.2: "the
// receiver should ignore address information").
func withoutFamily(raw []byte) bool { return raw[13]>>4 == 0 }

var (
	errUnsound = errors.New("its TLVs or its checksum are wrong")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// soundHeader checks the TLVs of a header of version 2: each is whole, and so is
// the header, if a CRC32C says what its sum must be (the PROXY protocol's
// specification, 2.2.4: taken with zeros in its own place; where it does not fit,
// the connection ends). A LOCAL header may hold anything, and is discarded (2.2);
// but one that says what its sum must be has that, or it need not be LOCAL. The
// sum is overwritten.
func soundHeader(raw []byte) bool {
	local := raw[12]&0xf == 0 || withoutFamily(raw)
	tlvs := raw[min(16+addressBlock[raw[13]>>4&3], len(raw)):]
	var sum []byte
	for len(tlvs) > 0 {
		if len(tlvs) < 3 || len(tlvs)-3 < int(binary.BigEndian.Uint16(tlvs[1:])) {
			return local
		}
		end := 3 + int(binary.BigEndian.Uint16(tlvs[1:]))
		if proxyproto.PP2Type(tlvs[0]) == proxyproto.PP2_TYPE_CRC32C {
			if sum != nil || end != 3+crc32.Size {
				return false
			}
			sum = tlvs[3:end]
		}
		tlvs = tlvs[end:]
	}
	if sum == nil {
		return true
	}
	said := binary.BigEndian.Uint32(sum)
	clear(sum)
	return crc32.Checksum(raw, castagnoli) == said
}

// addressBlock is how many octets the addresses have, by family: none, IPv4,
// IPv6, Unix.
var addressBlock = [4]int{0, 12, 36, 216}

// behindProxyHeader is the connection for who goes on to read it by itself. What
// came in one piece with the header may be buffered: a balancer sends both
// together where the client speaks first, as it does in TLS.
func (s *session) behindProxyHeader() net.Conn {
	n := s.in.buffered()
	if n == 0 {
		return s.conn
	}
	b, _ := s.in.br.Peek(n)
	return &bufferedConn{Conn: s.conn, b: bytes.Clone(b)}
}

// bufferedConn is a connection of which b was read already.
type bufferedConn struct {
	net.Conn
	b []byte
}

// Read reads b first.
func (c *bufferedConn) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.b)
	if c.b = c.b[n:]; len(c.b) == 0 {
		c.b = nil
	}
	return n, nil
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
	s.result = endedProxyHeader
	s.logProxyHeader(errors.New("unexpected: the peer is not in proxy_protocol"))
	return s.refuse(554, "7.1", "PROXY header not expected from here, closing connection")
}
