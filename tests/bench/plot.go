package main

import (
	"encoding/json"
	"fmt"
	"html"
	"math"
	"os"
	"strings"
)

// plot draws each figure beside its baseline, as bars whose lengths are logarithms: a step of the grid is ten times as much.
func plot(path string, lines []line) error {
	if path == "" {
		return nil
	}
	const rowHeight, left, width = 46, 330, 420
	var rows []line
	for _, l := range lines {
		if l.Baseline != nil {
			rows = append(rows, l)
		}
	}
	var b strings.Builder
	height := 40 + len(rows)*rowHeight
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 %d" font-family="system-ui, sans-serif" font-size="13">`+"\n", height)
	fmt.Fprintf(&b, `<rect width="980" height="%d" fill="#fff"/>`+"\n", height)
	for step := range 8 { // 0.1 to 1,000,000
		x := left + step*width/7
		fmt.Fprintf(&b, `<path d="M%d 24V%d" stroke="#d5dbe6"/><text x="%d" y="16" fill="#55607a" text-anchor="middle">%s</text>`+"\n", x, height-10, x, number(math.Pow10(step-1)))
	}
	bar := func(y int, v float64, colour, text string) {
		length := min(max((math.Log10(v)+1)/7, 0.004), 1) * width
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="15" rx="2" fill="%s"/><text x="%.1f" y="%d" fill="#1b2230">%s</text>`+"\n",
			left, y, length, colour, left+length+6, y+12, html.EscapeString(text))
	}
	for i, l := range rows {
		y := 30 + i*rowHeight
		name, _, _ := strings.Cut(l.Name, " (")
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#1b2230">%s</text>`+"\n", left-10, y+20, html.EscapeString(name))
		bar(y, l.Ours, "#1f5fc4", fmt.Sprintf("%s %s", number(l.Ours), l.Unit))
		bar(y+17, *l.Baseline, "#b9c4d6", fmt.Sprintf("%s  %s", number(*l.Baseline), l.Against))
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

// redraw draws what was measured before.
func redraw(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var lines []line
	if err := json.Unmarshal(text, &lines); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return plot(to, lines)
}
