package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"
)

// redrawEvery is the time between two updates of a live table.
const redrawEvery = 100 * time.Millisecond

// Bar returns a progress bar with a width in characters, without its brackets. Done is from 0 to 1.
func Bar(done float64, width int) string {
	n := max(0, min(width, int(done*float64(width))))
	return "[" + strings.Repeat("=", n) + strings.Repeat(" ", width-n) + "]"
}

// Live redraws a table on the terminal every 100 ms, until stop is called or ctx is done. Stop must be called once; it removes the table, unless ctx
// is done. Table returns whole lines. Live does nothing if Interactive is false.
func (a *App) Live(ctx context.Context, table func() []byte) (stop func()) {
	if !a.Interactive {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		drawn := 0
		for last := false; ; {
			lines := table()
			if drawn > 0 {
				_, _ = fmt.Fprintf(a.Stderr, "\033[%dA", drawn) // up to its first line
			}
			drawn = bytes.Count(lines, []byte("\n"))
			_, _ = a.Stderr.Write(bytes.ReplaceAll(lines, []byte("\n"), []byte("\033[K\n")))
			if last {
				_, _ = fmt.Fprintf(a.Stderr, "\033[%dA\033[J", drawn)
				return
			}
			select {
			case <-done:
				last = true
			case <-ctx.Done():
				return
			case <-time.After(redrawEvery):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// bar shows the progress, from 0 to 1, on the terminal.
func (a *App) bar(done float64, text string) {
	if a.Interactive {
		_, _ = fmt.Fprintf(a.Stderr, "\r%s %3.0f %%  %s\033[K", Bar(done, 40), 100*done, text)
	}
}
