//go:build linux

package bench

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"testing"
)

// chartQuantiles are the quantiles in the chart: the ends of a line, the ends of the box on it, and the mark in
// the box.
var chartQuantiles = []float64{0.05, 0.25, 0.5, 0.75, 0.95}

// chartWorkloads are the workloads in the chart.
var chartWorkloads = []string{"lock cycle", "contended attempt", "create and remove", "open, append, close", "stat"}

// chart draws how long operations took with each peer, on a logarithmic scale.
func chart(results []measured) []byte {
	const (
		left, width, row, top = 170, 560, 16, 40
		least, most           = 0.5, 2000.0 // microseconds
	)
	x := func(us float64) float64 {
		us = min(max(us, least), most)
		return left + width*math.Log(us/least)/math.Log(most/least)
	}
	var body bytes.Buffer
	y := top
	for _, workload := range chartWorkloads {
		fmt.Fprintf(&body, `<text x="8" y="%d" font-weight="bold">%s</text>`+"\n", y+12, workload)
		y += row
		for _, r := range results {
			if r.Workload != workload || len(r.Quantiles) != len(chartQuantiles) {
				continue
			}
			colour := "#8a8f98"
			if r.Peer == "latchfs" {
				colour = "#c2410c"
			}
			q, middle := r.Quantiles, y+row/2
			fmt.Fprintf(&body, `<text x="20" y="%d">%s</text><g stroke="%s" fill="%s"><line x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+
				`<rect x="%.1f" width="%.1f" y="%d" height="8" fill-opacity="0.5"/><line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke-width="2"/></g>`+
				`<text x="%d" y="%d" text-anchor="end">%.0f</text>`+"\n",
				middle+4, r.Peer, colour, colour, x(q[0]), x(q[4]), middle, middle,
				x(q[1]), max(x(q[3])-x(q[1]), 1), middle-4, x(q[2]), x(q[2]), middle-5, middle+5,
				left+width+40, middle+4, q[2])
			y += row
		}
		y += row / 2
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n"+
		`<rect width="100%%" height="100%%" fill="white"/>`+"\n"+
		`<text x="8" y="16" font-size="13">Microseconds an operation: median, quartiles, 5th to 95th percentile</text>`+"\n", left+width+60, y+10)
	for us := 1.0; us <= most; us *= 10 {
		fmt.Fprintf(&out, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#e5e7eb"/><text x="%.1f" y="32" text-anchor="middle">%.0f</text>`+"\n", x(us), x(us), top-4, y, x(us), us)
	}
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// TestChart checks that the chart is well-formed and has every peer once in each workload.
func TestChart(t *testing.T) {
	var results []measured
	for _, workload := range append(slices.Clone(chartWorkloads), "not drawn") {
		for _, peer := range []string{"beneath", "latchfs"} {
			results = append(results, measured{Workload: workload, Peer: peer, Quantiles: []float64{1, 2, 3, 4, 5000}})
		}
	}
	svg := chart(results)
	if err := xml.Unmarshal(svg, new(struct{})); err != nil {
		t.Error(err)
	}
	if n := bytes.Count(svg, []byte(">latchfs<")); n != len(chartWorkloads) {
		t.Errorf("latchfs is drawn %d times", n)
	}
}
