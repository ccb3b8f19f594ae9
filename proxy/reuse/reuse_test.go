package reuse

import (
	"bytes"
	"testing"
)

// kept is a value with all that a value may have.
type kept struct {
	octets []byte
	name   string
	sizes  [3]int
	again  []kept
	next   *kept
	buffer bytes.Buffer
}

// A value is used again as it was put back; in a poisoned build nobody ever sees it again,
// and who kept a part of it sees that.
func TestPool(t *testing.T) {
	p := Pool[kept]{New: func() *kept { return &kept{octets: make([]byte, 0, 8)} }}
	v := p.Take()
	v.octets = append(v.octets, "hello"...)
	v.buffer.WriteString("behind a method")
	v.again = append(v.again, kept{name: "within"})
	octets, written, again := v.octets, v.buffer.Bytes(), v.again
	v.octets, v.sizes[1], v.name, v.next = v.octets[:0], 7, "x", new(kept)
	p.Put(v)

	if !poisoned {
		if string(octets) != "hello" || string(written) != "behind a method" || again[0].name != "within" || v.sizes[1] != 7 {
			t.Errorf("a value was changed when it was put back: %q %q %+v %+v", octets, written, again, v)
		}
		return
	}
	if bytes.ContainsAny(octets, "helo") || bytes.Contains(written, []byte("method")) {
		t.Errorf("octets can be read after they were put back: %q, %q", octets, written)
	}
	if again[0].name == "within" || v.name == "x" || v.sizes[1] == 7 || v.next != nil {
		t.Errorf("a value can be read after it was put back: %+v, %+v", again, v)
	}
	if w := p.Take(); w == v {
		t.Error("a spoilt value came again")
	}
}
