package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"postern/proxy/reuse"
	"postern/proxy/socket"
)

const (
	// commandBuffer is the buffer for command lines, in octets: the longest has 2048.
	commandBuffer = 4 << 10
	// BlockSize is how many octets are read at once in DATA and BDAT, where no more come
	// than that.
	BlockSize = 32 << 10
	// wideSize is how many, where a block has been full: a large message costs a
	// fifth less so, in system calls and deadlines.
	wideSize = 128 << 10
	// maxWide bounds the wide blocks of all sessions, 8 MiB. Whoever finds none has a
	// usual one.
	maxWide = 64
)

var (
	readers = reuse.Pool[bufio.Reader]{New: func() *bufio.Reader { return bufio.NewReaderSize(nil, commandBuffer) }}
	blocks  = reuse.Pool[Block]{New: func() *Block { return &Block{octets: make([]byte, BlockSize)} }}
	wides   = reuse.Pool[Block]{New: func() *Block { return &Block{octets: make([]byte, wideSize)} }}
	// wide is how many of them are in use, and how often what one of them brought too much
	// is kept.
	wide atomic.Int64
)

// Block is what octets of a message are read into. It is its session's until that has put
// it back, or ends.
type Block struct{ octets []byte }

func takeBlock(large bool) *Block {
	if large {
		if wide.Add(1) <= maxWide {
			return wides.Take()
		}
		wide.Add(-1)
	}
	return blocks.Take()
}

// input reads what the client sends, and holds a buffer only while there is
// something in it: ten thousand idle clients shall not cost ten thousand
// buffers. (Nor ten thousand goroutines: see parking.)
//
// On a plain socket the trick is to ask the runtime for the moment when the
// descriptor can be read, and to take a buffer only then. It costs no system
// call more than a Read. Inside TLS, and on connections that have no
// descriptor, one octet is read into the session itself while it waits.
type input struct {
	conn  net.Conn              // the socket, or the TLS session on it
	raw   syscall.RawConn       // the socket's descriptor; nil inside TLS
	br    *bufio.Reader         // nil while nothing is buffered
	try   func(fd uintptr) bool // tryRead, bound once
	tryB  func(fd uintptr) bool // tryBlock, bound once
	first [1]byte
	have  bool   // first holds an octet
	back  []byte // read too far and to be read again
	large bool   // back counts as a wide block
	flood bool   // the last block brought as much as a usual one has room for
	lent  *Block // what readBlock has returned, until it is put back

	// While try or tryB runs:
	trying bool
	fd     int
	tail   []byte
	block  *Block
	n      int
	err    error
}

// reset makes in read from conn and forgets everything buffered: what came
// before TLS must not be read after it.
func (in *input) reset(conn net.Conn) {
	in.close()
	*in = input{conn: conn}
	if sc, ok := conn.(*socket.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			in.raw = raw
			in.try, in.tryB = in.tryRead, in.tryBlock
		}
	}
}

// release gives the buffer back; only for an input that is not used any more
// or that has nothing buffered.
func (in *input) release() {
	if in.br != nil {
		in.br.Reset(nil)
		readers.Put(in.br)
		in.br = nil
	}
}

// close forgets everything; in is not used any more.
func (in *input) close() {
	in.release()
	in.putBlock(in.lent)
	in.keepBack(nil)
}

// keepBack replaces what is to be read again. What is more than a usual block brings
// counts as a wide one, or there would be no bound on it for all.
func (in *input) keepBack(b []byte) {
	large := len(b) > BlockSize
	switch {
	case large && !in.large:
		wide.Add(1)
	case in.large && !large:
		wide.Add(-1)
	}
	in.back, in.large = b, large
}

// buffered says how many octets can be had without waiting.
func (in *input) buffered() int {
	if in.br == nil {
		return len(in.back)
	}
	return in.br.Buffered() + len(in.back)
}

// hasLine says whether a whole line can be had without waiting.
func (in *input) hasLine() bool {
	if in.br != nil {
		if b, _ := in.br.Peek(in.br.Buffered()); bytes.IndexByte(b, '\n') >= 0 {
			return true
		}
	}
	return bytes.IndexByte(in.back, '\n') >= 0
}

// unread gives octets back that were read too far: what the client pipelined
// behind the end of its message. b is copied. It goes before what was given
// back earlier: a reader has taken a buffer full of that, and b is the end of
// that buffer.
func (in *input) unread(b []byte) {
	if len(b) > 0 {
		in.keepBack(append(append(make([]byte, 0, len(b)+len(in.back)), b...), in.back...))
	}
}

// wait blocks until at least one octet is buffered.
func (in *input) wait() error {
	if in.buffered() > 0 {
		in.take()
		_, err := in.br.Peek(1)
		return err
	}
	if in.raw != nil {
		if err := in.raw.Read(in.try); err != nil {
			in.release()
			return err
		}
		return in.err
	}
	in.release()
	n, err := in.conn.Read(in.first[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	in.have = true
	in.take()
	_, err = in.br.Peek(1)
	return err
}

// waitLine blocks until a whole line is buffered, or more than a line may have.
// After an error, that of a deadline say, it may be called again: nothing is lost.
func (in *input) waitLine() error {
	err := in.wait()
	for err == nil && !in.hasLine() && in.br.Buffered() < LineLimit {
		if _, err = in.br.Peek(in.br.Buffered() + 1); errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // within a line
		}
	}
	return err
}

func (in *input) take() {
	if in.br == nil {
		in.br = readers.Take()
		in.br.Reset(in)
	}
}

// tryRead is called by the runtime with the descriptor, at once and then each
// time that it has become readable; false means: nothing there, wait on.
func (in *input) tryRead(fd uintptr) bool {
	in.fd = int(fd)
	in.take()
	in.trying = true
	_, in.err = in.br.Peek(1)
	in.trying = false
	if errors.Is(in.err, syscall.EAGAIN) {
		in.err = nil
		in.release()
		return false
	}
	return true
}

// Read is for the bufio.Reader on top.
func (in *input) Read(p []byte) (int, error) {
	if in.trying {
		return socket.ReadFD(in.fd, p)
	}
	if len(in.back) > 0 {
		n := copy(p, in.back)
		if in.back = in.back[n:]; len(in.back) == 0 {
			in.keepBack(nil)
		}
		return n, nil
	}
	if in.have && len(p) > 0 {
		p[0] = in.first[0]
		in.have = false
		return 1, nil
	}
	return in.conn.Read(p)
}

// readBlock returns the next octets of a message: tail, the few undecided
// octets of the block before, followed by what has arrived; streams: they go on at once,
// and there may be more of them where a block was full. The block goes back with putBlock.
// What is buffered comes before what the connection has.
func (in *input) readBlock(tail []byte, streams bool) (b []byte, block *Block, err error) {
	if in.buffered() == 0 && in.raw != nil {
		in.release()
		in.tail = append(in.tail[:0], tail...)
		in.flood = in.flood && streams
		in.block = nil
		if err := in.raw.Read(in.tryB); err != nil {
			return nil, nil, err
		}
		block = in.block
		in.block, in.lent = nil, block
		return block.octets[:len(in.tail)+in.n], block, in.err
	}
	block = takeBlock(false) // of a buffer, or a record of TLS: never more
	in.lent = block
	k := copy(block.octets, tail)
	n := 0
	if in.buffered() > 0 {
		in.take()
		n, err = in.br.Read(block.octets[k:])
	} else {
		in.release()
		n, err = in.conn.Read(block.octets[k:])
	}
	if n > 0 {
		err = nil
	}
	return block.octets[:k+n], block, err
}

// tryBlock is to readBlock what tryRead is to wait.
func (in *input) tryBlock(fd uintptr) bool {
	block := takeBlock(in.flood)
	k := copy(block.octets, in.tail)
	in.n, in.err = socket.ReadFD(int(fd), block.octets[k:])
	if errors.Is(in.err, syscall.EAGAIN) {
		in.putBlock(block)
		return false
	}
	in.block, in.flood = block, k+in.n >= BlockSize
	return true
}

// putBlock gives a block back; nil is none.
func (in *input) putBlock(block *Block) {
	in.lent = nil
	switch {
	case block == nil:
	case len(block.octets) > BlockSize:
		wides.Put(block)
		wide.Add(-1)
	default:
		blocks.Put(block)
	}
}
