package ui

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// overviewData is what the first page shows.
type overviewData struct {
	Wrong    []string // in sentences; none: all is well
	Own      []ownTallies
	Sagas    []tally
	Letters  tally
	Outbox   cqrs.Backlog
	Breakers []cqrs.Breaker
	Charts   []chart
	Checks   []cqrs.Check
}

// tally is a number with a page that shows what was counted.
type tally struct{ Name, Count, Link, Class string }

// ownTallies are the numbers of what the service is about.
type ownTallies struct {
	Title string
	Of    []tally
}

func count(n int) string {
	if n > Most {
		return fmt.Sprintf("more than %d", Most)
	}
	return fmt.Sprint(n)
}

func (s *Server) overview() page {
	return page{title: "Overview", nav: "overview", template: "overview", streams: func(*http.Request) []string { return nil }, load: func(r *http.Request) (any, error) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		d := overviewData{Checks: s.Ready(ctx), Breakers: s.Breakers(), Charts: s.rates.charts()}
		counts, err := s.Counts(ctx)
		if err == nil {
			d.Outbox, err = s.Outbox(ctx)
		}
		for _, group := range counts.Own {
			own := ownTallies{Title: group.Title}
			for _, t := range group.Of {
				own.Of = append(own.Of, tally{t.Name, count(t.N), t.Address, t.Name})
			}
			d.Own = append(d.Own, own)
		}
		for _, status := range []saga.Status{saga.Running, saga.Compensating, saga.Stuck} {
			d.Sagas = append(d.Sagas, tally{string(status), count(counts.Sagas[status]), "/ui/sagas?status=" + string(status), string(status)})
		}
		d.Letters = tally{"dead letters", count(counts.DeadLetters), "/ui/dead-letters", ""}
		d.Wrong = sentences(d, counts)
		if err != nil {
			s.Log.Warn("the overview lacks the database's figures", "error", err)
			d.Wrong = append(d.Wrong, "The database does not answer, so its figures are missing here. Nothing that was accepted is lost.")
		}
		return d, nil
	}}
}

// oldAge is from how many seconds on a message that waits in the outbox is worth a sentence.
const oldAge = 10

// sentences say what is wrong and what it means.
func sentences(d overviewData, c Counts) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, check := range d.Checks {
		if check.Err != nil {
			what, _, _ := strings.Cut(check.Err.Error(), "\n")
			say("The part %q is not well: %s.", check.Part, what)
		}
	}
	for _, b := range d.Breakers {
		switch b.State {
		case "open":
			say("The breaker of %s is open: it failed too often and is left alone for a moment. What needs it waits, or takes another way; nothing is lost.", b.Name)
		case "half-open":
			say("The breaker of %s is half-open: a few requests try whether it is well again.", b.Name)
		}
	}
	if n := c.Sagas[saga.Stuck]; n > 0 {
		say("%s stuck: each needs somebody to decide how it goes on.", plural(n, "saga is", "sagas are"))
	}
	if c.DeadLetters > 0 {
		say("%s: messages that could not be handled. What has the same key waits behind them.", plural(c.DeadLetters, "dead letter waits to be looked at", "dead letters wait to be looked at"))
	}
	for _, t := range d.Outbox.Topics {
		say("The topic %s cannot be sent to: %s. Its messages wait and it is tried again; other topics go on.", t.Topic, t.Reason)
	}
	if d.Outbox.Oldest > oldAge {
		say("The oldest message in the outbox has waited for %.0f seconds: the broker or the relay is behind.", d.Outbox.Oldest)
	}
	return out
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
