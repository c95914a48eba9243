package memory

import (
	"fmt"
	"strings"
)

// A Series is a line of a plot: what so many guests take, in MiB.
type Series struct {
	Name  string
	Color string
	MiB   map[int]float64 // by number of guests
}

// Plot draws the lines as SVG.
func Plot(title string, counts []int, series []Series) string {
	const width, height, left, right, top, bottom = 640, 400, 70, 190, 50, 50
	most := 0.0
	for _, s := range series {
		for _, v := range s.MiB {
			most = max(most, v)
		}
	}
	step := 100.0
	for most/step > 8 {
		step *= 2
	}
	most = step * float64(int(most/step)+1)
	last := counts[len(counts)-1]
	x := func(n int) float64 { return left + float64(n)/float64(last)*(width-left-right) }
	y := func(v float64) float64 { return height - bottom - v/most*(height-top-bottom) }
	var b strings.Builder
	text := func(at, down float64, anchor, words string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", at, down, anchor, words)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	text(left, 25, "start", title)
	for v := 0.0; v <= most; v += step {
		fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>`+"\n", left, y(v), width-right, y(v))
		text(left-8, y(v)+4, "end", fmt.Sprintf("%.0f", v))
	}
	for _, n := range counts {
		text(x(n), height-bottom+20, "middle", fmt.Sprint(n))
	}
	text((left+width-right)/2, height-12, "middle", "guests")
	for _, s := range series {
		var points []string
		for _, n := range counts {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(n), y(s.MiB[n])))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", x(n), y(s.MiB[n]), s.Color)
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), s.Color)
		text(x(last)+10, y(s.MiB[last])-4, "start", s.Name)
		text(x(last)+10, y(s.MiB[last])+12, "start", fmt.Sprintf("%.0f MiB", s.MiB[last]))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
