package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"

	"github.com/pires/go-proxyproto"
)

// ReadProxyHeader waits for a PROXY header of either version and reads it, and nothing behind it. One of
// version 2 has at most proxyproto.MaxV2HeaderSize octets behind the first 16.
// It is read as a whole, since its checksum is one of all its octets.
func (c *Conn) ReadProxyHeader() (*proxyproto.Header, error) {
	if err := c.in.wait(); err != nil {
		return nil, err
	}
	br := c.in.br
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

var errUnsound = errors.New("its TLVs or its checksum are wrong")

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
	return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)) == said
}

// addressBlock is how many octets the addresses have, by family: none, IPv4,
// IPv6, Unix.
var addressBlock = [4]int{0, 12, 36, 216}

// behindProxyHeader is the connection for TLS, which reads it by itself. What
// came in one piece with the header may be buffered: a balancer sends both
// together where the client speaks first, as it does in TLS.
func (c *Conn) behindProxyHeader() net.Conn {
	n := c.in.buffered()
	if n == 0 {
		return c.raw
	}
	b, _ := c.in.br.Peek(n)
	return &bufferedConn{Conn: c.raw, b: bytes.Clone(b)}
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
