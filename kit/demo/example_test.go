package demo_test

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/kit/demo"
	"github.com/millrace/millrace/kit/runner"
)

// A library lends books, and checks that none is lost.
func Example() {
	type book struct{ ID, Status string }
	lend := demo.Demo{
		Noun: "books", Short: "Lend books and check that none is lost", Statuses: []string{"lent", "refused"},
		Task: func(ctx context.Context, c demo.Client, _, _ int) (demo.Outcome, error) {
			var b book
			if err := c.Do(ctx, http.MethodPost, "/v1/books", map[string]string{"Prefer": "wait=5"}, map[string]string{"title": "Moby Dick"}, &b); err != nil {
				return demo.Outcome{}, err
			}
			err := demo.Until(ctx, 20*time.Millisecond, time.Minute, func() (bool, error) {
				err := c.Get(ctx, "/v1/books/"+b.ID, &b)
				return b.Status != "pending", err
			})
			return demo.Outcome{Status: b.Status}, err
		},
		Check: func(ctx context.Context, c demo.Client, total int) (r demo.Report, err error) {
			books, err := demo.List[book](ctx, c, "/v1/books", "books")
			if err != nil {
				return r, err
			}
			if len(books) < total {
				r.Fault("only %d of %d books are listed", len(books), total)
			}
			err = c.AtRest(ctx, &r)
			return r, err
		},
		JSON: func(r demo.Result) any { return r.ByStatus },
	}
	library := runner.Service{
		Name: "library", Title: "Library", Summary: "Books that are lent by a saga",
		CLI: func(p *runner.Program) []*cobra.Command { return []*cobra.Command{lend.Command(p)} },
	}
	runner.Run(context.Background(), library, []string{"demo", "--help"}, func(string) string { return "" }, os.Stdout, os.Stderr)
	// Output:
	// Lend books and check that none is lost
	//
	// Usage:
	//   library demo [flags]
	//
	// Flags:
	//       --books int    how many books to place (default 100)
	//   -h, --help         help for demo
	//       --json         print one JSON object
	//       --url string   a running service; without it the one that the settings name, or one that is started for the demo
}
