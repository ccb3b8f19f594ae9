// Package index is what stands beside a closed file of the journal so that a search
// need not read it: of each record, when it was, which client, how it ended, and hashes
// of the words by which one looks for it. It has no names and no addresses, and never
// says that a record is wanted: it says which are not, and the others are looked at.
//
// An index is made of blocks, each for about a mebibyte of records, and an end, each
// with its length and a sum. One that is cut short, or is of another file, is none.
package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// magic begins an index. Its number is the version of all that follows.
const magic = "postern-index 1\n"

// The bounds of a block.
const (
	blockOctets = 1 << 20 // of lines; a block ends with the line that fills it
	blockRows   = 1 << 14
	maxPayload  = 8 << 20
)

// The kinds of payloads.
const (
	kindBlock = 'b'
	kindEnd   = 'e'
)

// ErrBroken is the error of what is no whole index.
var ErrBroken = errors.New("index: not whole, or none")

// sums is the table for the sums of blocks, which Go makes once, when it is first wanted.
func sums() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Place is where the lines of a block stand in the file that the index is of.
type Place struct {
	Member int64 // the offset of a gzip member in it, in octets
	Skip   int64 // the octets of text from the beginning of the member to the block
	Length int64 // the octets of text in the block
}

// Block is the rows of one block, a row for each line.
type Block struct {
	Place
	rows  int
	from  uint32 // the least of times
	to    uint32 // the greatest
	times []byte // of each row: seconds since 1970, four octets
	ips   []byte // of each row: the client, eight octets
	marks []byte // of each row: two octets
	count []byte // of each row: how many terms it has, two octets
	terms []byte // of all rows: four octets each
}

// Rows is how many lines the block has.
func (b *Block) Rows() int { return b.rows }

// Summary is what the end of an index says of the file.
type Summary struct {
	Source Source
	Rows   int64 // lines
	Bad    int64 // of them, those that are no record
	Torn   bool  // the file could not be read to its end
}

// Source tells one file from another, and from itself when it was shorter.
type Source struct {
	Size int64
	Sum  uint32 // of its first and last octets
}

// edge is how many octets at either end of a file its sum is of. A gzip member ends in
// the sum of all that is in it.
const edge = 64

// SourceOf is what tells a file of that many octets.
func SourceOf(r io.ReaderAt, size int64) (Source, error) {
	b := make([]byte, 2*edge)
	n, err := r.ReadAt(b[:edge], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Source{}, err
	}
	m, err := r.ReadAt(b[n:n+edge], max(size-edge, 0))
	if err != nil && !errors.Is(err, io.EOF) {
		return Source{}, err
	}
	return Source{size, crc32.Checksum(b[:n+m], sums())}, nil
}

// appendFramed appends a payload with its length and sum.
func appendFramed(b, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(payload, sums()))
	return append(b, payload...)
}

// blockHead is how many octets stand before the columns of a block.
const blockHead = 1 + 3*8 + 3*4

func (b *Block) append(p []byte) []byte {
	p = append(p, kindBlock)
	for _, n := range []int64{b.Member, b.Skip, b.Length} {
		p = binary.LittleEndian.AppendUint64(p, uint64(n))
	}
	for _, n := range []uint32{uint32(b.rows), b.from, b.to} {
		p = binary.LittleEndian.AppendUint32(p, n)
	}
	for _, column := range [][]byte{b.times, b.ips, b.marks, b.count, b.terms} {
		p = append(p, column...)
	}
	return p
}

// read makes b of a payload, whose octets it keeps.
func (b *Block) read(p []byte) error {
	if len(p) < blockHead || p[0] != kindBlock {
		return ErrBroken
	}
	var places [3]int64
	for i := range places {
		if places[i] = int64(binary.LittleEndian.Uint64(p[1+8*i:])); places[i] < 0 {
			return ErrBroken
		}
	}
	b.Place = Place{places[0], places[1], places[2]}
	rows := binary.LittleEndian.Uint32(p[25:])
	b.from, b.to = binary.LittleEndian.Uint32(p[29:]), binary.LittleEndian.Uint32(p[33:])
	if p = p[blockHead:]; rows > blockRows || len(p) < int(rows)*16 {
		return ErrBroken
	}
	b.rows = int(rows)
	for _, c := range []struct {
		column *[]byte
		octets int
	}{{&b.times, 4}, {&b.ips, 8}, {&b.marks, 2}, {&b.count, 2}} {
		*c.column, p = p[:b.rows*c.octets], p[b.rows*c.octets:]
	}
	b.terms = p
	terms := 0
	for i := range b.rows {
		terms += int(binary.LittleEndian.Uint16(b.count[2*i:]))
	}
	if len(p) != 4*terms {
		return ErrBroken
	}
	return nil
}

// reset makes b an empty block, with the room that its columns have.
func (b *Block) reset() {
	*b = Block{from: math.MaxUint32, times: b.times[:0], ips: b.ips[:0], marks: b.marks[:0], count: b.count[:0], terms: b.terms[:0]}
}

// add appends a row. The terms of one that has very many are not kept: it is always
// looked at.
func (b *Block) add(r *row) {
	if len(r.terms) > math.MaxUint16 {
		r.marks, r.terms = r.marks|markWild, r.terms[:0]
	}
	b.from, b.to = min(b.from, r.time), max(b.to, r.time)
	b.times = binary.LittleEndian.AppendUint32(b.times, r.time)
	b.ips = binary.LittleEndian.AppendUint64(b.ips, r.ip)
	b.marks = binary.LittleEndian.AppendUint16(b.marks, uint16(r.marks))
	b.count = binary.LittleEndian.AppendUint16(b.count, uint16(len(r.terms)))
	for _, t := range r.terms {
		b.terms = binary.LittleEndian.AppendUint32(b.terms, t)
	}
	b.rows++
}

func (s Summary) append(p []byte) []byte {
	p = append(p, kindEnd)
	p = binary.LittleEndian.AppendUint64(p, uint64(s.Source.Size))
	p = binary.LittleEndian.AppendUint32(p, s.Source.Sum)
	p = binary.LittleEndian.AppendUint64(p, uint64(s.Rows))
	p = binary.LittleEndian.AppendUint64(p, uint64(s.Bad))
	if s.Torn {
		return append(p, 1)
	}
	return append(p, 0)
}

func (s *Summary) read(p []byte) error {
	if len(p) != 1+8+4+8+8+1 || p[0] != kindEnd {
		return ErrBroken
	}
	s.Source = Source{int64(binary.LittleEndian.Uint64(p[1:])), binary.LittleEndian.Uint32(p[9:])}
	s.Rows, s.Bad = int64(binary.LittleEndian.Uint64(p[13:])), int64(binary.LittleEndian.Uint64(p[21:]))
	s.Torn = p[29] != 0
	return nil
}

// Index is an index that was found whole. Of its blocks it holds where they are.
type Index struct {
	Summary
	r      io.ReaderAt
	blocks []part
	buf    []byte
}

// part is where a block of the index is.
type part struct {
	at       int64
	length   int
	from, to uint32
}

// Open reads an index through, to see that it is whole: ErrBroken where it is not. It reads
// from r later, too.
func Open(r io.ReaderAt, size int64) (*Index, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10)
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(in, head); err != nil || string(head) != magic {
		return nil, ErrBroken
	}
	x := &Index{r: r}
	at := int64(len(magic))
	for {
		var frame [8]byte
		if _, err := io.ReadFull(in, frame[:]); err != nil {
			return nil, ErrBroken
		}
		at += int64(len(frame))
		n := binary.LittleEndian.Uint32(frame[:])
		if n == 0 || n > maxPayload || int64(n) > size-at {
			return nil, ErrBroken
		}
		p := x.room(int(n))
		if _, err := io.ReadFull(in, p); err != nil || crc32.Checksum(p, sums()) != binary.LittleEndian.Uint32(frame[4:]) {
			return nil, ErrBroken
		}
		if p[0] == kindEnd {
			if err := x.read(p); err != nil || at+int64(n) != size {
				return nil, ErrBroken
			}
			return x, nil
		}
		var b Block
		if err := b.read(p); err != nil {
			return nil, err
		}
		x.blocks = append(x.blocks, part{at, int(n), b.from, b.to})
		at += int64(n)
	}
}

// room is a buffer of n octets, good until it is asked for again.
func (x *Index) room(n int) []byte {
	if cap(x.buf) < n {
		x.buf = make([]byte, n)
	}
	return x.buf[:n]
}

// Blocks is how many blocks the index has.
func (x *Index) Blocks() int { return len(x.blocks) }

// Rows returns the rows of the i-th block that may be wanted, in the order of the lines,
// appended to rows, and where the lines are.
func (x *Index) Rows(i int, w *Want, rows []int) (Place, []int, error) {
	part := x.blocks[i]
	if !w.time(part.from, part.to) {
		return Place{}, rows, nil
	}
	p := x.room(part.length)
	if _, err := x.r.ReadAt(p, part.at); err != nil {
		return Place{}, rows, fmt.Errorf("index: %w", err)
	}
	var b Block
	if err := b.read(p); err != nil {
		return Place{}, rows, err
	}
	return b.Place, w.rows(&b, rows), nil
}
