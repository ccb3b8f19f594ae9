package index

import (
	"bytes"
	"io"
)

// Builder makes the index of a file while its text goes by.
type Builder struct {
	out     io.Writer
	err     error // of out; the first one
	maxLine int

	block   Block
	summary Summary
	member  int64 // where the current gzip member begins
	skip    int64 // the octets of text that went by in it
	row     row
	line    []byte // the beginning of a line whose end has not come
	long    bool   // it was too long, and is no record
	inLine  bool
	payload []byte
}

// NewBuilder writes an index to out. Lines longer than maxLine octets are no records.
func NewBuilder(out io.Writer, maxLine int) *Builder {
	b := &Builder{out: out, maxLine: maxLine}
	b.block.reset()
	b.write([]byte(magic))
	return b
}

func (b *Builder) write(p []byte) {
	if b.err == nil {
		_, b.err = b.out.Write(p)
	}
}

// Member says that what is taken next is the beginning of a gzip member at an offset.
func (b *Builder) Member(offset int64) {
	b.member, b.skip = offset, 0
	if b.block.Length == 0 {
		b.block.Member, b.block.Skip = offset, 0
	}
}

// Take takes text up to the end of a block, or all of it. ended says that a block has
// ended with the n octets that were taken: a gzip member that ends here can be read
// by itself.
func (b *Builder) Take(p []byte) (n int, ended bool) {
	for n < len(p) {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			rest := p[n:]
			b.count(len(rest))
			b.keep(rest)
			return len(p), false
		}
		line := p[n : n+end]
		b.count(end + 1)
		n += end + 1
		if b.inLine {
			b.keep(line)
			line = b.line
		}
		b.add(line)
		if b.block.Length >= blockOctets || b.block.rows >= blockRows {
			b.end()
			return n, true
		}
	}
	return n, false
}

// count counts octets that were taken.
func (b *Builder) count(n int) {
	b.block.Length += int64(n)
	b.skip += int64(n)
}

// keep keeps a part of a line whose end has not come.
func (b *Builder) keep(part []byte) {
	b.inLine = true
	if len(b.line)+len(part) > b.maxLine {
		b.long = true
		b.line = b.line[:0]
	}
	if !b.long {
		b.line = append(b.line, part...)
	}
}

// add makes the row of a line.
func (b *Builder) add(line []byte) {
	record := false
	b.row.reset()
	if !b.long && len(line) < b.maxLine {
		record = b.row.scan(line)
	}
	if !record {
		b.row.reset()
		if b.long || len(line) > 0 {
			b.summary.Bad++
		}
	}
	b.block.add(&b.row)
	b.summary.Rows++
	b.line, b.inLine, b.long = b.line[:0], false, false
}

// end writes the block, and begins another.
func (b *Builder) end() {
	if b.block.rows > 0 {
		b.payload = b.block.append(b.payload[:0])
		b.write(appendFramed(nil, b.payload))
	}
	b.block.reset()
	b.block.Member, b.block.Skip = b.member, b.skip
}

// Close ends the index of that file, whose last line may have no end. torn says that more
// of it could not be read.
func (b *Builder) Close(of Source, torn bool) error {
	if b.inLine {
		b.add(b.line)
	}
	b.end()
	b.summary.Source, b.summary.Torn = of, torn
	b.write(appendFramed(nil, b.summary.append(nil)))
	return b.err
}
