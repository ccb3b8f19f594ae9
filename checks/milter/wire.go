// Package milter asks mail filters of other people's, in the protocol of Sendmail's libmilter,
// versions 2 to 6: one conversation for each message, whose verdict is an answer and nothing
// else: of what a filter wants done to the message, it takes fields on top, where they are wanted.
//
// NOT: github.com/d--j/go-milter, as it is in v0.10.1. Its client renews its deadline with each
// packet, so that progress replies without end hold a message for ever; it reads packets of up to
// 512 MiB at their own word, collects every modification, and panics over an empty packet.
package milter

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Commands of ours, and answers, by their letters in the protocol.
const (
	cmdNegotiate = 'O'
	cmdMacros    = 'D'
	cmdConnect   = 'C'
	cmdHelo      = 'H'
	cmdMail      = 'M'
	cmdRcpt      = 'R'
	cmdData      = 'T'
	cmdHeader    = 'L'
	cmdEndHeader = 'N'
	cmdBody      = 'B'
	cmdEnd       = 'E'
	cmdQuit      = 'Q'

	ansAccept     = 'a'
	ansContinue   = 'c'
	ansDiscard    = 'd'
	ansReject     = 'r'
	ansTempfail   = 't'
	ansReply      = 'y'
	ansSkip       = 's'
	ansProgress   = 'p'
	ansFail       = 'f' // CONN_FAIL
	ansShutdown   = '4'
	modAdd        = 'h'
	modInsert     = 'i'
	modChange     = 'm'
	modBody       = 'b'
	modFrom       = 'e'
	modAddRcpt    = '+'
	modAddRcptPar = '2'
	modDelRcpt    = '-'
	modQuarantine = 'q'
)

// What a filter may do, and which steps it may leave out or not answer.
const (
	// actions are those of version 6 but for setting lists of macros: adding, changing and
	// deleting fields, replacing the body, changing the envelope, quarantine. Fields that are
	// added and quarantine are listened to; the rest is told as not done.
	//
	// NOT: those two alone. opendkim and clamav-milter hang up then, whatever they would do to
	// this message, and rspamd does as if all had been offered.
	actions = 0xff

	noConnect     = 0x01
	noHelo        = 0x02
	noMail        = 0x04
	noRcpt        = 0x08
	noBody        = 0x10
	noHeader      = 0x20
	noEndHeader   = 0x40
	silentHeader  = 0x80
	noUnknown     = 0x100
	noData        = 0x200
	maySkip       = 0x400
	silentConnect = 0x1000
	silentHelo    = 0x2000
	silentMail    = 0x4000
	silentRcpt    = 0x8000
	silentData    = 0x10000
	silentUnknown = 0x20000
	silentEndHead = 0x40000
	silentBody    = 0x80000
	leadingSpace  = 0x100000

	steps2  = noConnect | noHelo | noMail | noRcpt | noBody | noHeader | noEndHeader
	offered = steps2 | silentHeader | noUnknown | noData | maySkip | silentConnect | silentHelo | silentMail | silentRcpt |
		silentData | silentUnknown | silentEndHead | silentBody | leadingSpace
	// sizes are the bits by which larger pieces of the body are agreed on: never asked for.
	sizes = 0x30000000
)

const (
	version    = 6
	minVersion = 2
	// chunk is how much of a body one packet has, in octets (MILTER_CHUNK_SIZE).
	chunk = 65535
	// maxPacket bounds what is read of a filter at a time, and maxAnswers all that it says of one
	// message, in octets.
	maxPacket  = 128 << 10
	maxAnswers = 1 << 20
)

// packet is one command or answer.
type packet struct {
	code byte
	data []byte
}

var errAnswers = errors.New("it says too much of one message")

// reader reads packets, of all of which together no more than left octets.
type reader struct {
	in   *bufio.Reader
	left int
}

func (r *reader) read() (p packet, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		return p, err
	}
	size := binary.BigEndian.Uint32(head[:])
	switch {
	case size == 0:
		return p, errors.New("it sent an empty packet")
	case size > maxPacket:
		return p, fmt.Errorf("it sent a packet of %d octets", size)
	}
	if r.left -= int(size) + len(head); r.left < 0 {
		return p, errAnswers
	}
	octets := make([]byte, size)
	if _, err := io.ReadFull(r.in, octets); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return p, err
	}
	return packet{octets[0], octets[1:]}, nil
}

// appendPacket appends a packet whose data is parts.
func appendPacket(b []byte, code byte, parts ...[]byte) []byte {
	size := 1
	for _, p := range parts {
		size += len(p)
	}
	b = append(binary.BigEndian.AppendUint32(b, uint32(size)), code)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// texts returns texts as the protocol has them, each with its NUL. What a NUL in one would
// hide is left out.
func texts(all ...string) []byte {
	var b []byte
	for _, t := range all {
		for i := range len(t) {
			if t[i] != 0 {
				b = append(b, t[i])
			}
		}
		b = append(b, 0)
	}
	return b
}

// cutText takes the first text off data.
func cutText(data []byte) (text string, rest []byte, ok bool) {
	for i, c := range data {
		if c == 0 {
			return string(data[:i]), data[i+1:], true
		}
	}
	return "", nil, false
}

// hangUp closes a connection politely.
func hangUp(c net.Conn) {
	_, _ = c.Write(appendPacket(nil, cmdQuit)) // it has a deadline; who does not hear it sees the end
	_ = c.Close()
}
