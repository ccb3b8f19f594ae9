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

// figure is what a table tells of a measurement.
type figure struct {
	head string
	of   func(measurement) float64 // not a number: it was not measured
}

// The figures, in the order in which the table of a case has them.
var (
	kibEach   = figure{"KiB a connection", func(m measurement) float64 { return (m.With - m.Before) * 1024 / float64(m.Waiting) }}
	mibBefore = figure{"MiB before", func(m measurement) float64 { return measured(m.Before) }}
	mibWith   = figure{"MiB with all", func(m measurement) float64 { return measured(m.With) }}
	rate      = figure{"messages/s", func(m measurement) float64 { return float64(m.Messages) / m.Seconds }}
	processor = figure{"CPU µs a message", func(m measurement) float64 { return measured(m.Processor) }}
	p50       = figure{"p50 ms", func(m measurement) float64 { return measured(m.P50) }}
	p99       = figure{"p99 ms", func(m measurement) float64 { return measured(m.P99) }}
	allocs    = figure{"allocations", func(m measurement) float64 { return ofMany(m, m.Allocations) }}
	octets    = figure{"octets", func(m measurement) float64 { return ofMany(m, m.Octets) }}
	peak      = figure{"peak MiB", func(m measurement) float64 { return measured(m.Peak) }}
	questions = figure{"DNS questions", func(m measurement) float64 {
		if m.Waiting > 0 || !strings.HasPrefix(m.Peer, ours) {
			return math.NaN()
		}
		return m.Questions
	}}
	calls   = figure{"system calls", func(m measurement) float64 { return measured(m.Calls) }}
	columns = []figure{kibEach, mibBefore, mibWith, rate, processor, p50, p99, allocs, octets, peak, questions, calls}
)

// measured is a figure that is nought where nothing was measured.
func measured(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

// ofMany is a figure that too few messages cannot tell.
func ofMany(m measurement, v float64) float64 {
	if m.Messages < few {
		return math.NaN()
	}
	return measured(v)
}

// values are a figure of a peer, a repeat each.
func (f figure) values(all []measurement, peer string) (values []float64) {
	for _, m := range all {
		if v := f.of(m); m.Peer == peer && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return values
}

// median of a peer, in words.
func (f figure) median(all []measurement, peer string) string {
	v := f.values(all, peer)
	if len(v) == 0 {
		return "-"
	}
	return number(middleOf(v).median)
}

// table is what was measured in the case: medians, and by one figure each peer as a ratio to
// another in the same repeat, with its spread.
func (c benchCase) table(all []measurement, peers []peer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**: %s.\n\n", c.name, c.what)
	peers = slices.DeleteFunc(slices.Clone(peers), func(p peer) bool {
		return !slices.ContainsFunc(all, func(m measurement) bool { return m.Peer == p.name })
	})
	rows := make([][]string, 2+len(peers))
	column := func(head string, cell func(peer string) string) {
		rows[0], rows[1] = append(rows[0], head), append(rows[1], "---")
		for i, p := range peers {
			rows[2+i] = append(rows[2+i], cell(p.name))
		}
	}
	column("peer", func(peer string) string { return peer })
	by := c.comparedBy()
	for _, f := range columns {
		if !slices.ContainsFunc(peers, func(p peer) bool { return len(f.values(all, p.name)) > 0 }) {
			continue
		}
		column(f.head, func(peer string) string { return f.median(all, peer) })
		if f.head == by.head {
			column("to "+c.beside+" (spread)", func(peer string) string { return ratios(f.values(all, peer), f.values(all, c.beside)) })
		}
	}
	for _, row := range rows {
		writeRow(&b, row)
	}
	return b.String()
}

// comparedBy is the figure by which the table of the case compares peers.
func (c benchCase) comparedBy() figure {
	if c.waiting > 0 {
		return kibEach
	}
	return processor
}

// summarised are the peers in the table of all cases.
var summarised = []string{"direct", theirs, "nginx", oldOnes, unchecked, ours}

// summaryHead is the head of the table of all cases.
func summaryHead() string {
	var b strings.Builder
	writeRow(&b, append(append([]string{"case"}, summarised...), ours+" to another", "to "+oldOnes))
	writeRow(&b, slices.Repeat([]string{"---"}, len(summarised)+3))
	return b.String()
}

// row is the case in the table of all cases.
func (c benchCase) row(all []measurement) string {
	var b strings.Builder
	var heads []string
	for _, f := range c.tells {
		heads = append(heads, f.head)
	}
	cells := []string{c.name + ": " + strings.Join(heads, "; ")}
	for _, peer := range summarised {
		var medians []string
		for _, f := range c.tells {
			medians = append(medians, f.median(all, peer))
		}
		cells = append(cells, strings.Join(medians, "; "))
	}
	mine := c.tells[0].values(all, ours)
	writeRow(&b, append(cells, ratios(mine, c.tells[0].values(all, c.beside))+" "+c.beside, ratios(mine, c.tells[0].values(all, oldOnes))))
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
	case math.IsNaN(v):
		return "-"
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

// section of the page is what stands between its marks.
func section(t *testing.T, page, name string) (head, text, tail string) {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	head, rest, found := strings.Cut(page, begin)
	text, tail, ends := strings.Cut(rest, end)
	if !found || !ends {
		t.Fatalf("%s has no %q with %q behind it", performance, begin, end)
	}
	return head + begin, text, end + tail
}

// writeSection replaces what stands between the marks of a section of the page.
func writeSection(t *testing.T, name, text string) {
	t.Helper()
	head, _, tail := section(t, string(readFile(t, performance)), name)
	if err := os.WriteFile(performance, []byte(head+strings.TrimLeft(text, "\n")+"\n"+tail), 0o600); err != nil {
		t.Fatal(err)
	}
}

// byCase is a section of the page that has a part for each case, found by the words with which it begins.
type byCase struct{ section, head, begins, between string }

var (
	summary  = byCase{"summary", summaryHead(), "| %s: ", "\n"}
	tables   = byCase{"cases", "", "**%s**: ", "\n\n"}
	profiles = byCase{"profiles", "", "**%s**: ", "\n\n"}
)

// renew replaces the part of one case and leaves the others.
func (b byCase) renew(t *testing.T, name, part string) {
	t.Helper()
	_, old, _ := section(t, string(readFile(t, performance)), b.section)
	writeSection(t, b.section, b.renewed(old, name, part))
}

func (b byCase) renewed(old, name, part string) string {
	parts, at := map[string]string{}, ""
	for line := range strings.Lines(old) {
		if i := slices.IndexFunc(theCases, func(c benchCase) bool { return strings.HasPrefix(line, fmt.Sprintf(b.begins, c.name)) }); i >= 0 {
			at = theCases[i].name
		}
		parts[at] += line
	}
	parts[name] = part
	var all []string
	for _, c := range theCases {
		if part := strings.Trim(parts[c.name], "\n"); part != "" {
			all = append(all, part)
		}
	}
	return b.head + strings.Join(all, b.between) + "\n"
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
	a, c := "| a: x | 1 |", "| c: x | 2 |"
	page := summary.renewed("", "c", c+"\n")
	page = summary.renewed(page, "a", "| a: x | 0 |\n")
	if page = summary.renewed(page, "a", a+"\n"); page != summaryHead()+a+"\n"+c+"\n" {
		t.Errorf("the table of all cases:\n%s", page)
	}
	if got := ratios([]float64{2, 9, 4}, []float64{1, 3, 1}); got != "3.00 (2.00 to 4.00)" {
		t.Errorf("the ratios are %s", got)
	}
}
