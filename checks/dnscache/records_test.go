package dnscache

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestOwner(t *testing.T) {
	at := func(text string) []byte { return append(make([]byte, headerSize), text...) }
	for _, c := range []struct {
		msg      []byte
		off      int
		name     string
		readable bool
		owned    bool
	}{
		{at("\x01n\x07example\x00"), 12, "n.example", true, true},
		{at("\x01N\x07eXAMPLE\x00"), 12, "n.example", true, true},
		{at("\x01n\x07example\x00"), 12, "n.example.org", true, false},
		{at("\x01n\x07example\x00"), 12, "example", true, false},
		{at("\x01n\x07example\x00"), 14, "example", true, true},
		{at("\x01n\x07example\x00"), 12, "n.exampl", true, false},
		{at("\x01n\x07example\x00"), 12, "", true, false},
		{at("\x09n.example\x00"), 12, "n.example", true, false}, // one label
		{at("\x00"), 12, "", true, true},
		{at("\x00"), 12, "n.example", true, false},
		{at("\x07example\x00\x01n\xc0\x0c"), 21, "n.example", true, true},
		{at("\x01n\xc0\x10\x07example\x00"), 12, "n.example", true, true}, // forward
		{at("\x01a\xc0\x0c"), 12, "a.a.a", false, false},
		{at("\xc0\x0c"), 12, "", false, false},
		{at("\xc0"), 12, "", false, false},
		{at("\xc0\xff"), 12, "", false, false},
		{at("\x41a\x00"), 12, "a", false, false},
		{at("\x81a\x00"), 12, "a", false, false},
		{at("\x03ab"), 12, "ab", false, false},
		{at("\x02ab"), 12, "ab", false, false},                                                 // no end
		{at(strings.Repeat("\x3f"+strings.Repeat("a", 63), 4) + "\x00"), 12, "", false, false}, // 257 octets
	} {
		if got := readable(c.msg, c.off); got != c.readable {
			t.Errorf("%q at %d is readable: %v", c.msg[headerSize:], c.off, got)
		} else if got && (placed{msg: c.msg, owner: c.off}).ownedBy(c.name) != c.owned {
			t.Errorf("%q at %d is taken for %q: %v", c.msg[headerSize:], c.off, c.name, !c.owned)
		}
	}
}

func TestRcodeNames(t *testing.T) {
	for c, want := range map[rcode]string{1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS", 3000: "RCODE3000"} {
		if got := c.String(); got != want {
			t.Errorf("%d is %s, want %s", uint16(c), got, want)
		}
	}
	q := pack(question{"n.example", typeA}, false, true)
	msg := response{rcode: 1}.to(q.wire)
	msg[11] = 1
	msg = append(msg, 0, 0, 41, 4, 0, 2, 0, 0, 0, 0, 0) // OPT with the upper bits 2
	if a, err := parse(msg, q.question); err != nil || a.kind != kindFailure || a.rcode != 0x21 {
		t.Errorf("rcode %v of %s, want 33", a.rcode, summary(a, err))
	}
}

// A message of 64 KiB must not become many megabytes, whatever is in it.
func TestLargeMessagesAreCheap(t *testing.T) {
	const limit = 2 << 20
	// The question is as long as a name may be, of octets that take four
	// characters each in presentation form, and everything points to it.
	label := strings.Repeat("\x01", 61)
	head := append(make([]byte, 5), 1, 0, 0, 0, 0, 0, 0)
	for range 4 {
		head = append(append(head, byte(len(label))), label...)
	}
	head = append(head, 0, 0, 16, 0, 1)
	name := strings.Repeat(label+".", 3) + label
	fill := func(section int, record []byte) []byte {
		msg, n := bytes.Clone(head), 0
		for ; len(msg)+len(record) < 1<<16; n++ {
			msg = append(msg, record...)
		}
		binary.BigEndian.PutUint16(msg[6+2*section:], uint16(n))
		return msg
	}
	of := func(rrtype byte, data ...byte) []byte {
		return append([]byte{0xc0, headerSize, 0, rrtype, 0, 1, 0, 0, 0, 60, byte(len(data) >> 8), byte(len(data))}, data...)
	}
	pointers := bytes.Repeat([]byte{0xc0, headerSize}, 32000)
	for what, c := range map[string]struct {
		msg []byte
		q   question
	}{
		"rendezvous servers (RFC 8005)": {fill(0, of(55, append([]byte{0, 1, 0, 0}, pointers...)...)), question{name, typeTXT}},
		"name servers":                  {fill(1, of(2, 0xc0, headerSize)), question{name, typeTXT}},
		"SOAs":                          {fill(1, of(6, append([]byte{0xc0, headerSize, 0xc0, headerSize}, make([]byte, 20)...)...)), question{name, typeTXT}},
		"options":                       {fill(2, of(41, bytes.Repeat([]byte{0, 9, 0, 0}, 16000)...)), question{name, typeTXT}},
		"aliases to themselves":         {fill(0, of(5, 0xc0, headerSize)), question{name, typeTXT}},
		"aliases of others":             {fill(0, of(5, 0xc0, headerSize)), question{"n.example", typeTXT}},
		"reverse names":                 {fill(0, of(12, 0xc0, headerSize)), question{name, typePTR}},
		"hosts":                         {fill(0, of(15, 0, 1, 0xc0, headerSize)), question{name, typeMX}},
		"texts":                         {fill(0, of(16, 0)), question{name, typeTXT}},
		"empty strings":                 {fill(0, of(16, make([]byte, 64000)...)), question{name, typeTXT}},
		"strings to be escaped":         {fill(0, of(16, bytes.Repeat(append([]byte{255}, make([]byte, 255)...), 240)...)), question{name, typeTXT}},
	} {
		if n := len(c.msg); n < 60000 {
			t.Errorf("%s: only %d octets", what, n)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a, err := parse(c.msg, c.q)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > limit {
			t.Errorf("%s: %d octets allocated", what, n)
		} else {
			t.Logf("%s: %d octets allocated, %.60s", what, n, summary(a, err))
		}
	}
}

// The octets of a TXT record arrive as they were sent.
func FuzzText(f *testing.F) {
	f.Add([]byte("v=spf1 ip4:192.0.2.1 -all"), byte(7))
	f.Add([]byte("\"\\065\x00\xff;\\\\"), byte(1))
	f.Add([]byte{}, byte(255))
	f.Fuzz(func(t *testing.T, text []byte, size byte) {
		var data []byte
		for rest := text; ; {
			n := min(int(max(size, 1)), len(rest))
			data = append(append(data, byte(n)), rest[:n]...)
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
		if len(data) > 1<<15 || len(text) > maxPieces*int(max(size, 1)) {
			return
		}
		q := pack(question{"n.example", typeTXT}, false, false)
		a, err := parse(response{records: []record{{rrtype: typeTXT, ttl: 60, rdata: data}}}.to(q.wire), q.question)
		if err != nil || len(a.text) != 1 || a.text[0] != string(text) {
			t.Fatalf("%.200q: %.200s", text, summary(a, err))
		}
	})
}

// We read the same names as the library does, and recognize what it read.
func FuzzName(f *testing.F) {
	f.Add([]byte("\x01n\x07eXample\x00"), uint16(0))
	f.Add([]byte("\x07example\x00\x03a\\\"\xc0\x00"), uint16(9))
	f.Add([]byte("\x03a.b\x02\x00\xff\x00"), uint16(0))
	f.Add([]byte("\xc0\x00"), uint16(0))
	f.Fuzz(func(t *testing.T, msg []byte, at uint16) {
		off := int(at)
		text, end, err := dns.UnpackDomainName(msg, off)
		if got := readable(msg, off); got != (err == nil) {
			t.Fatalf("%q at %d: readable is %v, the library says %v", msg, off, got, err)
		}
		if err != nil {
			return
		}
		if got, ok := skipName(msg, off); !ok || got != end {
			t.Fatalf("%q at %d ends at %d, the library says %d", msg, off, got, end)
		}
		name, ok := plainName(text)
		if ok == strings.Contains(text, `\.`) && !strings.Contains(text, `\\`) {
			t.Fatalf("%s is plain: %v", text, ok)
		}
		r := placed{msg: msg, owner: off}
		if ok && !r.ownedBy(name) {
			t.Fatalf("%s is not %q", text, name)
		}
		if _, above, _ := strings.Cut(name, "."); ok && above != name && r.ownedBy(above) {
			t.Fatalf("%s is %q as well", text, above)
		}
		if ok && !r.covers("below."+name) && name != "" {
			t.Fatalf("%s does not cover what is below", text)
		}
	})
}
