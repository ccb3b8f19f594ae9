package index

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"strings"
	"time"
)

// Mark is what is known of a record in one bit each.
type Mark uint16

// The marks.
const (
	Pass Mark = 1 << iota // a disposition of the transaction, or of one of its recipients
	Tag
	Defer
	Reject
	NotAsked
	Refused // the client heard 4yz or 5yz, of one recipient or of all
	Delivered
	RefusedByUs // the outcomes, from here on
	BackendRefused
	Failed
	Abandoned
	Unknown
	Hold                      // a disposition too
	markRecord Mark = 1 << 14 // the line is a record
	markWild   Mark = 1 << 15 // it has something that the index does not know: look at it
)

// Kind says what a term is of.
type Kind byte

// The kinds of terms.
const (
	ID              Kind = 'i'
	Session         Kind = 's'
	Sender          Kind = 'f'
	SenderDomain    Kind = 'F'
	Recipient       Kind = 'r'
	RecipientDomain Kind = 'R'
	Rule            Kind = 'u'
	QueueID         Kind = 'q' // the backend's own
)

// NullSender is the word of kind Sender for the null reverse-path.
const NullSender = "<>"

// domain says that the words of a kind are domains.
func (k Kind) domain() bool { return k == SenderDomain || k == RecipientDomain }

// Term is a word that is looked for.
type Term struct{ sum, mask uint32 }

// Exactly is the term of a word, whatever its case.
func Exactly(k Kind, word string) Term {
	return Term{term(k, lower([]byte(word))), math.MaxUint32}
}

// Below is the term of all domains below one. ok is false where there is none: the
// index knows domains by their last two labels.
func Below(k Kind, domain string) (t Term, ok bool) {
	if !strings.Contains(domain, ".") {
		return Term{}, false
	}
	return Term{term(k, lower([]byte(domain))), 0xffff0000}, true
}

// term is the hash of a word that is in lower case. That of a domain has its last two labels
// in its upper half.
func term(k Kind, word []byte) uint32 {
	h := fnv(k, word)
	if !k.domain() {
		return h
	}
	last := word
	if dot := bytes.LastIndexByte(word, '.'); dot >= 0 {
		last = word[bytes.LastIndexByte(word[:dot], '.')+1:]
	}
	return fnv(k, last)<<16 | h&math.MaxUint16
}

// fnv is FNV-1a of a kind and a word, its upper half mixed into the lower one.
func fnv(k Kind, word []byte) uint32 {
	const offset, prime = 2166136261, 16777619
	h := (uint32(offset) ^ uint32(k)) * prime
	for _, c := range word {
		h = (h ^ uint32(c)) * prime
	}
	return h ^ h>>16
}

// lower is a word in lower case; it may be the same slice.
func lower(word []byte) []byte {
	for _, c := range word {
		if c >= 0x80 || 'A' <= c && c <= 'Z' {
			return bytes.ToLower(word)
		}
	}
	return word
}

// Want is which records may be wanted. The zero Want is all.
type Want struct {
	Since, Until time.Time    // zero: no bound; a second more may be wanted at either end
	Marks        []Mark       // of each, one bit at least
	Terms        [][]Term     // of each, one term at least
	Client       netip.Prefix // invalid: all
}

// time says whether times from one to another may be wanted.
func (w *Want) time(from, to uint32) bool {
	return (w.Since.IsZero() || to >= seconds(w.Since)) && (w.Until.IsZero() || from <= seconds(w.Until))
}

// seconds are those since 1970, as far as four octets go.
func seconds(t time.Time) uint32 { return uint32(min(max(t.Unix(), 0), math.MaxUint32)) }

// Lines tells of lines one by one, without an index. It is for one goroutine.
type Lines struct {
	Want  Want
	row   row
	block Block
	rows  []int
}

// Wanted says whether a line may be a record that is wanted.
func (l *Lines) Wanted(line []byte) bool {
	l.row.reset()
	if !l.row.scan(line) {
		return false
	}
	l.block.reset()
	l.block.add(&l.row)
	l.rows = l.Want.rows(&l.block, l.rows[:0])
	return len(l.rows) > 0
}

// rows appends those rows of a block that may be wanted.
func (w *Want) rows(b *Block, rows []int) []int {
	least, most := uint32(0), uint32(math.MaxUint32)
	if !w.Since.IsZero() {
		least = seconds(w.Since)
	}
	if !w.Until.IsZero() {
		most = seconds(w.Until)
	}
	var net, mask uint64
	if w.Client.IsValid() {
		net, mask = network(w.Client)
	}
	first := 0 // of the row's terms
	for i := range b.rows {
		terms := b.terms[4*first:]
		n := int(binary.LittleEndian.Uint16(b.count[2*i:]))
		first += n
		marks := Mark(binary.LittleEndian.Uint16(b.marks[2*i:]))
		t := binary.LittleEndian.Uint32(b.times[4*i:])
		switch {
		case marks&markRecord == 0, t < least, t > most:
		case marks&markWild != 0:
			rows = append(rows, i)
		case mask != 0 && binary.LittleEndian.Uint64(b.ips[8*i:])&mask != net:
		case w.marked(marks) && w.named(terms[:4*n]):
			rows = append(rows, i)
		}
	}
	return rows
}

func (w *Want) marked(marks Mark) bool {
	for _, m := range w.Marks {
		if marks&m == 0 {
			return false
		}
	}
	return true
}

// named says whether the terms of a row have one of each that is wanted.
func (w *Want) named(terms []byte) bool {
	for _, any := range w.Terms {
		if !has(terms, any) {
			return false
		}
	}
	return true
}

func has(terms []byte, any []Term) bool {
	for ; len(terms) >= 4; terms = terms[4:] {
		there := binary.LittleEndian.Uint32(terms)
		for _, t := range any {
			if (there^t.sum)&t.mask == 0 {
				return true
			}
		}
	}
	return false
}

// address is eight octets of an address: an IPv4 address, or an IPv6 network of
// 64 bits. No address in use is in the network that the two share.
func address(a netip.Addr) uint64 {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:])
}

// network is what the octets of the addresses in a network have in common.
func network(p netip.Prefix) (net, mask uint64) {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 32
	}
	if bits < 64 {
		mask = math.MaxUint64 << (64 - bits)
	} else {
		mask = math.MaxUint64
	}
	return address(p.Addr()) & mask, mask
}
