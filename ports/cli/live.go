package cli

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
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

// showProgress keeps a table up to date on a terminal until the returned function is called.
func (d *demo) showProgress(ctx context.Context) (stop func()) {
	if !d.app.Interactive {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		drawn := 0
		for last := false; ; {
			table := d.table()
			if drawn > 0 {
				_, _ = fmt.Fprintf(d.app.Stderr, "\033[%dA", drawn) // up to its first line
			}
			drawn = bytes.Count(table, []byte("\n"))
			_, _ = d.app.Stderr.Write(table)
			if last {
				_, _ = fmt.Fprintf(d.app.Stderr, "\033[%dA\033[J", drawn) // the result says it again
				return
			}
			select {
			case <-done:
				last = true
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// table is what is known so far; each line ends what stood there before.
func (d *demo) table() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	decided := int(d.decided.Load())
	const width = 40
	var out bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\033[K\n", args...) }
	line("[%-*s] %d of %d decided, %.0f s", width, bar(width*decided/d.total), decided, d.total, time.Since(d.began).Seconds())
	line("  in flight %6d", int(d.placed.Load())-decided)
	line("  confirmed %6d", d.byStatus["confirmed"])
	line("  undone    %6d", d.byStatus["cancelled"])
	for _, reason := range slices.Sorted(maps.Keys(d.byReason)) {
		line("    %6d  %s", d.byReason[reason], reason)
	}
	for _, h := range d.happened {
		line("  %5.1f s  %s", h.At, h.What)
	}
	return out.Bytes()
}

func bar(n int) string { return string(bytes.Repeat([]byte("#"), n)) }
