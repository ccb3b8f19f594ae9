//go:build e2e

package main_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tables of what was measured.

// middle is the median, and the least and the most.
type middle struct{ median, least, most float64 }

func middleOf(values []float64) middle {
	if len(values) == 0 {
		return middle{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return middle{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// few is how many messages are too few to tell what each leaves for the collector: asking leaves some too.
const few = 1000

// benchTables has a table for each case: medians, and for the processor time also the
// ratio to HAProxy in the same repeat, with its spread.
func benchTables(all []measurement, peers []peer) string {
	var b strings.Builder
	for _, c := range theCases {
		of := func(peer string, value func(measurement) float64) (values []float64) {
			for _, m := range all {
				if m.Case == c.name && m.Peer == peer {
					values = append(values, value(m))
				}
			}
			return values
		}
		processor := func(m measurement) float64 { return m.Processor }
		if !slices.ContainsFunc(all, func(m measurement) bool { return m.Case == c.name }) {
			continue
		}
		calls := slices.ContainsFunc(all, func(m measurement) bool { return m.Case == c.name && m.Calls > 0 })
		fmt.Fprintf(&b, "\n**%s**: %s.\n\n", c.name, c.what)
		head := []string{"peer", "messages/s", "CPU µs a message", "to " + theirs + " (spread)", "p50 / p99 ms", "allocations", "octets", "peak MiB", "DNS questions"}
		if calls {
			head = append(head, "system calls")
		}
		writeRow(&b, head)
		writeRow(&b, slices.Repeat([]string{"---"}, len(head)))
		for _, p := range peers {
			if len(of(p.name, processor)) == 0 {
				continue
			}
			median := func(value func(measurement) float64) float64 { return middleOf(of(p.name, value)).median }
			row := []string{p.name, number(median(func(m measurement) float64 { return float64(m.Messages) / m.Seconds })), "-", "-",
				fmt.Sprintf("%.2f / %.2f", median(func(m measurement) float64 { return m.P50 }), median(func(m measurement) float64 { return m.P99 })), "-", "-", "-", "-"}
			if p.name != "direct" {
				row[2], row[3] = number(median(processor)), ratios(of(p.name, processor), of(theirs, processor))
				row[7] = number(median(func(m measurement) float64 { return m.Peak }))
			}
			if strings.HasPrefix(p.name, ours) {
				row[8] = number(median(func(m measurement) float64 { return m.Questions }))
			}
			if median(func(m measurement) float64 { return float64(m.Messages) }) >= few && strings.HasPrefix(p.name, ours) {
				row[5] = number(median(func(m measurement) float64 { return m.Allocations }))
				row[6] = number(median(func(m measurement) float64 { return m.Octets }))
			}
			if calls {
				row = append(row, number(median(func(m measurement) float64 { return m.Calls })))
			}
			writeRow(&b, row)
		}
	}
	return b.String()
}

// ratios compares what stands in pairs.
func ratios(these, those []float64) string {
	if len(these) != len(those) || len(these) == 0 {
		return "-"
	}
	r := make([]float64, len(these))
	for i := range these {
		r[i] = these[i] / those[i]
	}
	m := middleOf(r)
	return fmt.Sprintf("%.2f (%.2f to %.2f)", m.median, m.least, m.most)
}

// number writes a figure with as many digits as it is worth: 0.25, 84.9, 10,234.
func number(v float64) string {
	switch {
	case math.Abs(v) < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case math.Abs(v) < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func writeRow(b *strings.Builder, cells []string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// performance is the page that holds the tables.
const performance = "../../proxy/PERFORMANCE.md"

// writeSection replaces what stands between the marks of a section of the page.
func writeSection(t *testing.T, name, text string) {
	t.Helper()
	page := string(readFile(t, performance))
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	head, rest, found := strings.Cut(page, begin)
	_, tail, ends := strings.Cut(rest, end)
	if !found || !ends {
		t.Fatalf("%s has no %q with %q behind it", performance, begin, end)
	}
	if err := os.WriteFile(performance, []byte(head+begin+strings.TrimLeft(text, "\n")+"\n"+end+tail), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestE2EBenchFigures(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 9.994: "9.99", 84.94: "84.9", 999.4: "999", 1000: "1,000", -1234567: "-1,234,567", 123456: "123,456"} {
		if got := number(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
	if got := middleOf([]float64{3, 1, 2, 10}); got != (middle{2.5, 1, 10}) {
		t.Errorf("the middle is %v", got)
	}
	if got := ratios([]float64{2, 9, 4}, []float64{1, 3, 1}); got != "3.00 (2.00 to 4.00)" {
		t.Errorf("the ratios are %s", got)
	}
}
