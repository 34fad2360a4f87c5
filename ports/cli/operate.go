package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
)

// callTimeout bounds a call to the service.
const callTimeout = 30 * time.Second

// get asks a running instance.
func (a App) get(ctx context.Context, base, path string, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	return call(a.client(callTimeout, nil), request, v)
}

// call sends a request, and turns problem details into an error.
func call(client *http.Client, request *http.Request, v any) error {
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("no answer; is the service running? %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		var problem struct{ Detail string }
		if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
			return fmt.Errorf("%s: %s", response.Status, problem.Detail)
		}
		return fmt.Errorf("%s %s: %s", request.Method, request.URL, response.Status)
	}
	return json.Unmarshal(body, v)
}

type sagaView struct {
	ID         string     `json:"saga_id"`
	Definition string     `json:"definition"`
	Version    int        `json:"definition_version"`
	Subject    string     `json:"subject"`
	Status     string     `json:"status"`
	Reason     string     `json:"reason"`
	StartedAt  time.Time  `json:"started_at"`
	EndedAt    *time.Time `json:"ended_at"`
	Steps      []struct {
		Name      string     `json:"name"`
		Status    string     `json:"status"`
		Attempts  int        `json:"attempts"`
		StartedAt *time.Time `json:"started_at"`
		EndedAt   *time.Time `json:"ended_at"`
		Reason    string     `json:"reason"`
		InsteadOf string     `json:"instead_of"`
	} `json:"steps"`
}

func (a App) sagas(ctx context.Context, args []string) error {
	base, status, reason := a.URL, "", ""
	usage := fmt.Errorf("%w: sagas list [--status S] | show ID | retry ID | skip ID --reason R | resolve ID --reason R | diagram NAME, each with [--url U]", ErrUsage)
	if len(args) == 0 {
		return usage
	}
	rest, err := a.flags("sagas "+args[0], args[1:], func(f *flag.FlagSet) {
		f.StringVar(&base, "url", base, "the service")
		f.StringVar(&status, "status", "", "running, compensating, completed, compensated or stuck")
		f.StringVar(&reason, "reason", "", "why, for the saga's history")
	})
	switch {
	case err != nil:
		return err
	case args[0] == "list" && len(rest) == 0:
		return a.listSagas(ctx, base, status)
	case args[0] == "show" && len(rest) == 1:
		return a.showSaga(ctx, base, rest[0])
	case (args[0] == "retry" || args[0] == "skip" || args[0] == "resolve") && len(rest) == 1:
		return a.operateSaga(ctx, base, args[0], rest[0], reason)
	case args[0] == "diagram" && len(rest) == 1:
		diagram, err := a.Diagram(rest[0])
		if err == nil {
			_, err = fmt.Fprint(a.Stdout, diagram)
		}
		return err
	}
	return usage
}

func (a App) operateSaga(ctx context.Context, base, action, id, reason string) error {
	var body []byte
	if action != "retry" { // which needs no reason
		var err error
		if body, err = json.Marshal(map[string]string{"reason": reason}); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/sagas/"+url.PathEscape(id)+"/"+action, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	var s sagaView
	if err := call(a.client(callTimeout, nil), request, &s); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "saga %s is %s\n", s.ID, s.Status)
	return err
}

func (a App) listSagas(ctx context.Context, base, status string) error {
	var page struct {
		Sagas []sagaView `json:"sagas"`
		Next  string     `json:"next_cursor"`
	}
	if err := a.get(ctx, base, "/v1/sagas?limit=100&status="+url.QueryEscape(status), &page); err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SAGA\tDEFINITION\tSUBJECT\tSTATUS\tSTARTED\tREASON")
	for _, s := range page.Sagas {
		_, _ = fmt.Fprintf(table, "%s\t%s v%d\t%s\t%s\t%s\t%s\n", s.ID, s.Definition, s.Version, s.Subject, s.Status, s.StartedAt.Format(time.RFC3339), s.Reason)
	}
	if page.Next != "" {
		_, _ = fmt.Fprintln(table, "… and older ones")
	}
	return table.Flush()
}

func (a App) showSaga(ctx context.Context, base, id string) error {
	var s sagaView
	if err := a.get(ctx, base, "/v1/sagas/"+url.PathEscape(id), &s); err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "saga\t%s\ndefinition\t%s v%d\nsubject\t%s\nstatus\t%s\n", s.ID, s.Definition, s.Version, s.Subject, s.Status)
	if s.Reason != "" {
		_, _ = fmt.Fprintf(table, "reason\t%s\n", s.Reason)
	}
	_, _ = fmt.Fprintln(table, "\nSTEP\tSTATUS\tATTEMPTS\tSTARTED\tTOOK\tREASON")
	for _, step := range s.Steps {
		started, took := "", ""
		if step.InsteadOf != "" {
			step.Name += " (instead of " + step.InsteadOf + ")"
		}
		if step.StartedAt != nil {
			started = step.StartedAt.Format(time.RFC3339Nano)
			if step.EndedAt != nil {
				took = step.EndedAt.Sub(*step.StartedAt).Round(time.Millisecond).String()
			}
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", step.Name, step.Status, step.Attempts, started, took, step.Reason)
	}
	return table.Flush()
}

type letterView struct {
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

func (a App) deadLetters(ctx context.Context, args []string) error {
	base, reason, all := a.URL, "", false
	usage := fmt.Errorf("%w: deadletters list | show ID | redrive ID… | redrive --all | drop ID --reason R (replay means redrive), each with [--url U]", ErrUsage)
	if len(args) == 0 {
		return usage
	}
	rest, err := a.flags("deadletters "+args[0], args[1:], func(f *flag.FlagSet) {
		f.StringVar(&base, "url", base, "the service")
		f.StringVar(&reason, "reason", "", "why a message is given up")
		f.BoolVar(&all, "all", false, "redrive all there are now")
	})
	switch {
	case err != nil:
		return err
	case args[0] == "list" && len(rest) == 0:
		letters, err := a.letters(ctx, base)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "LETTER\tCONSUMER\tTYPE\tATTEMPTS\tSINCE\tREASON")
		for _, l := range letters {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", l.ID, l.Consumer, l.Headers["ce_type"], l.Attempts, l.FirstAt.Format(time.RFC3339), firstLine(l.Reason))
		}
		return table.Flush()
	case args[0] == "show" && len(rest) == 1:
		var l letterView
		if err := a.get(ctx, base, "/v1/dead-letters/"+url.PathEscape(rest[0]), &l); err != nil {
			return err
		}
		text, err := json.MarshalIndent(l, "", "  ")
		if err == nil {
			_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
		}
		return err
	case (args[0] == "redrive" || args[0] == "replay") && all == (len(rest) == 0):
		if all {
			letters, err := a.letters(ctx, base)
			if err != nil {
				return err
			}
			for _, l := range letters {
				rest = append(rest, l.ID)
			}
		}
		for _, id := range rest {
			if err := a.takeLetter(ctx, http.MethodPost, base+"/v1/dead-letters/"+url.PathEscape(id)+"/redrive"); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
		}
		_, err := fmt.Fprintf(a.Stdout, "%d on their way again\n", len(rest))
		return err
	case args[0] == "drop" && len(rest) == 1:
		if strings.TrimSpace(reason) == "" {
			return fmt.Errorf("%w: deadletters drop ID --reason R: say why, it is kept with the letter", ErrUsage)
		}
		return a.takeLetter(ctx, http.MethodDelete, base+"/v1/dead-letters/"+url.PathEscape(rest[0])+"?reason="+url.QueryEscape(reason))
	}
	return usage
}

// letters lists all dead letters.
func (a App) letters(ctx context.Context, base string) (all []letterView, err error) {
	for cursor := ""; ; {
		var page struct {
			Letters []letterView `json:"dead_letters"`
			Next    string       `json:"next_cursor"`
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

func (a App) takeLetter(ctx context.Context, method, target string) error {
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return err
	}
	return call(a.client(callTimeout, nil), request, &struct{}{})
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// asyncapi prints the description of the messages.
func (a App) asyncapi(_ context.Context, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: asyncapi takes no arguments", ErrUsage)
	}
	text, err := a.AsyncAPI()
	if err == nil {
		_, err = a.Stdout.Write(text)
	}
	return err
}
