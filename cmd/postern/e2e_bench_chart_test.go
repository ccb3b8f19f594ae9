//go:build e2e

package main_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

// A chart of several diagrams as SVG, in colours that can be read on white and on black.

const (
	panelWidth, panelHeight                             = 410.0, 250.0
	marginLeft, marginRight, marginTop, marginBelowAxis = 66.0, 30.0, 48.0, 44.0
)

var colours = []string{"#3584c4", "#cf6a1a", "#4c9a50"}

// drawPanels draws diagrams in two columns: x on a logarithmic scale, y from zero on.
func drawPanels(panels []panel) string {
	var b strings.Builder
	rows := (len(panels) + 1) / 2
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11" fill="#808080">`+"\n",
		2*panelWidth, float64(rows)*panelHeight)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%.0f %.0f)">`+"\n", float64(i%2)*panelWidth, float64(i/2)*panelHeight)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws one diagram from the origin on.
func (p panel) draw(b *strings.Builder) {
	least, most, top := math.Inf(1), math.Inf(-1), 0.0
	for _, c := range p.curves {
		for _, m := range c.marks {
			least, most, top = min(least, m[0]), max(most, m[0]), max(top, m[1])
		}
	}
	step := roundStep(top)
	top = math.Ceil(top/step) * step
	width, height := panelWidth-marginLeft-marginRight, panelHeight-marginTop-marginBelowAxis
	x := func(v float64) float64 {
		return marginLeft + width*(math.Log10(v)-math.Log10(least))/max(math.Log10(most)-math.Log10(least), 1e-9)
	}
	y := func(v float64) float64 { return marginTop + height*(1-v/top) }
	text := func(atX, atY float64, anchor, more, words string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", atX, atY, anchor, more, words)
	}
	text(marginLeft, 16, "start", ` font-weight="bold"`, p.title)
	for v := 0.0; v <= top+step/2; v += step {
		fmt.Fprintf(b, `<path d="M%.1f %.1fh%.1f" stroke="#808080" stroke-opacity="0.3"/>`+"\n", marginLeft, y(v), width)
		text(marginLeft-6, y(v)+4, "end", "", count(int(v)))
	}
	text(4, marginTop-14, "start", "", p.y)
	for v := math.Pow(10, math.Floor(math.Log10(least))); v <= most*1.001; v *= 10 {
		if v >= least*0.999 {
			fmt.Fprintf(b, `<path d="M%.1f %.1fv4" stroke="#808080"/>`+"\n", x(v), y(0))
			text(x(v), y(0)+17, "middle", "", count(int(math.Round(v))))
		}
	}
	text(marginLeft+width/2, y(0)+34, "middle", "", p.x)
	for i, c := range p.curves {
		colour := colours[i%len(colours)]
		var d strings.Builder
		for j, m := range c.marks {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(j, 1)], x(m[0]), y(m[1]))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(m[0]), y(m[1]), colour)
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", d.String(), colour)
		if c.name != "" {
			at := marginLeft + float64(i)*width*0.29
			fmt.Fprintf(b, `<path d="M%.1f 28h14" stroke="%s" stroke-width="2"/>`+"\n", at, colour)
			text(at+18, 32, "start", "", c.name)
		}
	}
}

// roundStep is 1, 2 or 5 times a power of ten, so that four to ten of them reach v.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	ten := math.Pow(10, math.Floor(math.Log10(v/4)))
	for _, n := range []float64{5, 2} {
		if v/4 >= n*ten {
			return n * ten
		}
	}
	return ten
}

// A chart is XML, has a curve for each series, and nothing outside of its frame.
func TestE2EBenchChart(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, 1: 0.2, 7: 1, 9999: 2000, 250: 50} {
		if got := roundStep(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("steps of %v for %v, want %v", got, v, want)
		}
	}
	drawn := drawGrowth(map[string][]mark{
		atWork: {{1, 400, 900}, {10, 1400, 500}, {10000, 1500, 450}}, mostlyIdle: {{1, 400, 900}, {100, 1400, 500}},
		withRules: {{1, 1, 500}, {1000, 1, 900}}, withEntries: {{10, 1, 500}, {1000000, 1, 510}},
	})
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(drawn)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, drawn)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
			for _, a := range e.Attr {
				var v float64
				if a.Name.Local == "fill" {
					continue
				}
				if _, err := fmt.Sscan(a.Value, &v); err != nil || v < 0 || v > panelWidth {
					t.Errorf("a point at %s", a.Value)
				}
			}
		}
	}
	if want := 2*(3+2) + 2 + 2; circles != want {
		t.Errorf("%d points, want %d", circles, want)
	}
}
