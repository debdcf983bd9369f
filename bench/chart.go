package main

import (
	"fmt"
	"strings"

	"github.com/go-resilient/resilient/internal/storm"
)

// Pictures are the charts, by file name.
func (r *Report) Pictures() map[string]string {
	files := map[string]string{
		"comparison-overhead.svg": r.costs(),
		"comparison-safety.svg":   r.fates(),
	}
	if len(r.Seconds) > 0 {
		files["comparison-storm.svg"] = storm.Chart(r.Sizes.Storms[0], r.Seconds)
	}
	return files
}

// Bars, in pixels.
const (
	nameWide, barWide       = 220, 190
	barHigh, barStep        = 11, 18
	chartTop, chartStepX    = 64, barWide + 130
	legendLeft, legendStepX = 12, 160
)

// The colours can be told apart by the colour-blind too; their edges can be seen
// on white and on black.
const barStyle = `<style>
text{font:12px system-ui,sans-serif;fill:#333}.t,.us{font-weight:600}.r{text-anchor:end}rect{stroke:#888;stroke-width:.6}
.b0{fill:#2f7ed8}.b1{fill:#b8420c}.b2{fill:#4b2a6b}.b3{fill:#e3c200}.b4{fill:#999}
@media(prefers-color-scheme:dark){text{fill:#ccc}}
</style>
`

// barChart is rows of stacked bars in some panels side by side.
type barChart struct {
	title  string
	legend []string
	peers  []Peer
	panels []barPanel
}

type barPanel struct {
	title string
	top   float64     // the value of a whole bar's length
	bars  [][]float64 // of each peer, its parts
	tell  func(parts []float64) string
}

func (c barChart) draw() string {
	var b strings.Builder
	wide, high := nameWide+len(c.panels)*chartStepX, chartTop+len(c.peers)*barStep+10
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", wide, high, wide, high)
	fmt.Fprintf(&b, "<title>%s</title>\n%s", c.title, barStyle)
	for i, text := range c.legend {
		x := legendLeft + i*legendStepX
		fmt.Fprintf(&b, `<rect class="b%d" x="%d" y="8" width="24" height="11"/><text x="%d" y="18">%s</text>`, i, x, x+30, text)
	}
	b.WriteString("\n")
	for i, p := range c.peers {
		class := "r"
		if p.Name == ours {
			class = "r us"
		}
		fmt.Fprintf(&b, `<text class="%s" x="%d" y="%d">%s</text>`, class, nameWide-8, chartTop+i*barStep+barHigh-1, p.Name)
	}
	for n, panel := range c.panels {
		fmt.Fprintf(&b, "\n"+`<g transform="translate(%d %d)"><text class="t" y="-12">%s</text>`, nameWide+n*chartStepX, chartTop, panel.title)
		for i, parts := range panel.bars {
			panel.bar(&b, i*barStep, parts)
		}
		b.WriteString("</g>")
	}
	b.WriteString("\n</svg>\n")
	return b.String()
}

func (p *barPanel) bar(b *strings.Builder, y int, parts []float64) {
	x := 0.0
	for i, part := range parts {
		long := min(max(0, part)*barWide/p.top, barWide-x)
		if long > 0 {
			fmt.Fprintf(b, `<rect class="b%d" x="%.1f" y="%d" width="%.1f" height="%d"/>`, i, x, y, long, barHigh)
		}
		x += long
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`, x+4, y+barHigh-1, p.tell(parts))
}

// costs has the time above net/http. Its bars end where the costly would make
// all others look alike; the figure stands beside them.
func (r *Report) costs() string {
	panel := func(title string, from []Overhead) barPanel {
		p := barPanel{title: title, tell: func(parts []float64) string { return micro(parts[0]) + " µs" }}
		var medians []float64
		for _, o := range from {
			p.bars = append(p.bars, []float64{o.Time.Median})
			medians = append(medians, o.Time.Median)
		}
		p.top = max(1, quantile(medians, 3, 4))
		return p
	}
	return barChart{
		peers:  r.Peers,
		title:  "What clients cost above net/http where nothing fails, over a stub",
		legend: []string{"above net/http; bars that reach the edge are longer"},
		panels: []barPanel{panel("GET", r.Get), panel("POST of 1 KiB", r.Post)},
	}.draw()
}

func (r *Report) fates() string {
	c := barChart{
		peers:  r.Payers,
		title:  "What becomes of payments while faults strike, by client: how often they are done, and what is told",
		legend: []string{"once, and told so", "twice or more", "once, told an error", "told “unknown”", "not done"},
	}
	for n, s := range chargings {
		if s.Struck != grave {
			continue // the differences are the same, and smaller
		}
		p := barPanel{title: s.Name, top: 100, tell: func([]float64) string { return "" }}
		for _, t := range r.Chargings[n] {
			var parts []float64
			for _, n := range t.Fates {
				parts = append(parts, t.percent(n))
			}
			p.bars = append(p.bars, parts)
		}
		c.panels = append(c.panels, p)
	}
	return c.draw()
}
