package dnscache

import (
	"encoding/binary"
	"errors"
	"iter"
	"strings"

	"github.com/miekg/dns"
)

// The guards around miekg/dns. The records that count are unpacked one by one,
// and NOT: the message as a whole, by dns.Msg.Unpack, which
//
//   - takes a message that ends before all records came that its header
//     announces, if it ends where the next could begin;
//   - takes a record whose data is missing, or ends between two fields: an A
//     without address, an MX without host, a SOA without minimum;
//   - gives everything up over one name it cannot read, in whatever record;
//   - unpacks what nobody asked for: 64 KiB of pointers in one HIP record become
//     36 MB of names.
//
// What it unpacks is in presentation form (RFC 1035 §5.1), strings and names
// alike, and goes through unescape or plainName before anybody sees it.

// section is a part of a response.
type section struct {
	msg   []byte
	off   int
	count int // records
}

// sections finds the answer, authority and additional sections. There are as
// many records in each as the header announces, none reaches beyond the message,
// and the owners can be read; the data may still be anything. Octets after the
// last record count for nothing, as some servers pad.
func sections(msg []byte) (s [3]section, err error) {
	if len(msg) < headerSize {
		return s, errMalformed
	}
	off := headerSize
	for range binary.BigEndian.Uint16(msg[4:]) {
		end, ok := skipName(msg, off)
		if off = end + 4; !ok || off > len(msg) {
			return s, errMalformed
		}
	}
	for i := range s {
		s[i] = section{msg, off, int(binary.BigEndian.Uint16(msg[6+2*i:]))}
		for range s[i].count {
			r, ok := place(msg, off)
			if !ok || !readable(msg, r.owner) {
				return s, errMalformed
			}
			off = r.end
		}
	}
	return s, nil
}

// records walks over a section. It allocates nothing, however many there are.
func (s section) records() iter.Seq[placed] {
	return func(yield func(placed) bool) {
		off := s.off
		for range s.count {
			r, _ := place(s.msg, off) // it was there when the section was found
			if !yield(r) {
				return
			}
			off = r.end
		}
	}
}

// placed is a record as it stands in a message: the fixed fields are read, owner
// and data are not.
type placed struct {
	msg       []byte
	owner     int // offset of its name
	data, end int // offsets of its data
	rrtype    uint16
	class     uint16
	ttl       uint32 // seconds
}

// place reads the fixed fields of the record at an offset.
func place(msg []byte, off int) (r placed, ok bool) {
	const fixed = 10 // type, class, TTL, length (RFC 1035 §4.1.3)
	at, ok := skipName(msg, off)
	if !ok || at+fixed > len(msg) {
		return placed{}, false
	}
	f := msg[at : at+fixed]
	r = placed{
		msg: msg, owner: off, data: at + fixed,
		rrtype: binary.BigEndian.Uint16(f),
		class:  binary.BigEndian.Uint16(f[2:]),
		ttl:    binary.BigEndian.Uint32(f[4:]),
	}
	r.end = r.data + int(binary.BigEndian.Uint16(f[8:]))
	return r, r.end <= len(msg)
}

// is tells whether the record is of a type, in class IN.
func (r placed) is(t uint16) bool { return r.rrtype == t && r.class == dns.ClassINET }

var (
	errNoData     = errors.New("record without data")
	errManyPieces = errors.New("text in too many pieces")
)

// unpack has the library read the data.
func (r placed) unpack() (dns.RR, error) {
	if r.data == r.end {
		// It is what a dynamic update may hold (RFC 2136 §2.4), and the library
		// takes it for a good record of empty fields.
		return nil, errNoData
	}
	if r.rrtype == dns.TypeSOA && !r.wholeSOA() {
		return nil, errNoData
	}
	if r.rrtype == dns.TypeTXT && r.pieces() > maxPieces {
		return nil, errManyPieces
	}
	h := dns.RR_Header{Rrtype: r.rrtype, Class: r.class, Ttl: r.ttl, Rdlength: uint16(r.end - r.data)}
	// Only up to its end: a string of a TXT may not reach into the next record.
	rr, _, err := dns.UnpackRRWithHeader(h, r.msg[:r.end], r.data)
	return rr, err
}

// wholeSOA tells whether there is all of a SOA: two names and five numbers, the
// last of which is the minimum that a negative answer is kept for.
func (r placed) wholeSOA() bool {
	off, ok := skipName(r.msg[:r.end], r.data)
	if ok {
		off, ok = skipName(r.msg[:r.end], off)
	}
	return ok && off+5*4 == r.end
}

// maxPieces bounds the strings of one TXT record, of which 257 hold all that fits
// into a record; each costs us its 16 octets, be it empty.
const maxPieces = 1024

// pieces counts the strings of a TXT record.
func (r placed) pieces() (n int) {
	for off := r.data; off < r.end; off += 1 + int(r.msg[off]) {
		n++
	}
	return n
}

// skipName returns where the name at an offset ends. What its pointer points to
// is not looked at.
func skipName(msg []byte, off int) (end int, ok bool) {
	for off < len(msg) {
		n := int(msg[off])
		off++
		switch {
		case n == 0:
			return off, true
		case n < 0x40:
			off += n
		case n >= 0xc0:
			return off + 1, off < len(msg)
		default: // 0x40 and 0x80 are no lengths (RFC 6891 §5)
			return off, false
		}
	}
	return off, false
}

const (
	maxWireName = 255 // octets (RFC 1035 §2.3.4)
	// maxPointers bounds the pointers of one name, as the library does: with more
	// there would be some that point to a pointer.
	maxPointers = (maxWireName+1)/2 - 2
)

// readable tells whether there is a name at an offset, wherever its pointers
// point to.
func readable(msg []byte, off int) bool {
	length, pointers := 1, 0
	for off < len(msg) {
		n := int(msg[off])
		off++
		switch {
		case n == 0:
			return true
		case n >= 0xc0 && off < len(msg) && pointers < maxPointers:
			pointers++
			off = (n&0x3f)<<8 | int(msg[off])
			continue
		case n >= 0x40:
			return false
		}
		off += n
		if length += n + 1; length > maxWireName {
			return false
		}
	}
	return false
}

// ownedBy tells whether the owner, which is readable, is the name, which is plain
// (see plainName). It compares octets, without regard to letter case: there are
// no escapes to see through, and records of others cost no allocation.
func (r placed) ownedBy(name string) bool {
	for off := r.owner; ; {
		n := int(r.msg[off])
		off++
		switch {
		case n == 0:
			return name == ""
		case n >= 0xc0:
			off = (n&0x3f)<<8 | int(r.msg[off])
			continue
		case n > len(name), n < len(name) && name[n] != '.':
			return false
		}
		for i, b := range r.msg[off : off+n] {
			if b == '.' || lower(b) != name[i] { // a dot within a label is none between two
				return false
			}
		}
		off += n
		name = name[min(n+1, len(name)):]
	}
}

// covers tells whether the owner is the name or a zone above it.
func (r placed) covers(name string) bool {
	for !r.ownedBy(name) {
		if name == "" {
			return false
		}
		_, name, _ = strings.Cut(name, ".")
	}
	return true
}

// unescape undoes the presentation form of a string out of the library: \" and
// \\, and \DDD for what is not printable ASCII. The result is the octets of the
// message, whatever encoding they may be in.
func unescape(s string) string {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	b := append(make([]byte, 0, len(s)), s[:i]...)
	for i < len(s) {
		c, n := octet(s[i:])
		b = append(b, c)
		i += n
	}
	return string(b)
}

// octet reads the first octet of a text in presentation form, and how many
// characters it takes there.
func octet(s string) (c byte, n int) {
	switch {
	case s[0] != '\\' || len(s) == 1: // the library leaves no backslash at the end
		return s[0], 1
	case len(s) >= 4 && digit(s[1]) && digit(s[2]) && digit(s[3]):
		return (s[1]-'0')*100 + (s[2]-'0')*10 + s[3] - '0', 4
	}
	return s[1], 2
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// plainName makes a name out of the library plain: its octets with dots between
// the labels, lower case, no dot at the end, the root being empty. ok is false
// where plain text cannot say it, since a label holds a dot: NOT a\.b.example for
// a.b.example, which may belong to somebody else.
func plainName(s string) (name string, ok bool) {
	s = strings.TrimSuffix(s, ".")
	if strings.IndexByte(s, '\\') < 0 {
		return strings.ToLower(s), true
	}
	b := make([]byte, 0, len(s))
	for len(s) > 0 {
		c, n := octet(s)
		if n > 1 && c == '.' {
			return "", false
		}
		b = append(b, lower(c))
		s = s[n:]
	}
	return string(b), true
}
