package demo

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cli"
)

// happening is something that the demo did or saw, and when.
type happening struct {
	At   float64 `json:"at"` // seconds since it began
	What string  `json:"what"`
}

func (d *demo) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.happened = append(d.happened, happening{round(time.Since(d.began).Seconds()), fmt.Sprintf(format, args...)})
}

// table is what is known so far.
func (d *demo) table() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	decided := int(d.decided.Load())
	const width = 40
	var out bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	line("%s %d of %d decided, %.0f s", cli.Bar(float64(decided)/float64(d.total), width), decided, d.total, time.Since(d.began).Seconds())
	line("  in flight %6d", int(d.placed.Load())-decided)
	line("  confirmed %6d", d.byStatus["confirmed"])
	line("  cancelled %6d", d.byStatus["cancelled"])
	for _, reason := range slices.Sorted(maps.Keys(d.byReason)) {
		line("    %6d  %s", d.byReason[reason], reason)
	}
	for _, h := range d.happened {
		line("  %5.1f s  %s", h.At, h.What)
	}
	return out.Bytes()
}
