package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

type deadLetterView struct {
	ID       string            `json:"id"`
	Consumer string            `json:"consumer"`
	Topic    string            `json:"topic"`
	Key      string            `json:"key"`
	Headers  map[string]string `json:"headers"`
	Payload  string            `json:"payload"`
	Reason   string            `json:"reason"`
	Stack    string            `json:"stack"`
	Attempts int               `json:"attempts"`
	FirstAt  time.Time         `json:"first_at"`
	LastAt   time.Time         `json:"last_at"`
}

func (a *App) deadLetters() *cobra.Command {
	c := &cobra.Command{Use: "deadletters", Short: "Show, replay and drop dead letters"}
	base := a.urlFlag(c)
	reason, all := "", false
	list := &cobra.Command{Use: "list", Short: "List all dead letters", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return a.listDeadLetters(c.Context(), *base) }}
	show := &cobra.Command{Use: "show ID", Short: "Show a dead letter as JSON", Args: Args(1), RunE: func(c *cobra.Command, args []string) error {
		var l deadLetterView
		if err := a.get(c.Context(), *base, "/v1/dead-letters/"+url.PathEscape(args[0]), &l); err != nil {
			return err
		}
		text, err := json.MarshalIndent(l, "", "  ")
		if err == nil {
			_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
		}
		return err
	}}
	replay := &cobra.Command{Use: "replay ID…", Aliases: []string{"redrive"}, Short: "Deliver dead letters to their consumers again", Args: cobra.ArbitraryArgs, RunE: func(c *cobra.Command, args []string) error {
		if all != (len(args) == 0) {
			return fmt.Errorf("%w: deadletters replay ID…, or deadletters replay --all", ErrUsage)
		}
		return a.replayDeadLetters(c.Context(), *base, args)
	}}
	replay.Flags().BoolVar(&all, "all", false, "all current dead letters")
	drop := &cobra.Command{Use: "drop ID --reason R", Short: "Drop a dead letter", Args: Args(1), RunE: func(c *cobra.Command, args []string) error {
		if strings.TrimSpace(reason) == "" {
			return fmt.Errorf("%w: deadletters drop ID --reason R: say why, it is kept with the dead letter", ErrUsage)
		}
		return a.decideDeadLetter(c.Context(), http.MethodDelete, *base+"/v1/dead-letters/"+url.PathEscape(args[0])+"?reason="+url.QueryEscape(reason))
	}}
	drop.Flags().StringVar(&reason, "reason", "", "why the message is dropped")
	return group(c, list, show, replay, drop)
}

func (a *App) listDeadLetters(ctx context.Context, base string) error {
	deadLetters, err := a.allDeadLetters(ctx, base)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "LETTER\tCONSUMER\tTYPE\tATTEMPTS\tSINCE\tREASON")
	for _, l := range deadLetters {
		reason, _, _ := strings.Cut(l.Reason, "\n")
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", l.ID, l.Consumer, l.Headers["ce_type"], l.Attempts, l.FirstAt.Format(time.RFC3339), reason)
	}
	return table.Flush()
}

// replayDeadLetters replays the dead letters with these ids, or all dead letters if ids is empty.
func (a *App) replayDeadLetters(ctx context.Context, base string, ids []string) error {
	if len(ids) == 0 {
		deadLetters, err := a.allDeadLetters(ctx, base)
		if err != nil {
			return err
		}
		for _, l := range deadLetters {
			ids = append(ids, l.ID)
		}
	}
	for _, id := range ids {
		if err := a.decideDeadLetter(ctx, http.MethodPost, base+"/v1/dead-letters/"+url.PathEscape(id)+"/redrive"); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	_, err := fmt.Fprintf(a.Stdout, "%d replayed\n", len(ids))
	return err
}

// allDeadLetters reads all dead letters, page by page.
func (a *App) allDeadLetters(ctx context.Context, base string) (all []deadLetterView, err error) {
	for cursor := ""; ; {
		var page struct {
			Letters []deadLetterView `json:"dead_letters"`
			Next    string           `json:"next_cursor"`
		}
		if err := a.get(ctx, base, "/v1/dead-letters?limit=100&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Letters...)
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
	}
}

func (a *App) decideDeadLetter(ctx context.Context, method, target string) error {
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return err
	}
	return Call(a.Client(callTimeout, nil), request, &struct{}{})
}
