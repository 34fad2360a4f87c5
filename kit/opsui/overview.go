package opsui

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Counts has figures of the kit's tables. A number above MaxCount is shown as "more than".
type Counts struct {
	Sagas       map[saga.Status]int
	DeadLetters int
	Unmatched   []manager.UnmatchedEvent // events that no saga waits for, newest first; at most MaxUnmatched
}

// MaxUnmatched limits the number of events on the overview that no saga waits for.
const MaxUnmatched = 10

// overviewData is the data of the overview.
type overviewData struct {
	Faults      []string // sentences; none: the service is healthy
	Own         []ownFigures
	Sagas       []figure
	DeadLetters figure
	Unmatched   []manager.UnmatchedEvent
	Outbox      cqrs.Backlog
	Breakers    []cqrs.Breaker
	Charts      []chart
	Checks      []cqrs.Check
}

// figure is a number and the address of the page that lists the counted objects.
type figure struct {
	Name, Count, Address string
	Alert                bool
}

// ownFigures is a group of the service's own figures.
type ownFigures struct {
	Title string
	Of    []figure
}

func count(n int) string {
	if n > MaxCount {
		return fmt.Sprintf("more than %d", MaxCount)
	}
	return fmt.Sprint(n)
}

func (s *Server) overview() Page {
	return Page{Path: "/ui/{$}", Title: "Overview", Nav: "/ui/{$}", Template: "overview", Streams: AnyStream, Load: func(r *http.Request) (any, error) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		d := overviewData{Checks: s.Ready(ctx), Breakers: s.Breakers(), Charts: s.rates.charts()}
		counts, err := s.count(ctx, &d)
		for _, status := range []saga.Status{saga.StatusRunning, saga.StatusCompensating, saga.StatusStuck} {
			n := counts.Sagas[status]
			d.Sagas = append(d.Sagas, figure{string(status), count(n), "/ui/sagas?status=" + string(status), status == saga.StatusStuck && n > 0})
		}
		d.DeadLetters = figure{"open", count(counts.DeadLetters), "/ui/dead-letters", counts.DeadLetters > 0}
		d.Unmatched = counts.Unmatched
		d.Faults = faults(d, counts)
		if err != nil {
			s.Log.Warn("overview without figures of the database", "error", err)
			d.Faults = append(d.Faults, "The database does not answer, so its figures are missing here. Nothing is lost.")
		}
		return d, nil
	}}
}

// count reads the figures of the database.
func (s *Server) count(ctx context.Context, d *overviewData) (Counts, error) {
	counts, err := s.Counts(ctx)
	if err != nil {
		return counts, err
	}
	if d.Outbox, err = s.Outbox(ctx); err != nil || s.Extension.Counts == nil {
		return counts, err
	}
	groups, err := s.Extension.Counts(ctx)
	for _, group := range groups {
		own := ownFigures{Title: group.Title}
		for _, t := range group.Of {
			own.Of = append(own.Of, figure{Name: t.Name, Count: count(t.N), Address: t.Address})
		}
		d.Own = append(d.Own, own)
	}
	return counts, err
}

// oldAge is the age in seconds from which the oldest message of the outbox counts as a fault.
const oldAge = 10

// faults describes each fault and its effect in a sentence.
func faults(d overviewData, c Counts) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, check := range d.Checks {
		if check.Err != nil {
			what, _, _ := strings.Cut(check.Err.Error(), "\n")
			say("The component %q is unhealthy: %s.", check.Part, what)
		}
	}
	for _, b := range d.Breakers {
		switch b.State {
		case "open":
			say("The breaker of %s is open on this instance, because too many calls failed. Messages for %s wait or take a fallback; nothing is lost.", b.Name, b.Name)
		case "half-open":
			say("The breaker of %s is half-open on this instance: a few calls test whether %s is healthy again.", b.Name, b.Name)
		}
	}
	if n := c.Sagas[saga.StatusStuck]; n > 0 {
		say("%s the decision of an operator.", plural(n, "saga is stuck and needs", "sagas are stuck and need"))
	}
	if c.DeadLetters > 0 {
		say("%s. Later messages of the same key are blocked until the dead letter is replayed or dropped.", plural(c.DeadLetters, "message could not be processed and is a dead letter", "messages could not be processed and are dead letters"))
	}
	for _, t := range d.Outbox.Topics {
		say("The topic %s is suspended: %s. Its messages wait and the relay tries again; other topics continue.", t.Topic, t.Reason)
	}
	if d.Outbox.Oldest > oldAge {
		say("The oldest message in the outbox has waited for %.0f seconds: Kafka or the relay is behind.", d.Outbox.Oldest)
	}
	return out
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
