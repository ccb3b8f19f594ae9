package list

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

// A long file is read in parts by several goroutines. Each entry and each fault has the
// line on which it stands all the same, wherever one part ends.
func TestPartsOfAFile(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for seed := range uint64(8) {
		draw := rand.New(rand.NewPCG(seed, 0))
		var file strings.Builder
		line, wrong := 0, []string{}
		want := map[string]int{} // by entry
		end := []string{"\n", "\r\n"}[seed%2]
		for file.Len() < 3*partSize {
			for range draw.IntN(4) {
				file.WriteString([]string{"", " ", "# comment", "\t# x"}[draw.IntN(4)] + end)
				line++
			}
			for range draw.IntN(600) {
				line++
				entry := fmt.Sprintf("user%d@a%d.example", line, line%7)
				switch line % 5 {
				case 0:
					entry = fmt.Sprintf("10.%d.%d.%d", line>>16, line>>8&255, line&255)
				case 1:
					entry = fmt.Sprintf("2001:db8:%x::/48", line&0xffff)
				}
				if draw.IntN(400) == 0 {
					wrong = append(wrong, fmt.Sprintf("l.txt:%d:3", line))
					entry = "  no entry"
				} else {
					want[strings.TrimSuffix(entry, "/48")] = line
				}
				file.WriteString(entry + end)
			}
		}
		file.WriteString("last.example")
		want["last.example"] = line + 1
		def := configs.List{Name: "l", File: "l.txt", Entries: []string{"first.example", "192.0.2.0/24"}, Position: configs.Position{File: "p.yaml", Line: 7}}
		_, told := Read(def, func(string) ([]byte, error) { return []byte(file.String()), nil })
		var got []string
		for _, err := range told {
			var f *configs.Fault
			if !errors.As(err, &f) {
				t.Fatal(err)
			}
			got = append(got, f.Position.String())
		}
		if !slices.Equal(got, wrong) {
			t.Fatalf("faults at %q, not at %q", got, wrong)
		}
		l, faults := Read(def, func(string) ([]byte, error) {
			return []byte(strings.ReplaceAll(file.String(), "  no entry", "  # nothing")), nil
		})
		if faults != nil {
			t.Fatal(faults)
		}
		for value, line := range want {
			if e, ok := l.Find(value, time.Now); !ok || e.Line != line || e.File != "l.txt" {
				t.Fatalf("%s of line %d: %+v", value, line, e)
			}
		}
		if e, ok := l.Find("192.0.2.9", time.Now); !ok || e.File != "p.yaml" || e.Line != 7 {
			t.Fatalf("of the definition: %+v", e)
		}
		n := 0
		for range l.Entries(time.Now) {
			n++
		}
		if n != len(want)+2 {
			t.Fatalf("%d entries, not %d", n, len(want)+2)
		}
	}
}

// Two values may have the same hash: only the one that is in the list is found.
func TestSameHash(t *testing.T) {
	l, faults := Read(configs.List{Name: "l", Entries: []string{"a.example", "192.0.2.1"}}, nil)
	if faults != nil {
		t.Fatal(faults)
	}
	for _, other := range []string{"b.example", "bob@b.example", "192.0.2.2", "2001:db8::1"} {
		k, err := parseKey(other)
		if err != nil {
			t.Fatal(err)
		}
		for i := range l.lines {
			clear(l.places)
			l.places[k.hash()&uint32(len(l.places)-1)] = place{hash: k.hash(), line: lineRef(i + 1)}
			if e, ok := l.Find(other, time.Now); ok {
				t.Errorf("%s is found as %s", other, e.Value)
			}
		}
	}
}

// Of two entries that are the same, the one counts that counts for longer, and the first one where both
// end alike.
func TestTheSameTwice(t *testing.T) {
	for _, value := range []string{"a.example", "a@a.example", "192.0.2.1", "192.0.2.0/24", "2001:db8::/32"} {
		for _, x := range []struct{ first, second, counts string }{
			{"one", "two", "one"},
			{"one, until 2027-01-01", "two, until 2027-01-01", "one, until 2027-01-01"},
			{"one, until 2027-01-01", "two, until 2027-01-02", "two, until 2027-01-02"},
			{"one, until 2027-01-01", "two", "two"},
			{"one", "two, until 2027-01-01", "one"},
		} {
			l, faults := Read(configs.List{Name: "l", Entries: []string{value + " # " + x.first, value + " # " + x.second}}, nil)
			if faults != nil {
				t.Fatal(faults)
			}
			sought, _, _ := strings.Cut(value, "/")
			if e, ok := l.Find(sought, func() time.Time { return time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC) }); !ok || e.Comment != x.counts {
				t.Errorf("%s # %s, and # %s: %q", value, x.first, x.second, e.Comment)
			}
		}
	}
}

// What is in no list costs nothing, and of a file that is none not everything is told.
func TestWrongFile(t *testing.T) {
	blank := []byte(strings.Repeat("\n", 1<<20))
	if n := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = Read(configs.List{Name: "l", File: "f"}, func(string) ([]byte, error) { return blank, nil })
		}
	}).AllocedBytesPerOp(); n > 4*int64(len(blank)) {
		t.Errorf("%d octets for %d blank lines", n, len(blank))
	}
	log := []byte(strings.Repeat("Nov 30 12:00:00 mx postfix/smtpd[1]: connect from unknown\n", 50000))
	l, faults := Read(configs.List{Name: "l", File: "f"}, func(string) ([]byte, error) { return log, nil })
	if l != nil || len(faults) == 0 || len(faults) > runtime.GOMAXPROCS(0)*(maxFaults+1) {
		t.Errorf("%d faults", len(faults))
	}
	if got := faults[maxFaults].Error(); got != "f:101:1: there are many more faults: is this the right file?" {
		t.Errorf("%q", got)
	}
	l, faults = Read(configs.List{Name: "l", File: "f"}, func(string) ([]byte, error) { return []byte("good.example\ncut of"), errors.New("a torn disk") })
	if l != nil || len(faults) != 1 || !strings.HasSuffix(faults[0].Error(), "list l: a torn disk") {
		t.Errorf("%v", faults)
	}
}

// A mistake of ours in one part is that of the whole, for a caller who can see to it.
func TestPanicInAPart(t *testing.T) {
	defer func() {
		if v, _ := recover().(string); !strings.Contains(v, "a mistake of ours") {
			t.Errorf("panic: %q", v)
		}
	}()
	(&List{}).read([]part{{text: slices.Values([]string{"a.example"})}, {text: func(func(string) bool) { panic("a mistake of ours") }}})
	t.Error("no panic")
}
