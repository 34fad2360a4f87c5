package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// callTimeout limits a call to the service.
const callTimeout = 30 * time.Second

// get reads from a running instance of the service.
func (a *App) get(ctx context.Context, base, path string, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	return Call(a.Client(callTimeout, nil), request, v)
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
	Steps      []stepView `json:"steps"`
	Parent     *struct {
		ID   string `json:"saga_id"`
		Step string `json:"step"`
	} `json:"parent"`
}

type stepView struct {
	Name      string         `json:"name"`
	Status    string         `json:"status"`
	Attempts  int            `json:"attempts"`
	StartedAt *time.Time     `json:"started_at"`
	EndedAt   *time.Time     `json:"ended_at"`
	Deadline  *time.Time     `json:"deadline"`
	Reason    string         `json:"reason"`
	InsteadOf string         `json:"instead_of"`
	Stage     int            `json:"stage"`
	Stuck     bool           `json:"stuck"`
	Signal    string         `json:"signal"`
	Event     string         `json:"event"`
	EventKey  string         `json:"event_key"`
	Items     map[string]int `json:"items"`
	InFlight  []stepView     `json:"in_flight"`
}

// urlFlag adds the flag for the service's URL.
func (a *App) urlFlag(c *cobra.Command) *string {
	return c.PersistentFlags().String("url", a.URL, "the service's URL")
}

func (a *App) sagas() *cobra.Command {
	c := &cobra.Command{Use: "sagas", Short: "Show sagas, and retry, skip or resolve stuck ones"}
	base := a.urlFlag(c)
	status, reason, step := "", "", ""
	list := &cobra.Command{Use: "list", Short: "List the newest sagas", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return a.listSagas(c.Context(), *base, status) }}
	list.Flags().StringVar(&status, "status", "", "running, compensating, completed, compensated or stuck")
	show := &cobra.Command{Use: "show ID", Short: "Show a saga with its steps", Args: Args(1), RunE: func(c *cobra.Command, args []string) error { return a.showSaga(c.Context(), *base, args[0]) }}
	diagram := &cobra.Command{Use: "diagram NAME", Short: "Print a definition as a Mermaid diagram", Args: Args(1), RunE: func(_ *cobra.Command, args []string) error {
		diagram, err := a.Diagram(args[0])
		if err == nil {
			_, err = fmt.Fprint(a.Stdout, diagram)
		}
		return err
	}}
	operate := func(action, use, short string) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: Args(1), RunE: func(c *cobra.Command, args []string) error {
			return a.operateSaga(c.Context(), *base, action, args[0], reason, step)
		}}
		c.Flags().StringVar(&step, "step", "", "the stuck step, or item of a step ('send parcel#3'); needed if several are stuck")
		if action != "retry" {
			c.Flags().StringVar(&reason, "reason", "", "why; it is kept in the saga's history")
		}
		return c
	}
	payload := ""
	signal := &cobra.Command{Use: "signal ID NAME --payload JSON", Short: "Send a signal to a saga that waits for it", Args: Args(2), RunE: func(c *cobra.Command, args []string) error {
		return a.signalSaga(c.Context(), *base, args[0], args[1], payload)
	}}
	signal.Flags().StringVar(&payload, "payload", "{}", "the payload, a JSON object")
	unmatched := &cobra.Command{Use: "unmatched", Short: "List the newest events that no saga waits for, or not yet", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.listUnmatched(c.Context(), *base)
	}}
	return group(c, list, unmatched, show, diagram, signal, operate("retry", "retry ID", "Try the step of a stuck saga again"),
		operate("skip", "skip ID --reason R", "Take the step of a stuck saga as done"), operate("resolve", "resolve ID --reason R", "End a stuck saga"))
}

func (a *App) signalSaga(ctx context.Context, base, id, name, payload string) error {
	path := "/v1/sagas/" + url.PathEscape(id) + "/signals/" + url.PathEscape(name)
	return a.postSaga(ctx, base+path, []byte(payload))
}

func (a *App) operateSaga(ctx context.Context, base, action, id, reason, step string) error {
	decision := map[string]string{}
	if action != "retry" { // a retry needs no reason
		decision["reason"] = reason
	}
	if step != "" {
		decision["step"] = step
	}
	body, err := json.Marshal(decision)
	if err != nil {
		return err
	}
	return a.postSaga(ctx, base+"/v1/sagas/"+url.PathEscape(id)+"/"+action, body)
}

// postSaga sends a request whose response is a saga, and prints the saga's status.
func (a *App) postSaga(ctx context.Context, address string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	var s sagaView
	if err := Call(a.Client(callTimeout, nil), request, &s); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "saga %s: accepted; its status is now %s\n", s.ID, s.Status)
	return err
}

func (a *App) listSagas(ctx context.Context, base, status string) error {
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

func (a *App) showSaga(ctx context.Context, base, id string) error {
	var s sagaView
	if err := a.get(ctx, base, "/v1/sagas/"+url.PathEscape(id), &s); err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "saga\t%s\ndefinition\t%s v%d\nsubject\t%s\nstatus\t%s\n", s.ID, s.Definition, s.Version, s.Subject, s.Status)
	if s.Reason != "" {
		_, _ = fmt.Fprintf(table, "reason\t%s\n", s.Reason)
	}
	if s.Parent != nil {
		_, _ = fmt.Fprintf(table, "child of\tsaga %s, step %s\n", s.Parent.ID, s.Parent.Step)
	}
	stages := map[int]int{}
	for _, step := range s.Steps {
		if step.InsteadOf == "" {
			stages[step.Stage]++
		}
	}
	_, _ = fmt.Fprintln(table, "\nSTEP\tSTATUS\tATTEMPTS\tSTARTED\tTOOK\tREASON")
	for _, step := range s.Steps {
		if step.Stage > 0 && stages[step.Stage] > 1 {
			step.Name = fmt.Sprintf("%s (parallel, stage %d)", step.Name, step.Stage)
		}
		printStep(table, step)
		for _, item := range step.InFlight {
			item.Name, item.InsteadOf = "  "+item.Name, ""
			printStep(table, item)
		}
		if more := step.Items["in_progress"] + step.Items["compensating"] - len(step.InFlight); more > 0 {
			_, _ = fmt.Fprintf(table, "  … and %d more in flight\t\t\t\t\t\n", more)
		}
	}
	return table.Flush()
}

func (a *App) listUnmatched(ctx context.Context, base string) error {
	var list struct {
		Events []struct {
			Definition string          `json:"definition"`
			Event      string          `json:"event"`
			Key        string          `json:"key"`
			MessageID  string          `json:"message_id"`
			Body       json.RawMessage `json:"body"`
			ReceivedAt time.Time       `json:"received_at"`
		} `json:"events"`
	}
	if err := a.get(ctx, base, "/v1/sagas/unmatched-events", &list); err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "DEFINITION\tEVENT\tKEY\tRECEIVED\tMESSAGE\tBODY")
	for _, e := range list.Events {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Definition, e.Event, e.Key, e.ReceivedAt.Format(time.RFC3339), e.MessageID, e.Body)
	}
	return table.Flush()
}

// printStep prints the row of a step, or of an item of a step.
func printStep(table io.Writer, step stepView) {
	started, took, attempts := "", "", strconv.Itoa(step.Attempts)
	switch {
	case step.Status != "in_progress":
	case step.Signal != "":
		step.Status = "waits for signal " + step.Signal
	case step.Event != "":
		step.Status = fmt.Sprintf("waits for event %s of %s", step.Event, step.EventKey)
	}
	if len(step.Items) > 0 {
		step.Name += " (for each)"
		step.Status, attempts = itemsByStatus(step.Items), ""
	}
	if step.Stuck {
		step.Status += ", stuck"
	}
	if step.InsteadOf != "" {
		step.Name += " (instead of " + step.InsteadOf + ")"
	}
	if step.StartedAt != nil {
		started = step.StartedAt.Format(time.RFC3339Nano)
		if step.EndedAt != nil {
			took = step.EndedAt.Sub(*step.StartedAt).Round(time.Millisecond).String()
		}
	}
	if step.Deadline != nil {
		took = "due " + step.Deadline.Format(time.RFC3339)
	}
	_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", step.Name, step.Status, attempts, started, took, step.Reason)
}

// itemsByStatus returns the numbers of a step's items by status, as a text.
func itemsByStatus(items map[string]int) string {
	words := make([]string, 0, len(items))
	for _, status := range slices.Sorted(maps.Keys(items)) {
		words = append(words, fmt.Sprint(items[status], " ", status))
	}
	return strings.Join(words, ", ")
}
