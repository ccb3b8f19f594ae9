package list

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/configs"
)

// A long file is read in parts by several goroutines. Each entry and each fault has the
// line on which it stands all the same, wherever one part ends.
func TestPartsOfAFile(t *testing.T) {
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
		l, faults := Read(configs.List{Name: "l", File: "l.txt", Entries: []string{"first.example", "192.0.2.0/24"}, Position: configs.Position{File: "p.yaml", Line: 7}},
			func(string) ([]byte, error) { return []byte(file.String()), nil })
		var got []string
		for _, err := range faults {
			var f *configs.Fault
			if !errors.As(err, &f) {
				t.Fatal(err)
			}
			got = append(got, f.Position.String())
		}
		if !slices.Equal(got, wrong) {
			t.Fatalf("faults at %q, not at %q", got, wrong)
		}
		for value, line := range want {
			if e, ok := l.Find(value, time.Now); !ok || e.Line != line || e.File != "l.txt" {
				t.Fatalf("%s of line %d: %+v", value, line, e)
			}
		}
		if e, ok := l.Find("192.0.2.9", time.Now); !ok || e.Position.String() != "p.yaml:7:0" && e.File != "p.yaml" {
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
