package dnscache

import (
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func entryOf(text string) *entry {
	e := &entry{text: []string{text}}
	e.shown = e.show()
	return e
}

// What is kept of the answers of one transaction is bounded in octets: who
// publishes answers of 64 KiB is named, and his data are left off.
func TestTraceIsBoundedByOctets(t *testing.T) {
	var tr Trace
	now := time.Unix(1e9, 0)
	add := func(name string, e *entry) {
		tr.record(question{name: name, rrtype: rrtype(dns.TypeTXT)}, e, SourceNetwork, now, 0, "")
	}
	for range 2 * maxTrace {
		add("big.example", entryOf(strings.Repeat("x", 30_000)))
		add("small.example", entryOf("v=spf1 -all"))
	}
	size, left := 0, 0
	got := tr.Answers()
	for _, a := range got {
		size += len(a.Name)
		for _, text := range a.Answer {
			size += len(text)
		}
		if a.LeftOff > 0 {
			left++
			if len(a.Answer) > 0 || a.LeftOff != 30_000 {
				t.Fatalf("%+v", a)
			}
		}
	}
	if len(got) != maxTrace || size > maxTraceSize || left != maxTrace/2-1 {
		t.Errorf("%d answers with %d octets, %d without data", len(got), size, left)
	}
}
