package storm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Panel is one run to be drawn.
type Panel struct {
	Title   string
	Seconds []Second
}

// A panel, and what lies around it, in pixels.
const (
	panelWide, panelHigh = 330, 110
	panelLeft, panelTop  = 52, 34
	panelStepX           = panelLeft + panelWide + 12
	panelStepY           = panelTop + panelHigh + 26
	panelEdge            = 8 // half of the last second's label
	headHigh             = 40
)

// Colours that can be told apart, by the colour-blind too, on white and on black.
const chartStyle = `<style>
text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600}.r{text-anchor:end}.m{text-anchor:middle}
.a{fill:none;stroke:#d9730d;stroke-width:1.4}.d{fill:#2f7ed8;fill-opacity:.35;stroke:#2f7ed8;stroke-width:1.4}
.x{fill:#888;fill-opacity:.18}.g{stroke:#888;stroke-opacity:.35}.c{stroke:#888;stroke-dasharray:4 3}
@media(prefers-color-scheme:dark){text{fill:#ccc}}
</style>
`

// Chart draws one panel for each policy, two in a row, all to one scale: the
// requests that reach the server, and below them what comes of it. It is SVG.
func Chart(s Situation, panels []Panel) string {
	var b strings.Builder
	rows := (len(panels) + 1) / 2
	wide, high := 2*panelStepX+panelEdge, headHigh+rows*panelStepY
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", wide, high, wide, high)
	fmt.Fprintf(&b, "<title>%s: what reaches the server each second and what is done, by policy</title>\n", s.Name)
	b.WriteString(chartStyle)
	fmt.Fprintf(&b, `<path class="a" d="M%d 14h24"/><text x="%d" y="18">requests at the server, a second</text>`, panelLeft, panelLeft+30)
	fmt.Fprintf(&b, `<rect class="d" x="300" y="8" width="24" height="11"/><text x="330" y="18">operations done</text>`)
	fmt.Fprintf(&b, `<rect class="x" x="450" y="8" width="24" height="11"/><text x="480" y="18">the trouble</text>`)
	fmt.Fprintf(&b, `<path class="c" d="M580 14h24"/><text x="610" y="18">all the server can do</text>`+"\n")
	top := scale(panels)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`, panelLeft+i%2*panelStepX, headHigh+panelTop+i/2*panelStepY)
		p.draw(&b, s, top)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// scale is the least whole thousand above everything drawn.
func scale(panels []Panel) int {
	most := 0
	for _, p := range panels {
		busiest := slices.MaxFunc(p.Seconds, func(a, b Second) int { return cmp.Compare(a.Arrived, b.Arrived) })
		most = max(most, busiest.Arrived)
	}
	return (most/1000 + 1) * 1000
}

func (p *Panel) draw(b *strings.Builder, s Situation, top int) {
	x := func(second float64) float64 { return second * panelWide / float64(len(p.Seconds)) }
	y := func(n float64) float64 { return panelHigh - n*panelHigh/float64(top) }
	from, lasts := s.Before.Seconds(), s.During.Seconds()
	fmt.Fprintf(b, `<text class="t" y="-8">%s</text>`, p.Title)
	fmt.Fprintf(b, `<rect class="x" x="%.1f" width="%.1f" height="%d"/>`, x(from), x(lasts), panelHigh)
	for n := 0; n <= top; n += 1000 {
		fmt.Fprintf(b, `<path class="g" d="M0 %.1fH%d"/><text class="r" x="-6" y="%.1f">%d</text>`, y(float64(n)), panelWide, y(float64(n))+4, n)
	}
	every := 60
	if len(p.Seconds) < 2*every {
		every = 15
	}
	for second := 0; second <= len(p.Seconds); second += every {
		fmt.Fprintf(b, `<text class="m" x="%.1f" y="%d">%d s</text>`, x(float64(second)), panelHigh+16, second)
	}
	fmt.Fprintf(b, `<path class="c" d="M0 %.1fH%d"/>`, y(s.Server.capacity()), panelWide)
	done, arrived := fmt.Sprintf("M0 %d", panelHigh), ""
	for i, second := range p.Seconds {
		at := x(float64(i) + 0.5)
		done += fmt.Sprintf("L%.1f %.1f", at, y(float64(second.Done)))
		arrived += fmt.Sprintf("L%.1f %.1f", at, y(float64(second.Arrived)))
	}
	fmt.Fprintf(b, `<path class="d" d="%sL%d %dZ"/>`, done, panelWide, panelHigh)
	fmt.Fprintf(b, `<path class="a" d="M%s"/>`, arrived[1:])
}

// capacity is requests a second.
func (s *Server) capacity() float64 { return float64(s.Workers) / s.Service.Seconds() }
