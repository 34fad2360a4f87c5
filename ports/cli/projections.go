package cli

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

// projections lists the read models, or rebuilds one.
func (a App) projections(ctx context.Context, args []string) error {
	args, err := a.flags("projections", args, func(*flag.FlagSet) {})
	switch {
	case err != nil:
		return err
	case len(args) == 1 && args[0] == "list":
		return a.Projections(ctx)
	case len(args) == 2 && args[0] == "rebuild":
		err := a.Rebuild(ctx, args[1], a.bar)
		if a.Interactive {
			_, _ = fmt.Fprint(a.Stderr, "\r\033[K")
		}
		return err
	}
	return fmt.Errorf("%w: projections list, or projections rebuild NAME", ErrUsage)
}

// bar shows how much is done, from 0 to 1, on a terminal.
func (a App) bar(done float64, text string) {
	if a.Interactive {
		const width = 40
		n := int(done * width)
		_, _ = fmt.Fprintf(a.Stderr, "\r[%s%s] %3.0f %%  %s\033[K", strings.Repeat("=", n), strings.Repeat(" ", width-n), 100*done, text)
	}
}
